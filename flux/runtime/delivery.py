"""How produced records end: counted by the batch, told by the record only where somebody waits for it."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures._base import FINISHED, RUNNING
from typing import Any, NamedTuple, Protocol

from flux.core.errors import DeliveryError, FailedRecord
from flux.core.ports import Outgoing, Record
from flux.runtime.produced import Produced


class RecordMetadata(NamedTuple):
    """Where a record landed. `timestamp` in milliseconds since the epoch; None: the client does not know it."""

    topic: str
    partition: int
    offset: int
    timestamp: int | None


class Delivery(Future[RecordMetadata]):
    """The end of one record: `result(timeout)` is where it landed, or raises DeliveryError; `await` does so too. Cannot
    be cancelled: the record is under way. A failure that nobody has asked for is reported when the last reference
    goes.

    One is made for each record sent, and most are asked when they have ended. So the lock and the lists of the standard
    library's Future, two thirds of its cost, are made when somebody is there before the end. The end is noted before it
    looks for them, and they are made before their maker looks for the end: one of the two sees the other."""

    _state = RUNNING
    _result = None
    _exception = None
    _asked = False
    _lock: threading.Condition | None = None

    def __init__(self, unheard: Callable[[Sequence[FailedRecord]], None]) -> None:
        self._unheard = unheard  # the base's own is not called: see above

    def _locked(self) -> threading.Condition:
        if self._lock is None:
            own = self.__dict__
            own.setdefault("_waiters", [])
            own.setdefault("_done_callbacks", [])
            own.setdefault("_lock", threading.Condition())
        return self._lock  # type: ignore[return-value]

    _condition: threading.Condition = property(_locked)  # type: ignore[assignment]

    def done(self) -> bool:
        return self._state is FINISHED

    def result(self, timeout: float | None = None) -> RecordMetadata:
        self._asked = True
        return super().result(timeout) if self._result is None else self._result

    def exception(self, timeout: float | None = None) -> BaseException | None:
        self._asked = True
        return super().exception(timeout)

    def set_result(self, result: RecordMetadata) -> None:
        self._result = result
        self._state = FINISHED
        if self._lock is not None:
            self._tell(self._lock)

    def set_exception(self, exception: BaseException | None) -> None:
        self._exception = exception
        self._state = FINISHED
        if self._lock is not None:
            self._tell(self._lock)

    def _tell(self, condition: threading.Condition) -> None:
        with condition:
            for waiter in self._waiters:
                (waiter.add_result if self._exception is None else waiter.add_exception)(self)
            condition.notify_all()
        self._invoke_callbacks()  # type: ignore[attr-defined]

    def __await__(self) -> Generator[Any, None, RecordMetadata]:
        import asyncio

        return asyncio.wrap_future(self).__await__()

    def __del__(self) -> None:
        if isinstance(self._exception, DeliveryError) and not self._asked:
            self._unheard(self._exception.failed)


class Tracked(Outgoing):
    """A record whose end one call waits for, or one future, or both. A subclass, so that plain ones carry nothing."""

    scope: Produced | None = None
    delivery: Delivery | None = None


class Ends(Protocol):
    """Who hears that a tally is complete."""

    def ended(self, tally: Tally) -> None: ...


class Tally:
    """Records on their way. Once each has ended it tells `ends`.

    Called on the client's threads and on the writer's at once: `next` and `append` are atomic, so it needs no lock."""

    __slots__ = ("_counted", "_ends", "_last", "delivery", "failed", "handed", "records", "scope", "since", "topic")

    def __init__(self, ends: Ends, topic: str, records: Sequence[Outgoing], since: float) -> None:
        first = records[0]
        self.topic = topic
        self.records = records
        self.since = since  # seconds since the epoch: when they left the buffer
        self.handed = 0  # how many the client has taken
        self.failed: list[FailedRecord] = []
        self.scope = first.scope if isinstance(first, Tracked) else None
        self.delivery = first.delivery if isinstance(first, Tracked) else None
        self._ends = ends
        self._counted = itertools.count(1)
        self._last = len(records)

    def acknowledged(self) -> Callable[[Exception | None, Record], None]:
        """For the port. A closure: it is called for every record."""
        counted, last = self._counted.__next__, self._last
        succeed = None if self.scope is None and self.delivery is None else self._succeed

        def acknowledged(error: Exception | None, record: Record) -> None:
            if error is not None:
                partition = record.partition()
                place = partition if partition is not None and partition >= 0 else None
                self._fail(FailedRecord(record.topic(), place, record.key(), record.value(), error))
            elif succeed is not None:
                succeed(record)
            if counted() == last:
                self._ends.ended(self)

        return acknowledged

    def give_up(self, error: Exception) -> None:
        """Those that the client has not taken fail."""
        rest, self.handed = self.records[self.handed :], len(self.records)
        try:
            for record in rest:
                self._fail(failed(self.topic, record, error))
                if next(self._counted) == self._last:
                    self._ends.ended(self)
        except BaseException:
            self.doubt(error)
            raise

    def doubt(self, error: Exception) -> None:
        """Nobody knows which of them the client has taken: all fail, and what it tells later counts for nothing."""
        self.handed = len(self.records)
        for record in self.records:
            self._fail(failed(self.topic, record, error))
        while next(self._counted) < self._last:
            pass
        self._ends.ended(self)

    def _succeed(self, record: Record) -> None:
        delivery = self.delivery
        if delivery is not None and not delivery.done():
            kind, timestamp = record.timestamp()
            where = RecordMetadata(record.topic(), record.partition(), record.offset(), timestamp if kind else None)
            acknowledging(delivery.set_result, where)
        if self.scope is not None:
            acknowledging(self.scope.ended, None)

    def _fail(self, record: FailedRecord) -> None:
        self.failed.append(record)
        error = DeliveryError([record])
        if self.delivery is not None and not self.delivery.done():
            acknowledging(self.delivery.set_exception, error)
        if self.scope is not None:
            acknowledging(self.scope.ended, error)


def failed(topic: str, record: Outgoing, error: Exception) -> FailedRecord:
    return FailedRecord(topic, record.partition, record.key, record.value, error)


def tallies(ends: Ends, topic: str, records: Sequence[Outgoing], now: float) -> Iterator[Tally]:
    """In order; neighbours that nobody, or the same one, waits for are counted together."""
    if len(records) == 1:
        yield Tally(ends, topic, records, now)
        return
    for _, group in itertools.groupby(records, _waiting):
        yield Tally(ends, topic, list(group), now)


def _waiting(record: Outgoing) -> object:
    return (record.scope, record.delivery) if isinstance(record, Tracked) else None


_acknowledging = threading.local()


def acknowledging(tell: Callable[..., object], *given: Any) -> None:
    """Calls other people's code on a thread that acknowledgements come on: it must not wait for one."""
    here = _acknowledging
    before = in_acknowledgement()
    here.active = True
    try:
        tell(*given)
    finally:
        here.active = before


def in_acknowledgement() -> bool:
    return getattr(_acknowledging, "active", False)
