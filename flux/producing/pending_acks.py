"""Records on their way and how they end: counted by the batch, told by the record only where somebody waits for it."""

from __future__ import annotations

import itertools
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from flux.core.errors import DeliveryError, FailedRecord
from flux.core.ports import ProducerRecord, Record, System
from flux.producing.scope import Scope
from flux.system.tracebacks import text_of

logger = logging.getLogger("flux.producer")


class Tracked(ProducerRecord):
    """A record whose end a call waits for. A subclass, so that plain ones carry nothing."""

    scope: Scope | None = None


class Ends(Protocol):
    """Who hears that the last of some records has ended, and of failures that nobody else does."""

    def ended(self, pending: Pending) -> None: ...
    def report(self, records: Sequence[FailedRecord]) -> None: ...


class Pending(Protocol):
    """Records on their way: `PendingAcks`, or a Delivery for one that was sent. Once each has ended it tells its
    `Ends`."""

    @property
    def records(self) -> Sequence[ProducerRecord]: ...
    @property
    def failed(self) -> Sequence[FailedRecord]: ...

    scope: Scope | None
    since: float
    """When they left the buffer, by the monotonic clock."""
    handed: int
    """How many the client has taken."""
    heard: bool
    """Whether somebody is told of each failure as it happens."""

    def acknowledged(self) -> Callable[[Exception | None, Record], None]:
        """For the port."""
        ...

    def give_up(self, error: Exception) -> None:
        """Those that the client has not taken fail."""
        ...

    def doubt(self, error: Exception) -> None:
        """Nobody knows which of them the client has taken: all fail, and what it tells later counts for nothing."""
        ...


class InFlight:
    """What has left one producer's buffer and has not ended. `changed` guards both collections. They are plain
    attributes because no call may stand between the lines in which records change hands: see `Buffer.take`."""

    __slots__ = ("changed", "open", "untaken")

    def __init__(self, system: System) -> None:
        self.changed = system.condition()
        """Notified when something has ended."""
        self.open: set[Pending] = set()
        self.untaken: deque[Pending] = deque()
        """Those that the client has not taken wholly, in order."""


class PendingAcks:
    """Called on the client's threads and the writer's at once: `next` and `append` are atomic, so it needs no lock."""

    __slots__ = ("_counted", "_ends", "_last", "failed", "handed", "heard", "records", "scope", "since", "topic")

    def __init__(self, ends: Ends, topic: str, records: Sequence[ProducerRecord], since: float) -> None:
        first = records[0]
        self.topic = topic
        self.records = records
        self.since = since
        self.handed = 0
        self.heard = False
        self.failed: list[FailedRecord] = []
        self.scope = first.scope if isinstance(first, Tracked) else None
        self._ends = ends
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
                self._ends.ended(self)

        return acknowledged

    def give_up(self, error: Exception) -> None:
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
        self.handed = len(self.records)
        for record in self.records:
            self._fail(failed(self.topic, record, error))
        while next(self._counted) < self._last:
            pass
        self._ends.ended(self)

    def _fail(self, record: FailedRecord) -> None:
        self.failed.append(record)
        if self.scope is not None:
            acknowledging(self.scope.ended, DeliveryError([record]))


def pending_acks(ends: Ends, topic: str, records: Sequence[ProducerRecord], now: float) -> Iterator[PendingAcks]:
    """In order; neighbours that nobody, or the same one, waits for are counted together."""
    if len(records) == 1:
        yield PendingAcks(ends, topic, records, now)
        return
    for _, group in itertools.groupby(records, _waiting):
        yield PendingAcks(ends, topic, list(group), now)


def _waiting(record: ProducerRecord) -> object:
    return record.scope if isinstance(record, Tracked) else None


def failed(topic: str, record: ProducerRecord, error: Exception) -> FailedRecord:
    return FailedRecord(topic, record.partition, record.key, record.value, error)


def failed_record(error: Exception, record: Record) -> FailedRecord:
    """As a client hands it back."""
    partition = record.partition()
    place = partition if partition is not None and partition >= 0 else None
    return FailedRecord(record.topic(), place, record.key(), record.value(), error)


_acknowledging = threading.local()


def acknowledging(tell: Callable[..., object], *given: Any) -> None:
    """Calls other people's code on a thread that acknowledgements come on: it must not wait for one."""
    here = _acknowledging
    before = in_acknowledgement()
    here.active = True
    try:
        tell(*given)
    except (Exception, KeyboardInterrupt):
        raise
    except BaseException as error:  # it would end the client's thread or its event loop
        logger.error("what was told of an acknowledgement raised\n%s", text_of(error))
    finally:
        here.active = before


def in_acknowledgement() -> bool:
    return getattr(_acknowledging, "active", False)
