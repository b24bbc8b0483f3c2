"""How errors name operations and the permissions that they need: the same with each Kafka client."""

from __future__ import annotations

from typing import NamedTuple

from flux.core.errors import BrokerError, Fault


class Operation(NamedTuple):
    """`failed`: the beginning of an error's text; `needs`: by Kafka's names of operations and resources."""

    failed: str
    needs: str


LIST_TOPICS = Operation("cannot list the topics", "DESCRIBE on the topics")
READ_BROKER_CONFIG = Operation("cannot read the configuration of the brokers", "DESCRIBE_CONFIGS on the cluster")
READ_PERMISSIONS = Operation("cannot read the permissions", "DESCRIBE")


def describe_topic(topic: str) -> Operation:
    return Operation(f"cannot describe topic {topic}", f"DESCRIBE on topic {topic}")


def read_topic_config(topic: str) -> Operation:
    return Operation(f"cannot read the configuration of topic {topic}", f"DESCRIBE_CONFIGS on topic {topic}")


def change_topic_config(topic: str) -> Operation:
    return Operation(f"cannot change the configuration of topic {topic}", f"ALTER_CONFIGS on topic {topic}")


def create_topic(topic: str) -> Operation:
    return Operation(f"cannot create topic {topic}", f"CREATE on topic {topic} or on the cluster")


def read_committed_offsets(group: str) -> Operation:
    return Operation(f"cannot read the committed offsets of group {group}", f"DESCRIBE on group {group}")


def set_committed_offsets(group: str, topic: str) -> Operation:
    needs = f"READ on group {group} and on topic {topic}"
    return Operation(f"cannot set the committed offsets of group {group}", needs)


def describe_group(group: str) -> Operation:
    return Operation(f"cannot describe group {group}", f"DESCRIBE on group {group}")


def read_offsets(topic: str) -> Operation:
    return Operation(f"cannot read the offsets of topic {topic}", f"DESCRIBE on topic {topic}")


def delete_records(topic: str) -> Operation:
    return Operation(f"cannot delete records of topic {topic}", f"DELETE on topic {topic}")


def invalid_record(topic: str, error: Exception) -> BrokerError:
    """For a record that the client cannot encode."""
    return BrokerError(f"a record for topic {topic} is invalid: {error}")


def invalid_metadata(failed: str, error: Exception) -> BrokerError:
    """For a committed offset whose metadata the client cannot encode."""
    return BrokerError(f"{failed}: the metadata cannot be encoded ({error})", Fault.METADATA)
