"""How errors name operations and the permissions that they need: the same with each Kafka client."""

from __future__ import annotations

from typing import NamedTuple

from flux.core.errors import BrokerError, Fault


class Operation(NamedTuple):
    """`failed`: the beginning of an error's text; `needs`: the permission, in Kafka's words. In both, {topic} and
    {group} stand for names."""

    failed: str
    needs: str

    def of(self, topic: str = "", group: str = "") -> Operation:
        """The operation with the names filled in."""
        return Operation(*(text.format(topic=topic, group=group) for text in self))


LIST_TOPICS = Operation("cannot list the topics", "DESCRIBE on the topics")
READ_BROKER_CONFIG = Operation("cannot read the configuration of the brokers", "DESCRIBE_CONFIGS on the cluster")
READ_PERMISSIONS = Operation("cannot read the permissions", "DESCRIBE")
DESCRIBE_TOPIC = Operation("cannot describe topic {topic}", "DESCRIBE on topic {topic}")
READ_TOPIC_CONFIG = Operation("cannot read the configuration of topic {topic}", "DESCRIBE_CONFIGS on topic {topic}")
CHANGE_TOPIC_CONFIG = Operation("cannot change the configuration of topic {topic}", "ALTER_CONFIGS on topic {topic}")
CREATE_TOPIC = Operation("cannot create topic {topic}", "CREATE on topic {topic} or on the cluster")
READ_COMMITTED_OFFSETS = Operation("cannot read the committed offsets of group {group}", "DESCRIBE on group {group}")
SET_COMMITTED_OFFSETS = Operation(
    "cannot set the committed offsets of group {group}", "READ on group {group} and on topic {topic}"
)
DESCRIBE_GROUP = Operation("cannot describe group {group}", "DESCRIBE on group {group}")
READ_OFFSETS = Operation("cannot read the offsets of topic {topic}", "DESCRIBE on topic {topic}")
DELETE_RECORDS = Operation("cannot delete records of topic {topic}", "DELETE on topic {topic}")


def invalid_record(topic: str, error: Exception) -> BrokerError:
    """For a record that the client cannot encode."""
    return BrokerError(f"a record for topic {topic} is invalid: {error}")


def invalid_metadata(failed: str, error: Exception) -> BrokerError:
    """For a committed offset whose metadata the client cannot encode."""
    return BrokerError(f"{failed}: the metadata cannot be encoded ({error})", Fault.METADATA)
