"""The one sampler: takes a snapshot of each task at intervals, for all visitors, and keeps an hour of history."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import anyio
import anyio.to_thread

from flux.core.error_text import error_name
from flux.core.errors import FluxError
from flux.core.monitoring.log_throttle import LogThrottle
from flux.core.text import one_line
from flux.operate.status.blockers import StuckSince
from flux.operate.status.task_status import TaskStatus
from flux.system.tracebacks import text_of
from flux.web.live import Broadcast
from flux.web.view_models import Sample, sample
from flux.web.watched_tasks import WatchedTask

logger = logging.getLogger("flux.web")

MAX_AT_ONCE = 8
"""Clusters that are queried at once: an unavailable one blocks a thread until its client times out."""
_SOON = 1.0
"""Seconds that first snapshots mostly take."""
STALE = 30.0
"""Seconds, and three intervals, after which a snapshot is out of date: the cluster does not answer."""


class TaskWatch:
    """The last snapshot of one task. `error`: why there is no newer one, since `failing_since`."""

    def __init__(self, task: WatchedTask, every: float = 5.0) -> None:
        self.task = task
        self._stale = STALE + 3 * every
        self.sample: Sample | None = None
        self.error = ""
        self.failing_since: float | None = None
        self.history = History()
        self._before: TaskStatus | None = None
        self._stuck_since: StuckSince = {}
        self._throttle = LogThrottle()

    def take(self) -> None:
        """Takes a snapshot. Blocks. Never raises: failures are in `error`."""
        try:
            found = self.task.read_status(self._before)
            self.sample, self._stuck_since = sample(found, self._before, self._stuck_since)
            self._before = found
        except FluxError as error:
            self._failed(one_line(str(error)))
        except Exception as error:
            if self._throttle.admit(type(error), self.task.system.monotonic()) is not None:
                logger.error("no status of %s\n%s", self.task.name, text_of(error))
            self._failed(f"{error_name(type(error))}: see the log")
        else:
            self.error, self.failing_since = "", None
            self.history.add(self.sample.at, self.sample.values())

    def _failed(self, why: str) -> None:
        now = self.task.system.now()
        self.error = why
        self.failing_since = self.failing_since or now
        self.history.add(now, {})

    @property
    def state(self) -> tuple[str, str]:
        """In two words, with a colour: good, fair, bad, or none where it is not known."""
        found = self.sample
        if self.error or (self.age or 0.0) > self._stale:
            return "unavailable", "bad"
        if found is None:
            return "loading", "none"
        if found.paused:
            return "paused", "fair"
        if found.held_back:
            return "held back", "bad"
        if found.blockers:
            return "blocked", "bad"
        if found.unattended:
            return "no workers", "fair"
        return ("running", "good") if found.ready else ("up to date", "good")

    @property
    def age(self) -> float | None:
        """Seconds since the last snapshot."""
        return None if self.sample is None else max(0.0, self.task.system.now() - self.sample.at)


class Sampler:
    """`total`: the history of all tasks together."""

    def __init__(self, watches: Sequence[TaskWatch], every: float, broadcast: Broadcast) -> None:
        self.watches = watches
        self.total = History()
        self._every = every
        self._broadcast = broadcast

    async def run(self) -> None:
        """Runs until it is cancelled."""
        limiter = anyio.CapacityLimiter(MAX_AT_ONCE)
        async with anyio.create_task_group() as group:
            for watch in self.watches:
                group.start_soon(self._follow, watch, limiter)
            group.start_soon(self._add_up)

    async def _follow(self, watch: TaskWatch, limiter: anyio.CapacityLimiter) -> None:
        while True:
            began = anyio.current_time()
            await anyio.to_thread.run_sync(watch.take, abandon_on_cancel=True, limiter=limiter)
            self._broadcast.notify()
            await anyio.sleep(max(0.1, self._every - (anyio.current_time() - began)))

    async def _add_up(self) -> None:
        await anyio.sleep(_SOON)
        while True:
            self.add_up()
            await anyio.sleep(self._every)

    def add_up(self) -> None:
        seen = [watch for watch in self.watches if watch.sample is not None and not watch.error]
        if not seen:
            return
        all_values = [watch.sample.values() for watch in seen if watch.sample is not None]
        values: dict[str, float | None] = {}
        for name in ("lag", "waiting", "dead", "done", "failed"):
            known = [value for each in all_values if (value := each[name]) is not None]
            values[name] = sum(known) if known else None
        self.total.add(seen[0].task.system.now(), values)


MAX_POINTS = 720
"""Points: an hour, at one every 5 s."""


class Point(NamedTuple):
    """`value` None: not known. `time`: seconds since the epoch."""

    time: float
    value: float | None


class History:
    def __init__(self, most: int = MAX_POINTS) -> None:
        self._points: deque[tuple[float, Mapping[str, float | None]]] = deque(maxlen=most)

    def add(self, time: float, values: Mapping[str, float | None]) -> None:
        self._points.append((time, values))

    def of(self, name: str) -> list[Point]:
        return [Point(time, values.get(name)) for time, values in self._points]

    def __len__(self) -> int:
        return len(self._points)


def thinned(points: Sequence[Point], most: int) -> list[Point]:
    """Point most `most` points, each the maximum of its neighbours, so that peaks stay visible."""
    if len(points) <= most:
        return list(points)
    step = -(-len(points) // most)
    found = []
    for start in range(0, len(points), step):
        some = points[start : start + step]
        values = [point.value for point in some if point.value is not None]
        found.append(Point(some[-1].time, max(values, default=None)))
    return found
