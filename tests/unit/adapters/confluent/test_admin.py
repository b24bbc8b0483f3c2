"""What the admin makes of librdkafka's answers while leaders are away or move, which a real cluster gives by chance."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from flux.adapters.confluent import answers, commits
from flux.adapters.confluent.admin import ConfluentAdmin
from flux.adapters.confluent.log import ClientLog
from flux.core.errors import BrokerError, Fault
from flux.core.ports import Watermarks
from flux.system import SYSTEM

_INVALID = -1001


def told(answer: object) -> Future[Any]:
    future: Future[Any] = Future()
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)
    return future


class Client:
    """confluent_kafka's AdminClient for topic "t" of two partitions. It knows who leads them from what it was last told
    by `list_topics`, as librdkafka does."""

    def __init__(self, _: dict[str, Any]) -> None:
        self.knows_leaders = True
        self.away: set[int] = set()
        self.refuses: KafkaError | None = None

    def poll(self, _: float) -> None: ...

    def list_topics(self, topic: str | None, timeout: float) -> Any:
        self.knows_leaders = self.knows_leaders or topic is None
        described = SimpleNamespace(error=self.refuses, partitions=dict.fromkeys(range(2), SimpleNamespace()))
        return SimpleNamespace(topics={"t": described}, brokers={2: None, 1: None})

    def describe_configs(self, resources: list[Any], request_timeout: float) -> Mapping[Any, Future[Any]]:
        if len(resources) > 1:
            raise KafkaException(KafkaError(KafkaError._CONFLICT))
        [resource] = resources
        plain = SimpleNamespace(value=f"of {resource.name}", is_sensitive=False)
        return {resource: told({"plain": plain, "password": SimpleNamespace(value="secret", is_sensitive=True)})}

    def list_offsets(self, asked: Mapping[Any, Any], request_timeout: float) -> Mapping[Any, Future[Any]]:
        def answer(number: int) -> object:
            if not self.knows_leaders:
                return KafkaException(KafkaError(KafkaError.FENCED_LEADER_EPOCH))
            return SimpleNamespace(offset=_INVALID if number in self.away else 7)

        return {partition: told(answer(partition.partition)) for partition in asked}


@pytest.fixture
def admin(monkeypatch: pytest.MonkeyPatch) -> ConfluentAdmin:
    monkeypatch.setattr(answers, "AdminClient", Client)
    return ConfluentAdmin({}, ClientLog(str, SYSTEM), SYSTEM)


def test_watermarks_are_found_again_after_leaders_have_moved(admin: ConfluentAdmin) -> None:
    admin._client.knows_leaders = False
    with pytest.raises(BrokerError) as raised:
        admin.watermarks("t", 1.0)
    assert raised.value.retriable
    assert admin.watermarks("t", 1.0) == {0: Watermarks(7, 7), 1: Watermarks(7, 7)}


def test_a_partition_whose_leader_is_away_has_no_watermarks_rather_than_wrong_ones(admin: ConfluentAdmin) -> None:
    admin._client.away = {1}
    with pytest.raises(BrokerError, match="unavailable") as raised:
        admin.watermarks("t", 1.0)
    assert raised.value.fault is Fault.UNAVAILABLE


@pytest.mark.parametrize(
    ("code", "fault", "text"),
    [
        (KafkaError.UNKNOWN_TOPIC_OR_PART, Fault.UNKNOWN_TOPIC, "t: it does not exist"),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, Fault.DENIED, "needs DESCRIBE on topic t"),
        (KafkaError.LEADER_NOT_AVAILABLE, Fault.UNAVAILABLE, "cannot describe topic t"),
    ],
)
def test_a_topic_that_cannot_be_described_has_no_watermarks(
    admin: ConfluentAdmin, code: int, fault: Fault, text: str
) -> None:
    admin._client.refuses = KafkaError(code)
    with pytest.raises(BrokerError, match=text) as raised:
        admin.watermarks("t", 1.0)
    assert raised.value.fault is fault


def test_each_broker_is_asked_by_itself_and_tells_no_secret(admin: ConfluentAdmin) -> None:
    assert admin.broker_configs(1.0) == {1: {"plain": "of 1"}, 2: {"plain": "of 2"}}


def test_positions_are_asked_for_until_the_coordinator_of_a_fresh_cluster_is_made(
    admin: ConfluentAdmin, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0

    class Outsider:
        def __init__(self, _: dict[str, Any]) -> None: ...
        def close(self) -> None: ...
        def committed(self, partitions: list[Any], timeout: float) -> list[Any]:
            nonlocal asked
            asked += 1
            if asked <= 5:
                raise KafkaException(KafkaError(KafkaError.NOT_COORDINATOR))
            for partition in partitions:
                partition.offset = 3
            return partitions

    monkeypatch.setattr(commits, "Consumer", Outsider)
    assert {number: at.offset for number, at in admin.committed_offsets("g", "t", 10.0).items()} == {0: 3, 1: 3}
    asked = 0
    with pytest.raises(BrokerError, match="NOT_COORDINATOR"):
        admin.committed_offsets("g", "t", 0.1)
    assert asked == 1
