"""What a URL and options become for librdkafka, and that nothing secret leaves in a text. No cluster, no network."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError

from flux.adapters.confluent import ConfluentAdapter, from_url
from flux.adapters.confluent.config import (
    admin_properties,
    consumer_properties,
    parsed_url,
    producer_properties,
    reader_properties,
)
from flux.adapters.confluent.errors import fault_of, translated
from flux.adapters.confluent.log import ClientLog
from flux.adapters.secrets import Mask
from flux.core.errors import ConfigurationError, Fault
from flux.core.ports import ConsumerSettings, ProducerSettings

SETTINGS = ConsumerSettings("awesome", "magnificent-5")
SASL = {"security.protocol": "SASL_SSL", "sasl.mechanism": "PLAIN", "sasl.username": "me"}


# -- URLs


@pytest.mark.parametrize(
    ("url", "bootstrap", "options"),
    [
        ("confluent://localhost:9092", "localhost:9092", {}),
        ("kafka://h1:1,h2:2/?client.id=billing", "h1:1,h2:2", {"client.id": "billing"}),
        ("confluent://h:1?a=b%26c&d=e+f=g&h=", "h:1", {"a": "b&c", "d": "e+f=g", "h": ""}),
        ("confluent://me:p%40s%3As@h:1", "h:1", {"sasl.username": "me", "sasl.password": "p@s:s"}),
        ("confluent://me:p@s:s@h:1", "h:1", {"sasl.username": "me", "sasl.password": "p@s:s"}),
        ("confluent://[::1]:9092", "[::1]:9092", {}),
    ],
)
def test_a_url_is_brokers_and_properties(url: str, bootstrap: str, options: dict[str, str]) -> None:
    assert parsed_url(url) == (bootstrap, options)


@pytest.mark.parametrize(
    "url",
    [
        "localhost:9092",
        "confluent://",
        "confluent://,",
        "confluent://h:1/topic?sasl.password=s3cret",
        "confluent://h:1?sasl.password=s3cret&sasl.password=s3cret2",
        "confluent://h:1?sasl.password=s3cret&client.id",
        "confluent://s3cret@h:1",
        "confluent://me:s3cret@h:1?sasl.password=s3cret",
        "confluent://me:s3cret@h:1",
        "confluent://me:s3cret@h:1?security.protocol=SASL_SSL",
        "confluent://h:1?sasl.password=s3cret&enable.auto.commit=true",
    ],
)
def test_a_url_that_is_wrong_says_what_to_do_in_one_line_without_its_secret(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        from_url(url)
    assert "s3cret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_brokers_with_a_login_are_refused_without_showing_it() -> None:
    with pytest.raises(ConfigurationError) as caught:
        ConfluentAdapter("me:s3cret@h:1")
    assert "s3cret" not in str(caught.value)


def test_the_cluster_has_one_name_however_its_brokers_are_written() -> None:
    names = {ConfluentAdapter(hosts).cluster for hosts in ("h1:1,h2:2", "h2:2, h1:1", "h1:1,h2:2,")}
    assert names == {"kafka://h1:1,h2:2"}
    assert ConfluentAdapter("h1:1").shares_processes


# -- properties


@pytest.mark.parametrize("where", ["options", "consumer", "producer"])
@pytest.mark.parametrize(
    "name",
    [
        "bootstrap.servers",
        "group.id",
        "enable.auto.commit",
        "enable.auto.offset.store",
        "auto.offset.reset",
        "acks",
        "delivery.report.only.error",
        "transactional.id",
    ],
)
def test_what_flux_relies_on_is_not_the_users(where: str, name: str) -> None:
    arguments: dict[str, Any] = {where: {name: "x"}}
    with pytest.raises(ConfigurationError, match=name):
        ConfluentAdapter("h:1", **arguments)


def test_an_eager_assignment_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="cooperative-sticky"):
        ConfluentAdapter("h:1", {"partition.assignment.strategy": "range"})


def test_positions_are_never_moved_behind_fluxs_back() -> None:
    properties = consumer_properties("h:1", {}, SETTINGS)
    assert properties["enable.auto.commit"] is False
    assert properties["enable.auto.offset.store"] is False
    assert properties["auto.offset.reset"] == "error"
    assert properties["group.id"] == "magnificent-5"
    assert properties["bootstrap.servers"] == "h:1"


def test_a_member_has_its_tasks_name_host_and_process_unless_the_user_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "box 1")
    settings = ConsumerSettings("t", "g", task="Zähler")
    assert consumer_properties("h:1", {}, settings)["client.id"] == f"flux-Z-hler-box-1-{os.getpid()}"
    assert consumer_properties("h:1", {"client.id": "mine"}, settings)["client.id"] == "mine"
    assert consumer_properties("h:1", {}, SETTINGS)["client.id"] == f"flux-box-1-{os.getpid()}"


def test_the_users_properties_win_over_fluxs_defaults() -> None:
    options = {"queued.min.messages": 7, "linger.ms": 9, "partitioner": "random"}
    assert options.items() <= consumer_properties("h:1", options, SETTINGS).items()
    assert options.items() <= producer_properties("h:1", options, ProducerSettings()).items()


def test_a_small_queue_is_small() -> None:
    small = consumer_properties("h:1", {}, ConsumerSettings("t", "g", small_queue=True))
    large = consumer_properties("h:1", {}, SETTINGS)
    assert small["queued.max.messages.kbytes"] == 4096
    assert large["queued.max.messages.kbytes"] == 65536
    # By default a full queue is not refilled for a second.
    assert max(p["fetch.queue.backoff.ms"] for p in (small, large)) <= 10


def test_an_empty_retry_stage_is_fetched_seldom_and_a_reader_finds_the_end_soon() -> None:
    retries = ConsumerSettings("t", "g", small_queue=True)
    waits = [consumer_properties("h:1", {}, settings)["fetch.wait.max.ms"] for settings in (SETTINGS, retries)]
    assert [*waits, reader_properties("h:1", {})["fetch.wait.max.ms"]] == [100, 500, 100]
    own = {"fetch.wait.max.ms": 7}
    assert consumer_properties("h:1", own, retries)["fetch.wait.max.ms"] == 7
    assert reader_properties("h:1", own)["fetch.wait.max.ms"] == 7


def test_kip_848_is_not_given_what_it_refuses() -> None:
    properties = consumer_properties("h:1", {"group.protocol": "consumer"}, SETTINGS)
    assert "partition.assignment.strategy" not in properties
    with pytest.raises(ConfigurationError, match=r"session\.timeout\.ms"):
        consumer_properties("h:1", {"group.protocol": "CONSUMER", "session.timeout.ms": 9000}, SETTINGS)


def test_each_static_member_has_its_own_id() -> None:
    settings = ConsumerSettings("t", "g", instance_suffix="-awesome-0-1")
    properties = consumer_properties("h:1", {"group.instance.id": "box"}, settings)
    assert properties["group.instance.id"] == "box-awesome-0-1"
    assert "group.instance.id" not in consumer_properties("h:1", {}, settings)


def test_the_producer_is_what_its_settings_say() -> None:
    settings = ProducerSettings(
        acks="all", compression="lz4", delivery_timeout=1.5, linger=0.25, max_batch_bytes=5000, max_queue_bytes=2048
    )
    assert {
        "acks": "all",
        "enable.idempotence": True,
        "compression.type": "lz4",
        "delivery.timeout.ms": 1500,
        "linger.ms": 250.0,
        "batch.size": 5000,
        "queue.buffering.max.kbytes": 2,
        "partitioner": "murmur2_random",
    }.items() <= producer_properties("h:1", {}, settings).items()
    assert not producer_properties("h:1", {}, ProducerSettings(acks="1"))["enable.idempotence"]


# -- secrets


@pytest.mark.parametrize(
    "name",
    [
        "sasl.password",
        "ssl.key.password",
        "ssl.key.pem",
        "ssl.keystore.password",
        "sasl.oauthbearer.config",
        "sasl.oauthbearer.client.secret",
        "sasl.oauthbearer.assertion.private.key.pem",
    ],
)
def test_a_secret_is_in_no_text_of_the_adapter(name: str) -> None:
    adapter = ConfluentAdapter("h:1", {**SASL, "client.id": "billing", name: "s3cret"})
    assert "s3cret" not in repr(adapter) + str(adapter) + adapter.cluster
    assert "billing" in repr(adapter)
    assert Mask({name: "s3cret"})("no s3cret here") == "no *** here"


def test_a_bad_property_is_told_in_one_line_without_the_secrets() -> None:
    adapter = ConfluentAdapter("h:1", {**SASL, "sasl.password": "s3cret", "no.such.s3cret": 1})
    with pytest.raises(ConfigurationError, match="No such configuration property") as caught:
        adapter.admin()
    assert "s3cret" not in str(caught.value)
    assert "\n" not in str(caught.value)


class Clock:
    def __init__(self) -> None:
        self.time = 1000.0

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.now()


def client_log(clock: Any, masked: Callable[[str], str] = lambda text: text) -> ClientLog:
    return ClientLog(masked, clock)


def test_the_clients_chatter_is_debug_and_its_errors_are_bounded_warnings(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "flux.kafka")
    clock = Clock()
    log = client_log(clock, Mask({"sasl.password": "s3cret-9"}))
    log.log(logging.WARNING, "%s [%s] %s", "CONFWARN", "rdkafka#1", "s3cret-9 is odd")
    for _ in range(100):
        log.log(logging.ERROR, "%s [%s] %s", "FAIL", "rdkafka#1", "refused s3cret-9")
    clock.time += 60
    log.log(logging.ERROR, "%s [%s] %s", "FAIL", "rdkafka#1", "refused s3cret-9")
    assert [(r.levelno, r.getMessage()) for r in caplog.records] == [
        (logging.DEBUG, "CONFWARN [rdkafka#1] *** is odd"),
        (logging.WARNING, "FAIL [rdkafka#1] refused ***"),
        (logging.WARNING, "FAIL [rdkafka#1] refused *** (99 more like it were left out)"),
    ]
    assert {r.name for r in caplog.records} == {"flux.kafka"}


def test_a_broker_that_is_away_is_named_once_a_minute_by_all_clients_together(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = Clock()
    log = client_log(clock)
    for _ in range(120):
        clock.time += 1
        for client in range(6):
            for broker in ("kafka-1:9092/1", "GroupCoordinator: kafka-1:9092/1", "kafka-2:9092/bootstrap"):
                text = f"{broker}: Connect to ipv4#10.0.0.1:9092 failed: Connection refused"
                log.log(logging.ERROR, "%s [%s] %s", "FAIL", f"rdkafka#{client}", f"[thrd:{broker}]: {text}")
                log.error(KafkaError(KafkaError._TRANSPORT, text))
                log.error(KafkaError(KafkaError._TIMED_OUT, f"{broker}: 1 request(s) timed out: disconnect"))
    assert [broker in r.getMessage() for r in caplog.records for broker in ("kafka-1", "kafka-2")].count(True) == 4
    assert len(caplog.records) == 4


def test_idle_connections_that_are_closed_are_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    client_log(Clock()).error(KafkaError(KafkaError._ALL_BROKERS_DOWN, "2/2 brokers are down"))
    assert caplog.records == []


# -- errors


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (KafkaError(KafkaError._TRANSPORT), Fault.UNAVAILABLE),
        (KafkaError(KafkaError._ALL_BROKERS_DOWN), Fault.UNAVAILABLE),
        (KafkaError(KafkaError._MSG_TIMED_OUT), Fault.UNAVAILABLE),
        (KafkaError(KafkaError._DESTROY), Fault.UNAVAILABLE),  # of a record, when its broker or topic goes
        (KafkaError(KafkaError.NOT_ENOUGH_REPLICAS), Fault.UNAVAILABLE),
        (KafkaError(KafkaError._SSL, "handshake failed: connection reset"), Fault.UNAVAILABLE),
        (KafkaError(KafkaError._SSL, "handshake failed: certificate verify failed"), Fault.LOGIN),
        (KafkaError(KafkaError._AUTHENTICATION, "Authentication failed"), Fault.LOGIN),
        (KafkaError(KafkaError._AUTHENTICATION, "Failed to acquire SASL OAUTHBEARER token"), Fault.UNAVAILABLE),
        (KafkaError(KafkaError.MSG_SIZE_TOO_LARGE), Fault.TOO_LARGE),
        (KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART), Fault.UNKNOWN_TOPIC),
        (KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED), Fault.DENIED),
        (KafkaError(KafkaError.ILLEGAL_GENERATION), Fault.FENCED),
        (KafkaError(KafkaError.OFFSET_METADATA_TOO_LARGE), Fault.METADATA),
        (
            KafkaError(KafkaError._FATAL, "Static consumer fenced by other with the same group.instance.id"),
            Fault.FENCED,
        ),
        (KafkaError(KafkaError._FATAL, "Out of order sequence number"), Fault.FATAL),
        (KafkaError(KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER, fatal=True), Fault.FATAL),
        (KafkaError(KafkaError.POLICY_VIOLATION), Fault.OTHER),
    ],
)
def test_an_error_becomes_what_flux_does_about_it(error: KafkaError, fault: Fault) -> None:
    assert fault_of(error) is fault


def test_a_denial_names_the_permission_that_it_takes() -> None:
    denied = translated(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED), "cannot consume", "READ on topic awesome")
    assert "needs READ on topic awesome" in str(denied)
    away = translated(KafkaError(KafkaError._TRANSPORT), "cannot consume", "READ on topic awesome")
    assert "READ" not in str(away)


def test_silent_connections_are_given_up_soon_unless_the_user_says_otherwise() -> None:
    users = {"socket.timeout.ms": 40_000}
    assert consumer_properties("h:1", {}, SETTINGS)["socket.timeout.ms"] == 10_000
    assert consumer_properties("h:1", users, SETTINGS)["socket.timeout.ms"] == 40_000
    producer = producer_properties("h:1", {}, ProducerSettings())
    assert producer["request.timeout.ms"] < producer["socket.timeout.ms"] == 10_000
    assert producer_properties("h:1", users, ProducerSettings())["socket.timeout.ms"] == 40_000


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {"message.max.bytes": "50000000"},
        {"receive.message.max.bytes": 2_000_000},
        {"message.max.bytes": 1_500_000, "receive.message.max.bytes": 2_000_000},
        {"fetch.max.bytes": 30_000_000},
    ],
)
def test_the_users_limits_on_sizes_leave_a_consumer_that_can_be_made(options: dict[str, Any], small: bool) -> None:
    settings = ConsumerSettings("t", "g", small_queue=small)
    Consumer(consumer_properties("127.0.0.1:1", {"log_level": 0, **options}, settings)).close()


def test_who_is_replaced_or_speaks_another_protocol_is_told_what_to_do() -> None:
    fenced = KafkaError(KafkaError._FATAL, "Fatal error: fenced by a consumer with the same instance id")
    assert fault_of(fenced) is Fault.FENCED
    assert str(translated(fenced, "cannot consume")).endswith("give each process an id of its own")
    mixed = translated(KafkaError(KafkaError.INCONSISTENT_GROUP_PROTOCOL), "cannot consume")
    assert str(mixed).endswith("stop all members of the group, then start them with one client")


def every_client(options: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        consumer_properties("h:1", options, SETTINGS),
        producer_properties("h:1", options, ProducerSettings()),
        admin_properties("h:1", options),
        reader_properties("h:1", options),
    ]


def test_every_client_knows_new_partitions_within_a_minute_and_makes_no_topic() -> None:
    for properties in every_client({}):
        assert properties["topic.metadata.refresh.interval.ms"] <= 60_000
        assert properties["allow.auto.create.topics"] is False
    own = {"topic.metadata.refresh.interval.ms": "1000", "allow.auto.create.topics": "true"}
    for properties in every_client(own):
        assert own.items() <= properties.items()


def test_records_of_open_and_aborted_transactions_are_not_read_unless_the_user_wants_them() -> None:
    for options, level in (({}, "read_committed"), ({"isolation.level": "read_uncommitted"}, "read_uncommitted")):
        consumer, _, _, reader = every_client(options)
        assert consumer["isolation.level"] == reader["isolation.level"] == level
