"""The running part of a producer: takes records from any thread, hands them to the client in order, hears their ends.

Every record ends in exactly one way: acknowledged, or named in an error that reaches whoever waits for it (`deliver`,
a `send`, a task's call), or else the log, `on_error` and the next `deliver`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

import attrs

from flux.core.buffer import Buffer, Limits
from flux.core.errors import BrokerError, BufferFull, ConfigurationError, DeliveryError, FailedRecord, Fault
from flux.core.ports import Adapter, ProducerPort, ProducerRecord, ProducerSettings, System
from flux.core.throttle import Throttle, and_more
from flux.runtime.delivery import Delivery
from flux.runtime.ending import ending, tell
from flux.runtime.produced import Scope
from flux.runtime.returned import check_returned
from flux.runtime.tallies import Counted, Tally, Tracked, acknowledging, failed, in_acknowledgement, tallies
from flux.runtime.traces import text_of
from flux.system import Lock

logger = logging.getLogger("flux.producer")

RETRY = 0.05
"""Seconds after which a client whose queue was full is tried again, if no acknowledgement came before."""
KEPT_FAILURES = 1000
"""How many failures that nobody heard of are kept for the next `deliver`; the log and `on_error` get them all."""

OnError = Callable[[DeliveryError], object]


class Runtime(Protocol):
    """What all outboxes of a process share."""

    @property
    def system(self) -> System: ...
    def client(self, outbox: Outbox) -> ProducerPort:
        """The client for its adapter and settings, made now if need be. Raises ConfigurationError, BrokerError."""
        ...

    def broken(self, outbox: Outbox, client: ProducerPort) -> None:
        """It cannot go on; the next `client` makes another."""
        ...

    def opened(self, outbox: Outbox) -> None:
        """Its buffer is no longer empty: `tick` is called when it is due."""
        ...

    def stalled(self, outbox: Outbox) -> None:
        """Its client is full or away: `tick` is called soon."""
        ...

    def handed_on(self, outbox: Outbox) -> None:
        """A full buffer went to the client."""
        ...


@attrs.define(slots=True, eq=False)
class Watch:
    """Somebody waits for the ends of `waiting`. `done` is called once, when there are none left."""

    waiting: set[Counted]
    done: Callable[[], None]
    failed: list[FailedRecord] = attrs.field(factory=list)


class Outbox:
    """One producer's records for one topic of one cluster. Thread-safe."""

    def __init__(
        self, runtime: Runtime, adapter: Adapter, topic: str, settings: ProducerSettings, limits: Limits
    ) -> None:
        self.adapter = adapter
        self.topic = topic
        self.settings = settings
        self.buffer = Buffer(limits)
        self.full = False
        self.on_error: OnError | None = None
        self._tracked = False  # whether any record was ever part of a task's call
        self._late = False
        self._runtime = runtime
        self._pending: deque[Counted] = deque()  # left the buffer, not all taken by the client
        self._open: set[Counted] = set()
        self._watches: list[Watch] = []
        self._waiters: deque[Callable[[], object]] = deque()  # event loops that want to `put`
        self._unheard: deque[FailedRecord] = deque(maxlen=KEPT_FAILURES)
        self._changed = runtime.system.condition()
        self._handing_on = Lock()
        self._busy = False
        self._again = False
        self._throttle = Throttle()

    def comes_late(self) -> bool:
        """A record is produced in a context that was inherited from a call which has ended; False."""
        if not self._late:
            self._late = True
            logger.warning(
                "topic %s: what was begun in a call produces after the call has ended, and is no part of it any more",
                self.topic,
            )
        return False

    def put(self, record: ProducerRecord, size: int) -> None:
        """Takes a record of `size` bytes. With no room it waits up to the delivery timeout, then raises DeliveryError;
        raises BufferFull at once where waiting would block an event loop or the acknowledgements."""
        if isinstance(record, Tracked):
            self._tracked = True
        if self.full:
            self.wait_for_room(record)
        if self.buffer.add(record, size):
            self.added()

    def send(self, record: ProducerRecord, scope: Scope | None) -> Delivery:
        """Hands on what is buffered and then this record, at once. Raises as `put` does."""
        if self.full:
            self.wait_for_room(record)
        delivery = Delivery(self, self.topic, record, self._runtime.system.monotonic(), scope)
        with self._handing_on:
            self._take()
            with self._changed:  # no calls in here: see `Buffer.take`
                self._open |= {delivery}
                self._pending += (delivery,)
            self._flush()
        self._runtime.handed_on(self)
        return delivery

    def added(self) -> None:
        """What is to do when `Buffer.add` says so."""
        buffer = self.buffer
        if buffer.full:
            self.flush()
            self._runtime.handed_on(self)
        if buffer.deadline is None and buffer:
            self._runtime.opened(self)

    def wait_for_room(self, record: ProducerRecord) -> None:
        """Raises as `put` does."""
        self.flush()
        if not self.full:
            return
        if _must_not_wait():
            raise BufferFull([failed(self.topic, record, self._no_room())])
        deadline = self._runtime.system.monotonic() + self.settings.delivery_timeout
        watch = self._begin_watch(_nothing)
        try:
            while self.full and (left := deadline - self._runtime.system.monotonic()) > 0:
                with self._changed:
                    self._changed.wait(min(left, RETRY))
                self.flush()
        except BaseException:
            self.abandon(watch)
            raise
        self._judge(watch, record)

    async def await_room(self, record: ProducerRecord) -> None:
        """`wait_for_room` for an event loop."""
        deadline = self._runtime.system.monotonic() + self.settings.delivery_timeout
        watch = self._begin_watch(_nothing)
        try:
            while self.full and self._runtime.system.monotonic() < deadline:
                changed = asyncio.Event()
                self._waiters.append(_in_loop(changed.set))
                with suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), RETRY)
                self.flush()
        except BaseException:
            self.abandon(watch)
            raise
        self._judge(watch, record)

    def _judge(self, watch: Watch, record: ProducerRecord) -> None:
        """After a wait. Where there is room only because the cluster was away until other records failed, this one
        would fail too: its caller hears of all of them."""
        self._withdraw(watch)
        away = any(isinstance(each.error, BrokerError) and each.error.retriable for each in watch.failed)
        if away or self.full:
            raise DeliveryError([*watch.failed, failed(self.topic, record, self._no_room())])
        if watch.failed:
            self.report(watch.failed)

    def _no_room(self) -> BrokerError:
        where = f"{self.adapter.cluster}, topic {self.topic}"
        return BrokerError(f"{where}: the producer's queue is full, and the cluster takes nothing", Fault.UNAVAILABLE)

    def flush(self) -> None:
        """Hands what is buffered to the client, as far as that has room, and waits for nothing."""
        with self._handing_on:
            self._flush()

    def _flush(self) -> None:
        # Other people's code runs in acknowledgements that come while the client is written to, and may produce. It
        # finds the outbox busy: what it adds is handed on by the loop that is under way.
        if self._busy:
            self._again = True
            return
        self._busy = True
        try:
            while True:
                self._again = False
                self._push()
                if not self._pending:
                    self._take()
                    self._push()
                if not self._again:
                    break
        finally:
            self._busy = False
        # one that was sent passes the buffer by: no more of them when the client has no room
        self.full = bool(self._pending) and (self.buffer.full or self._pending[-1].heard)

    def _take(self) -> None:
        records = self.buffer.take()
        if not records:
            return
        now = self._runtime.system.monotonic()
        new = (
            list(tallies(self, self.topic, records, now)) if self._tracked else [Tally(self, self.topic, records, now)]
        )
        opened = set(new)
        with self._changed:  # no calls in here: see `Buffer.take`
            self._open |= opened
            self._pending += new
            self.buffer.taken = []

    def _push(self) -> None:
        while self._pending:
            tally = self._pending[0]
            stopped = self._write(tally)
            if stopped is not None:
                if self._runtime.system.monotonic() - tally.since < self.settings.delivery_timeout:
                    self._runtime.stalled(self)
                    return
                tally.give_up(stopped)
            self._pending.popleft()

    def _write(self, tally: Counted) -> Exception | None:
        """Why the client did not take all of it."""
        client = None
        try:
            client = self._runtime.client(self)
            rest = tally.records[tally.handed :] if tally.handed else tally.records
            taken = client.write(self.topic, rest, tally.acknowledged())
            tally.handed += taken
        except (BrokerError, ConfigurationError) as error:
            if client is not None:
                self._runtime.broken(self, client)
            return error
        except BaseException as error:
            # Nobody knows what it did: a second try could repeat records.
            if isinstance(error, Exception):
                logger.exception("%s, topic %s: a bug while writing", self.adapter.cluster, self.topic)
                tally.doubt(error)
                return None
            tally.doubt(BrokerError(f"{type(error).__name__} while it was written: it may yet arrive"))
            raise
        return None if taken == len(rest) else self._no_room()

    def ended(self, tally: Counted) -> None:
        """All records of `tally` have ended."""
        done = []
        heard = tally.heard or not tally.failed
        with self._changed:
            self._open.discard(tally)
            if self._watches:  # nobody waits without one
                for watch in self._watches:
                    if tally in watch.waiting:
                        watch.waiting.discard(tally)
                        watch.failed += tally.failed
                        heard = True
                        if not watch.waiting:
                            done.append(watch)
                for watch in done:
                    self._watches.remove(watch)
                self._changed.notify_all()
        for watch in done:
            acknowledging(watch.done)
        for _ in range(len(self._waiters)):
            with suppress(IndexError):
                acknowledging(self._waiters.popleft())
        if not heard:
            acknowledging(self.report, tally.failed, tally.scope is None)
        if self._pending and self._handing_on.acquire(blocking=False):
            try:
                self._flush()
            finally:
                self._handing_on.release()

    def report(self, records: Sequence[FailedRecord], keep: bool = True) -> None:
        """Failures that no caller is left to hear. Takes no lock: a garbage collection may call it anywhere."""
        error = DeliveryError(records)
        if ending():
            tell(f"{self.adapter.cluster}: {error}")
            return
        first = records[0].error
        kind = (type(first), first.fault if isinstance(first, BrokerError) else None)
        left_out = self._throttle.admit(kind, self._runtime.system.monotonic(), len(records))
        if left_out is not None:
            logger.error("%s: %s%s", self.adapter.cluster, error, and_more(left_out))
        if keep:
            self._unheard.extend(records)
        if self.on_error is not None:
            try:
                check_returned("on_error", self.on_error(error))
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as raised:
                logger.error("on_error of the producer for topic %s failed\n%s", self.topic, text_of(raised))

    def watch(self, done: Callable[[], None]) -> Watch:
        """Flushes; `done` is called when everything taken so far has ended: now, if it has."""
        watch: Watch | None = None
        try:
            with self._handing_on:
                self._take()
                watch = self._begin_watch(done)
                self._flush()
        except BaseException:
            if watch is not None:
                self.abandon(watch)
            raise
        return watch

    def _begin_watch(self, done: Callable[[], None]) -> Watch:
        watch, watching = Watch(set(), done), False
        try:
            with self._changed:  # no calls in here: see `Buffer.take`
                if self._open:
                    watch.waiting |= self._open
                    self._watches += [watch]
                    watching = True
        except BaseException:
            self.abandon(watch)
            raise
        if not watching:
            done()
        return watch

    def outcome(self, watch: Watch) -> None:
        """Ends a watch. Raises DeliveryError for what has failed since the last time anybody heard, and for what is
        still under way: batches are counted, so all of one that is not complete are named."""
        self._withdraw(watch)
        records = []
        with suppress(IndexError):
            while True:
                records.append(self._unheard.popleft())
        records += watch.failed
        late = BrokerError("not acknowledged in time, and may yet arrive", Fault.UNAVAILABLE)
        for tally in watch.waiting:
            records += [failed(self.topic, record, late) for record in tally.records]
        if records:
            raise DeliveryError(records)

    def abandon(self, watch: Watch) -> None:
        """Nobody waits any more: what failed meanwhile is nobody's."""
        self._withdraw(watch)
        if watch.failed:
            self.report(watch.failed)

    def give_up(self) -> None:
        """Nobody will hand on what the client has not taken: it fails."""
        with self._handing_on:
            self._take()
            while self._pending:
                self._pending.popleft().give_up(self._no_room())

    def _withdraw(self, watch: Watch) -> None:
        with self._changed:
            if watch in self._watches:
                self._watches.remove(watch)

    def deliver(self, timeout: float | None) -> None:
        """Flushes and waits; None: until the client has given up on the last. Raises DeliveryError."""
        if in_acknowledgement():
            raise ConfigurationError("deliver() inside on_error or a callback would wait for itself: call it elsewhere")
        watch = self.watch(_nothing)
        try:
            self.wait(watch, timeout)
        except BaseException:
            self.abandon(watch)
            raise
        self.outcome(watch)

    def wait(self, watch: Watch, timeout: float | None) -> None:
        now = self._runtime.system.monotonic
        deadline = None if timeout is None else now() + timeout
        with self._changed:
            while watch.waiting:
                left = RETRY if deadline is None else min(deadline - now(), RETRY)
                if left <= 0:
                    return
                self._changed.wait(left)

    async def adeliver(self, timeout: float | None) -> None:
        """`deliver` for an event loop."""
        done = asyncio.Event()
        watch = self.watch(_in_loop(done.set))
        try:
            await asyncio.wait_for(done.wait(), timeout)
        except TimeoutError:
            pass
        except BaseException:
            self.abandon(watch)
            raise
        self.outcome(watch)

    @property
    def idle(self) -> bool:
        return not self._pending and not self.buffer.taken and self.buffer.deadline is None

    def due(self, now: float) -> float:
        """When to `tick`, by the monotonic clock."""
        opened = self.buffer.opened(now)
        return min(opened, now + RETRY) if self._pending else opened

    def tick(self, now: float) -> float | None:
        """Does what is due; the next time by the monotonic clock, None when only a new record brings one."""
        if self._pending or self.buffer.taken or self.buffer.due(now):
            # Who flushes now may stand still, in the client or in somebody's callback: other producers must not.
            if not self._handing_on.acquire(timeout=RETRY):
                return now + RETRY
            try:
                self._flush()
            finally:
                self._handing_on.release()
        return now + RETRY if self._pending else self.buffer.deadline


def _nothing() -> None:
    pass


def _in_loop(function: Callable[[], object]) -> Callable[[], None]:
    """Calls `function` in the running event loop, from any thread; nothing when that loop is closed by then."""
    loop = asyncio.get_running_loop()

    def call() -> None:
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(function)

    return call


def _must_not_wait() -> bool:
    if in_acknowledgement():
        return True
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
