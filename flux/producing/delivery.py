"""What `Producer.send` returns: a Future, and the pending acknowledgement of the one record that it stands for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from concurrent.futures._base import FINISHED, RUNNING
from typing import Any, NamedTuple

from flux.core.errors import BrokerError, DeliveryError, FailedRecord, Fault
from flux.core.ports import ProducerRecord, Record
from flux.producing.pending_acks import Ends, acknowledging, failed, failed_record
from flux.producing.scope import Scope
from flux.system import SYSTEM
from flux.system.interpreter_end import ending
from flux.system.return_values import PartOfItsCall


class RecordMetadata(NamedTuple):
    """Where a record landed. `timestamp` in milliseconds since the epoch; None: the client does not know it."""

    topic: str
    partition: int
    offset: int
    timestamp: int | None


class Delivery(Future[RecordMetadata], PartOfItsCall):
    """The end of one record: `result(timeout)` is where it landed, or raises DeliveryError; `await` does so too. Cannot
    be cancelled: the record is under way. A failure that nobody has asked for is reported when the last reference
    goes."""

    # One is made for each record sent, many thousands may be under way, and most are asked when they have ended. So it
    # is as few objects as can be: it counts its record's end itself (as `PendingAcks` does a batch's), and the lock and
    # the lists of the standard library's Future are made when somebody is there before the end. The end is noted before
    # it looks for them, and they are made before their maker looks for the end: one of the two sees the other.

    _state = RUNNING
    _result = None
    _exception = None
    _asked = False
    _lock: threading.Condition | None = None
    handed = 0
    heard = True

    def __init__(self, ends: Ends, topic: str, record: ProducerRecord, since: float, scope: Scope | None) -> None:
        # the base's own is not called: see above
        self.topic = topic
        self.records: Sequence[ProducerRecord] = (record,)
        self.since = since
        self.scope = scope
        self._ends = ends

    # ---- as what is pending

    @property
    def failed(self) -> Sequence[FailedRecord]:
        return self._exception.failed if isinstance(self._exception, DeliveryError) else ()

    def acknowledged(self) -> Callable[[Exception | None, Record], None]:
        return self._acknowledged

    def _acknowledged(self, error: Exception | None, record: Record) -> None:
        if self._state is FINISHED:
            return  # it was in doubt
        if error is not None:
            self._fail(failed_record(error, record))
            return
        kind, timestamp = record.timestamp()
        where = RecordMetadata(record.topic(), record.partition(), record.offset(), timestamp if kind else None)
        acknowledging(self.set_result, where)
        self.records = ()
        if self.scope is not None:
            acknowledging(self.scope.ended, None)
        self._ends.ended(self)

    def give_up(self, error: Exception) -> None:
        self.handed = 1
        if self._state is not FINISHED:
            self._fail(failed(self.topic, self.records[0], error))

    doubt = give_up

    def _fail(self, record: FailedRecord) -> None:
        error = DeliveryError([record])
        acknowledging(self.set_exception, error)
        if self.scope is not None:
            acknowledging(self.scope.ended, error)
        self._ends.ended(self)

    # ---- as a future

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

    def result(self, timeout: float | None = None) -> RecordMetadata:
        self._asked = True
        if self._result is not None:
            return self._result
        self._check_ending()
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        self._asked = True
        self._check_ending()
        return super().exception(timeout)

    def _check_ending(self) -> None:
        if self._state is not FINISHED and ending():
            error = BrokerError("the interpreter is ending: nobody will know whether it arrived", Fault.UNAVAILABLE)
            raise DeliveryError([failed(self.topic, self.records[0], error)])

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
            self._ends.report(self._exception.failed)
