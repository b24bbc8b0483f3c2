"""Questions about a cluster, and the making of topics, by aiokafka."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from aiokafka.client import CoordinationType
from aiokafka.errors import KafkaError, TopicAlreadyExistsError
from aiokafka.protocol.admin import CreateTopicsRequest, DescribeConfigsRequest
from aiokafka.protocol.commit import OffsetFetchRequest
from aiokafka.protocol.offset import OffsetRequest

from flux.adapters.aiokafka.connection import Connection, Topics, described
from flux.adapters.aiokafka.errors import error_for, translated
from flux.adapters.aiokafka.log import ClientLog
from flux.adapters.aiokafka.machine import Machine
from flux.core.errors import BrokerError, Fault
from flux.core.ports import BEGINNING, END, NewTopic, Position, TopicInfo, Watermarks

Result = TypeVar("Result")

_TOPIC = 2  # a kind of resource
_ANY_REPLICA = -1
_RETRIES = 3


class AiokafkaAdmin:
    """`flux.core.ports.AdminPort`. Thread-safe. One inherited by a child process raises BrokerError (FATAL)."""

    def __init__(self, machine: Machine, client: Mapping[str, Any], log: ClientLog) -> None:
        self._machine = machine
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
            request = DescribeConfigsRequest([(_TOPIC, topic, None)], False)
            answer = await client.send(client.get_random_node(), request)
            [(code, _, _, _, entries)] = answer.resources
            _raise(code)
            return {name: value for name, value, *_ in entries if value is not None}

        doing = f"cannot read the configuration of topic {topic}"
        return self._run(ask, timeout, doing, f"DESCRIBE_CONFIGS on topic {topic}")

    def create_topics(self, topics: Sequence[NewTopic], timeout: float) -> None:
        for new in topics:
            doing, needs = f"cannot create topic {new.name}", f"CREATE on topic {new.name} or on the cluster"
            self._run(partial(_create, new=new, timeout=timeout), timeout, doing, needs)

    def positions(self, group: str, topic: str, timeout: float) -> dict[int, Position]:
        async def ask(client: Any) -> dict[int, Position]:
            node = await client.coordinator_lookup(CoordinationType.GROUP, group)
            answer = await client.send(node, OffsetFetchRequest(group, None))
            _raise(getattr(answer, "error_code", 0))
            found: dict[int, Position] = {}
            for name, partitions in answer.topics:
                for number, offset, metadata, code in partitions if name == topic else ():
                    _raise(code)
                    if offset >= 0:
                        found[number] = Position(offset, metadata or "")
            return found

        doing = f"cannot read the positions of group {group}"
        return self._run(ask, timeout, doing, f"DESCRIBE on group {group}")

    def watermarks(self, topic: str, timeout: float) -> dict[int, Watermarks]:
        async def ask(client: Any) -> dict[int, Watermarks]:
            found = (await described(client, [topic]))[topic]
            if isinstance(found, BrokerError):
                raise found
            leaders: dict[int, list[int]] = {}
            for number, leader, _ in found:
                leaders.setdefault(leader, []).append(number)
            marks = [await _offsets(client, topic, leaders, which) for which in (BEGINNING, END)]
            return {number: Watermarks(marks[0][number], marks[1][number]) for number in sorted(marks[0])}

        return self._run(ask, timeout, f"cannot read the offsets of topic {topic}", f"DESCRIBE on topic {topic}")

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._machine.run(connection.close, 5)

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
            raise AssertionError

        try:
            return self._machine.run(asked, timeout)
        except (KafkaError, BrokerError, TimeoutError) as error:
            translation = translated(error, doing, needs)
            raise BrokerError(self._log.masked(str(translation)), translation.fault) from None


async def _create(client: Any, new: NewTopic, timeout: float) -> None:
    if client.cluster.controller is None:
        await client.force_metadata_update()
    made: Any = (new.name, new.partitions, new.replication_factor, [], list(new.config.items()))
    request = CreateTopicsRequest([made], int(timeout * 1000), False)
    answer = await client.send(client.cluster.controller.nodeId, request)
    [(_, code, message)] = answer.topic_errors
    error = error_for(code)
    if error is not None and not isinstance(error, TopicAlreadyExistsError):
        raise type(error)(message) if message else error


async def _offsets(client: Any, topic: str, leaders: Mapping[int, list[int]], which: int) -> dict[int, int]:
    """`which`: BEGINNING or END, which are Kafka's own numbers for the timestamps that stand for them."""
    found: dict[int, int] = {}
    for leader, numbers in leaders.items():
        topics = [(topic, [(number, which) for number in numbers])]
        answer = await client.send(leader, OffsetRequest(_ANY_REPLICA, 0, topics))
        [(_, partitions)] = answer.topics
        for number, code, *rest in partitions:
            _raise(code)
            found[number] = rest[-1]
    return found


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
