"""Records in flight and their acknowledgements, counted by batch; by record only where a caller waits for each."""

from __future__ import annotations

import itertools
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from flux.core.errors import DeliveryError, FailedRecord
from flux.core.ports import ProducerRecord, Record, System
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

    scope: Scope | None
    since: float
    """When they left the buffer, by the monotonic clock."""
    taken: int
    """How many the client has taken."""
    claimed: bool
    """Whether a caller gets each failure as it happens."""

    def acknowledged(self) -> Callable[[Exception | None, Record], None]:
        """The callback for the port."""
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

    __slots__ = ("_counted", "_last", "_listener", "claimed", "failed", "records", "scope", "since", "taken", "topic")

    def __init__(self, listener: EndListener, topic: str, records: Sequence[ProducerRecord], since: float) -> None:
        first = records[0]
        self.topic = topic
        self.records = records
        self.since = since
        self.taken = 0
        self.claimed = False
        self.failed: list[FailedRecord] = []
        self.scope = first.scope if isinstance(first, Tracked) else None
        self._listener = listener
        self._counted = itertools.count(1)
        self._last = len(records)

    def acknowledged(self) -> Callable[[Exception | None, Record], None]:
        # A closure: it is called for every record.
        counted, last, scope = self._counted.__next__, self._last, self.scope

        def acknowledged(error: Exception | None, record: Record) -> None:
            if error is not None:
                self._fail(failed_record(error, record))
            elif scope is not None:
                acknowledging(scope.ended, None)
            if counted() == last:
                self._listener.ended(self)

        return acknowledged

    def give_up(self, error: Exception) -> None:
        rest, self.taken = self.records[self.taken :], len(self.records)
        try:
            for record in rest:
                self._fail(failed(self.topic, record, error))
                if next(self._counted) == self._last:
                    self._listener.ended(self)
        except BaseException:
            self.doubt(error)
            raise

    def doubt(self, error: Exception) -> None:
        self.taken = len(self.records)
        for record in self.records:
            self._fail(failed(self.topic, record, error))
        while next(self._counted) < self._last:
            pass
        self._listener.ended(self)

    def _fail(self, record: FailedRecord) -> None:
        self.failed.append(record)
        if self.scope is not None:
            acknowledging(self.scope.ended, DeliveryError([record]))


def pending_acks(
    listener: EndListener, topic: str, records: Sequence[ProducerRecord], now: float
) -> Iterator[PendingAcks]:
    """In order; neighbours for which the same call, or none, waits are counted together."""
    if len(records) == 1:
        yield PendingAcks(listener, topic, records, now)
        return
    for _, group in itertools.groupby(records, _waiting):
        yield PendingAcks(listener, topic, list(group), now)


def _waiting(record: ProducerRecord) -> object:
    return record.scope if isinstance(record, Tracked) else None


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
