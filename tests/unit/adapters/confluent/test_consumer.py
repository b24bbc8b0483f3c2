"""What the consumer makes of librdkafka's rarer answers, which a real cluster gives by chance only."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, Message
from confluent_kafka import TopicPartition as Theirs

from flux.adapters.confluent import consumer as module
from flux.adapters.confluent.consumer import ConfluentConsumer
from flux.adapters.confluent.log import ClientLog
from flux.core.errors import BrokerError, Fault
from flux.core.ports import Batch, ConsumerSettings, PollResult, TopicPartition
from flux.system import SYSTEM


class Client:
    """confluent_kafka.Consumer with its answers written down: each `consume` takes the next one."""

    def __init__(self, properties: dict[str, Any]) -> None:
        self.on_error = properties["error_cb"]
        self.answers: list[Callable[[], list[Any]]] = []
        self.done: list[str] = []
        self.generation = 1

    def subscribe(self, topics: list[str], **callbacks: Callable[..., None]) -> None:
        self.callbacks = callbacks

    def consume(self, count: int, timeout: float) -> list[Any]:
        return self.answers.pop(0)() if self.answers else []

    def tell(self, callback: str, *numbers: int) -> None:
        self.callbacks[callback](self, [Theirs("t", number) for number in numbers])

    def incremental_assign(self, partitions: list[Any]) -> None:
        self.done.append(f"assign {[(p.partition, p.offset) for p in partitions]}")

    def incremental_unassign(self, partitions: list[Any]) -> None:
        self.done.append(f"unassign {[p.partition for p in partitions]}")

    def assignment(self) -> list[Any]:
        return [Theirs("t", 0)]

    def consumer_group_metadata(self) -> bytes:
        assert threading.current_thread() is threading.main_thread(), "only the thread that polls gets in"
        return b"CGMDv2:" + self.generation.to_bytes(4, sys.byteorder, signed=True)

    def close(self) -> None:
        self.done.append("close")


class Listener:
    def __init__(self) -> None:
        self.heard: list[str] = []

    def assigned(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        self.heard.append(f"assigned {[p.partition for p in partitions]}")
        return {p: 10 + p.partition for p in partitions}

    def revoked(self, partitions: Sequence[TopicPartition]) -> None:
        self.heard.append(f"revoked {[p.partition for p in partitions]}")

    def lost(self, partitions: Sequence[TopicPartition]) -> None:
        self.heard.append(f"lost {[p.partition for p in partitions]}")


@pytest.fixture
def consumer(monkeypatch: pytest.MonkeyPatch) -> ConfluentConsumer:
    monkeypatch.setattr(module, "Consumer", Client)
    return ConfluentConsumer({}, ConsumerSettings("t", "g"), Listener(), ClientLog(str, SYSTEM))


@pytest.fixture
def client(consumer: ConfluentConsumer) -> Any:
    return consumer._client


@pytest.fixture
def listener(consumer: ConfluentConsumer) -> Any:
    return consumer._listener


def record(number: int, offset: int) -> Any:
    return Message(topic="t", partition=number, offset=offset, value=b"x")


def failed(code: int, reason: str = "so it is", number: int = 0) -> Any:
    return Message(topic="t", partition=number, offset=7, error=KafkaError(code, reason))


def raises(error: BaseException) -> Callable[[], list[Any]]:
    def answer() -> list[Any]:
        raise error

    return answer


def test_groups_of_partitions_are_cut_in_the_order_that_they_came_in(consumer: Any, client: Any) -> None:
    came = [record(2, 5), record(0, 1), record(0, 2), record(2, 6), record(1, 9)]
    client.answers = [lambda: came[:1], lambda: came[1:]]
    cut = [Batch(TopicPartition("t", n), came[a:b]) for n, a, b in ((2, 0, 1), (0, 1, 3), (2, 3, 4), (1, 4, 5))]
    assert consumer.poll(500, 1) == PollResult(cut)


@pytest.mark.parametrize("callback", ["on_revoke", "on_lost"])
def test_a_record_whose_partition_goes_in_the_same_poll_is_not_delivered(
    consumer: Any, client: Any, listener: Any, callback: str
) -> None:
    def rebalance() -> list[Any]:
        client.tell(callback, 0)
        client.tell("on_assign", 0)
        return [record(1, 3)]

    client.answers = [lambda: [record(0, 12)], rebalance]
    [batch] = consumer.poll(500, 1).batches
    assert [(r.partition(), r.offset()) for r in batch.records] == [(1, 3)]
    assert listener.heard == [f"{'revoked' if callback == 'on_revoke' else 'lost'} [0]", "assigned [0]"]
    assert client.done == ["unassign [0]", "assign [(0, 10)]"]


def test_an_empty_rebalance_is_answered_and_only_an_assignment_is_told(
    consumer: Any, client: Any, listener: Any
) -> None:
    for callback in ("on_assign", "on_revoke", "on_lost"):
        client.tell(callback)
    assert listener.heard == ["assigned []"]
    assert client.done == ["assign []", "unassign []", "unassign []"]


def test_with_kip_848_a_member_without_partitions_is_assigned_none_once_it_has_joined(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "Consumer", Client)
    listener, properties = Listener(), {"group.protocol": "consumer"}
    consumer: Any = ConfluentConsumer(properties, ConsumerSettings("t", "g"), listener, ClientLog(str, SYSTEM))
    consumer._client.generation = 0
    consumer.poll(500, 1)
    assert listener.heard == []
    consumer._client.generation = 1
    for _ in range(2):
        consumer.poll(500, 1)
    assert listener.heard == ["assigned []"]


def test_an_error_after_the_first_record_waits_until_that_is_delivered(consumer: Any, client: Any) -> None:
    first = record(0, 1)
    client.answers = [lambda: [first], raises(KafkaException(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED)))]
    assert consumer.poll(500, 1).batches == [Batch(TopicPartition("t", 0), [first])]
    with pytest.raises(BrokerError, match="READ on topic t"):
        consumer.poll(500, 1)
    assert consumer.poll(500, 1) == PollResult()


def test_what_librdkafka_mends_by_itself_is_no_error(consumer: Any, client: Any) -> None:
    for code in (
        KafkaError._TRANSPORT,
        KafkaError._MAX_POLL_EXCEEDED,
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.LEADER_NOT_AVAILABLE,
    ):
        good = record(0, 1)
        client.answers = [lambda code=code: [failed(code)], lambda good=good: [good]]
        assert consumer.poll(500, 1) == PollResult([Batch(TopicPartition("t", 0), [good])])


def test_how_far_a_partition_is_read_is_told_where_it_ends(consumer: Any, client: Any) -> None:
    client.answers = [lambda: [failed(KafkaError._PARTITION_EOF, number=3)]]
    assert consumer.poll(500, 1) == PollResult(reached={TopicPartition("t", 3): 7})


def test_positions_out_of_range_are_reported_beside_the_records(consumer: Any, client: Any) -> None:
    good = record(0, 1)
    client.answers = [lambda: [good], lambda: [failed(KafkaError._AUTO_OFFSET_RESET, number=3)]]
    expected = PollResult([Batch(TopicPartition("t", 0), [good])], [TopicPartition("t", 3)])
    assert consumer.poll(500, 1) == expected


def test_a_record_that_cannot_be_unpacked_is_never_passed_over(consumer: Any, client: Any) -> None:
    client.answers = [lambda: [record(0, 6)], lambda: [failed(KafkaError._BAD_COMPRESSION), record(0, 8)]]
    for _ in range(3):
        with pytest.raises(BrokerError) as caught:
            consumer.poll(500, 1)
        assert caught.value.fault is Fault.OTHER


def test_an_interrupt_that_may_have_cost_records_ends_the_consumer(consumer: Any, client: Any) -> None:
    client.answers = [lambda: [record(0, 1)], raises(KeyboardInterrupt())]
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            consumer.poll(500, 1)
    consumer.close()
    assert client.done == ["close"]


def test_a_refused_login_is_final_only_until_something_worked(consumer: Any, client: Any) -> None:
    refused = KafkaError(KafkaError._AUTHENTICATION, "Authentication failed")
    client.on_error(KafkaError(KafkaError._ALL_BROKERS_DOWN))
    assert consumer.poll(500, 1) == PollResult()
    client.on_error(refused)
    with pytest.raises(BrokerError) as caught:
        consumer.poll(500, 1)
    assert caught.value.fault is Fault.LOGIN
    client.tell("on_assign")
    client.on_error(refused)
    assert consumer.poll(500, 1) == PollResult()


def test_a_topic_that_goes_is_a_warning_and_one_that_never_was_an_error(consumer: Any, client: Any) -> None:
    client.answers = [lambda: [failed(KafkaError.UNKNOWN_TOPIC_OR_PART)]]
    with pytest.raises(BrokerError) as caught:
        consumer.poll(500, 1)
    assert caught.value.fault is Fault.UNKNOWN_TOPIC
    client.tell("on_assign", 0)
    client.answers = [lambda: [failed(KafkaError.UNKNOWN_TOPIC_OR_PART)]]
    assert consumer.poll(500, 1) == PollResult()


def test_other_threads_get_the_membership_that_the_polling_one_has_read(
    consumer: Any, client: Any, listener: Any
) -> None:
    def of_another_thread() -> int:
        with ThreadPoolExecutor(1) as pool:
            found = pool.submit(consumer.membership).result(60)
        return -1 if found is None else int.from_bytes(found[7:], sys.byteorder)

    def revokes() -> list[Any]:
        client.generation = 3
        client.tell("on_revoke", 0)
        return []

    assert of_another_thread() == -1
    client.answers = [lambda: client.tell("on_assign", 0) or []]
    consumer.poll(1, 0)
    assert of_another_thread() == 1
    client.generation = 2
    consumer.poll(1, 0)
    assert of_another_thread() == 2
    seen: list[int] = []
    listener.revoked = lambda partitions: seen.append(of_another_thread())
    client.answers = [revokes]
    consumer.poll(1, 0)
    assert seen == [3], "the last transaction of a revocation needs it"
    consumer.close()
    assert of_another_thread() == -1
