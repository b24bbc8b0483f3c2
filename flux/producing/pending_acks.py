"""Records in flight and their acknowledgements, counted by batch; by record only where a caller waits for each."""

from __future__ import annotations

import itertools
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

from flux.core.errors import DeliveryError, FailedRecord
from flux.core.ports import Acknowledged, ProducerRecord, Record, System
from flux.producing.produced import Scope, Tracked
from flux.system.tracebacks import text_of

logger = logging.getLogger("flux.producer")


class EndListener(Protocol):
    """Notified when the last of some records has ended, and of failures that no caller gets."""

    def ended(self, pending: Pending) -> None: ...
    def report(self, records: Sequence[FailedRecord]) -> None: ...


class Pending(Protocol):
    """Records in flight: `PendingAcks`, or a Delivery for one of `send`. Notifies its `EndListener` when each has
    ended."""

    @property
    def records(self) -> Sequence[ProducerRecord]: ...
    @property
    def failed(self) -> Sequence[FailedRecord]: ...

    of_calls: bool
    """Whether tasks' calls wait for them."""
    since: float
    """When they left the buffer, by the monotonic clock."""
    taken: int
    """How many the client has taken."""
    claimed: bool
    """Whether a caller gets each failure as it happens."""

    def acknowledged(self) -> Acknowledged | Sequence[Acknowledged]:
        """For the port: the callback of the records that the client has not taken, or one for each."""
        ...

    def give_up(self, error: Exception) -> None:
        """Fails the records that the client has not taken."""
        ...

    def doubt(self, error: Exception) -> None:
        """It is unknown which records the client has taken: fails all, and ignores later acknowledgements."""
        ...


class InFlight:
    """Records that have left one producer's buffer and have not ended. `changed` guards both collections, which are
    plain attributes because no function may be called while records are moved: see `Buffer.take`."""

    __slots__ = ("changed", "open", "untaken")

    def __init__(self, system: System) -> None:
        self.changed = system.condition()
        """Notified when a record has ended."""
        self.open: set[Pending] = set()
        self.untaken: deque[Pending] = deque()
        """Those that the client has not fully taken, in order."""


class PendingAcks:
    """Called on the client's threads and the writer's at once: `next` and `append` are atomic, so it needs no lock."""

    __slots__ = (
        "_counted", "_last", "_listener",
        "claimed", "failed", "of_calls", "records", "since", "taken", "topic",
    )  # fmt: skip

    def __init__(self, listener: EndListener, topic: str, records: Sequence[ProducerRecord], since: float) -> None:
        self.topic = topic
        self.records = records
        self.since = since
        self.taken = 0
        self.claimed = False
        self.failed: list[FailedRecord] = []
        self.of_calls = _of_call(records[0])
        self._listener = listener
        self._counted = itertools.count(1)
        self._last = len(records)

    def acknowledged(self) -> Acknowledged | Sequence[Acknowledged]:
        # Closures: they are called for every record.
        counted, last = self._counted.__next__, self._last

        def acknowledged(error: Exception | None, record: Record) -> None:
            if error is not None:
                self._fail(failed_record(error, record), None)
            if counted() == last:
                self._listener.ended(self)

        def of_call(scope: Scope, error: Exception | None, record: Record) -> None:
            if error is not None:
                self._fail(failed_record(error, record), scope)
            else:
                acknowledging(scope.ended, None)
            if counted() == last:
                self._listener.ended(self)

        if not self.of_calls:
            return acknowledged
        return [partial(of_call, record.scope) for record in self.records[self.taken :]]  # type: ignore[attr-defined]

    def give_up(self, error: Exception) -> None:
        rest, self.taken = self.records[self.taken :], len(self.records)
        try:
            for record in rest:
                self._fail(failed(self.topic, record, error), _scope(record))
                if next(self._counted) == self._last:
                    self._listener.ended(self)
        except BaseException:
            self.doubt(error)
            raise

    def doubt(self, error: Exception) -> None:
        self.taken = len(self.records)
        for record in self.records:
            self._fail(failed(self.topic, record, error), _scope(record))
        while next(self._counted) < self._last:
            pass
        self._listener.ended(self)

    def _fail(self, record: FailedRecord, scope: Scope | None) -> None:
        self.failed.append(record)
        if scope is not None:
            acknowledging(scope.ended, DeliveryError([record]))


def pending_acks(listener: EndListener, topic: str, records: Sequence[ProducerRecord], now: float) -> list[PendingAcks]:
    """In order; neighbours for which calls wait are counted together, and those for which none waits."""
    return [PendingAcks(listener, topic, list(group), now) for _, group in itertools.groupby(records, _of_call)]


def _scope(record: ProducerRecord) -> Scope | None:
    return record.scope if isinstance(record, Tracked) else None


def _of_call(record: ProducerRecord) -> bool:
    return _scope(record) is not None


def failed(topic: str, record: ProducerRecord, error: Exception) -> FailedRecord:
    return FailedRecord(topic, record.partition, record.key, record.value, error)


def failed_record(error: Exception, record: Record) -> FailedRecord:
    """Made of the record that a client returns."""
    partition = record.partition()
    place = partition if partition is not None and partition >= 0 else None
    return FailedRecord(record.topic(), place, record.key(), record.value(), error)


_acknowledging = threading.local()


def acknowledging(callback: Callable[..., object], *arguments: Any) -> None:
    """Calls users' code on a thread that serves acknowledgements; there it must not wait for one."""
    here = _acknowledging
    before = in_acknowledgement()
    here.active = True
    try:
        callback(*arguments)
    except (Exception, KeyboardInterrupt):
        raise
    except BaseException as error:  # it would end the client's thread or its event loop
        logger.error("a callback of an acknowledgement failed\n%s", text_of(error))
    finally:
        here.active = before


def in_acknowledgement() -> bool:
    return getattr(_acknowledging, "active", False)
