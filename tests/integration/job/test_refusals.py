"""A retry topic that refuses a record: the record and its key are kept and named, the others go on."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

import pytest
from confluent_kafka import KafkaError
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.admin._resource import ResourceType

import flux
from flux.adapters.memory import MemoryAdapter
from integration.job.support import SECONDS, Lab, flux_headers, own, wait_for


class Handler:
    """Fails what is bad in the main stage; remembers all calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[bytes, int]] = []

    def __call__(self, message: flux.Message) -> None:
        self.calls.append((message.value[:5], message.stage))
        if message.value.startswith(b"bad") and message.stage == 0:
            raise ValueError

    def main(self) -> list[bytes]:
        return [value for value, stage in self.calls if stage == 0]

    def retried(self) -> list[bytes]:
        return [value for value, stage in self.calls if stage == 1]


def errors(caplog: pytest.LogCaptureFixture, topic: str) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelname == "ERROR" and topic in r.getMessage()]


@pytest.fixture
def raise_limit(kafka_admin: AdminClient) -> Callable[[str, int], None]:
    def alter(topic: str, size: int) -> None:
        entry = ConfigEntry("max.message.bytes", str(size), incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
        kafka_admin.incremental_alter_configs([resource])[resource].result(SECONDS)

    return alter


def test_a_record_too_large_for_the_retry_topic_is_kept_with_its_key_while_others_go_on(
    lab: Lab, caplog: pytest.LogCaptureFixture, raise_limit: Callable[[str, int], None]
) -> None:
    handler = Handler()
    task = lab.task(handler, topics=False)
    retry = f"{task.topic}-{task.group_id}-try-1"
    lab.make_topic(1, task.topic)
    lab.make_topic(1, retry, max_message_bytes=2000)
    lab.make_topic(1, lab.dead_topic(task))
    large = b"bad-1" + secrets.token_bytes(5000)
    lab.write(task.topic, (large, b"k", [("a", b"1")]))
    with lab.running(task):
        wait_for(lambda: errors(caplog, retry), "it is told")
        lab.write(task.topic, (b"bad-2", b"other"), (b"new-1", b"k"), (b"new-2", b"other"))
        wait_for(lambda: b"bad-2" in handler.retried(), "the small one is retried all the same")
        wait_for(lambda: b"new-2" in handler.main(), "other keys go on")
        lab.write(task.topic, (b"new-3", b"third"))
        wait_for(lambda: b"new-3" in handler.main(), "later records go on")
        time.sleep(0.5)
        assert handler.main() == [b"bad-1", b"bad-2", b"new-2", b"new-3"]
        assert lab.committed_offsets(task.group_id, task.topic)[0].offset == 0
        [told] = errors(caplog, retry)
        assert f"{task.topic}[0]@0" in told
        assert "max.message.bytes" in told

        raise_limit(retry, 1_000_000)
        wait_for(lambda: b"bad-1" in handler.retried(), "it is delivered once the topic takes it")
        lab.settle(task)
    assert handler.main() == [b"bad-1", b"bad-2", b"new-2", b"new-3", b"new-1"]
    [kept] = [message for message in lab.read(retry) if message.key() == b"k"]
    assert kept.value() == large
    assert own(kept) == [("a", b"1")]
    assert lab.dead(task) == []


def test_what_is_kept_outlives_a_restart(
    lab: Lab, caplog: pytest.LogCaptureFixture, raise_limit: Callable[[str, int], None]
) -> None:
    handler = Handler()
    task = lab.task(handler, topics=False)
    retry = f"{task.topic}-{task.group_id}-try-1"
    lab.make_topic(1, task.topic)
    lab.make_topic(1, retry, max_message_bytes=2000)
    lab.make_topic(1, lab.dead_topic(task))
    lab.write(task.topic, (b"bad-1" + secrets.token_bytes(5000), b"k"))
    with lab.running(task):
        wait_for(lambda: errors(caplog, retry), "it is told")
        lab.write(task.topic, (b"new-1", b"k"), (b"new-2", b"other"))
        wait_for(lambda: b"new-2" in handler.main(), "the other key")
        time.sleep(0.3)
    assert handler.main() == [b"bad-1", b"new-2"]
    raise_limit(retry, 1_000_000)
    lab.work(task)
    assert handler.main() == [b"bad-1", b"new-2", b"bad-1", b"new-1"]
    assert handler.retried() == [b"bad-1"]


def test_optional_headers_are_left_out_before_a_record_is_called_too_large(lab: Lab) -> None:
    def call(message: flux.Message) -> None:
        raise ValueError("x" * 5000)

    task = lab.task(call, retries=0, topics=False)
    lab.make_topic(1, task.topic)
    lab.make_topic(1, lab.dead_topic(task), max_message_bytes=3000)
    sizes = (100, 1500, 2100, 2350)
    lab.write(task.topic, *((b"v" * size, b"k%d" % size) for size in sizes))
    lab.work(task)
    assert [len(message.value()) for message in lab.dead(task)] == list(sizes)
    for message in lab.dead(task):
        assert flux_headers(message)["flux-reason"] == b"exhausted"
        assert flux_headers(message)["flux-origin-topic"] == task.topic.encode()


def test_a_retry_topic_that_was_deleted_loses_nothing_and_is_used_again_once_it_is_there(
    lab: Lab, caplog: pytest.LogCaptureFixture, kafka_admin: AdminClient
) -> None:
    if creates_topics(lab, kafka_admin):
        pytest.skip("this broker creates topics by itself (auto.create.topics.enable): none can be missing")
    handler = Handler()
    task = lab.task(handler)
    retry = f"{task.topic}-{task.group_id}-try-1"
    lab.write(task.topic, (b"bad-0", b"k"))
    soon = f"confluent://{lab.bootstrap}?topic.metadata.propagation.max.ms=500"
    with lab.running(task, stages="0", adapter=soon):
        lab.settle(task, 0)
        kafka_admin.delete_topics([retry])[retry].result(SECONDS)
        wait_for(lambda: retry not in kafka_admin.list_topics(timeout=10).topics, "it is gone")
        lab.write(task.topic, (b"bad-1", b"k"))
        wait_for(lambda: errors(caplog, retry), "it is told")
        lab.write(task.topic, (b"new-1", b"k"), (b"new-2", b"other"))
        wait_for(lambda: b"new-2" in handler.main(), "other keys go on")
        assert lab.committed_offsets(task.group_id, task.topic)[0].offset == 1
        lab.make_topic(1, retry)
        lab.settle(task, 0, seconds=60)
    assert handler.main() == [b"bad-0", b"bad-1", b"new-2", b"new-1"]
    assert [(message.key(), message.value()) for message in lab.read(retry)] == [(b"k", b"bad-1")]
    assert "--create" in errors(caplog, retry)[0]


def creates_topics(lab: Lab, admin: AdminClient) -> bool:
    broker = next(iter(admin.list_topics(timeout=10).brokers))
    resource = ConfigResource(ResourceType.BROKER, str(broker))
    config = admin.describe_configs([resource])[resource].result(SECONDS)
    return bool(config["auto.create.topics.enable"].value == "true")


def test_missing_topics_are_named_and_nothing_is_consumed(lab: Lab) -> None:
    handler = Handler()
    task = lab.task(handler, retries=2, topics=False)
    lab.make_topic(1, task.topic)
    lab.make_topic(1, f"{task.topic}-{task.group_id}-try-1")
    lab.write(task.topic, b"v")
    worker = flux.Worker(task, adapter=f"confluent://{lab.bootstrap}")
    with pytest.raises(flux.ConfigurationError) as refused:
        worker.run()
    text = str(refused.value)
    assert f"{task.topic}-{task.group_id}-try-2" in text
    assert f"{task.topic}-{task.group_id}-dlq" in text
    assert f"{task.topic}-{task.group_id}-try-1" not in text
    assert "\n" not in text
    assert handler.calls == []
    assert lab.committed_offsets(task.group_id, task.topic) == {}


def test_topics_are_created_like_the_main_topic_with_room_for_headers_and_time_to_wait(
    lab: Lab, kafka_admin: AdminClient
) -> None:
    handler = Handler()
    task = lab.task(handler, retries=1, topics=False, max_delay=86_400)
    lab.make_topic(3, task.topic, max_message_bytes=50_000, retention_ms=60_000)
    lab.write(task.topic, (b"bad-1", b"k", None, 2))
    retry, dead = f"{task.topic}-{task.group_id}-try-1", f"{task.topic}-{task.group_id}-dlq"
    try:
        lab.work(task, create_topics=True)
        assert handler.calls == [(b"bad-1", 0), (b"bad-1", 1)]
        for topic, kept in ((retry, str((2 + 7) * 86_400_000)), (dead, "-1")):
            assert len(kafka_admin.list_topics(topic, timeout=10).topics[topic].partitions) == 3
            resource = ConfigResource(ResourceType.TOPIC, topic)
            config = kafka_admin.describe_configs([resource])[resource].result(SECONDS)
            assert config["cleanup.policy"].value == "delete"
            assert config["retention.ms"].value == kept
            assert config["retention.bytes"].value == "-1"
            assert config["max.message.bytes"].value == str(50_000 + 64 * 1024)
    finally:
        for deleted in kafka_admin.delete_topics([retry, dead]).values():
            deleted.exception(SECONDS)


def test_every_topic_is_created_where_even_the_main_one_is_missing(lab: Lab, kafka_admin: AdminClient) -> None:
    handler = Handler()
    task = lab.task(handler, retries=1, topics=False)
    topics = [stage.topic for stage in task.policy().stages]
    try:
        with lab.running(task, create_topics=True):
            wait_for(lambda: set(topics) <= set(kafka_admin.list_topics(timeout=10).topics), "they are made")
            lab.write(task.topic, b"bad-1")
            wait_for(lambda: handler.retried() == [b"bad-1"], "it is worked")
        counts = {len(kafka_admin.list_topics(topic, timeout=10).topics[topic].partitions) for topic in topics}
        assert len(counts) == 1
    finally:
        for deleted in kafka_admin.delete_topics(topics).values():
            error = deleted.exception(SECONDS)
            assert error is None or error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART


def test_a_cluster_that_is_away_is_tried_for_ever_and_a_stop_still_works(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    task = lab.task(lambda message: None, topics=False)
    with lab.running(task, adapter="confluent://127.0.0.1:9?log_level=0") as running:
        wait_for(lambda: [r for r in caplog.records if "trying again" in r.getMessage()], "it says so", 25)
        assert not running.worker.ready
        stopped = time.monotonic()
    assert time.monotonic() - stopped < 15
    told = [r.getMessage() for r in caplog.records if "trying again" in r.getMessage()]
    assert "127.0.0.1:9" in told[0]


def test_each_task_is_worked_on_its_own_cluster(lab: Lab, unique: Callable[[], str]) -> None:
    here, there = Handler(), Handler()
    memory = MemoryAdapter(unique())
    other = lab.task(there, topics=False, adapter=memory, topic="elsewhere", group_id="g")
    for stage in other.policy().stages:
        memory.broker.create_topic(stage.topic)
    task = lab.task(here, adapter=f"confluent://{lab.bootstrap}")
    lab.write(task.topic, (b"bad-1", b"k"))

    class Elsewhere(flux.Producer):
        topic = "elsewhere"
        adapter = memory

    Elsewhere.produce(b"bad-2", key=b"k")
    Elsewhere.flush(5)
    worker = flux.Worker(task, other)  # neither needs a cluster of the process's
    assert worker.tasks == [type(task), type(other)]
    with lab.running(task, other):
        lab.settle(task)
        wait_for(lambda: there.retried() == [b"bad-2"], "the other cluster's is retried")
    assert here.calls == [(b"bad-1", 0), (b"bad-1", 1)]
    assert there.calls == [(b"bad-2", 0), (b"bad-2", 1)]
    assert [record.key() for record in memory.broker.records("elsewhere-g-try-1")] == [b"k"]
    assert memory.broker.committed_offsets("g-1", "elsewhere-g-try-1")[0].offset == 1
