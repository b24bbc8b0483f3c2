"""librdkafka's properties: which flux sets, and which the user may set.

Source: https://github.com/confluentinc/librdkafka/blob/v2.16.0/CONFIGURATION.md
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from flux.adapters.kafka import LARGEST_RECORD, broker_list, member_client_id, parse_url, without_reserved
from flux.core.errors import ConfigurationError
from flux.core.ports import ConsumerSettings, ProducerSettings, TransactionSettings
from flux.core.validation import is_number, is_text, plain, shown

_RESERVED = {
    "bootstrap.servers": "give the brokers as the adapter's first argument or in its URL",
    "metadata.broker.list": "give the brokers as the adapter's first argument or in its URL",
    "group.id": "set group_id on the task",
    "enable.auto.commit": "flux commits itself, when records are done",
    "enable.auto.offset.store": "flux commits itself, when records are done",
    "auto.offset.reset": "set start_from on the task",
    "topic.auto.offset.reset": "set start_from on the task",
    "default.topic.config": "give its properties directly",
    "acks": "set acks in ProducerOptions",
    "request.required.acks": "set acks in ProducerOptions",
    "transactional.id": "flux names its transactions itself, with exactly_once = True on a task",
    "transaction.timeout.ms": "flux sets it for its transactions",
    "delivery.report.only.error": "flux needs every acknowledgement",
    "on_delivery": "flux needs every acknowledgement",
    "on_commit": "flux needs the callback itself",
}
_NOT_IN_TRANSACTIONS = {
    "enable.idempotence",
    "enable.gapless.guarantee",
    "max.in.flight",
    "max.in.flight.requests.per.connection",
    "message.send.max.retries",
    "message.timeout.ms",
    "queue.buffering.backpressure.threshold",
    "queuing.strategy",
    "retries",
    "retry.backoff.max.ms",
}
_NOT_WITH_KIP_848 = ("session.timeout.ms", "heartbeat.interval.ms", "partition.assignment.strategy")

_EVERY_CLIENT: dict[str, Any] = {
    # By default a producer's metadata requests create missing topics. Source: rdkafka_conf.c
    "allow.auto.create.topics": False,
    # How late a new partition is noticed; librdkafka's default is 5 minutes.
    "topic.metadata.refresh.interval.ms": 30_000,
    # How long until a new topic is known everywhere, and until a write to a missing one fails.
    "topic.metadata.propagation.max.ms": 10_000,
}

_NO_GROUP = "flux-reader"
"""librdkafka requires a group, and does nothing with it."""

_FETCH_WAIT_MS = 100

_LARGEST = 2**31 - 1
_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}\Z")
_QUANTITY = re.compile(r"\.(ms|bytes|kbytes|messages|size|retries)\Z")
_WHOLE = re.compile(r"-?[0-9]{1,300}\Z")
_BROKER = re.compile(r"([A-Za-z_]+://)?(\[[^\[\]]*\]|[^:\[\]]+)(:[0-9]{1,5})?\Z")


def checked_bootstrap(bootstrap: str) -> str:
    """Raises ConfigurationError."""
    form, login = "host:port, or [address]:port", "sasl.username and sasl.password"
    return broker_list(bootstrap, lambda host: bool(_BROKER.match(host)), form, login)


def checked(options: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the user's properties. Raises ConfigurationError for properties that flux sets itself."""
    options = without_reserved(options, _RESERVED)
    for name, value in options.items():
        _check(name, value)
    protocol = options.get("partition.assignment.strategy", "cooperative-sticky")
    if type(protocol) is not str or protocol != "cooperative-sticky":
        raise ConfigurationError("partition.assignment.strategy must be cooperative-sticky: leave it out")
    if "sasl.username" in options:
        if "sasl" not in str(options.get("security.protocol", "")).lower():
            raise ConfigurationError(
                "sasl.username is ignored without a SASL protocol: set security.protocol to SASL_SSL or SASL_PLAINTEXT"
            )
        if "sasl.mechanism" not in options and "sasl.mechanisms" not in options:
            raise ConfigurationError(
                "sasl.username needs a mechanism: set sasl.mechanism to PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512"
            )
    return dict(options)


def _check(name: Any, value: Any) -> None:
    """Refuses what librdkafka or confluent-kafka would misread, or fail at later."""
    if not isinstance(name, str) or not _NAME.match(name):
        raise ConfigurationError(f"librdkafka has no property {shown(name)}")
    if name.endswith("_cb") and not callable(value):
        raise ConfigurationError(f"{name} must be a function")
    if name == "logger" and not hasattr(value, "log"):
        raise ConfigurationError("logger must be one of logging's")
    if isinstance(value, str) and ("\0" in value or not is_text(value)):
        raise ConfigurationError(f"{name} holds a NUL or a lone surrogate: take it out")
    number = float(value) if isinstance(value, str) and _QUANTITY.search(name) and _WHOLE.match(value) else value
    if isinstance(number, int | float) and not is_number(plain(+number), -_LARGEST, _LARGEST):
        raise ConfigurationError(f"{name} must be a number from -{_LARGEST} to {_LARGEST}: librdkafka accepts no other")


def group_protocol(options: Mapping[str, Any]) -> str:
    """With which consumers join a group."""
    by_broker = str(options.get("group.protocol", "classic")).lower() == "consumer"
    return "consumer" if by_broker else "cooperative-sticky"


def consumer_properties(bootstrap: str, options: Mapping[str, Any], settings: ConsumerSettings) -> dict[str, Any]:
    properties: dict[str, Any] = _EVERY_CLIENT | {
        "client.id": member_client_id(settings.task),
        "isolation.level": "read_committed",
        "partition.assignment.strategy": "cooperative-sticky",
        # One fetch serves all partitions of a broker: a resumed partition waits for the fetch in progress.
        "fetch.wait.max.ms": _FETCH_WAIT_MS,
        # By default a full queue is not refilled for a second.
        "fetch.queue.backoff.ms": 5,
        "queued.min.messages": 100_000,
        "queued.max.messages.kbytes": 64 * 1024,
        # When a silent connection is closed; by default after a minute. One answer must arrive in that time.
        "socket.timeout.ms": 10_000,
        "fetch.max.bytes": _fetch_bytes(options, 8 * 1024 * 1024),
    }
    if settings.small_queue:
        properties |= {
            "fetch.wait.max.ms": 500,  # most retry stages are empty most of the time
            "fetch.queue.backoff.ms": 10,
            "queued.min.messages": 1_000,
            "queued.max.messages.kbytes": 4 * 1024,
            "fetch.max.bytes": _fetch_bytes(options, 4 * 1024 * 1024),
        }
    properties.update(options)
    if group_protocol(options) == "consumer":
        for name in _NOT_WITH_KIP_848:
            if name in options and name != "partition.assignment.strategy":
                raise ConfigurationError(f"{name} is the broker's to decide with group.protocol=consumer: leave it out")
            properties.pop(name, None)
    if "group.instance.id" in options:
        properties["group.instance.id"] = f"{options['group.instance.id']}{settings.instance_suffix}"
    return properties | {
        "bootstrap.servers": bootstrap,
        "group.id": settings.group,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",
        "enable.partition.eof": True,
    }


def _fetch_bytes(options: Mapping[str, Any], wanted: int) -> int:
    """The wanted size, within the user's own limits, or librdkafka would refuse it."""
    try:
        least = int(options.get("message.max.bytes", 0))
        most = int(options.get("receive.message.max.bytes", LARGEST_RECORD)) - 512
    except (TypeError, ValueError):  # librdkafka's own error is better
        return wanted
    return max(min(wanted, most), least)


def reader_properties(bootstrap: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Of a consumer that joins no group."""
    # A small queue: librdkafka does not count headers, which are most of a dead letter.
    settings = ConsumerSettings(topic="", group=_NO_GROUP, small_queue=True)
    properties = consumer_properties(bootstrap, {"fetch.wait.max.ms": _FETCH_WAIT_MS, **options}, settings)
    for name in ("group.instance.id", "group.protocol", "group.remote.assignor"):
        properties.pop(name, None)
    return properties


def producer_properties(bootstrap: str, options: Mapping[str, Any], settings: ProducerSettings) -> dict[str, Any]:
    properties: dict[str, Any] = _EVERY_CLIENT | {
        "enable.idempotence": settings.acks == "all",
        "linger.ms": settings.linger * 1000,
        "compression.type": "zstd" if settings.compression == "best" else settings.compression,
        "delivery.timeout.ms": max(1, round(settings.delivery_timeout * 1000)),
        "queue.buffering.max.kbytes": max(1, settings.max_queue_bytes // 1024),
        "queue.buffering.max.messages": 500_000,
        "message.max.bytes": LARGEST_RECORD,
        # Keys go to the partition that Kafka's own clients choose, null keys to random ones.
        "partitioner": "murmur2_random",
        # As for consumers: a worker writes copies again only after its consumers are back, and both must fit into half
        # a minute. A broker that waits for replicas answers before that.
        "socket.timeout.ms": 10_000,
        "request.timeout.ms": 7_000,
    }
    if settings.max_batch_bytes is not None:
        properties["batch.size"] = settings.max_batch_bytes
    return {**properties, **options, "bootstrap.servers": bootstrap, "acks": settings.acks}


def transaction_properties(bootstrap: str, options: Mapping[str, Any], settings: TransactionSettings) -> dict[str, Any]:
    """Of a transactional producer, whose needs come before the user's properties."""
    timeout_ms = max(1000, round(settings.timeout * 1000))
    usual = ProducerSettings(
        compression=settings.compression,
        delivery_timeout=settings.timeout,
        linger=settings.linger,
        max_batch_bytes=settings.max_batch_bytes,
        max_queue_bytes=settings.max_queue_bytes,
    )
    allowed = {name: value for name, value in options.items() if name not in _NOT_IN_TRANSACTIONS}
    properties = producer_properties(bootstrap, allowed, usual)
    properties |= {
        "transactional.id": settings.id,
        "transaction.timeout.ms": timeout_ms,
        "delivery.timeout.ms": timeout_ms,
        # The commit acknowledges all records: their reports would halve the throughput.
        "delivery.report.only.error": True,
        # The coordinator answers CONCURRENT_TRANSACTIONS while it completes the former transaction. With the default of
        # 100 ms each transaction would take as long.
        "retry.backoff.ms": 5,
        # By default it is retry.backoff.ms.
        "topic.metadata.refresh.fast.interval.ms": 100,
    }
    for name in ("socket.timeout.ms", "request.timeout.ms"):  # librdkafka refuses longer ones
        with suppress(TypeError, ValueError):  # its own error is better
            properties[name] = min(int(properties[name]), timeout_ms)
    if settings.one_by_one:
        properties["batch.num.messages"] = 1
    return properties


def admin_properties(bootstrap: str, options: Mapping[str, Any]) -> dict[str, Any]:
    return {**_EVERY_CLIENT, "socket.timeout.ms": 10_000, **options, "bootstrap.servers": bootstrap}


def parsed_url(url: str) -> tuple[str, dict[str, Any]]:
    """The brokers and the properties. Raises ConfigurationError."""
    return parse_url(url, "confluent", "property", ("sasl.username", "sasl.password"))
