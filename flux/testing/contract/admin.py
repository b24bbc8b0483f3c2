"""What the admin reads, creates and changes."""

from __future__ import annotations

from flux.core.errors import Fault
from flux.core.ports import CommittedOffset, NewTopic, ProducerRecord, TopicInfo, TopicPartition, Watermarks
from flux.testing.contract.bench import Bench, Contract, fault_of

CONTRACT = Contract()


@CONTRACT
def topics_are_described_and_never_created_by_a_request(bench: Bench) -> None:
    there, missing = bench.topic(2), bench.name()
    for _ in range(2):
        found = bench.admin.topics([there, missing], bench.seconds)
        assert found == {there: TopicInfo(2, 1), missing: None}, found
        names = bench.admin.topic_names(bench.seconds)
        assert there in names
        assert missing not in names
    assert bench.admin.topics([], bench.seconds) == {}
    for ask in (bench.admin.topic_config, bench.admin.watermarks):
        assert fault_of(lambda ask=ask: ask(missing, bench.seconds)) is Fault.UNKNOWN_TOPIC  # type: ignore[misc]


@CONTRACT
def a_topic_that_exists_is_left_as_it_is(bench: Bench) -> None:
    there = bench.topic(2, retention_ms=86400000)
    bench.admin.create_topics([NewTopic(there, 9, 1, {"retention.ms": "1"})], bench.seconds)
    bench.admin.create_topics([], bench.seconds)
    assert bench.admin.topics([there], bench.seconds) == {there: TopicInfo(2, 1)}
    assert bench.admin.topic_config(there, bench.seconds)["retention.ms"] == "86400000"


@CONTRACT
def a_name_that_kafka_refuses_is_refused(bench: Bench) -> None:
    assert isinstance(fault_of(lambda: bench.admin.create_topics([NewTopic("bad name", 1, 1)], bench.seconds)), Fault)


@CONTRACT
def the_configuration_has_what_flux_reads(bench: Bench) -> None:
    topic = bench.topic(cleanup_policy="compact", max_message_bytes=123456)
    config = bench.admin.topic_config(topic, bench.seconds)
    assert config["cleanup.policy"] == "compact"
    assert config["max.message.bytes"] == "123456"
    assert {"retention.ms", "message.timestamp.type"} <= config.keys()


@CONTRACT
def committed_offsets_and_watermarks_are_read(bench: Bench) -> None:
    topic, group = bench.topic(3), bench.name()
    bench.written(topic, [ProducerRecord(b"%d" % i, None, (), i % 2) for i in range(20)])
    expected = {0: Watermarks(0, 10), 1: Watermarks(0, 10), 2: Watermarks(0, 0)}
    assert bench.admin.watermarks(topic, bench.seconds) == expected
    assert bench.admin.stable_offsets(topic, bench.seconds) == {at: mark.high for at, mark in expected.items()}
    assert bench.admin.committed_offsets(group, topic, bench.seconds) == {}
    member = bench.member(topic, group)
    bench.take(member, 20)
    member.commit_now({TopicPartition(topic, 0): CommittedOffset(9, "ä"), TopicPartition(topic, 1): CommittedOffset(8)})
    assert bench.admin.committed_offsets(group, topic, bench.seconds) == {
        0: CommittedOffset(9, "ä"),
        1: CommittedOffset(8),
    }
    assert bench.admin.committed_offsets(group, bench.topic(), bench.seconds) == {}


@CONTRACT
def a_setting_of_a_topic_is_changed_and_the_others_stay(bench: Bench) -> None:
    topic = bench.topic(retention_ms=86400000, max_message_bytes=123456)
    bench.admin.set_topic_config(topic, {"retention.ms": "-1", "cleanup.policy": "compact"}, bench.seconds)
    bench.until(lambda: bench.admin.topic_config(topic, bench.seconds)["retention.ms"] == "-1")
    config = bench.admin.topic_config(topic, bench.seconds)
    assert config["cleanup.policy"] == "compact"
    assert config["max.message.bytes"] == "123456"
    missing = bench.name()
    assert fault_of(lambda: bench.admin.set_topic_config(missing, {"retention.ms": "1"}, bench.seconds)) is (
        Fault.UNKNOWN_TOPIC
    )


@CONTRACT
def brokers_return_their_configuration_without_secrets(bench: Bench) -> None:
    configs = bench.admin.broker_configs(bench.seconds)
    assert configs
    for config in configs.values():
        assert int(config["offsets.retention.minutes"]) > 0
        assert not [name for name in config if name.endswith("password") and config[name]]


@CONTRACT
def topics_are_deleted(bench: Bench) -> None:
    topic, other = bench.topic(), bench.topic()
    bench.admin.delete_topics([topic, bench.name()], bench.seconds)
    bench.until(lambda: bench.admin.topics([topic], bench.seconds)[topic] is None)
    assert bench.admin.topics([other], bench.seconds)[other] is not None
    bench.admin.delete_topics([], bench.seconds)


@CONTRACT
def the_permissions_of_the_login_are_reported(bench: Bench) -> None:
    """Where the broker reports them. A login without the permission to read them gets none, and no error."""
    topic, missing, group = bench.topic(), bench.name(), bench.name()
    bench.join(bench.member(topic, group))
    allowed = bench.admin.permissions([topic, missing], [group, bench.name()], bench.seconds)
    assert allowed.topics.keys() == {topic, missing}
    assert not allowed.topics[missing]
    assert group in allowed.groups
    assert len(allowed.groups) == 2
    for operations, of_this in (
        (allowed.topics[topic], {"READ", "WRITE", "DESCRIBE"}),
        (allowed.groups[group], {"READ", "DESCRIBE"}),
        (allowed.cluster, {"CREATE"}),
    ):
        assert operations is None or of_this <= operations, operations
    assert bench.admin.permissions([], [], bench.seconds).topics == {}


@CONTRACT
def the_protocol_of_a_group_is_one_of_its_members(bench: Bench) -> None:
    topic, group = bench.topic(), bench.name()
    before = bench.admin.group_protocol(group, bench.seconds)
    assert before.used == ""
    assert before.ours
    bench.join(bench.member(topic, group))
    after = bench.admin.group_protocol(group, bench.seconds)
    assert after.ours == before.ours
    assert after.used in after.ours
