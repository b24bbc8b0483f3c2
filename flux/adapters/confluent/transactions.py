"""A transactional producer by confluent-kafka.

It never aborts: an abort soon after the first record may hang or be lost (confluentinc/librdkafka#4849), while the next
client of the id aborts for certain. What librdkafka does behind each call: rdkafka_txnmgr.c
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NoReturn

from confluent_kafka import KafkaError, KafkaException, Producer

from flux.adapters.confluent.callbacks import ErrorCallback
from flux.adapters.confluent.closing import ended_within
from flux.adapters.confluent.commits import client_offsets
from flux.adapters.confluent.errors import COMMIT_NOT_ASKED_FOR, PRODUCER_SUPERSEDED, fault_of
from flux.adapters.confluent.log import ClientLog
from flux.adapters.confluent.messages import client_headers
from flux.adapters.confluent.partition_counts import PartitionCounts
from flux.adapters.confluent.silence import Silence
from flux.adapters.confluent.stuck_calls import StuckCalls
from flux.adapters.operations import invalid_metadata, invalid_record
from flux.core.errors import BrokerError, Fault
from flux.core.ports import (
    CommittedOffset,
    InDoubt,
    Membership,
    ProducerRecord,
    Superseded,
    System,
    TopicPartition,
    TransactionSettings,
)

Refused = Callable[[int, BrokerError], None]

_STEP = 1.0  # seconds: how often a start looks for a refused login, and how late an idle client's errors are logged
_ROOM = 0.05  # seconds
_FAILED = 0.2  # seconds until it is noticed that a transaction has failed
_GRACE = 2.0  # seconds that librdkafka has for its own time limit
_CLOSING = 2.5  # seconds
_FAILED_BEFORE = {KafkaError._STATE, KafkaError._FATAL}
"""Of `produce`, after the transaction has failed. What has failed, `commit_transaction` says."""
_GIVEN_UP = {KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT, *_FAILED_BEFORE}
"""Of records that were not refused themselves: another one has failed the transaction."""


class ConfluentTransactions:
    """`flux.core.ports.TransactionPort`."""

    def __init__(
        self,
        properties: dict[str, Any],
        settings: TransactionSettings,
        log: ClientLog,
        system: System,
        stuck: StuckCalls,
    ) -> None:
        self._settings = settings
        self._stuck = stuck
        self._log = log
        self._now = system.monotonic
        self._doing = f"transactional id {settings.id}"
        self._refused_login: BrokerError | None = None
        self._failure: BrokerError | None = None  # after which it can only be closed
        self._refusal: BrokerError | None = None  # of a record of this transaction
        self._in_doubt = False  # whether `commit` has ended so
        self._refusals: deque[tuple[Refused, int, BrokerError]] = deque()
        on_error = ErrorCallback(log, self._doing, properties, self._on_refused_login)
        silence = Silence(properties, log, system.monotonic)
        self._client: Any = Producer(silence.properties({"logger": log} | properties | {"error_cb": on_error}))
        self._counts = PartitionCounts(system.monotonic, log.authentication.accepted)
        self._closing = threading.Event()
        self._idle = system.spawn("flux-transactions", partial(_serve, self._client, self._closing))

    def start(self, timeout: float) -> None:
        self._require_usable()
        self._stuck.require_room(self._doing)
        until = self._now() + timeout
        while True:
            left = until - self._now()
            try:
                self._call(self._client.init_transactions, max(min(left, _STEP), 0.001))
            except KafkaException as error:
                failure = self._translated(error.args[0], "cannot start")
                if failure.retriable and left > _STEP:
                    continue
                if not failure.retriable:
                    self._failure = failure
                raise failure from None
            self._log.authentication.accepted()
            return

    def partitions(self, topic: str, timeout: float) -> int:
        self._require_usable()
        try:
            return self._counts.of(self._client, topic, timeout)
        except KafkaException as error:
            raise self._translated(error.args[0], f"cannot write to topic {topic}", f"WRITE on topic {topic}") from None

    def begin(self) -> None:
        self._require_usable()
        self._refusal = None
        try:
            self._call(self._client.begin_transaction)
        except KafkaException as error:
            self._fail(self._translated(error.args[0], "cannot begin a transaction"))

    def write(self, topic: str, records: Sequence[ProducerRecord], refused: Refused | None = None) -> None:
        self._require_usable()
        _poll(self._client)
        produce, until = self._client.produce, self._now() + self._settings.timeout
        index = 0
        while index < len(records):
            value, key, headers, partition, timestamp = records[index]
            report = None if refused is None else partial(self._on_delivery, topic, refused, index)
            more: dict[str, Any] = {}
            if headers or timestamp is not None:
                more = {"timestamp": timestamp or 0, "headers": client_headers(headers) if headers else None}
            try:
                produce(topic, value, key, -1 if partition is None else partition, report, **more)
            except BufferError:
                size = len(value or b"") + len(key or b"")
                if size >= self._settings.max_queue_bytes:
                    text = f"a record of {size} bytes exceeds max_queue_bytes"
                    self._refuse(refused, index, BrokerError(text, Fault.TOO_LARGE))
                elif self._now() < until:
                    _poll(self._client, _ROOM)
                    continue
                else:
                    self._fail(BrokerError(f"{self._doing}: the client's queue stays full", Fault.UNAVAILABLE))
            except KafkaException as failure:
                if failure.args[0].code() in _FAILED_BEFORE or failure.args[0].fatal():
                    break
                self._refuse(refused, index, self._of_record(failure.args[0], topic))
            except (TypeError, ValueError, OverflowError) as invalid:
                self._refuse(refused, index, invalid_record(topic, invalid))
            index += 1
        self._report()

    def flush(self, timeout: float) -> None:
        self._require_usable()
        left = 0
        try:
            left = self._flush(timeout)
        except KafkaException as error:
            if self._refusal is None:
                self._fail(self._translated(error.args[0], "cannot write"))
        self._report()
        if left:
            self._fail(BrokerError(f"{self._doing}: {left} records were not written in time", Fault.UNAVAILABLE))

    def add_offsets(
        self, membership: Membership, offsets: Mapping[TopicPartition, CommittedOffset], timeout: float
    ) -> None:
        assert isinstance(membership, bytes)
        self._require_usable()
        # librdkafka keeps no time limit while it waits for the group's coordinator (rd_kafka_coord_req_fsm).
        try:
            add = partial(self._client.send_offsets_to_transaction, client_offsets(offsets), membership)
            if not self._stuck.ended_within(timeout + _GRACE, partial(self._call, add, max(timeout, 0.001))):
                raise BrokerError(f"{self._doing}: the group's coordinator does not answer", Fault.UNAVAILABLE)
        except BrokerError as error:
            self._fail(error)
        except KafkaException as error:
            self._fail(self._translated(error.args[0], "cannot commit offsets", "READ on the group"))
        except ValueError as error:  # UnicodeError is one
            self._fail(invalid_metadata(self._doing, error))

    def commit(self, timeout: float) -> None:
        self._require_usable()
        if self._refusal is not None:
            self._fail(self._refusal)
        until = self._now() + timeout
        try:
            left = 0 if self._in_doubt else self._flush(timeout)
            if left:
                raise InDoubt(f"{self._doing}: {left} records are not written yet", Fault.UNAVAILABLE)
            self._call(self._client.commit_transaction, max(until - self._now(), 0.001))
        except KafkaException as error:
            self._report()
            self._commit_failed(error.args[0])
        self._in_doubt = False

    def close(self) -> None:
        if self._closing.is_set():
            return
        self._closing.set()
        self._failure = BrokerError(f"{self._doing}: the producer is closed", Fault.FATAL)
        self._idle.join(_STEP)
        with suppress(KafkaException):
            self._client.purge(blocking=False)
        # Its callbacks refer to this object: it would live, and connect, until the garbage is collected.
        ended_within(_CLOSING, self._release_client)

    def _release_client(self) -> None:
        """The client closes with its last reference."""
        self._client = None

    # -- records

    def _flush(self, timeout: float) -> int:
        """Returns how many records are still unwritten. Raises KafkaException once the transaction has failed."""
        until = self._now() + timeout
        while True:
            left: int = self._call(self._client.flush, max(0.0, min(until - self._now(), _FAILED)))
            if not left:
                return 0
            try:
                self._client.begin_transaction()  # which does nothing in a transaction but say whether it has failed
            except KafkaException as error:
                if error.args[0].fatal() or error.args[0].txn_requires_abort():
                    # What is left would not be sent any more, and wait for its timeout.
                    self._client.purge(blocking=False)
                    self._call(self._client.flush, _ROOM)
                    raise
            if self._now() >= until:
                return left

    def _on_delivery(self, topic: str, refused: Refused, index: int, error: KafkaError | None, message: object) -> None:
        """Called for errors only, on any thread that polls."""
        if error is not None and error.code() not in _GIVEN_UP:
            self._refuse(refused, index, self._of_record(error, topic))

    def _refuse(self, refused: Refused | None, index: int, error: BrokerError) -> None:
        self._refusal = self._refusal or error
        if refused is not None:
            self._refusals.append((refused, index, error))

    def _report(self) -> None:
        while self._refusals:
            refused, index, error = self._refusals.popleft()
            refused(index, error)

    # -- errors

    def _call(self, request: Callable[..., Any], *args: object) -> Any:
        try:
            return request(*args)
        except SystemError:
            # "returned NULL without setting an exception": seen with confluent-kafka 2.16 after a fatal error. The
            # second call says what it was; a commit's second call cannot commit anything else.
            return request(*args)

    def _commit_failed(self, error: KafkaError) -> NoReturn:
        failure = self._translated(error, "cannot commit the transaction")
        if error.retriable():
            # librdkafka continues with it, and the next call waits for the same answer.
            self._in_doubt = True
            raise InDoubt(str(failure), Fault.UNAVAILABLE)
        known = error.code() == KafkaError._INCONSISTENT or any(text in error.str() for text in COMMIT_NOT_ASKED_FOR)
        if self._in_doubt or not known:
            failure = InDoubt(str(failure), Fault.FENCED if failure.fault is Fault.FENCED else Fault.FATAL)
        self._fail(failure)

    def _require_usable(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _fail(self, error: BrokerError) -> NoReturn:
        self._failure = error
        raise error from None

    def _on_refused_login(self, error: BrokerError) -> None:
        self._refused_login = error

    def _of_record(self, error: KafkaError, topic: str) -> BrokerError:
        self._counts.forget(topic)  # it may have been deleted, or created again with other partitions
        return self._translated(error, f"cannot write to topic {topic}", f"WRITE on topic {topic}")

    def _translated(self, error: KafkaError, doing: str, needs: str = "WRITE on the topics") -> BrokerError:
        if error.code() == KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED:
            needs = f"WRITE and DESCRIBE on transactional id {self._settings.id}"
        elif error.code() == KafkaError.CLUSTER_AUTHORIZATION_FAILED:
            needs = "IDEMPOTENT_WRITE on the cluster"
        plain = KafkaError(error.code(), error.str())
        if fault_of(plain) is Fault.DENIED:
            error = plain  # librdkafka calls it fatal: another client may get the permission
        translation = self._log.translated(error, f"{self._doing}: {doing}", needs)
        if error.code() in PRODUCER_SUPERSEDED:
            return Superseded(str(translation), Fault.FENCED)
        if self._refused_login is not None and not self._log.authentication.worked and translation.retriable:
            return self._refused_login
        return translation


def _serve(client: Any, closing: threading.Event) -> None:
    """Serves an idle client's errors, log lines and statistics, which would fill its memory."""
    while not closing.wait(_STEP):
        _poll(client)


def _poll(client: Any, timeout: float = 0.0) -> None:
    with suppress(KafkaException, SystemError):  # a fatal error, which the next request repeats
        client.poll(timeout)
