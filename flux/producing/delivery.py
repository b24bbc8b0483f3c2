"""The return value of `Producer.send`: a Future, and the pending acknowledgement of its record."""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from concurrent.futures import Future
from concurrent.futures._base import FINISHED, RUNNING
from typing import Any, NamedTuple

from flux.core.errors import BrokerError, DeliveryError, FailedRecord, Fault
from flux.core.ports import Acknowledged, ProducerRecord, Record
from flux.core.validation import Seconds, seconds
from flux.producing.pending_acks import EndListener, acknowledging, failed, failed_record
from flux.producing.produced import Scope
from flux.system import SYSTEM, forks
from flux.system.process_end import ending
from flux.system.return_values import PartOfItsCall


class RecordMetadata(NamedTuple):
    """Where a record was written. `timestamp` in milliseconds since the epoch; None: the client does not know it."""

    topic: str
    partition: int
    offset: int
    timestamp: int | None


class Delivery(Future[RecordMetadata], PartOfItsCall):
    """The outcome of one record: `result(timeout)`, and `await`, return where it was written or raise DeliveryError. It
    cannot be cancelled: the record is in flight. A failure that is never retrieved is reported when the last reference
    is gone."""

    # One is made for each record sent, many thousands may be in flight, and most results are read after the end. So it
    # uses few objects: it acknowledges its record itself (as `PendingAcks` does a batch), and makes the lock and the
    # lists of the standard library's Future only for a caller that waits. The result is stored before the lock is
    # looked for, and the lock is made before its maker looks for the result: one of the two sees the other.

    _state = RUNNING
    _result = None
    _exception = None
    _retrieved = False
    _lock: threading.Condition | None = None
    taken = 0
    claimed = True

    def __init__(
        self, listener: EndListener, topic: str, record: ProducerRecord, since: float, scope: Scope | None
    ) -> None:
        # The base class's is not called: see above.
        self.topic = topic
        self.records: Sequence[ProducerRecord] = (record,)
        self.since = since
        self.scope = scope
        self.of_calls = scope is not None
        self._listener = listener

    # ---- as a pending acknowledgement

    @property
    def failed(self) -> Sequence[FailedRecord]:
        return self._exception.failed if isinstance(self._exception, DeliveryError) else ()

    def acknowledged(self) -> Acknowledged:
        return self._acknowledged

    def _acknowledged(self, error: Exception | None, record: Record) -> None:
        if self._state is FINISHED:
            return  # failed before, in doubt
        if error is not None:
            self._fail(failed_record(error, record))
            return
        kind, timestamp = record.timestamp()
        where = RecordMetadata(record.topic(), record.partition(), record.offset(), timestamp if kind else None)
        acknowledging(self.set_result, where)
        self.records = ()
        if self.scope is not None:
            acknowledging(self.scope.ended, None)
        self._listener.ended(self)

    def give_up(self, error: Exception) -> None:
        self.taken = 1
        if self._state is not FINISHED:
            self._fail(failed(self.topic, self.records[0], error))

    doubt = give_up

    def _fail(self, record: FailedRecord) -> None:
        error = DeliveryError([record])
        acknowledging(self.set_exception, error)
        if self.scope is not None:
            acknowledging(self.scope.ended, error)
        self._listener.ended(self)

    # ---- as a Future

    def _locked(self) -> threading.Condition:
        if self._lock is None:
            own = self.__dict__
            own.setdefault("_waiters", [])
            own.setdefault("_done_callbacks", [])
            own.setdefault("_lock", SYSTEM.condition())
        return self._lock  # type: ignore[return-value]

    _condition: threading.Condition = property(_locked)  # type: ignore[assignment]

    def done(self) -> bool:
        return self._state is FINISHED

    def result(self, timeout: Seconds | None = None) -> RecordMetadata:
        self._retrieved = True
        if self._result is not None:
            return self._result
        self._check_ending()
        return super().result(seconds(timeout))

    def exception(self, timeout: Seconds | None = None) -> BaseException | None:
        self._retrieved = True
        self._check_ending()
        return super().exception(seconds(timeout))

    def _check_ending(self) -> None:
        if self._state is not FINISHED and ending():
            error = BrokerError("the interpreter is ending: the record may not arrive", Fault.UNAVAILABLE)
            raise DeliveryError([failed(self.topic, self.records[0], error)])

    def set_result(self, result: RecordMetadata) -> None:
        self._result = result
        self._state = FINISHED
        if self._lock is not None:
            self._notify(self._lock)

    def set_exception(self, exception: BaseException | None) -> None:
        self._exception = exception
        self._state = FINISHED
        if self._lock is not None:
            self._notify(self._lock)

    def _notify(self, condition: threading.Condition) -> None:
        with condition:
            for waiter in self._waiters:
                (waiter.add_result if self._exception is None else waiter.add_exception)(self)
            condition.notify_all()
        forks.calling(self._invoke_callbacks)  # type: ignore[attr-defined]

    def __await__(self) -> Generator[Any, None, RecordMetadata]:
        import asyncio

        return asyncio.wrap_future(self).__await__()

    def __del__(self) -> None:
        if isinstance(self._exception, DeliveryError) and not self._retrieved:
            self._listener.report(self._exception.failed)
