"""The Kafka of a test, and the configuration of a node that tests start."""

from __future__ import annotations

import socket
import time

import attrs
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

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
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


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
