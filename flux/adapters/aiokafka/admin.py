"""Questions about a cluster, and the making of topics, by aiokafka."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from aiokafka.client import CoordinationType
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment
from aiokafka.errors import (
    GroupCoordinatorNotAvailableError,
    IncompatibleBrokerVersion,
    KafkaError,
    TopicAlreadyExistsError,
)
from aiokafka.protocol.admin import (
    CreateTopicsRequest,
    DeleteRecordsRequest,
    DeleteTopicsRequest,
    DescribeConfigsRequest,
    DescribeGroupsRequest,
)
from aiokafka.protocol.commit import OffsetCommitRequest, OffsetFetchRequest
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.offset import OffsetRequest

from flux.adapters.aiokafka import codecs
from flux.adapters.aiokafka.committed_metadata import ended, unended
from flux.adapters.aiokafka.connection import Connection, Topics, described
from flux.adapters.aiokafka.errors import error_for, fault_of, translated
from flux.adapters.aiokafka.event_loop_thread import EventLoopThread
from flux.adapters.aiokafka.log import ClientLog
from flux.adapters.aiokafka.requests import (
    AlterConfigsRequest,
    ConsumerGroupRequest,
    GroupPermissionsRequest,
    ListGroupsRequest,
    PermissionsRequest,
    operations,
)
from flux.core.errors import BrokerError, Fault
from flux.core.ports import (
    BEGINNING,
    END,
    CommittedOffset,
    GroupMember,
    GroupProtocol,
    NewTopic,
    Permissions,
    TopicInfo,
    TopicPartition,
    Watermarks,
)

Result = TypeVar("Result")

_TOPIC, _BROKER = 2, 4  # kinds of resources
_ANY_REPLICA = -1
_DEAD = "Dead"
_NO_SUCH_GROUP = 69
_NOBODY = (_DEAD, "Empty")
_CLOSING = 1.0  # seconds
_RETRIES = 3
_LOOK = 0.2  # seconds
_LEAST = 1  # bytes: one batch, whatever its size
_NO_GENERATION = -1  # of a commit from outside the group
_BROKERS_RETENTION = -1


class AiokafkaAdmin:
    """`flux.core.ports.AdminPort`. Thread-safe. One inherited by a child process raises BrokerError (FATAL).
    `protocols`: by which the adapter's consumers join a group."""

    def __init__(
        self, machine: EventLoopThread, client: Mapping[str, Any], log: ClientLog, protocols: tuple[str, ...] = ()
    ) -> None:
        self._machine = machine
        self._protocols = protocols
        self._options = client
        self._log = log
        self._connection: Connection | None = None

    def topic_names(self, timeout: float) -> set[str]:
        async def ask(client: Any) -> set[str]:
            return set(await described(client, None))

        return self._run(ask, timeout, "cannot list the topics", "DESCRIBE on the topics")

    def topics(self, names: Iterable[str], timeout: float) -> dict[str, TopicInfo | None]:
        wanted = list(dict.fromkeys(names))
        if not wanted:
            return {}

        async def ask(client: Any) -> Topics:
            return await described(client, wanted)

        found = self._run(ask, timeout, "cannot describe topics", "DESCRIBE on the topics")
        return {name: _info(found[name]) for name in wanted}

    def topic_config(self, topic: str, timeout: float) -> dict[str, str]:
        async def ask(client: Any) -> dict[str, str]:
            return await _config(client, client.get_random_node(), _TOPIC, topic)

        doing = f"cannot read the configuration of topic {topic}"
        return self._run(ask, timeout, doing, f"DESCRIBE_CONFIGS on topic {topic}")

    def set_topic_config(self, topic: str, config: Mapping[str, str], timeout: float) -> None:
        async def ask(client: Any) -> None:
            answer = await client.send(client.get_random_node(), AlterConfigsRequest(topic, config))
            [(code, message, _, _)] = answer.responses
            error = error_for(code)
            if error is not None:
                raise type(error)(message) if message else error

        doing = f"cannot change the configuration of topic {topic}"
        self._run(ask, timeout, doing, f"ALTER_CONFIGS on topic {topic}")

    def broker_configs(self, timeout: float) -> dict[int, dict[str, str]]:
        async def ask(client: Any) -> dict[int, dict[str, str]]:
            await client.force_metadata_update()
            numbers = sorted(broker.nodeId for broker in client.cluster.brokers())
            return {number: await _config(client, number, _BROKER, str(number)) for number in numbers}

        return self._run(
            ask, timeout, "cannot read the configuration of the brokers", "DESCRIBE_CONFIGS on the cluster"
        )

    def create_topics(self, topics: Sequence[NewTopic], timeout: float) -> None:
        for new in topics:
            doing, needs = f"cannot create topic {new.name}", f"CREATE on topic {new.name} or on the cluster"
            self._run(partial(_create, new=new, timeout=timeout), timeout, doing, needs)

    def delete_topics(self, names: Sequence[str], timeout: float) -> None:
        if not names:
            return

        async def ask(client: Any) -> None:
            request = DeleteTopicsRequest(list(names), int(timeout * 1000))
            answer = await client.send(await _controller(client), request)
            for _, code in answer.topic_error_codes:
                error = error_for(code)
                if error is not None and fault_of(error) is not Fault.UNKNOWN_TOPIC:
                    raise error

        self._run(ask, timeout, f"cannot delete {', '.join(names)}", "DELETE on the topics")

    def permissions(self, topics: Sequence[str], groups: Sequence[str], timeout: float) -> Permissions:
        async def ask(client: Any) -> Permissions:
            try:
                answer = await client.send(client.get_random_node(), PermissionsRequest(topics))
                of_topics = {name: _allowed(code, bits) for code, name, _, _, bits in answer.topics}
                of_groups = {group: await _on_group(client, group) for group in groups}
            except (IncompatibleBrokerVersion, NotImplementedError):  # a broker before 2.3
                return Permissions(dict.fromkeys(topics), dict.fromkeys(groups), None)
            return Permissions(of_topics, of_groups, operations(answer.authorized_operations))

        return self._run(ask, timeout, "cannot ask for permissions", "DESCRIBE")

    def committed_offsets(self, group: str, topic: str, timeout: float) -> dict[int, CommittedOffset]:
        async def ask(client: Any) -> dict[int, CommittedOffset]:
            node = await _coordinator(client, group)
            answer = await client.send(node, OffsetFetchRequest(group, None))
            _raise(getattr(answer, "error_code", 0))
            found: dict[int, CommittedOffset] = {}
            for name, partitions in answer.topics:
                for number, offset, metadata, code in partitions if name == topic else ():
                    _raise(code)
                    if offset >= 0:
                        found[number] = CommittedOffset(offset, unended(metadata))
            return found

        doing = f"cannot read the committed offsets of group {group}"
        return self._run(ask, timeout, doing, f"DESCRIBE on group {group}")

    def set_committed_offsets(
        self, group: str, topic: str, offsets: Mapping[int, CommittedOffset], timeout: float
    ) -> None:
        if not offsets:
            return

        async def ask(client: Any) -> None:
            partitions = [(number, offset, ended(metadata)) for number, (offset, metadata) in offsets.items()]
            node = await _coordinator(client, group)
            request = OffsetCommitRequest(group, _NO_GENERATION, "", _BROKERS_RETENTION, [(topic, partitions)])
            answer = await client.send(node, request)
            for _, results in answer.topics:
                for _, code in results:
                    _raise(code)

        doing = f"cannot set the committed offsets of group {group}"
        self._run(ask, timeout, doing, f"READ on group {group} and on topic {topic}")

    def members(self, group: str, timeout: float) -> list[GroupMember]:
        """Of the classic protocol: aiokafka has no request for members by the newer one (KIP-848), nor such members."""

        async def ask(client: Any) -> list[GroupMember]:
            node = await _coordinator(client, group)
            answer = await client.send(node, DescribeGroupsRequest([group]))
            [(code, _, state, _, _, members, *_)] = answer.groups
            _raise(code)
            if state == _DEAD:
                return await _new_members(client, node, group)
            return [
                GroupMember(member, client_id, host.lstrip("/"), _assigned(assignment))
                for member, client_id, host, _, assignment in members
            ]

        return self._run(ask, timeout, f"cannot describe group {group}", f"DESCRIBE on group {group}")

    def group_protocol(self, group: str, timeout: float) -> GroupProtocol:
        async def ask(client: Any) -> str:
            node = await _coordinator(client, group)
            answer = await client.send(node, DescribeGroupsRequest([group]))
            [(code, _, state, _, protocol, *_)] = answer.groups
            _raise(code)
            return await _new_protocol(client, node, group) if state == _DEAD else protocol or ""

        used = self._run(ask, timeout, f"cannot describe group {group}", f"DESCRIBE on group {group}")
        return GroupProtocol(used, self._protocols)

    def unreadable_codecs(self, topic: str, timeout: float) -> dict[str, str]:
        lacking = codecs.lacking()
        if not lacking:
            return {}

        async def ask(client: Any) -> dict[str, str]:
            leaders = await _leaders(client, topic)
            found = await _newest_codecs(client, topic, leaders)
            return {codec: lacking[codec] for codec in sorted(found) if codec in lacking}

        return self._run(ask, timeout, f"cannot read topic {topic}", f"READ on topic {topic}")

    def watermarks(self, topic: str, timeout: float) -> dict[int, Watermarks]:
        async def ask(client: Any) -> dict[int, Watermarks]:
            leaders = await _leaders(client, topic)
            marks = [await _offsets(client, topic, leaders, which) for which in (BEGINNING, END)]
            return {number: Watermarks(marks[0][number], marks[1][number]) for number in sorted(marks[0])}

        return self._run(ask, timeout, f"cannot read the offsets of topic {topic}", f"DESCRIBE on topic {topic}")

    def offsets_at(self, topic: str, timestamp_ms: int, timeout: float) -> dict[int, int]:
        async def ask(client: Any) -> dict[int, int]:
            leaders = await _leaders(client, topic)
            ends = await _offsets(client, topic, leaders, END)
            found = await _offsets(client, topic, leaders, timestamp_ms)
            return {number: ends[number] if found[number] < 0 else found[number] for number in sorted(ends)}

        return self._run(ask, timeout, f"cannot read the offsets of topic {topic}", f"DESCRIBE on topic {topic}")

    def delete_records(self, topic: str, before: Mapping[int, int], timeout: float) -> None:
        if not before:
            return

        async def ask(client: Any) -> None:
            for leader, numbers in (await _leaders(client, topic)).items():
                asked = [(number, before[number]) for number in numbers if number in before]
                if asked:
                    request = DeleteRecordsRequest([(topic, asked)], int(timeout * 1000))
                    answer = await client.send(leader, request)
                    for _, partitions, *_ in answer.topics:
                        for _, _, code, *_ in partitions:
                            _raise(code)

        self._run(ask, timeout, f"cannot delete records of topic {topic}", f"DELETE on topic {topic}")

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(TimeoutError):  # what is left of it ends with the process
                self._machine.run(connection.close, _CLOSING)

    def _run(self, ask: Callable[[Any], Coroutine[Any, Any, Result]], timeout: float, doing: str, needs: str) -> Result:
        async def asked() -> Result:
            if self._connection is None:
                self._connection = Connection(self._options)
            for attempt in range(_RETRIES):
                try:
                    return await ask(await self._connection.client())
                except KafkaError as error:
                    if attempt == _RETRIES - 1 or not error.retriable:
                        raise
                    await asyncio.sleep(_LOOK)
            raise AssertionError

        try:
            return self._machine.run(asked, timeout)
        except (KafkaError, BrokerError, TimeoutError) as error:
            raise self._log.judged(translated(error, doing, needs)) from None


async def _config(client: Any, node: int, kind: int, name: str) -> dict[str, str]:
    answer = await client.send(node, DescribeConfigsRequest([(kind, name, None)], False))
    [(code, _, _, _, entries)] = answer.resources
    _raise(code)
    return {name: value for name, value, *_ in entries if value is not None}  # a secret has no value


async def _controller(client: Any) -> int:
    if client.cluster.controller is None:
        await client.force_metadata_update()
    number: int = client.cluster.controller.nodeId
    return number


async def _coordinator(client: Any, group: str) -> int:
    """Waits for one that is being made, as a new cluster makes it when it is first asked for; the caller's time limit
    holds."""
    while True:
        try:
            node: int = await client.coordinator_lookup(CoordinationType.GROUP, group)
        except GroupCoordinatorNotAvailableError:
            await asyncio.sleep(_LOOK)
        else:
            return node


async def _new_protocol(client: Any, node: int, group: str) -> str:
    """Of a group that the classic protocol does not know; empty where there is none, or it has no members."""
    try:
        answer = await client.send(node, ListGroupsRequest())
    except (IncompatibleBrokerVersion, NotImplementedError):  # a broker before 2.6, which has no other protocol
        return ""
    _raise(answer.error_code)
    return next((kind for name, kind, state, _ in answer.groups if name == group and state not in _NOBODY), "")


async def _new_members(client: Any, node: int, group: str) -> list[GroupMember]:
    """Of a group whose partitions the broker assigns; none where there is no such group."""
    try:
        answer = await client.send(node, ConsumerGroupRequest(group))
    except (IncompatibleBrokerVersion, NotImplementedError):  # a broker before 3.7
        return []
    [(code, _, _, _, _, _, _, members, *_)] = answer.groups
    if code == _NO_SUCH_GROUP:
        return []
    _raise(code)
    return [
        GroupMember(
            member,
            client_id,
            host.lstrip("/"),
            tuple(sorted(TopicPartition(topic, n) for _, topic, numbers, _ in assigned for n in numbers)),
        )
        for member, _, _, _, client_id, host, _, _, (assigned, _), *_ in members
    ]


async def _on_group(client: Any, group: str) -> frozenset[str] | None:
    try:
        node = await _coordinator(client, group)
    except KafkaError as error:
        if fault_of(error) is Fault.DENIED:
            return frozenset()
        raise
    answer = await client.send(node, GroupPermissionsRequest(group))
    [(code, *_, bits)] = answer.groups
    return _allowed(code, bits)


def _allowed(code: int, bits: int) -> frozenset[str] | None:
    error = error_for(code)
    if error is None:
        return operations(bits)
    fault = fault_of(error)
    if fault is Fault.UNAVAILABLE:
        raise error
    return frozenset() if fault is Fault.DENIED else None


async def _create(client: Any, new: NewTopic, timeout: float) -> None:
    node = await _controller(client)
    made: Any = (new.name, new.partitions, new.replication_factor, [], list(new.config.items()))
    request = CreateTopicsRequest([made], int(timeout * 1000), False)
    answer = await client.send(node, request)
    [(_, code, message)] = answer.topic_errors
    error = error_for(code)
    if error is not None and not isinstance(error, TopicAlreadyExistsError):
        raise type(error)(message) if message else error


async def _leaders(client: Any, topic: str) -> dict[int, list[int]]:
    """The partitions of each broker."""
    found = (await described(client, [topic]))[topic]
    if isinstance(found, BrokerError):
        raise found
    leaders: dict[int, list[int]] = {}
    for number, leader, _ in found:
        leaders.setdefault(leader, []).append(number)
    return leaders


async def _offsets(client: Any, topic: str, leaders: Mapping[int, list[int]], which: int) -> dict[int, int]:
    """`which`: a timestamp, or BEGINNING or END, which are Kafka's own numbers for those that stand for them. -1 where
    no record is as new."""
    found: dict[int, int] = {}
    for leader, numbers in leaders.items():
        topics = [(topic, [(number, which) for number in numbers])]
        answer = await client.send(leader, OffsetRequest(_ANY_REPLICA, 0, topics))
        [(_, partitions)] = answer.topics
        for number, code, *rest in partitions:
            _raise(code)
            found[number] = rest[-1]
    return found


async def _newest_codecs(client: Any, topic: str, leaders: Mapping[int, list[int]]) -> set[str]:
    """Of each partition's last batch, as far as it is there."""
    lows = await _offsets(client, topic, leaders, BEGINNING)
    highs = await _offsets(client, topic, leaders, END)
    found = set()
    for leader, numbers in leaders.items():
        for number in numbers:
            if highs[number] > lows[number]:
                # one at a time: only the first of several gets a batch that is larger than what was asked for
                newest = [(topic, [(number, highs[number] - 1, _LEAST)])]
                answer = await client.send(leader, FetchRequest(0, 0, _LEAST, 0, newest))
                [(_, [(_, code, *_, data)])] = answer.topics
                _raise(code)
                found.add(codecs.codec_of(bytes(data or b"")))
    return {codec for codec in found if codec is not None}


def _assigned(assignment: bytes) -> tuple[TopicPartition, ...]:
    if not assignment:
        return ()
    decoded = ConsumerProtocolMemberAssignment.decode(assignment)
    return tuple(sorted(TopicPartition(topic, number) for topic, numbers in decoded.assignment for number in numbers))


def _info(found: Any) -> TopicInfo | None:
    if isinstance(found, BrokerError):
        if found.fault is Fault.UNKNOWN_TOPIC:
            return None
        raise found
    return TopicInfo(len(found), max((len(replicas) for _, _, replicas in found), default=0))


def _raise(code: int) -> None:
    error = error_for(code)
    if error is not None:
        raise error
