"""The in-memory transactional producer. It writes at once; in an outage it holds records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

from flux.adapters.memory.cluster import MemoryCluster
from flux.adapters.memory.group import MemoryMembership
from flux.adapters.memory.log import size_of
from flux.core.errors import BrokerError, Fault
from flux.core.ports import (
    CommittedOffset,
    InDoubt,
    Membership,
    ProducerRecord,
    TopicPartition,
    TransactionSettings,
)

Refused = Callable[[int, BrokerError], None]

NEW, READY, BEGUN, ASKED = "not started", "without a transaction", "in a transaction", "in doubt"


class MemoryTransactions:
    """`flux.core.ports.TransactionPort`."""

    def __init__(self, cluster: MemoryCluster, settings: TransactionSettings) -> None:
        self._cluster = cluster
        self._settings = settings
        self._epoch = -1
        self._state = NEW
        self._failure: BrokerError | None = None
        self._refusal: BrokerError | None = None  # of a record of this transaction
        self._stored = False  # whether this transaction was committed, although `commit` has ended in doubt
        self._queue: list[tuple[str, Sequence[ProducerRecord], Refused | None]] = []
        self._queued_bytes = 0
        self._reports: list[Callable[[], None]] = []

    def start(self, timeout: float) -> None:
        with self._request("start", NEW):
            self._cluster.require_available(timeout)
            self._epoch = self._cluster.transactions.start(self._settings.id)
            self._state = READY

    def partitions(self, topic: str, timeout: float) -> int:
        with self._cluster.lock:
            self._cluster.require_available(timeout)
            return len(self._cluster.topic(topic, written=True).logs)

    def begin(self) -> None:
        with self._request("begin", READY):
            self._state = BEGUN

    def write(self, topic: str, records: Sequence[ProducerRecord], refused: Refused | None = None) -> None:
        with self._request("write", BEGUN):
            self._queue.append((topic, records, refused))
            self._queued_bytes += sum(map(size_of, records))
            if self._queued_bytes > self._settings.max_queue_bytes:
                self._cluster.require_available(self._settings.timeout)
            if self._cluster.available:
                self._send()

    def flush(self, timeout: float) -> None:
        with self._request("flush", BEGUN):
            self._cluster.require_available(timeout)
            self._send()

    def add_offsets(
        self, membership: Membership, offsets: Mapping[TopicPartition, CommittedOffset], timeout: float
    ) -> None:
        assert isinstance(membership, MemoryMembership)
        with self._request("add_offsets", BEGUN):
            if self._refusal is not None:
                raise self._refusal
            self._cluster.require_available(timeout)
            transaction = self._cluster.transactions.of(self._settings.id, self._epoch, self._settings.timeout)
            error = self._cluster.add_offsets(transaction, membership, offsets)
            if error is not None:
                raise error

    def commit(self, timeout: float) -> None:
        with self._request("commit", BEGUN, ASKED):
            if not self._stored:
                self._commit(timeout)
            self._state, self._stored = READY, False

    def _commit(self, timeout: float) -> None:
        try:
            self._cluster.require_available(timeout)
        except BrokerError as error:
            raise InDoubt(str(error), Fault.UNAVAILABLE) from None
        self._send()
        if self._refusal is not None:
            raise self._refusal
        try:
            self._cluster.transactions.commit(self._settings.id, self._epoch)
        except BrokerError as error:  # as in Kafka, where the answer may be that to a second request
            raise InDoubt(str(error), error.fault) from None
        self._stored = True
        lost = self._cluster.transaction_fault("commit", self._settings.id, stored=True)
        if lost is not None:
            raise lost

    def close(self) -> None:
        self._failure = BrokerError("the transactional producer is closed", Fault.FATAL)

    def _send(self) -> None:
        queue, self._queue = self._queue, []
        self._queued_bytes = 0
        for topic, records, refused in queue:
            transaction = self._cluster.transactions.of(self._settings.id, self._epoch, self._settings.timeout)
            try:
                ends = self._cluster.append(topic, records)
            except BrokerError as error:
                self._refuse(refused, range(len(records)), error)
                continue
            for index, (fault, record) in enumerate(ends):
                if record.at >= 0:
                    transaction.wrote(self._cluster.topics[topic].logs[record.partition()], record)
                if fault is not None:
                    self._refuse(refused, [index], fault)

    def _refuse(self, refused: Refused | None, indexes: Iterable[int], error: BrokerError) -> None:
        self._refusal = self._refusal or error
        if refused is not None:
            self._reports += [partial(refused, index, error) for index in indexes]

    @contextmanager
    def _request(self, step: str, *states: str) -> Iterator[None]:
        """Holds the cluster's lock. After an error the client can only be closed, if the port does not say otherwise.
        Then calls back for the records that were refused."""
        try:
            with self._cluster.lock:
                if self._failure is not None:
                    raise self._failure
                if self._state not in states:
                    raise BrokerError(f"{step}: the transactional producer is {self._state}", Fault.FATAL)
                try:
                    refusal = self._cluster.transaction_fault(step, self._settings.id)
                    if refusal is not None:
                        raise refusal
                    yield
                except BrokerError as error:
                    failure = InDoubt(str(error), error.fault) if self._state == ASKED else error
                    if failure.retriable and isinstance(failure, InDoubt):
                        self._state = ASKED
                    elif not (failure.retriable and step == "start"):
                        self._failure = failure
                    raise failure from None
        finally:
            reports, self._reports = self._reports, []
            for report in reports:
                report()
