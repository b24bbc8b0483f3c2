"""Who waits for records to end, in threads and in event loops."""

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
from flux.producing.unheard import Unheard

LONGEST_REST = 0.05
"""Seconds after which who waits looks again, whatever he was told."""


def nothing() -> None:
    pass


@attrs.define(slots=True, eq=False)
class Watch:
    """Somebody waits for the ends of `waiting`. `done` is called once, when there are none left."""

    waiting: set[Pending]
    done: Callable[[], None]
    failed: list[FailedRecord] = attrs.field(factory=list)


class Watches:
    """The watches of one producer. What fails while somebody watches is heard by him alone."""

    def __init__(self, system: System, in_flight: InFlight, unheard: Unheard, topic: str) -> None:
        self._system = system
        self._in_flight = in_flight
        self._unheard = unheard
        self._topic = topic
        self._watches: list[Watch] = []
        self._loops: deque[Callable[[], object]] = deque()  # event loops in which somebody rests

    def begin(self, done: Callable[[], None] = nothing) -> Watch:
        """`done` is called when all that is in flight has ended: now, if nothing is."""
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
        """All records of `pending` have ended. Whether its failures, if any, were heard."""
        done = []
        heard = pending.heard or not pending.failed
        with self._in_flight.changed:
            self._in_flight.open.discard(pending)
            if self._watches:  # nobody waits without one
                for watch in self._watches:
                    if pending in watch.waiting:
                        watch.waiting.discard(pending)
                        watch.failed += pending.failed
                        heard = True
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
        return heard

    def wait(self, watch: Watch, timeout: float | None) -> None:
        """Until nothing of `watch` is open, for `timeout` seconds at most."""
        now = self._system.monotonic
        deadline = None if timeout is None else now() + timeout
        with self._in_flight.changed:
            while watch.waiting:
                left = LONGEST_REST if deadline is None else min(deadline - now(), LONGEST_REST)
                if left <= 0:
                    return
                self._in_flight.changed.wait(left)

    def rest(self, seconds: float) -> None:
        """Until something ends, for `seconds` at most. By somebody who watches: others are not told."""
        with self._in_flight.changed:
            self._in_flight.changed.wait(seconds)

    async def arest(self, seconds: float) -> None:
        """`rest` in an event loop."""
        changed = asyncio.Event()
        self._loops.append(in_loop(changed.set))
        with suppress(TimeoutError):
            await asyncio.wait_for(changed.wait(), seconds)

    def conclude(self, watch: Watch) -> None:
        """Ends a watch. Raises DeliveryError for what has failed since the last time anybody heard, and for what is
        still under way: batches are counted, so all of one that is not complete are named."""
        self.withdraw(watch)
        records = self._unheard.collect()
        records += watch.failed
        late = BrokerError("not acknowledged in time, and may yet arrive", Fault.UNAVAILABLE)
        for pending in watch.waiting:
            records += [failed(self._topic, record, late) for record in pending.records]
        if records:
            raise DeliveryError(records)

    def abandon(self, watch: Watch) -> None:
        """Nobody waits any more: what failed meanwhile is nobody's."""
        self.withdraw(watch)
        if watch.failed:
            self._unheard.report(watch.failed)

    def withdraw(self, watch: Watch) -> None:
        with self._in_flight.changed:
            if watch in self._watches:
                self._watches.remove(watch)


class Watching:
    """A watch for a `with`, in threads and event loops alike. Its end is `judge(watch)`, or, where it is left by an
    exception, nobody's."""

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
    """Calls `function` in the running event loop, from any thread; nothing when that loop is closed by then."""
    loop = asyncio.get_running_loop()

    def call() -> None:
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(function)

    return call
