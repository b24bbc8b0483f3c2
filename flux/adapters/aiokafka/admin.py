"""The admin client by aiokafka: topics, groups, committed offsets and permissions."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from aiokafka.errors import IncompatibleBrokerVersion, KafkaError
from aiokafka.protocol.admin import DeleteRecordsRequest, DeleteTopicsRequest, DescribeGroupsRequest
from aiokafka.protocol.commit import OffsetCommitRequest, OffsetFetchRequest

from flux.adapters import operations
from flux.adapters.aiokafka import codecs, queries
from flux.adapters.aiokafka.commits import plain_metadata, terminated_metadata
from flux.adapters.aiokafka.connection import Connection, Topics, described
from flux.adapters.aiokafka.errors import error_for, fault_of, translated
from flux.adapters.aiokafka.event_loop_thread import EventLoopThread
from flux.adapters.aiokafka.log import ClientLog
from flux.adapters.aiokafka.requests import (
    AlterConfigsRequest,
    PermissionsRequest,
    permitted_operations,
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
    Watermarks,
)

Result = TypeVar("Result")

_TOPIC, _BROKER = 2, 4  # kinds of resources
_CLOSING = 1.0  # seconds
_ATTEMPTS = 3
_RETRY = 0.2  # seconds between two attempts
_NO_GENERATION = -1  # of a commit from outside the group
_BROKERS_RETENTION = -1


class AiokafkaAdmin:
    """`flux.core.ports.AdminPort`. Thread-safe. One inherited by a child process raises BrokerError (FATAL).
    `protocols`: with which the adapter's consumers join a group."""

    def __init__(
        self, loop_thread: EventLoopThread, client: Mapping[str, Any], log: ClientLog, protocols: tuple[str, ...] = ()
    ) -> None:
        self._loop_thread = loop_thread
        self._protocols = protocols
        self._options = client
        self._log = log
        self._connection: Connection | None = None

    def topic_names(self, timeout: float) -> set[str]:
        async def query(client: Any) -> set[str]:
            return set(await described(client, None))

        return self._run(query, timeout, *operations.LIST_TOPICS)

    def topics(self, names: Iterable[str], timeout: float) -> dict[str, TopicInfo | None]:
        wanted = list(dict.fromkeys(names))
        if not wanted:
            return {}

        async def query(client: Any) -> Topics:
            return await described(client, wanted)

        found = self._run(query, timeout, "cannot describe topics", "DESCRIBE on the topics")
        return {name: queries.topic_info(found[name]) for name in wanted}

    def topic_config(self, topic: str, timeout: float) -> dict[str, str]:
        async def query(client: Any) -> dict[str, str]:
            return await queries.config_of(client, client.get_random_node(), _TOPIC, topic)

        return self._run(query, timeout, *operations.READ_TOPIC_CONFIG.of(topic))

    def set_topic_config(self, topic: str, config: Mapping[str, str], timeout: float) -> None:
        async def query(client: Any) -> None:
            answer = await client.send(client.get_random_node(), AlterConfigsRequest(topic, config))
            [(code, message, _, _)] = answer.responses
            error = error_for(code)
            if error is not None:
                raise type(error)(message) if message else error

        self._run(query, timeout, *operations.CHANGE_TOPIC_CONFIG.of(topic))

    def broker_configs(self, timeout: float) -> dict[int, dict[str, str]]:
        async def query(client: Any) -> dict[int, dict[str, str]]:
            await client.force_metadata_update()
            numbers = sorted(broker.nodeId for broker in client.cluster.brokers())
            return {number: await queries.config_of(client, number, _BROKER, str(number)) for number in numbers}

        return self._run(query, timeout, *operations.READ_BROKER_CONFIG)

    def create_topics(self, topics: Sequence[NewTopic], timeout: float) -> None:
        for new in topics:
            query = partial(queries.create_topic, new=new, timeout=timeout)
            self._run(query, timeout, *operations.CREATE_TOPIC.of(new.name))

    def delete_topics(self, names: Sequence[str], timeout: float) -> None:
        if not names:
            return

        async def query(client: Any) -> None:
            request = DeleteTopicsRequest(list(names), int(timeout * 1000))
            answer = await client.send(await queries.controller_of(client), request)
            for _, code in answer.topic_error_codes:
                error = error_for(code)
                if error is not None and fault_of(error) is not Fault.UNKNOWN_TOPIC:
                    raise error

        self._run(query, timeout, f"cannot delete {', '.join(names)}", "DELETE on the topics")

    def permissions(self, topics: Sequence[str], groups: Sequence[str], timeout: float) -> Permissions:
        async def query(client: Any) -> Permissions:
            try:
                answer = await client.send(client.get_random_node(), PermissionsRequest(topics))
                of_topics = {name: queries.permitted(code, bits) for code, name, _, _, bits in answer.topics}
                of_groups = {group: await queries.group_permissions(client, group) for group in groups}
            except (IncompatibleBrokerVersion, NotImplementedError):  # a broker before 2.3
                return Permissions(dict.fromkeys(topics), dict.fromkeys(groups), None)
            return Permissions(of_topics, of_groups, permitted_operations(answer.authorized_operations))

        return self._run(query, timeout, *operations.READ_PERMISSIONS)

    def committed_offsets(self, group: str, topic: str, timeout: float) -> dict[int, CommittedOffset]:
        async def query(client: Any) -> dict[int, CommittedOffset]:
            node = await queries.coordinator_of(client, group)
            answer = await client.send(node, OffsetFetchRequest(group, None))
            queries.raise_for(getattr(answer, "error_code", 0))
            found: dict[int, CommittedOffset] = {}
            for name, partitions in answer.topics:
                for number, offset, metadata, code in partitions if name == topic else ():
                    queries.raise_for(code)
                    if offset >= 0:
                        found[number] = CommittedOffset(offset, plain_metadata(metadata))
            return found

        return self._run(query, timeout, *operations.READ_COMMITTED_OFFSETS.of(group=group))

    def set_committed_offsets(
        self, group: str, topic: str, offsets: Mapping[int, CommittedOffset], timeout: float
    ) -> None:
        if not offsets:
            return

        async def query(client: Any) -> None:
            partitions = [
                (number, offset, terminated_metadata(metadata)) for number, (offset, metadata) in offsets.items()
            ]
            node = await queries.coordinator_of(client, group)
            request = OffsetCommitRequest(group, _NO_GENERATION, "", _BROKERS_RETENTION, [(topic, partitions)])
            answer = await client.send(node, request)
            for _, results in answer.topics:
                for _, code in results:
                    queries.raise_for(code)

        self._run(query, timeout, *operations.SET_COMMITTED_OFFSETS.of(topic=topic, group=group))

    def members(self, group: str, timeout: float) -> list[GroupMember]:
        """Of the classic protocol: aiokafka has no request for members by the newer one (KIP-848), nor such members."""

        async def query(client: Any) -> list[GroupMember]:
            node = await queries.coordinator_of(client, group)
            answer = await client.send(node, DescribeGroupsRequest([group]))
            [(code, _, state, _, _, members, *_)] = answer.groups
            queries.raise_for(code)
            if state == queries.DEAD:
                return await queries.broker_assigned_members(client, node, group)
            return [
                GroupMember(member, client_id, host.lstrip("/"), queries.assigned_partitions(assignment))
                for member, client_id, host, _, assignment in members
            ]

        return self._run(query, timeout, *operations.DESCRIBE_GROUP.of(group=group))

    def group_protocol(self, group: str, timeout: float) -> GroupProtocol:
        async def query(client: Any) -> str:
            node = await queries.coordinator_of(client, group)
            answer = await client.send(node, DescribeGroupsRequest([group]))
            [(code, _, state, _, protocol, *_)] = answer.groups
            queries.raise_for(code)
            return (
                await queries.broker_assigned_protocol(client, node, group) if state == queries.DEAD else protocol or ""
            )

        used = self._run(query, timeout, *operations.DESCRIBE_GROUP.of(group=group))
        return GroupProtocol(used, self._protocols)

    def unreadable_codecs(self, topic: str, timeout: float) -> dict[str, str]:
        lacking = codecs.lacking()
        if not lacking:
            return {}

        async def query(client: Any) -> dict[str, str]:
            leaders = await queries.partitions_by_leader(client, topic)
            found = await queries.newest_codecs(client, topic, leaders)
            return {codec: lacking[codec] for codec in sorted(found) if codec in lacking}

        return self._run(query, timeout, f"cannot read topic {topic}", f"READ on topic {topic}")

    def watermarks(self, topic: str, timeout: float) -> dict[int, Watermarks]:
        async def query(client: Any) -> dict[int, Watermarks]:
            leaders = await queries.partitions_by_leader(client, topic)
            marks = [await queries.offsets_of(client, topic, leaders, which) for which in (BEGINNING, END)]
            return {number: Watermarks(marks[0][number], marks[1][number]) for number in sorted(marks[0])}

        return self._run(query, timeout, *operations.READ_OFFSETS.of(topic))

    def stable_offsets(self, topic: str, timeout: float) -> dict[int, int]:
        async def query(client: Any) -> dict[int, int]:
            leaders = await queries.partitions_by_leader(client, topic)
            return await queries.offsets_of(client, topic, leaders, END, queries.READ_COMMITTED)

        return self._run(query, timeout, *operations.READ_OFFSETS.of(topic))

    def offsets_at(self, topic: str, timestamp_ms: int, timeout: float) -> dict[int, int]:
        async def query(client: Any) -> dict[int, int]:
            leaders = await queries.partitions_by_leader(client, topic)
            ends = await queries.offsets_of(client, topic, leaders, END)
            found = await queries.offsets_of(client, topic, leaders, timestamp_ms)
            return {number: ends[number] if found[number] < 0 else found[number] for number in sorted(ends)}

        return self._run(query, timeout, *operations.READ_OFFSETS.of(topic))

    def delete_records(self, topic: str, before: Mapping[int, int], timeout: float) -> None:
        if not before:
            return

        async def query(client: Any) -> None:
            for leader, numbers in (await queries.partitions_by_leader(client, topic)).items():
                chosen = [(number, before[number]) for number in numbers if number in before]
                if chosen:
                    request = DeleteRecordsRequest([(topic, chosen)], int(timeout * 1000))
                    answer = await client.send(leader, request)
                    for _, partitions, *_ in answer.topics:
                        for _, _, code, *_ in partitions:
                            queries.raise_for(code)

        self._run(query, timeout, *operations.DELETE_RECORDS.of(topic))

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(TimeoutError):  # what does not close ends with the process
                self._loop_thread.run(connection.close, _CLOSING)

    def _run(
        self, query: Callable[[Any], Coroutine[Any, Any, Result]], timeout: float, doing: str, needs: str
    ) -> Result:
        async def attempts() -> Result:
            if self._connection is None:
                self._connection = Connection(self._options)
            for attempt in range(_ATTEMPTS):
                try:
                    return await query(await self._connection.client())
                except KafkaError as error:
                    if attempt == _ATTEMPTS - 1 or not error.retriable:
                        raise
                    await asyncio.sleep(_RETRY)
            raise AssertionError

        try:
            return self._loop_thread.run(attempts, timeout)
        except (KafkaError, BrokerError, TimeoutError) as error:
            raise self._log.judged(translated(error, doing, needs)) from None
