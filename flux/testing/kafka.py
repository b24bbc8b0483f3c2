"""Kafka for tests: the configuration of a node, and a node in a container."""

from __future__ import annotations

import os
import random
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import attrs
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

IMAGE = "apache/kafka:4.3.0"

_SERVERS = range(20_000, 32_000)

USERS = {"boss": "the-boss's-secret", "guest": "a guest's secret+%&"}
"""The users of the secured listener, with passwords. The boss may do everything, the guest nothing."""


@attrs.frozen
class KafkaNode:
    bootstrap: str
    secured: str | None = None
    """The same cluster with SASL_PLAINTEXT and PLAIN for `USERS`, where there is such a listener."""
    source: str = "FLUX_TEST_BOOTSTRAP"
    """For messages: how this node was found, and which other way failed unexpectedly."""


class NoBroker(Exception):
    """A way to get a broker that does not work here. `surprising`: it looked as if it would."""

    def __init__(self, reason: str, surprising: bool = False) -> None:
        super().__init__(reason)
        self.surprising = surprising


def properties(
    host: str, bind: str, open_port: int, secured_port: int, controller_port: int, auto_create: bool = False
) -> dict[str, str]:
    """server.properties of one node that is broker and controller, with an open and a secured listener. `auto_create`:
    whether a write creates a missing topic."""
    users = " ".join(f'user_{name}="{secret}"' for name, secret in USERS.items())
    return {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@localhost:{controller_port}",
        "controller.listener.names": "CONTROLLER",
        "listeners": (
            f"PLAINTEXT://{bind}:{open_port},SASL_PLAINTEXT://{bind}:{secured_port},CONTROLLER://{bind}:{controller_port}"
        ),
        "advertised.listeners": f"PLAINTEXT://{host}:{open_port},SASL_PLAINTEXT://{host}:{secured_port}",
        "listener.security.protocol.map": ("PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT"),
        "sasl.enabled.mechanisms": "PLAIN",
        "listener.name.sasl_plaintext.plain.sasl.jaas.config": (
            f"org.apache.kafka.common.security.plain.PlainLoginModule required {users};"
        ),
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS;User:boss",
        "auto.create.topics.enable": str(auto_create).lower(),
        "group.initial.rebalance.delay.ms": "0",
        "offsets.topic.num.partitions": "8",
        "offsets.topic.replication.factor": "1",
        "transaction.state.log.num.partitions": "8",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
    }


def free_ports(count: int) -> list[int]:
    """Outside the range that connections come from, which would take one before its server starts, or while it is
    restarted: even a client that knocks on the port of a dead server may connect to itself there. Raises OSError."""
    found: list[int] = []
    for port in random.sample(_SERVERS, len(_SERVERS)):
        if len(found) == count:
            break
        with suppress(OSError), socket.socket() as each:
            each.bind(("127.0.0.1", port))
            found.append(port)
    if len(found) < count:
        raise OSError(f"fewer than {count} free ports from {_SERVERS[0]} to {_SERVERS[-1]}")
    return found


def answers(bootstrap: str, timeout: float) -> bool:
    """Whether the broker answers within `timeout` seconds."""
    until = time.monotonic() + timeout
    client = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    while time.monotonic() < until:
        try:
            if client.list_topics(timeout=1).brokers:
                return True
        except KafkaException:
            time.sleep(0.2)
    return False


@contextmanager
def container(auto_create: bool = False) -> Iterator[KafkaNode]:
    """A node of the image in FLUX_TEST_KAFKA_IMAGE. Raises NoBroker, which says what to install or start."""
    try:
        from testcontainers.core.config import testcontainers_config
        from testcontainers.core.container import DockerContainer
        from testcontainers.core.docker_client import DockerClient
    except ImportError:
        raise NoBroker("install super-flux[testcontainers] and start a Docker engine") from None
    try:
        host = DockerClient().host()
    except Exception:
        raise NoBroker("start a Docker engine") from None
    if "TESTCONTAINERS_RYUK_DISABLED" not in os.environ:
        # The session stops its container itself; the reaper would need one more image.
        testcontainers_config.ryuk_disabled = True

    image = os.environ.get("FLUX_TEST_KAFKA_IMAGE", IMAGE)
    # Clients connect to the advertised address: the port inside and outside must be the same.
    open_port, secured_port, controller_port = free_ports(3)
    kafka = DockerContainer(image).with_kwargs(auto_remove=True)
    for port in (open_port, secured_port):
        kafka.with_bind_ports(port, port)
    settings = properties(host, "", open_port, secured_port, controller_port, auto_create)
    for name, value in settings.items():
        kafka.with_env(_variable(name), value)
    try:
        kafka.start()
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise NoBroker(f"a Docker engine answers, but {image} does not start: {reason}", surprising=True) from None
    try:
        bootstrap = f"{host}:{open_port}"
        if not answers(bootstrap, 60):
            raise NoBroker(f"{image} runs, but does not answer at {bootstrap}", surprising=True)
        yield KafkaNode(bootstrap, f"{host}:{secured_port}", f"container of {image}")
    finally:
        kafka.stop()


def _variable(name: str) -> str:
    """The environment variable of a property: https://github.com/apache/kafka/blob/4.3.0/docker/docker_official_images"""
    return "KAFKA_" + name.replace("-", "___").replace("_", "__").replace(".", "_").upper()
