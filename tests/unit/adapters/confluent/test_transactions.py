"""What a transactional producer makes of librdkafka's errors, and which properties it has."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, cast

import pytest
from confluent_kafka import KafkaError, KafkaException

from flux.adapters.confluent import ConfluentAdapter, config, stuck_calls, transactions
from flux.adapters.confluent.commits import membership_of
from flux.adapters.confluent.transactions import ConfluentTransactions
from flux.core.errors import BrokerError, ConfigurationError, Fault
from flux.core.ports import CommittedOffset, InDoubt, ProducerRecord, Superseded, TopicPartition, TransactionSettings

RETRIABLE = KafkaError(KafkaError._TIMED_OUT, "retry call to resume", retriable=True)
FENCED = KafkaError(KafkaError._FENCED, "Failed to end transaction: fenced", fatal=True)
FAILED = KafkaError(KafkaError.MSG_SIZE_TOO_LARGE, "ProduceRequest with 1 message(s) failed", txn_requires_abort=True)
OFFSETS = {TopicPartition("t", 0): CommittedOffset(1, "m")}


class ScriptedProducer:
    """`answers`: by method, what its next calls raise or return."""

    answers: dict[str, deque[Any]]

    def __init__(self, properties: dict[str, Any]) -> None:
        self.answers = {}
        self.calls: list[str] = []
        self.reports: list[Any] = []

    def __getattr__(self, method: str) -> Callable[..., Any]:
        def call(*arguments: Any, **_: Any) -> Any:
            if method != "poll":  # also a thread's
                self.calls.append(method)
            if method == "produce":
                self.reports.append(arguments[4])
            planned = self.answers.get(method)
            answer = planned.popleft() if planned else None
            if isinstance(answer, KafkaError):
                raise KafkaException(answer)
            if isinstance(answer, Exception):
                raise answer
            if callable(answer):
                answer()
                return 0
            return answer

        return call

    def plan(self, method: str, *answers: Any) -> None:
        self.answers[method] = deque(answers)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(transactions, "Producer", ScriptedProducer)
    made: list[ConfluentTransactions] = []

    def make(**settings: Any) -> tuple[ConfluentTransactions, ScriptedProducer]:
        port = ConfluentAdapter("localhost:1").transactions(TransactionSettings("flux-1", **settings))
        made.append(port)
        return port, port._client

    yield make
    for each in made:
        each.close()


def fault_of(call: Callable[[], object]) -> Fault:
    with pytest.raises(BrokerError) as caught:
        call()
    return caught.value.fault


def test_offsets_that_the_coordinator_never_answers_are_given_up_and_few_clients_wait_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transactions, "Producer", ScriptedProducer)
    monkeypatch.setattr(transactions, "_GRACE", 0.01)
    adapter = ConfluentAdapter("localhost:1")
    answered = threading.Event()

    def add_to_another() -> BrokerError | None:
        port = adapter.transactions(TransactionSettings("flux-1"))
        cast(Any, port)._client.plan("send_offsets_to_transaction", answered.wait)
        try:
            port.start(1)
            port.add_offsets(b"member", OFFSETS, 0.01)
        except BrokerError as error:
            return error
        finally:
            port.close()
        return None

    for _ in range(stuck_calls.MOST):
        assert str(add_to_another()) == "transactional id flux-1: the group's coordinator does not answer"
    refused = add_to_another()
    assert refused is not None
    assert refused.fault is Fault.UNAVAILABLE
    assert "4 requests to coordinators have not returned" in str(refused)

    answered.set()
    until = time.monotonic() + 60
    while (error := add_to_another()) is not None:
        assert time.monotonic() < until, error


def test_a_commit_without_an_answer_is_in_doubt_and_repeated(made: Any) -> None:
    port, client = made()
    port.begin()
    client.plan("commit_transaction", RETRIABLE, None)
    with pytest.raises(InDoubt) as caught:
        port.commit(1)
    assert caught.value.retriable
    port.commit(1)
    port.begin()
    assert client.calls == [
        "begin_transaction",
        "flush",
        "commit_transaction",
        "commit_transaction",
        "begin_transaction",
    ]


@pytest.mark.parametrize(
    ("error", "kind", "fault"),
    [
        (FAILED, BrokerError, Fault.TOO_LARGE),
        (KafkaError(KafkaError._INCONSISTENT, "2 failed delivery", txn_requires_abort=True), BrokerError, Fault.OTHER),
        (KafkaError(KafkaError._FENCED, "Failed to add partitions to it", fatal=True), Superseded, Fault.FENCED),
        (FENCED, InDoubt, Fault.FENCED),
        (KafkaError(KafkaError.INVALID_TXN_STATE, "Failed to end transaction", fatal=True), InDoubt, Fault.FATAL),
        (KafkaError(KafkaError.UNKNOWN_PRODUCER_ID, "EndTxn failed", txn_requires_abort=True), InDoubt, Fault.FATAL),
        (
            KafkaError(KafkaError._TIMED_OUT, "commit succeeded on the broker", fatal=True),
            InDoubt,
            Fault.FATAL,
        ),
    ],
)
def test_a_failed_commit_is_in_doubt_unless_it_failed_before_its_request(
    made: Any, error: KafkaError, kind: type[BrokerError], fault: Fault
) -> None:
    port, client = made()
    port.begin()
    client.plan("commit_transaction", error)
    for _ in range(2):
        with pytest.raises(BrokerError) as caught:
            port.commit(1)
        assert (type(caught.value), caught.value.fault, caught.value.retriable) == (kind, fault, False)
    assert client.calls.count("commit_transaction") == 1, "it can only be closed"


def test_after_doubt_every_failure_is_in_doubt(made: Any) -> None:
    port, client = made()
    port.begin()
    client.plan("commit_transaction", RETRIABLE, FAILED)
    for fault in (Fault.UNAVAILABLE, Fault.FATAL):
        with pytest.raises(InDoubt) as caught:
            port.commit(1)
        assert caught.value.fault is fault


def test_a_commit_does_not_wait_for_records_of_a_transaction_that_has_failed(made: Any) -> None:
    port, client = made()
    port.begin()
    client.plan("flush", 3, 0)
    client.plan("begin_transaction", FAILED)
    assert fault_of(lambda: port.commit(60)) is Fault.TOO_LARGE
    assert client.calls[1:] == ["flush", "begin_transaction", "purge", "flush"]


def test_records_that_are_not_written_in_time_are_no_commit(made: Any) -> None:
    port, client = made()
    port.begin()
    client.plan("flush", 3)
    client.plan("begin_transaction", KafkaError(KafkaError._STATE, "in a transaction"))
    with pytest.raises(InDoubt) as caught:
        port.commit(0)
    assert caught.value.retriable
    assert "commit_transaction" not in client.calls


def test_only_refused_records_are_named(made: Any) -> None:
    port, client = made()
    port.begin()
    refused: list[tuple[int, Fault]] = []
    client.plan("produce", None, None, ValueError("a NUL"), KafkaError(KafkaError._STATE, "failed"))
    records = [ProducerRecord(b"%d" % number) for number in range(5)]
    port.write("t", records, lambda index, error: refused.append((index, error.fault)))
    assert refused == [(2, Fault.OTHER)]
    assert client.calls.count("produce") == 4, "nothing is written after the transaction has failed"

    def report() -> None:
        client.reports[0](KafkaError(KafkaError.MSG_SIZE_TOO_LARGE), None)
        client.reports[1](KafkaError(KafkaError._PURGE_QUEUE), None)

    client.plan("flush", report)
    port.flush(1)
    assert refused == [(2, Fault.OTHER), (0, Fault.TOO_LARGE)]
    assert fault_of(lambda: port.commit(1)) is Fault.OTHER


def test_without_a_callback_records_have_none_either_and_a_refusal_fails_the_commit(made: Any) -> None:
    port, client = made()
    port.begin()
    client.plan("produce", KafkaError(KafkaError.MSG_SIZE_TOO_LARGE))
    port.write("t", [ProducerRecord(b"x"), ProducerRecord(b"y", None, [("h", b"v")], 3, 12)])
    assert client.reports == [None, None]
    assert fault_of(lambda: port.commit(1)) is Fault.TOO_LARGE
    assert "commit_transaction" not in client.calls


def test_a_full_queue_is_waited_for(made: Any) -> None:
    port, client = made()
    port.begin()
    client.plan("produce", BufferError(), BufferError(), None)
    port.write("t", [ProducerRecord(b"x")])
    assert client.calls.count("produce") == 3


def test_a_queue_that_stays_full_ends_the_client(made: Any) -> None:
    port, client = made(timeout=0.0)
    port.begin()
    client.plan("produce", BufferError())
    assert fault_of(lambda: port.write("t", [ProducerRecord(b"x")])) is Fault.UNAVAILABLE
    assert fault_of(lambda: port.flush(1)) is Fault.UNAVAILABLE


def test_a_record_larger_than_the_queue_is_refused(made: Any) -> None:
    port, client = made(max_queue_bytes=10)
    port.begin()
    client.plan("produce", BufferError())
    refused: list[Fault] = []
    port.write("t", [ProducerRecord(b"x" * 20)], lambda _, error: refused.append(error.fault))
    assert refused == [Fault.TOO_LARGE]


@pytest.mark.parametrize(
    "code",
    [
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.STALE_MEMBER_EPOCH,
        KafkaError.FENCED_INSTANCE_ID,
    ],
)
def test_offsets_of_a_former_generation_are_fenced_and_end_the_client(made: Any, code: int) -> None:
    port, client = made()
    port.begin()
    client.plan("send_offsets_to_transaction", KafkaError(code, "no", txn_requires_abort=True))
    calls: list[Callable[[], None]] = [lambda: port.add_offsets(b"member", OFFSETS, 1), lambda: port.commit(1)]
    for call in calls:
        with pytest.raises(BrokerError) as caught:
            call()
        assert (type(caught.value), caught.value.fault) == (BrokerError, Fault.FENCED)


def test_metadata_that_cannot_be_encoded_is_refused(made: Any) -> None:
    port, client = made()
    port.begin()
    client.plan("send_offsets_to_transaction", ValueError("embedded null byte"))
    assert fault_of(lambda: port.add_offsets(b"member", OFFSETS, 1)) is Fault.METADATA


def test_a_missing_permission_is_named_although_librdkafka_calls_it_fatal(made: Any) -> None:
    port, client = made()
    code = KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED
    client.plan("init_transactions", KafkaError(code, "Failed to find transaction coordinator", fatal=True))
    with pytest.raises(BrokerError, match="WRITE and DESCRIBE on transactional id flux-1") as caught:
        port.start(1)
    assert caught.value.fault is Fault.DENIED


def test_a_start_without_an_answer_is_repeated_until_its_time_is_over(made: Any) -> None:
    port, client = made()
    client.plan("init_transactions", RETRIABLE, RETRIABLE, None)
    assert fault_of(lambda: port.start(0)) is Fault.UNAVAILABLE
    port.start(60)
    assert client.calls.count("init_transactions") == 3


def test_a_refused_login_ends_a_start(made: Any) -> None:
    port, client = made()
    refused = BrokerError("wrong password", Fault.LOGIN)

    def time_out() -> None:
        port._on_refused_login(refused)
        raise KafkaException(RETRIABLE)

    client.plan("init_transactions", time_out)
    assert fault_of(lambda: port.start(60)) is Fault.LOGIN


def test_a_system_error_of_the_client_hides_the_error_of_its_second_call(made: Any) -> None:
    port, client = made()
    port.begin()
    client.plan("commit_transaction", SystemError("returned NULL without setting an exception"), FENCED)
    assert fault_of(lambda: port.commit(1)) is Fault.FENCED


def test_a_closed_producer_is_of_no_use(made: Any) -> None:
    port, client = made()
    port.close()
    port.close()
    assert client.calls == ["purge"]
    for use in (port.begin, lambda: port.commit(1), lambda: port.partitions("t", 1), lambda: port.start(1)):
        assert fault_of(use) is Fault.FATAL


def test_its_needs_come_before_the_users_properties() -> None:
    users = {
        "enable.idempotence": False,
        "message.timeout.ms": 60_000,
        "retries": 0,
        "max.in.flight": 50,
        "retry.backoff.ms": 100,
        "socket.timeout.ms": "60000",
        "client.id": "billing",
        "sasl.username": "me",
    }
    settings = TransactionSettings("flux-1", timeout=20, one_by_one=True)
    found = config.transaction_properties("localhost:1", users, settings)
    expected = {
        "transactional.id": "flux-1",
        "transaction.timeout.ms": 20_000,
        "delivery.timeout.ms": 20_000,
        "socket.timeout.ms": 20_000,
        "request.timeout.ms": 7_000,
        "retry.backoff.ms": 5,
        "enable.idempotence": True,
        "acks": "all",
        "batch.num.messages": 1,
        "client.id": "billing",
        "sasl.username": "me",
    }
    assert {name: found.get(name) for name in expected} == expected
    assert not {"message.timeout.ms", "retries", "max.in.flight"} & found.keys()


def test_librdkafka_accepts_the_properties() -> None:
    port = ConfluentAdapter("localhost:1").transactions(TransactionSettings("flux-1", timeout=1))
    port.close()
    with pytest.raises(ConfigurationError, match=r"socket\.timeout\.ms"):
        ConfluentAdapter("localhost:1", {"socket.timeout.ms": "soon"}).transactions(TransactionSettings("flux-1"))


class Member:
    def __init__(self, metadata: bytes | None) -> None:
        self._metadata = metadata

    def consumer_group_metadata(self) -> bytes:
        if self._metadata is None:
            raise RuntimeError("Consumer group metadata not available")
        return self._metadata


def test_only_a_member_with_a_generation_has_a_membership() -> None:
    def metadata(generation: int) -> bytes:
        return b"CGMDv2:" + generation.to_bytes(4, sys.byteorder, signed=True) + b"group\0member\0\1"

    assert membership_of(Member(metadata(7))) == metadata(7)
    for other in (metadata(-1), metadata(0), b"CGMDv3:" + metadata(7)[7:], b"", None):
        assert membership_of(Member(other)) is None
