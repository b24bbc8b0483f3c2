"""`Task.every`: calls at the times of a cron expression, or at intervals."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import attrs

from flux import config
from flux.core import flux_headers
from flux.core.delayed_work import checked_name, delayed_headers
from flux.core.engine.verdicts import Pause
from flux.core.error_text import brief
from flux.core.errors import BrokerError, ConfigurationError, DeliveryError, Fault
from flux.core.message import Message
from flux.core.monitoring.log_throttle import LogThrottle, and_more
from flux.core.named_work import NamedWork
from flux.core.policy import Policy
from flux.core.ports import Cluster, System
from flux.core.schedules import Schedule, Step, Tick, first_tick, interval, step
from flux.core.tick_log import MOST_MISSED, TickEntry, TickLog
from flux.core.validation import Seconds, is_number, seconds, shown
from flux.cron import cron_ticks
from flux.producing.delivery import Delivery
from flux.producing.encoding import HeadersLike, encode, encode_value
from flux.producing.scope import CURRENT
from flux.scheduling import name_of, own_headers, producer_class

logger = logging.getLogger("flux.worker")

_LONGEST_INTERVAL = 366 * 86_400
_GRACE = 5.0  # seconds beyond the client's own delivery timeout


@attrs.frozen
class ScheduledWork:
    """A schedule, and the record of each of its ticks."""

    schedule: Schedule
    value: Any
    key: str | bytes
    headers: list[tuple[str, Any]]


def scheduled_work(
    task: Any,
    policy: Policy,
    cron: str | None,
    every: Seconds | None,
    timezone: str,
    value: Any,
    key: str | bytes | None,
    headers: HeadersLike | None,
    name: str | None,
    max_late: Seconds | None,
) -> ScheduledWork:
    """See `flux.Task.every`. `task`: its class, or an instance."""
    if policy.stages.retries < 1:
        raise ConfigurationError(f"{name_of(task)}.every needs a retry topic: set retries to 1 or more")
    if (cron is None) == (every is None):
        raise ConfigurationError('every: give a cron expression, such as "0 2 * * *", or seconds=…')
    if cron is not None:
        when, next_tick = cron_ticks(cron, timezone)
    else:
        if not (isinstance(timezone, str) and timezone == "UTC"):
            raise ConfigurationError("every(seconds=…): an interval has no time zone; give a cron expression for one")
        length: Any = seconds(every)
        if not is_number(length, 1, _LONGEST_INTERVAL):
            raise ConfigurationError(f"every(seconds={shown(length)}): give seconds, 1 to {_LONGEST_INTERVAL}")
        when, next_tick = f"every {length:g} s", interval(round(length * 1000))
    late: Any = seconds(max_late)
    if late is not None and not is_number(late, 1, math.inf):
        raise ConfigurationError(f"every(max_late={shown(late)}): give seconds, 1 or more, or None: however late")
    encode(key, "every: key")
    schedule = Schedule(when if name is None else checked_name(name, "name"), when, next_tick, late)
    if any(each.schedule.name == schedule.name for each in task._schedules):
        raise ConfigurationError(f"every: two schedules are named {schedule.name!r}: give one another name=…")
    return ScheduledWork(schedule, value, schedule.name if key is None else key, own_headers(headers))


def schedules_in(task: Any) -> list[Schedule]:
    """Those that the code of a task has. `task`: its class, or an instance."""
    return [each.schedule for each in task._schedules]


class Ticks:
    """Writes the ticks of a task's schedules to its first retry topic."""

    def __init__(
        self,
        name: str,
        work: Sequence[ScheduledWork],
        policy: Policy,
        adapter: Cluster,
        serializer: Callable[[Any], Any] | None,
        system: System,
    ) -> None:
        self._name = name
        self._work = {each.schedule.title: each for each in work}
        self._policy = policy
        self._serializer = serializer
        self._system = system
        self._values: dict[str, bytes | None] = {}
        self.log = TickLog()
        self._throttle = LogThrottle()
        options = attrs.evolve(config.current.producer, acks="all")
        self._timeout = options.settings.delivery_timeout + _GRACE
        self._producer = producer_class(__name__, f"{name}.every", policy.stages[1].topic, adapter, options)

    @property
    def scheduled(self) -> list[Schedule]:
        return [each.schedule for each in self._work.values()]

    def start(self) -> None:
        """Writes a tick of each schedule; where one waits already, it is left out. Blocks; raises BrokerError and
        ConfigurationError."""
        for title, each in self._work.items():
            try:
                self._values[title] = encode_value(each.value, self._serializer, f"{self._name}.every")
            except Exception as error:
                raise ConfigurationError(f"{self._name}.every: its value cannot be written: {brief(error)}") from error
        try:
            for title, each in self._work.items():
                self._write(title, first_tick(each.schedule, self._now_ms, self._longest)).result(self._timeout)
        except DeliveryError as error:
            failed = error.failed[0].error
            raise (failed if isinstance(failed, BrokerError) else error) from error
        except TimeoutError:
            raise BrokerError(f"a tick of {self._name} is not acknowledged", Fault.UNAVAILABLE) from None

    def step(self, named: NamedWork) -> Step:
        """A tick is due."""
        work, now_ms = self._work.get(named.name), self._now_ms
        schedule = None if work is None else work.schedule
        what = step(schedule, named.tick, named.last, now_ms, self._longest)
        if schedule is not None and now_ms >= named.tick:
            entry = self.log.noted(schedule, named.tick, now_ms, what.call)
            if entry.missed > entry.before[0] or not what.call:
                self._log(schedule, entry)
        return what

    def wait_for_next(self, named: NamedWork, message: Message, tick: Tick) -> None:
        """Writes the tick after `message` and waits until it is stored. Raises Pause: without it there is no call."""
        try:
            self._write(named.name, tick, message, named.tick).result(self._timeout)
        except (DeliveryError, TimeoutError) as error:
            raise _pause(named, error) from error

    async def await_next(self, named: NamedWork, message: Message, tick: Tick) -> None:
        """`wait_for_next` in an event loop."""
        try:
            written = asyncio.wrap_future(self._write(named.name, tick, message, named.tick))
            await asyncio.wait_for(asyncio.shield(written), self._timeout)
        except (DeliveryError, TimeoutError) as error:
            raise _pause(named, error) from error

    def _write(self, title: str, tick: Tick, before: Message | None = None, last: int = 0) -> Delivery:
        """`before`: the record of the tick `last`, which is copied if its schedule is not known here."""
        work = self._work.get(title)
        if work is not None:
            value, key, own = self._values[title], work.key, work.headers
        else:
            assert before is not None
            value, key = before.raw_value, before.key or b""
            own = [pair for pair in before.headers if not pair[0].startswith(flux_headers.PREFIX)]
        if before is not None:
            own = [*own, *_last_tick(before, last, tick, self._now_ms)]
        headers = delayed_headers(self._policy, own, tick.due, (flux_headers.SCHEDULE, title), tick.at)
        token = CURRENT.set(None)  # it is no part of the call
        try:
            return self._producer.send(value, key=key, headers=headers, partition_key=title)
        finally:
            CURRENT.reset(token)

    def _log(self, schedule: Schedule, entry: TickEntry) -> None:
        left_out = self._throttle.admit(schedule.title, self._system.monotonic())
        if left_out is not None:
            more = {"task": self._name, "topic": self._policy.stages[1].topic, "stage": 1}
            logger.warning("%s%s", late_tick(schedule, entry), and_more(left_out), extra=more)

    @property
    def _now_ms(self) -> int:
        return int(self._system.now() * 1000)

    @property
    def _longest(self) -> int:
        return int(self._policy.max_delay * 1000)


def _last_tick(before: Message, last: int, tick: Tick, now_ms: int) -> list[tuple[str, Any]]:
    """What the record of a tick says of the one before it, whose call begins now."""
    if tick.at != last:
        return [(flux_headers.LAST_TICK, f"{last} {now_ms}")]
    known = before.headers.get(flux_headers.LAST_TICK)  # the same tick waits longer
    return [] if known is None else [(flux_headers.LAST_TICK, known)]


def late_tick(schedule: Schedule, entry: TickEntry) -> str:
    """In one line, for the log."""
    missed = entry.missed - entry.before[0]
    shown_missed = f"{MOST_MISSED:,} or more" if missed >= MOST_MISSED else f"{missed:,}"
    end = "is called" if entry.called else f"is not called, as max_late = {schedule.max_late:g} s"
    more = f"; ticks after it that were missed: {shown_missed}" if missed else ""
    return f"a tick of schedule {schedule.name} is {(entry.started - entry.tick) / 1000:,.0f} s late and {end}{more}"


def _pause(named: NamedWork, error: Exception) -> Pause:
    return Pause(reason=f"the next tick of {named.name} cannot be written: {brief(error)}")
