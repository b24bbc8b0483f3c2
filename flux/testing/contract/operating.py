"""What an operator reads and changes in a cluster."""

from __future__ import annotations

from flux.core.errors import Fault
from flux.testing.contract.bench import Bench, Contract, fault_of

CONTRACT = Contract()


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
