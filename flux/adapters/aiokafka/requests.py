"""Requests that aiokafka lacks: what a login may do (KIP-430), changes of single settings (KIP-339), the states
of groups (KIP-518), and groups whose partitions the broker assigns (KIP-848). Of the first two every broker since 2.3
has these versions, of the third since 2.6.

Source: https://kafka.apache.org/protocol.html
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aiokafka.protocol.admin import DescribeGroupsResponse_v3
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    Array,
    Boolean,
    CompactArray,
    CompactString,
    Int8,
    Int16,
    Int32,
    Schema,
    String,
    TaggedFields,
)

_TEXT = String("utf-8")
_COMPACT_TEXT = CompactString("utf-8")
_TAGS = ("tags", TaggedFields)
"""The end of each structure in the versions that call themselves flexible (KIP-482)."""

OPERATIONS = {
    3: "READ",
    4: "WRITE",
    5: "CREATE",
    6: "DELETE",
    7: "ALTER",
    8: "DESCRIBE",
    9: "CLUSTER_ACTION",
    10: "DESCRIBE_CONFIGS",
    11: "ALTER_CONFIGS",
    12: "IDEMPOTENT_WRITE",
}
"""By their bit numbers."""
_NOT_REPORTED = -(2**31)


def _schema(**fields: Any) -> Schema:
    """Fields by name, in the order of the protocol."""
    return Schema(*fields.items())


def _array(**fields: Any) -> Array:
    return Array(*fields.items())


def _flexible(**fields: Any) -> Schema:
    return Schema(*fields.items(), _TAGS)


def _flexible_array(**fields: Any) -> CompactArray:
    return CompactArray(*fields.items(), _TAGS)


def permitted_operations(bits: int) -> frozenset[str] | None:
    """None where the broker does not report them."""
    return None if bits == _NOT_REPORTED else frozenset(name for bit, name in OPERATIONS.items() if bits >> bit & 1)


class _MetadataResponse(Response):  # type: ignore[misc]
    API_KEY = 3
    API_VERSION = 8
    SCHEMA = _schema(
        throttle_time_ms=Int32,
        brokers=_array(node_id=Int32, host=_TEXT, port=Int32, rack=_TEXT),
        cluster_id=_TEXT,
        controller_id=Int32,
        topics=_array(
            error_code=Int16,
            topic=_TEXT,
            is_internal=Boolean,
            partitions=_array(
                error_code=Int16,
                partition=Int32,
                leader=Int32,
                leader_epoch=Int32,
                replicas=Array(Int32),
                isr=Array(Int32),
                offline_replicas=Array(Int32),
            ),
            authorized_operations=Int32,
        ),
        authorized_operations=Int32,
    )


class _MetadataRequest(RequestStruct):  # type: ignore[misc]
    API_KEY = 3
    API_VERSION = 8
    RESPONSE_TYPE = _MetadataResponse
    SCHEMA = _schema(
        topics=Array(_TEXT),
        allow_auto_topic_creation=Boolean,
        include_cluster_authorized_operations=Boolean,
        include_topic_authorized_operations=Boolean,
    )


class PermissionsRequest(Request[_MetadataRequest]):  # type: ignore[misc]
    """On topics and on the cluster."""

    API_KEY = 3

    def __init__(self, topics: Sequence[str]) -> None:
        self._topics = list(topics)

    def build(self, struct: Any) -> Any:
        return struct(self._topics, False, True, True)


class _DescribeGroupsRequest(RequestStruct):  # type: ignore[misc]
    API_KEY = 15
    API_VERSION = 3
    RESPONSE_TYPE = DescribeGroupsResponse_v3
    SCHEMA = _schema(groups=Array(_TEXT), include_authorized_operations=Boolean)


class GroupPermissionsRequest(Request[_DescribeGroupsRequest]):  # type: ignore[misc]
    API_KEY = 15

    def __init__(self, group: str) -> None:
        self._group = group

    def build(self, struct: Any) -> Any:
        return struct([self._group], True)


class _ListGroupsResponse(Response):  # type: ignore[misc]
    API_KEY = 16
    API_VERSION = 4
    SCHEMA = _flexible(
        throttle_time_ms=Int32,
        error_code=Int16,
        groups=_flexible_array(group=_COMPACT_TEXT, protocol_type=_COMPACT_TEXT, group_state=_COMPACT_TEXT),
    )


class _ListGroupsRequest(RequestStruct):  # type: ignore[misc]
    API_KEY = 16
    API_VERSION = 4
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _ListGroupsResponse
    SCHEMA = _flexible(states_filter=CompactArray(_COMPACT_TEXT))


class ListGroupsRequest(Request[_ListGroupsRequest]):  # type: ignore[misc]
    """The groups of one broker, including those of the new protocols (KIP-848, KIP-932), which DescribeGroups reports
    as dead."""

    API_KEY = 16

    def build(self, struct: Any) -> Any:
        return struct([], {})


class _Uuid:
    @staticmethod
    def decode(data: Any) -> bytes:
        uuid: bytes = data.read(16)
        return uuid


_ASSIGNMENT = _flexible(
    topic_partitions=_flexible_array(topic_id=_Uuid, topic=_COMPACT_TEXT, partitions=CompactArray(Int32))
)


class _ConsumerGroupResponse(Response):  # type: ignore[misc]
    API_KEY = 69
    API_VERSION = 0
    SCHEMA = _flexible(
        throttle_time_ms=Int32,
        groups=_flexible_array(
            error_code=Int16,
            error_message=_COMPACT_TEXT,
            group=_COMPACT_TEXT,
            group_state=_COMPACT_TEXT,
            group_epoch=Int32,
            assignment_epoch=Int32,
            assignor=_COMPACT_TEXT,
            members=_flexible_array(
                member_id=_COMPACT_TEXT,
                instance_id=_COMPACT_TEXT,
                rack_id=_COMPACT_TEXT,
                member_epoch=Int32,
                client_id=_COMPACT_TEXT,
                client_host=_COMPACT_TEXT,
                subscribed_topic_names=CompactArray(_COMPACT_TEXT),
                subscribed_topic_regex=_COMPACT_TEXT,
                assignment=_ASSIGNMENT,
                target_assignment=_ASSIGNMENT,
            ),
            authorized_operations=Int32,
        ),
    )


class _ConsumerGroupRequest(RequestStruct):  # type: ignore[misc]
    API_KEY = 69
    API_VERSION = 0
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _ConsumerGroupResponse
    SCHEMA = _flexible(groups=CompactArray(_COMPACT_TEXT), include_authorized_operations=Boolean)


class ConsumerGroupRequest(Request[_ConsumerGroupRequest]):  # type: ignore[misc]
    API_KEY = 69

    def __init__(self, group: str) -> None:
        self._group = group

    def build(self, struct: Any) -> Any:
        return struct([self._group], False, {})


class _AlterConfigsResponse(Response):  # type: ignore[misc]
    API_KEY = 44
    API_VERSION = 0
    SCHEMA = _schema(
        throttle_time_ms=Int32,
        responses=_array(error_code=Int16, error_message=_TEXT, resource_type=Int8, resource_name=_TEXT),
    )


class _AlterConfigsRequest(RequestStruct):  # type: ignore[misc]
    API_KEY = 44
    API_VERSION = 0
    RESPONSE_TYPE = _AlterConfigsResponse
    SCHEMA = _schema(
        resources=_array(
            resource_type=Int8,
            resource_name=_TEXT,
            configs=_array(name=_TEXT, config_operation=Int8, value=_TEXT),
        ),
        validate_only=Boolean,
    )


class AlterConfigsRequest(Request[_AlterConfigsRequest]):  # type: ignore[misc]
    """Sets single settings of a topic."""

    API_KEY = 44
    _TOPIC = 2
    _SET = 0

    def __init__(self, topic: str, config: Mapping[str, str]) -> None:
        self._resources = [(self._TOPIC, topic, [(name, self._SET, value) for name, value in config.items()])]

    def build(self, struct: Any) -> Any:
        return struct(self._resources, False)
