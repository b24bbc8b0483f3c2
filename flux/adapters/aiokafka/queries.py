"""Requests of the admin, each as a coroutine on a connected client: topics, groups, permissions and offsets.

They raise KafkaError or BrokerError; the admin adds what was attempted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from aiokafka.client import CoordinationType
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment
from aiokafka.errors import (
    GroupCoordinatorNotAvailableError,
    IncompatibleBrokerVersion,
    KafkaError,
    TopicAlreadyExistsError,
)
from aiokafka.protocol.admin import CreateTopicsRequest, DescribeConfigsRequest
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.offset import OffsetRequest

from flux.adapters.aiokafka import codecs
from flux.adapters.aiokafka.connection import described
from flux.adapters.aiokafka.errors import error_for, fault_of
from flux.adapters.aiokafka.requests import (
    ConsumerGroupRequest,
    GroupPermissionsRequest,
    ListGroupsRequest,
    permitted_operations,
)
from flux.core.errors import BrokerError, Fault
from flux.core.ports import BEGINNING, END, GroupMember, NewTopic, TopicInfo, TopicPartition

DEAD = "Dead"
"""The state of a group that does not exist, or is not of the classic protocol."""

_ANY_REPLICA = -1
_NO_SUCH_GROUP = 69
_UNSUPPORTED_VERSION = 35
"""The answer of a broker that knows the request, while its cluster does not offer the protocol (Kafka 3.7 to 3.9)."""
_WITHOUT_MEMBERS = (DEAD, "Empty")
_RETRY = 0.2  # seconds between two attempts
_ONE_BATCH = 1  # bytes: a broker returns one batch, whatever its size


async def config_of(client: Any, node: int, kind: int, name: str) -> dict[str, str]:
    answer = await client.send(node, DescribeConfigsRequest([(kind, name, None)], False))
    [(code, _, _, _, entries)] = answer.resources
    raise_for(code)
    return {name: value for name, value, *_ in entries if value is not None}  # secrets have no value


async def controller_of(client: Any) -> int:
    if client.cluster.controller is None:
        await client.force_metadata_update()
    number: int = client.cluster.controller.nodeId
    return number


async def coordinator_of(client: Any, group: str) -> int:
    """Waits until there is one: a new cluster makes it at the first request. The caller limits the time."""
    while True:
        try:
            node: int = await client.coordinator_lookup(CoordinationType.GROUP, group)
        except GroupCoordinatorNotAvailableError:
            await asyncio.sleep(_RETRY)
        else:
            return node


async def broker_assigned_protocol(client: Any, node: int, group: str) -> str:
    """The protocol of a group that the classic protocol does not know; empty where the group does not exist or has no
    members."""
    try:
        answer = await client.send(node, ListGroupsRequest())
    except (IncompatibleBrokerVersion, NotImplementedError):  # a broker before 2.6, which has no other protocol
        return ""
    raise_for(answer.error_code)
    return next((kind for name, kind, state, _ in answer.groups if name == group and state not in _WITHOUT_MEMBERS), "")


async def broker_assigned_members(client: Any, node: int, group: str) -> list[GroupMember]:
    """The members of a group whose partitions the broker assigns (KIP-848)."""
    try:
        answer = await client.send(node, ConsumerGroupRequest(group))
    except (IncompatibleBrokerVersion, NotImplementedError):  # a broker before 3.7
        return []
    [(code, _, _, _, _, _, _, members, *_)] = answer.groups
    if code in (_NO_SUCH_GROUP, _UNSUPPORTED_VERSION):
        return []
    raise_for(code)
    return [
        GroupMember(
            member,
            client_id,
            host.lstrip("/"),
            tuple(sorted(TopicPartition(topic, n) for _, topic, numbers, _ in assigned for n in numbers)),
        )
        for member, _, _, _, client_id, host, _, _, (assigned, _), *_ in members
    ]


async def group_permissions(client: Any, group: str) -> frozenset[str] | None:
    try:
        node = await coordinator_of(client, group)
    except KafkaError as error:
        if fault_of(error) is Fault.DENIED:
            return frozenset()
        raise
    answer = await client.send(node, GroupPermissionsRequest(group))
    [(code, *_, bits)] = answer.groups
    return permitted(code, bits)


def permitted(code: int, bits: int) -> frozenset[str] | None:
    error = error_for(code)
    if error is None:
        return permitted_operations(bits)
    fault = fault_of(error)
    if fault is Fault.UNAVAILABLE:
        raise error
    return frozenset() if fault is Fault.DENIED else None


async def create_topic(client: Any, new: NewTopic, timeout: float) -> None:
    node = await controller_of(client)
    made: Any = (new.name, new.partitions, new.replication_factor, [], list(new.config.items()))
    request = CreateTopicsRequest([made], int(timeout * 1000), False)
    answer = await client.send(node, request)
    [(_, code, message)] = answer.topic_errors
    error = error_for(code)
    if error is not None and not isinstance(error, TopicAlreadyExistsError):
        raise type(error)(message) if message else error


async def partitions_by_leader(client: Any, topic: str) -> dict[int, list[int]]:
    """Partition numbers by the broker that leads them."""
    found = (await described(client, [topic]))[topic]
    if isinstance(found, BrokerError):
        raise found
    leaders: dict[int, list[int]] = {}
    for number, leader, _ in found:
        leaders.setdefault(leader, []).append(number)
    return leaders


READ_COMMITTED = 1


async def offsets_of(
    client: Any, topic: str, leaders: Mapping[int, list[int]], which: int, isolation: int = 0
) -> dict[int, int]:
    """Offsets by partition. `which`: a timestamp in ms, or BEGINNING or END, whose numbers are Kafka's own. -1 where no
    record is as new."""
    found: dict[int, int] = {}
    for leader, numbers in leaders.items():
        topics = [(topic, [(number, which) for number in numbers])]
        answer = await client.send(leader, OffsetRequest(_ANY_REPLICA, isolation, topics))
        [(_, partitions)] = answer.topics
        for number, code, *rest in partitions:
            raise_for(code)
            found[number] = rest[-1]
    return found


async def newest_codecs(client: Any, topic: str, leaders: Mapping[int, list[int]]) -> set[str]:
    """The compressions of each partition's last batch."""
    lows = await offsets_of(client, topic, leaders, BEGINNING)
    highs = await offsets_of(client, topic, leaders, END)
    found = set()
    for leader, numbers in leaders.items():
        for number in numbers:
            if highs[number] > lows[number]:
                # One partition a request: only the first gets a batch larger than the limit.
                newest = [(topic, [(number, highs[number] - 1, _ONE_BATCH)])]
                answer = await client.send(leader, FetchRequest(0, 0, _ONE_BATCH, 0, newest))
                [(_, [(_, code, *_, data)])] = answer.topics
                raise_for(code)
                found.add(codecs.codec_of(bytes(data or b"")))
    return {codec for codec in found if codec is not None}


def assigned_partitions(assignment: bytes) -> tuple[TopicPartition, ...]:
    if not assignment:
        return ()
    decoded = ConsumerProtocolMemberAssignment.decode(assignment)
    return tuple(sorted(TopicPartition(topic, number) for topic, numbers in decoded.assignment for number in numbers))


def topic_info(found: Any) -> TopicInfo | None:
    if isinstance(found, BrokerError):
        if found.fault is Fault.UNKNOWN_TOPIC:
            return None
        raise found
    return TopicInfo(len(found), max((len(replicas) for _, _, replicas in found), default=0))


def raise_for(code: int) -> None:
    error = error_for(code)
    if error is not None:
        raise error
