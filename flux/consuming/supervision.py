"""The life of a worker, written once for threads and event loops: start, supervision and end of its tasks."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, Protocol, TypeVar

import attrs

from flux._version import __version__
from flux.consuming.side_threads import Aside
from flux.consuming.task_runtime import TaskRuntime
from flux.consuming.topic_setup import insist
from flux.core.error_text import brief
from flux.core.errors import BrokerError
from flux.core.monitoring.duties import Duty
from flux.core.monitoring.stats import Stats
from flux.core.monitoring.summary import Line, Summary, started
from flux.core.ports import System
from flux.core.text import one_line
from flux.producing.registry import PRODUCERS
from flux.system.tracebacks import text_of

logger = logging.getLogger("flux.worker")

T = TypeVar("T")


@attrs.frozen
class Blocking:
    """A step that may wait for the cluster, so it must not run in an event loop."""

    step: Callable[[], Any]


@attrs.frozen
class Here:
    """A step on the caller's thread; an awaitable result is awaited there."""

    step: Callable[[], Any]


@attrs.frozen
class Tick:
    """Waits briefly for a change."""


Step = Blocking | Here | Tick
Life = Generator[Step, Any, int]
"""The steps of a worker, performed by its driver one at a time. Returns the exit code."""
_GRACE = 4.0  # seconds after the shutdown timeout that a step of the end may take
_LEAST = 0.5  # seconds for each step of the end
_LONGEST = 60.0  # seconds for each step of the end of a worker that was not asked to stop


RESTART = 4
"""The exit code of a worker that ends to be started again."""


class Controlling(Protocol):
    """The commands that the worker follows."""

    def readers(self) -> Mapping[str, Callable[[], bool]]:
        """By cluster, a step that returns once the commands of before are read and applied. It blocks."""
        ...

    def apply(self) -> None:
        """Called a few times a second."""
        ...

    def stop(self) -> None:
        """Blocks, for a few seconds at most."""
        ...


class Supervision:
    """`stages`, `create_topics` and `exit_when_idle` as for `Worker`. `observe` starts metrics and reports, and adds
    their end to the stack. `on_settled`: called, on any thread, when all tasks have started, and when a cluster is
    found to be unavailable. `control`: the commands that it follows."""

    def __init__(
        self,
        jobs: Sequence[TaskRuntime],
        system: System,
        stages: str | None,
        create_topics: bool,
        exit_when_idle: float | None,
        observe: Callable[[ExitStack], None],
        on_settled: Callable[[], None] = lambda: None,
        control: Controlling | None = None,
    ) -> None:
        self.stopping = False
        """Set to stop."""
        self.waits_for = "its tasks have not begun to start"
        """What the start waits for."""
        self.at_once = False
        """Set by a second signal: calls in flight are not waited for."""
        self.restarting = False
        """Whether it stops to be started again."""
        self._control = control
        self._jobs = jobs
        self._system = system
        self._stages = stages
        self._create_topics = create_topics
        self._exit_when_idle = exit_when_idle
        self._observe = observe
        self._on_settled = on_settled
        self._stop_at: float | None = None
        self._summary: Summary | None = None
        """From when the tasks have started."""
        self._left_some = False
        """It was idle, and ends with records that the next topic refuses."""
        self._duty = Duty("the supervision of the worker")

    @property
    def ended(self) -> bool:
        """Whether every task has left its groups, or none had started."""
        return all(job.ended for job in self._jobs)

    def life(self) -> Life:
        observed = ExitStack()
        try:
            # First: probes are answered while the cluster is unavailable, and handlers are wrapped at the start.
            yield Here(lambda: self._observe(observed))
            yield from self._begin()
            yield from self._supervise()
        except BaseException:
            yield from self._stop_started()
            raise
        finally:
            self._duty.end()
            code = 0
            for job in self._jobs:
                try:
                    yield Here(job.close)
                except Exception as error:
                    logger.error("%s.close failed: %s\n%s", job.name, brief(error), text_of(error))
                ended = yield Blocking(partial(self._in_time, job.end, f"the end of {job.name}"))
                code = code or (3 if ended is None else ended)
            code = code or int(self._left_some)
            if self._control is not None:
                yield Blocking(partial(self._in_time, self._control.stop, "the end of commands"))
            if self._summary is not None:
                _log(self._summary.in_all(self._stats(), self._system.monotonic()))
            yield Blocking(partial(self._in_time, PRODUCERS.deliver_all, "the delivery of what was produced"))
            yield Blocking(partial(self._in_time, observed.close, "the end of metrics and reports"))
        return code or (RESTART if self.restarting else 0)

    def _in_time(self, step: Callable[[], T], what: str) -> T | None:
        """The step's result; None: it takes too long, and continues on its thread until the process ends."""
        left = _LONGEST
        if self._stop_at is not None:
            deadline = max((job.deadline for job in self._jobs), default=self._stop_at)
            left = deadline + _GRACE - self._system.monotonic()
        try:
            return Aside(self._system, "flux-end", step).result(max(left, _LEAST))
        except TimeoutError:
            logger.error("%s takes too long: not waiting for it", what)
            return None

    def _begin(self) -> Generator[Step, Any, None]:
        for job in self._jobs:
            prepare = partial(job.prepare, self._stages, self._create_topics)
            cluster = job.adapter.cluster
            self.waits_for = f"{job.name} checks its topics on {cluster}"
            stopping, unavailable = lambda: self.stopping, partial(self._unavailable, cluster)
            if not (yield Blocking(partial(insist, prepare, self._system, stopping, cluster, unavailable))):
                return
        for cluster, read in self._control.readers().items() if self._control is not None else ():
            self.waits_for = f"it reads the commands on {cluster}"
            stopping, unavailable = lambda: self.stopping, partial(self._unavailable, cluster)
            if not (yield Blocking(partial(insist, read, self._system, stopping, cluster, unavailable))):
                return
        names = ", ".join(job.name for job in self._jobs)
        logger.info("flux %s, pid %d: %s", __version__, os.getpid(), names)
        _log(map(_started, self._jobs))
        for job in self._jobs:
            self.waits_for = f"the setup of {job.name} has not ended"
            yield Here(job.setup)
        for job in self._jobs:
            yield Here(job.start)
        self._summary = Summary(self._system.monotonic())
        self._on_settled()

    def _unavailable(self, cluster: str, error: BrokerError) -> None:
        self.waits_for = f"{cluster} cannot be reached ({one_line(str(error))})"
        self._on_settled()

    def _supervise(self) -> Generator[Step, Any, None]:
        """Waits until the worker is stopped, has failed or is idle, and stops the tasks."""
        idle_since: float | None = None
        looking: Aside[bool] | None = None
        starved_log: Aside[None] | None = None
        self._system.watch(self._duty)
        while not self.ended:
            self._duty.step(threading.get_ident())
            yield Tick()
            now = self._system.monotonic()
            if self._exit_when_idle is not None and not self.stopping:
                if not all(job.idle for job in self._jobs):
                    idle_since = looking = None
                elif idle_since is None:
                    idle_since = now
                elif looking is not None and looking.ended:
                    if not looking.result(0):
                        self.stopping = True
                        for job in self._jobs:
                            self._left_some |= job.log_refused()
                    idle_since = looking = None
                elif looking is None and now - idle_since >= self._exit_when_idle:
                    looking = Aside(self._system, "flux-unread", lambda: any(job.unread() for job in self._jobs))
            if starved_log is None or starved_log.ended:  # beside: a stop does not wait for a silent cluster
                starved_log = self._log_starved()
            if self._control is not None:
                self._control.apply()
            if self._summary is not None and self._summary.due(now):
                _log(self._summary.since_last(self._stats(), now))
            self.stopping = self.stopping or any(job.failure is not None for job in self._jobs)
            if self.stopping and self._stop_at is None:
                logger.info("shutting down: waiting for running calls")
                self._stop_at = now
                for job in self._jobs:
                    job.stop(now)
            if self.at_once:
                self.at_once = False
                logger.warning("stopping at once")
                for job in self._jobs:
                    job.stop(now, at_once=True)

    def _stop_started(self) -> Generator[Step, Any, None]:
        """After a failure: the tasks that have started leave their groups, before what they use is closed."""
        self._stop_at = self._system.monotonic()
        stopped = []
        for job in self._jobs:
            try:
                job.stop(self._stop_at)
                stopped.append(job)
            except RuntimeError as error:  # no thread can be started
                logger.error("%s cannot stop: %s", job.name, brief(error))
        until = max((job.deadline for job in stopped), default=self._stop_at) + _GRACE
        while not all(job.ended for job in stopped) and self._system.monotonic() < until:
            yield Tick()

    def _stats(self) -> Mapping[str, Iterable[Stats]]:
        return {job.name: job.stats().values() for job in self._jobs}

    def _log_starved(self) -> Aside[None] | None:
        starved = [(job, runtimes) for job in self._jobs if (runtimes := job.starved())]
        if not starved or self.stopping:
            return None

        def log() -> None:
            for job, runtimes in starved:
                job.log_starved(runtimes)

        return Aside(self._system, "flux-starved", log)


def _started(job: TaskRuntime) -> Line:
    runtimes = () if job.coordinator is None else job.coordinator.runtimes
    stages = [runtime.engine.stage for runtime in runtimes]
    return started(job.name, job.adapter.cluster, type(job.adapter).__name__, stages, job.policy.concurrency)


def _log(lines: Iterable[Line]) -> None:
    for line in lines:
        logger.info("%s", line.text, extra=line.fields)
