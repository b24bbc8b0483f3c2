"""Waits for records to end, in threads and in event loops."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

import attrs

from flux.core.errors import BrokerError, DeliveryError, FailedRecord, Fault
from flux.core.ports import System
from flux.producing.pending_acks import InFlight, Pending, acknowledging, failed
from flux.producing.unclaimed_failures import UnclaimedFailures

LONGEST_REST = 0.05
"""Seconds after which a waiting caller checks again."""


def nothing() -> None:
    pass


@attrs.define(slots=True, eq=False)
class Watch:
    """A caller waits for the ends of `waiting`. `done` is called once, when there are none left."""

    waiting: set[Pending]
    done: Callable[[], None]
    failed: list[FailedRecord] = attrs.field(factory=list)


class Watches:
    """The watches of one producer. Failures during a watch go to its caller alone."""

    def __init__(self, system: System, in_flight: InFlight, unclaimed: UnclaimedFailures, topic: str) -> None:
        self._system = system
        self._in_flight = in_flight
        self._unclaimed = unclaimed
        self._topic = topic
        self._watches: list[Watch] = []
        self._loops: deque[Callable[[], object]] = deque()  # callbacks of event loops in which callers wait

    def begin(self, done: Callable[[], None] = nothing) -> Watch:
        """`done` is called when all records in flight have ended, at once if there are none."""
        watch, watching, in_flight = Watch(set(), done), False, self._in_flight
        try:
            with in_flight.changed:  # no calls in here: see `Buffer.take`
                if in_flight.open:
                    watch.waiting |= in_flight.open
                    self._watches += [watch]
                    watching = True
        except BaseException:
            self.abandon(watch)
            raise
        if not watching:
            done()
        return watch

    def ended(self, pending: Pending) -> bool:
        """All records of `pending` have ended. Returns whether a caller gets its failures, if any."""
        done = []
        claimed = pending.claimed or not pending.failed
        with self._in_flight.changed:
            self._in_flight.open.discard(pending)
            if self._watches:  # without one, no caller waits
                for watch in self._watches:
                    if pending in watch.waiting:
                        watch.waiting.discard(pending)
                        watch.failed += pending.failed
                        claimed = True
                        if not watch.waiting:
                            done.append(watch)
                for watch in done:
                    self._watches.remove(watch)
                self._in_flight.changed.notify_all()
        for watch in done:
            acknowledging(watch.done)
        for _ in range(len(self._loops)):
            with suppress(IndexError):
                acknowledging(self._loops.popleft())
        return claimed

    def wait(self, watch: Watch, timeout: float | None) -> None:
        """Returns when all records of `watch` have ended, or after `timeout` seconds."""
        now = self._system.monotonic
        deadline = None if timeout is None else now() + timeout
        with self._in_flight.changed:
            while watch.waiting:
                left = LONGEST_REST if deadline is None else min(deadline - now(), LONGEST_REST)
                if left <= 0:
                    return
                self._in_flight.changed.wait(left)

    def rest(self, seconds: float) -> None:
        """Returns when a record ends, or after `seconds`. For callers that have a watch: others are not woken."""
        with self._in_flight.changed:
            self._in_flight.changed.wait(seconds)

    async def arest(self, seconds: float) -> None:
        """`rest` in an event loop."""
        changed = asyncio.Event()
        self._loops.append(in_loop(changed.set))
        with suppress(TimeoutError):
            await asyncio.wait_for(changed.wait(), seconds)

    def conclude(self, watch: Watch) -> None:
        """Ends a watch. Raises DeliveryError for failures that no caller has got yet, and for records still in flight:
        batches are counted, so all records of an incomplete one are named."""
        self.withdraw(watch)
        records = self._unclaimed.collect()
        records += watch.failed
        late = BrokerError("not acknowledged in time, but may still arrive", Fault.UNAVAILABLE)
        for pending in watch.waiting:
            records += [failed(self._topic, record, late) for record in pending.records]
        if records:
            raise DeliveryError(records)

    def abandon(self, watch: Watch) -> None:
        """The caller waits no more: failures during the watch are unclaimed."""
        self.withdraw(watch)
        if watch.failed:
            self._unclaimed.report(watch.failed)

    def withdraw(self, watch: Watch) -> None:
        with self._in_flight.changed:
            if watch in self._watches:
                self._watches.remove(watch)


class Watching:
    """A watch as a context manager, for threads and event loops. At its end `judge(watch)` is called; when it is left
    by an exception, the watch is abandoned."""

    __slots__ = ("_begin", "_judge", "_waits", "_watch")

    def __init__(self, waits: Watches, begin: Callable[[], Watch], judge: Callable[[Watch], None]) -> None:
        self._waits = waits
        self._begin = begin
        self._judge = judge

    def __enter__(self) -> Watch:
        self._watch = self._begin()
        return self._watch

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._judge(self._watch)
        else:
            self._waits.abandon(self._watch)


def in_loop(function: Callable[[], object]) -> Callable[[], None]:
    """Returns a callable that calls `function` in the running event loop, from any thread; it does nothing once that
    loop is closed."""
    loop = asyncio.get_running_loop()

    def call() -> None:
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(function)

    return call
