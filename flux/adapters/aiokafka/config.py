"""aiokafka's options: which there are, and which flux sets.

Source: https://aiokafka.readthedocs.io/en/stable/api.html
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterable, Mapping
from typing import Any

from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor

from flux.adapters.kafka import LARGEST_RECORD, broker_list, parse_url, without_reserved
from flux.core.errors import ConfigurationError
from flux.core.ports import ConsumerSettings, ProducerSettings
from flux.core.validation import is_text, is_whole, shown

_CLIENT: dict[str, type] = {
    "client_id": str,
    "request_timeout_ms": int,
    "retry_backoff_ms": int,
    "metadata_max_age_ms": int,
    "connections_max_idle_ms": int,
    "security_protocol": str,
    "ssl_context": object,
    "sasl_mechanism": str,
    "sasl_plain_username": str,
    "sasl_plain_password": str,
    "sasl_kerberos_service_name": str,
    "sasl_kerberos_domain_name": str,
    "sasl_oauth_token_provider": object,
}
_TLS: dict[str, type] = {
    "ssl_cafile": str,
    "ssl_certfile": str,
    "ssl_keyfile": str,
    "ssl_password": str,
    "ssl_check_hostname": bool,
}
_CONSUMER: dict[str, type] = {
    "group_instance_id": str,
    "fetch_max_wait_ms": int,
    "fetch_max_bytes": int,
    "fetch_min_bytes": int,
    "max_partition_fetch_bytes": int,
    "check_crcs": bool,
    "max_poll_interval_ms": int,
    "rebalance_timeout_ms": int,
    "session_timeout_ms": int,
    "heartbeat_interval_ms": int,
    "isolation_level": str,
    "client_rack": str,
    "partition_assignment_strategy": object,
}
_PRODUCER: dict[str, type] = {"max_batch_size": int, "max_request_size": int}
_KNOWN = _CLIENT | _TLS | _CONSUMER | _PRODUCER

_RESERVED = {
    "bootstrap_servers": "give the brokers as the adapter's first argument or in its URL",
    "group_id": "set group_id on the task",
    "enable_auto_commit": "flux commits itself, when records are done",
    "auto_commit_interval_ms": "flux commits itself, when records are done",
    "auto_offset_reset": "set start_from on the task",
    "max_poll_records": "set concurrency on the task",
    "acks": "set acks in ProducerOptions",
    "enable_idempotence": "set acks in ProducerOptions",
    "compression_type": "set compression in ProducerOptions",
    "transactional_id": "flux does not write in transactions",
}
_BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_CHOICES = {
    "security_protocol": ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"),
    "sasl_mechanism": ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "GSSAPI", "OAUTHBEARER"),
    "isolation_level": ("read_uncommitted", "read_committed"),
}

_FETCH_WAIT_MS = 100

_PORT = re.compile(r"[0-9]{1,5}\Z")
_LARGEST = 2**31 - 1
_NUMBER = re.compile(r"[0-9]{1,18}\Z")


def checked_bootstrap(bootstrap: str) -> str:
    """Raises ConfigurationError."""
    return broker_list(bootstrap, _is_broker, "host:port", "sasl_plain_username and _password")


def _is_broker(host: str) -> bool:
    _, separator, port = host.rpartition(":")
    return bool(separator and _PORT.match(port) and 0 < int(port) < 65536)


def checked(options: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the user's options, texts converted. Raises ConfigurationError for options that aiokafka would refuse,
    or that flux sets itself."""
    options = without_reserved(options, _RESERVED)
    for name in options:
        if name not in _KNOWN:
            raise ConfigurationError(
                f"aiokafka has no option {shown(name)}: see aiokafka.AIOKafkaConsumer and -Producer"
            )
    given = {name: _converted(name, value) for name, value in options.items()}
    protocol = given.get("security_protocol", "PLAINTEXT")
    if "sasl_plain_username" in given:
        if "SASL" not in protocol:
            raise ConfigurationError(
                "sasl_plain_username is ignored without SASL: set security_protocol to SASL_SSL or SASL_PLAINTEXT"
            )
        if "sasl_plain_password" not in given:
            raise ConfigurationError("sasl_plain_username needs sasl_plain_password")
    elif "SASL" in protocol and given.get("sasl_mechanism", "PLAIN") not in ("GSSAPI", "OAUTHBEARER"):
        raise ConfigurationError(f"security_protocol {protocol} needs sasl_plain_username and sasl_plain_password")
    if given.get("sasl_mechanism") == "OAUTHBEARER" and not callable(
        getattr(given.get("sasl_oauth_token_provider"), "token", None)
    ):
        raise ConfigurationError(
            "sasl_mechanism OAUTHBEARER needs sasl_oauth_token_provider: an object with a coroutine function token"
        )
    if given.keys() & {*_TLS, "ssl_context"} and "SSL" not in protocol:
        raise ConfigurationError("ssl options are ignored without TLS: set security_protocol to SSL or SASL_SSL")
    if given.keys() & _TLS.keys() and "ssl_context" in given:
        raise ConfigurationError("give ssl_context, or the ssl_… options that it is made from, not both")
    return given


def _converted(name: str, value: Any) -> Any:
    kind = _KNOWN[name]
    if kind is object:
        if isinstance(value, str):
            raise ConfigurationError(f"{name} is an object: give it to AiokafkaAdapter, it cannot be in a URL")
        return value
    if kind is bool and isinstance(value, str) and value.lower() in _BOOLEANS:
        return _BOOLEANS[value.lower()]
    if kind is int and isinstance(value, str) and _NUMBER.match(value):
        value = int(value)
    if type(value) is not kind or (kind is int and not is_whole(value, 0, _LARGEST)):
        wanted = {int: f"a whole number from 0 to {_LARGEST}", bool: "true or false", str: "a text"}[kind]
        raise ConfigurationError(f"{name} must be {wanted}")
    if kind is str and not is_text(value):
        raise ConfigurationError(f"{name} holds a lone surrogate: take it out")
    if name in _CHOICES:
        choice = next((one for one in _CHOICES[name] if one.lower() == str(value).lower()), None)
        if choice is None:
            raise ConfigurationError(f"{name} must be one of {', '.join(_CHOICES[name])}")
        return choice
    return value


def client_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of every client, with the TLS context. Raises ConfigurationError when a file cannot be used."""
    # How late a new partition is noticed; aiokafka's default is 5 minutes.
    chosen = {"metadata_max_age_ms": 30_000} | _chosen(options, _CLIENT)
    if "SSL" in chosen.get("security_protocol", "") and "ssl_context" not in chosen:
        chosen["ssl_context"] = _tls(options)
    return chosen


def _tls(options: Mapping[str, Any]) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=options.get("ssl_cafile"))
        context.check_hostname = options.get("ssl_check_hostname", True)
        if "ssl_certfile" in options:
            # A callable: without one OpenSSL would prompt on the terminal.
            password = options.get("ssl_password", "")
            context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"), lambda: password)
    except (OSError, ssl.SSLError) as error:
        reason = error.strerror or type(error).__name__
        raise ConfigurationError(f"a TLS file cannot be used: {reason}: correct the ssl_… options") from None
    return context


def consumer_options(options: Mapping[str, Any], settings: ConsumerSettings) -> dict[str, Any]:
    defaults: dict[str, Any] = {
        # One fetch serves all partitions of a broker: a resumed partition waits for the fetch in progress.
        "fetch_max_wait_ms": _FETCH_WAIT_MS,
        "max_partition_fetch_bytes": 1024 * 1024,
        "max_poll_interval_ms": 300_000,
        "isolation_level": "read_committed",
    }
    if settings.small_queue:
        defaults |= {
            "fetch_max_wait_ms": 500,
            "fetch_max_bytes": 4 * 1024 * 1024,
            "max_partition_fetch_bytes": 512 * 1024,
        }
    given = defaults | _chosen(options, _CONSUMER)
    # aiokafka's default is the session timeout: other members may drain for longer.
    given.setdefault("rebalance_timeout_ms", given["max_poll_interval_ms"])
    if "group_instance_id" in given:
        given["group_instance_id"] += settings.instance_suffix
    return given | {"group_id": settings.group, "enable_auto_commit": False, "auto_offset_reset": "none"}


def group_protocols(options: Mapping[str, Any]) -> tuple[str, ...]:
    """With which consumers join a group."""
    assignors = options.get("partition_assignment_strategy", (RoundRobinPartitionAssignor,))
    return tuple(assignor.name for assignor in assignors)


def reader_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Of a consumer that joins no group."""
    settings = ConsumerSettings(topic="", group="", small_queue=True)
    given = consumer_options({"fetch_max_wait_ms": _FETCH_WAIT_MS, **options}, settings)
    given.pop("group_instance_id", None)
    return given | {"group_id": None}


def producer_options(options: Mapping[str, Any], settings: ProducerSettings) -> dict[str, int]:
    """max_batch_size and max_request_size, in bytes."""
    given = {"max_batch_size": 256 * 1024, "max_request_size": LARGEST_RECORD} | _chosen(options, _PRODUCER)
    if settings.max_batch_bytes is not None:
        given["max_batch_size"] = settings.max_batch_bytes
    return given


def _chosen(options: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: options[name] for name in names if name in options}


def parsed_url(url: str) -> tuple[str, dict[str, Any]]:
    """The brokers and the options. Raises ConfigurationError."""
    return parse_url(url, "aiokafka", "option", ("sasl_plain_username", "sasl_plain_password"))
