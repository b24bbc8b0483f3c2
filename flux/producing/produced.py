"""What a running call has produced: it is held until the call has returned, and the call's record is done only when all
of it is acknowledged.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from typing import NamedTuple, Protocol

import attrs

from flux.core.errors import BrokerError, BufferFull, ConfigurationError, FailedRecord, Fault
from flux.core.message import Message
from flux.core.ports import Adapter, ProducerRecord, ProducerSettings
from flux.system import Lock

_OVERHEAD = 100  # about the bytes of a held record beside key and value


class Tracked(ProducerRecord):
    """A record for which a task's call waits. A subclass, so that other records carry nothing."""

    scope: Scope | None = None


class Target(Protocol):
    """The buffer of the producer with which a record is produced."""

    @property
    def topic(self) -> str: ...
    @property
    def adapter(self) -> Adapter: ...
    @property
    def settings(self) -> ProducerSettings: ...
    @property
    def blocked(self) -> bool:
        """Whether it has no room."""
        ...

    def wait_for_room(self, record: ProducerRecord) -> None: ...
    async def await_room(self, record: ProducerRecord) -> None: ...
    def put_all(self, records: Sequence[tuple[Tracked, int]]) -> None:
        """Takes records with their sizes, whether it has room or not: they are in memory anyway. They leave soon."""
        ...


class Held(NamedTuple):
    """A record that leaves only when its call has returned. `size`: bytes of key and value. `message`: the record of a
    batch for which it was produced, if that is known."""

    target: Target
    record: Tracked
    size: int
    message: Message | None


class Scope(Protocol):
    """A call, for a producer that is used in it."""

    @property
    def holds(self) -> bool:
        """Whether it holds what the call produces."""
        ...

    def hold(self, target: Target, record: Tracked, size: int) -> bool:
        """Holds a record until the call has returned. Returns False when the call has ended: the record is not its.
        Raises BufferFull, and ConfigurationError for a cluster that cannot be part of the call's transaction."""
        ...

    def started(self, flush: Callable[[], None]) -> bool:
        """One more record leaves at once. `flush` lets what is buffered leave soon, and does not wait. Returns False
        when the call has ended: the record is not counted. Raises ConfigurationError in a transaction."""
        ...

    def ended(self, error: Exception | None) -> None:
        """A record was acknowledged, or has failed."""
        ...


class Produced:
    """The records of one call. Thread-safe: acknowledgements come on the client's thread.

    `hold`: what the call produces leaves when it has returned. `transaction`: a cluster; what the call produces, on
    that cluster only, is held for `take`, by which it becomes part of a transaction. `owns`: whether a message is a
    record of the running call.
    """

    __slots__ = (
        "_bytes", "_closed", "_error", "_flushes", "_lock", "_open", "_then",
        "held", "holds", "owns", "touched", "transaction",
    )  # fmt: skip

    def __init__(
        self, hold: bool = False, transaction: str | None = None, owns: Callable[[Message], bool] = lambda message: True
    ) -> None:
        self.holds = hold or transaction is not None
        self.transaction = transaction
        self.owns = owns
        self.held: list[Held] = []
        """In the order in which they were produced."""
        self._bytes = 0
        self._lock = Lock()
        self._open = 0
        self._closed = False
        self._error: Exception | None = None
        self._flushes: tuple[Callable[[], None], ...] = ()
        self._then: Callable[[Exception | None], None] | None = None
        self.touched = False
        """Whether other code refers to it: the call has produced a record, or was carried to a thread. A plain
        attribute: it is read after every call."""

    def successor(self) -> Produced:
        """The scope of the next call."""
        return Produced(self.holds, self.transaction, self.owns)

    def hold(self, target: Target, record: Tracked, size: int, message: Message | None = None) -> bool:
        cluster, most = target.adapter.cluster, target.settings.max_queue_bytes
        with self._lock:
            if self._closed:
                return False
            if self.transaction is not None and self.transaction != cluster:
                raise ConfigurationError(
                    f"topic {target.topic} of {cluster} cannot be part of an exactly-once call on {self.transaction}"
                )
            total = self._bytes + size + _OVERHEAD
            if total <= most:
                self._bytes = total
                if self.transaction is None:  # in one, nothing is reported to it, and it is freed after the call
                    record.scope = self
                self.held.append(Held(target, record, size, message))
                self.touched = True
                return True
        full = BrokerError(f"a call holds at most max_queue_bytes = {most} until it returns", Fault.TOO_LARGE)
        raise BufferFull([FailedRecord(target.topic, record.partition, record.key, record.value, full)])

    def started(self, flush: Callable[[], None]) -> bool:
        with self._lock:
            if self._closed:
                return False
            if self.transaction is not None:
                raise ConfigurationError(
                    "use produce: in an exactly-once call a record is acknowledged after the call has ended"
                )
            self._open += 1
            if flush not in self._flushes:
                self._flushes += (flush,)
            self.touched = True
            return True

    def ended(self, error: Exception | None) -> None:
        with self._lock:
            self._open -= 1
            self._error = error if self._error is None else self._error
            then = None
            if self._open <= 0:  # negative when a record in doubt ends twice
                then, self._then = self._then, None
        if then is not None:
            then(self._error)

    def close(self) -> None:
        """The call has ended: later records are not counted, and what it holds is dropped."""
        self.take()

    @property
    def closed(self) -> bool:
        return self._closed

    def take(self) -> list[Held]:
        """The call has returned: closes, and takes what it holds."""
        with self._lock:
            self._closed = True
            held, self.held = self.held, []
            return held

    def drop(self, failed: Container[Message]) -> None:
        """Drops what is held for records of a batch that have failed."""
        with self._lock:
            self.held = [each for each in self.held if each.message is None or each.message not in failed]

    def without_room(self) -> list[tuple[Target, ProducerRecord]]:
        """The producers that have no room for what is held, each with its first record."""
        if self.transaction is not None:
            return []
        first: dict[Target, ProducerRecord] = {}
        for each in list(self.held):
            first.setdefault(each.target, each.record)
        return [(target, record) for target, record in first.items() if target.blocked]

    def fail(self, error: Exception) -> None:
        """What is held cannot leave."""
        with self._lock:
            self._error = error if self._error is None else self._error

    def when_done(self, then: Callable[[Exception | None], None]) -> None:
        """Closes, passes on what is held, and calls `then` once when all records have ended, with the first
        failure or None. After a failure, such as of a record of `send`, what is held is dropped."""
        held: Mapping[Target, list[tuple[Tracked, int]]] = {}
        taken = self.take()
        with self._lock:
            if self._error is None and taken:
                self._open += len(taken)
                held = _by_target(taken)
        for target, records in held.items():
            target.put_all(records)
        for flush in self._flushes:
            flush()
        with self._lock:
            if self._open > 0:
                self._then = then
                return
        then(self._error)


def _by_target(held: Sequence[Held]) -> Mapping[Target, list[tuple[Tracked, int]]]:
    found: dict[Target, list[tuple[Tracked, int]]] = {}
    for each in held:
        found.setdefault(each.target, []).append((each.record, each.size))
    return found


@attrs.frozen
class Scopes:
    """Makes the scopes of a task's calls; see `Produced`."""

    hold: bool = True
    transaction: str | None = None

    def new(self, owns: Callable[[Message], bool]) -> Produced:
        return Produced(self.hold, self.transaction, owns)
