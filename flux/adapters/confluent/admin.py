"""The admin client by confluent-kafka: topics, groups, committed offsets and permissions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, suppress
from functools import partial
from typing import Any

import confluent_kafka
from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    OffsetSpec,
)
from confluent_kafka.admin import NewTopic as ClientNewTopic  # type: ignore[attr-defined]

from flux.adapters import operations
from flux.adapters.confluent.answers import Answers
from flux.adapters.confluent.commits import committed_offset_of, outside_consumer, raise_first_error
from flux.adapters.confluent.errors import fault_of
from flux.adapters.confluent.groups import Groups
from flux.adapters.confluent.log import ClientLog
from flux.core.errors import BrokerError, Fault
from flux.core.ports import (
    CommittedOffset,
    GroupMember,
    GroupProtocol,
    NewTopic,
    Permissions,
    System,
    TopicInfo,
    Watermarks,
)

_NO_OFFSET = -1  # librdkafka's answer when no record is as new as a timestamp


class ConfluentAdmin:
    """`flux.core.ports.AdminPort`. Thread-safe. `protocol`: with which the adapter's consumers join a group."""

    def __init__(
        self, properties: dict[str, Any], log: ClientLog, system: System, protocol: str = "cooperative-sticky"
    ) -> None:
        self._protocol = protocol
        self._now = system.monotonic
        self._answers = Answers(properties, log, system)
        self._groups = Groups(self._answers, self._now)

    @property
    def _client(self) -> Any:
        return self._answers.client

    def topic_names(self, timeout: float) -> set[str]:
        return set(self._answers.metadata(timeout).topics)

    def topics(self, names: Iterable[str], timeout: float) -> dict[str, TopicInfo | None]:
        found = self._described(names, timeout)
        return {
            name: None
            if topic is None
            else TopicInfo(len(topic.partitions), max((len(p.replicas) for p in topic.partitions.values()), default=0))
            for name, topic in found.items()
        }

    def topic_config(self, topic: str, timeout: float) -> dict[str, str]:
        resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
        return self._config(resource, timeout, operations.READ_TOPIC_CONFIG.of(topic))

    def set_topic_config(self, topic: str, config: Mapping[str, str], timeout: float) -> None:
        changes = [
            ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in config.items()
        ]
        resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=changes)
        futures = self._client.incremental_alter_configs([resource], request_timeout=timeout)
        self._answers.answer(futures[resource], timeout, *operations.CHANGE_TOPIC_CONFIG.of(topic))

    def broker_configs(self, timeout: float) -> dict[int, dict[str, str]]:
        numbers = sorted(self._answers.metadata(timeout).brokers)
        # librdkafka takes one broker a call.
        resources = [ConfigResource(ConfigResource.Type.BROKER, str(number)) for number in numbers]
        configs = [self._config(resource, timeout, operations.READ_BROKER_CONFIG) for resource in resources]
        return dict(zip(numbers, configs, strict=True))

    def create_topics(self, topics: Sequence[NewTopic], timeout: float) -> None:
        if not topics:
            return
        new = [ClientNewTopic(t.name, t.partitions, t.replication_factor, config=dict(t.config)) for t in topics]
        futures = self._client.create_topics(new, operation_timeout=timeout, request_timeout=timeout)
        for name, future in futures.items():
            try:
                self._answers.result(future, timeout)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise self._answers.translated(error, *operations.CREATE_TOPIC.of(name)) from None

    def delete_topics(self, names: Sequence[str], timeout: float) -> None:
        if not names:
            return
        futures = self._client.delete_topics(list(names), operation_timeout=timeout, request_timeout=timeout)
        for name, future in futures.items():
            try:
                self._answers.answer(future, timeout, f"cannot delete topic {name}", f"DELETE on topic {name}")
            except BrokerError as error:
                if error.fault is not Fault.UNKNOWN_TOPIC:
                    raise

    def permissions(self, topics: Sequence[str], groups: Sequence[str], timeout: float) -> Permissions:
        options = {"include_authorized_operations": True, "request_timeout": timeout}
        futures = self._client.describe_topics(TopicCollection(list(topics)), **options) if topics else {}
        of_topics = {
            name: self._allowed(partial(self._answers.result, future, timeout)) for name, future in futures.items()
        }
        described = partial(self._groups.description, timeout=timeout, include_authorized_operations=True)
        of_groups = {name: self._allowed(partial(described, name)) for name in groups}
        cluster = self._allowed(partial(self._answers.result, self._client.describe_cluster(**options), timeout))
        return Permissions(of_topics, of_groups, cluster)

    def committed_offsets(self, group: str, topic: str, timeout: float) -> dict[int, CommittedOffset]:
        described = self._topic(topic, timeout)
        if described is None:
            return {}
        partitions = [confluent_kafka.TopicPartition(topic, number) for number in described.partitions]
        try:
            with self._outside_consumer(group, partitions, timeout) as (_, committed):
                found = {p.partition: committed_offset_of(p) for p in committed}
        except KafkaException as error:
            raise self._answers.translated(error, *operations.READ_COMMITTED_OFFSETS.of(group=group)) from None
        return {number: offset for number, offset in found.items() if offset is not None}

    def set_committed_offsets(
        self, group: str, topic: str, offsets: Mapping[int, CommittedOffset], timeout: float
    ) -> None:
        if not offsets:
            return
        operation = operations.SET_COMMITTED_OFFSETS.of(topic=topic, group=group)
        to_commit = [
            confluent_kafka.TopicPartition(topic, number, offset, metadata)
            for number, (offset, metadata) in offsets.items()
        ]
        try:
            # A synchronous commit has no time limit; the read before it, which reaches the same broker, has one.
            with self._outside_consumer(group, to_commit, timeout) as (consumer, _):
                raise_first_error(consumer.commit(offsets=to_commit, asynchronous=False))
        except KafkaException as error:
            raise self._answers.translated(error, *operation) from None
        except ValueError as error:
            raise operations.invalid_metadata(operation.failed, error) from None

    def _outside_consumer(
        self, group: str, partitions: list[Any], timeout: float
    ) -> AbstractContextManager[tuple[Any, list[Any]]]:
        # A consumer with the id of a static member would be fenced.
        properties = {name: value for name, value in self._answers.properties.items() if name != "group.instance.id"}
        return outside_consumer(properties, group, partitions, timeout, self._now, self._client.poll)

    def members(self, group: str, timeout: float) -> list[GroupMember]:
        return self._groups.members(group, timeout)

    def unreadable_codecs(self, topic: str, timeout: float) -> Mapping[str, str]:
        """None: librdkafka has all of them."""
        return {}

    def group_protocol(self, group: str, timeout: float) -> GroupProtocol:
        return GroupProtocol(self._groups.protocol(group, timeout), (self._protocol,))

    def watermarks(self, topic: str, timeout: float) -> dict[int, Watermarks]:
        described = self._topic(topic, timeout)
        if described is None:
            raise BrokerError(f"cannot read the offsets of topic {topic}: it does not exist", Fault.UNKNOWN_TOPIC)
        numbers = list(described.partitions)
        earliest, latest = OffsetSpec.earliest(), OffsetSpec.latest()  # type: ignore[no-untyped-call]
        low, high = self._offsets(topic, [dict.fromkeys(numbers, spec) for spec in (earliest, latest)], timeout)
        return {number: Watermarks(low[number], high[number]) for number in sorted(low)}

    def stable_offsets(self, topic: str, timeout: float) -> dict[int, int]:
        latest = dict.fromkeys(self.watermarks(topic, timeout), OffsetSpec.latest())  # type: ignore[no-untyped-call]
        return self._offsets(topic, [latest], timeout, isolation_level=IsolationLevel.READ_COMMITTED)[0]

    def offsets_at(self, topic: str, timestamp_ms: int, timeout: float) -> dict[int, int]:
        ends = {number: mark.high for number, mark in self.watermarks(topic, timeout).items()}
        [found] = self._offsets(topic, [dict.fromkeys(ends, OffsetSpec.for_timestamp(timestamp_ms))], timeout)
        return {number: ends[number] if offset == _NO_OFFSET else offset for number, offset in sorted(found.items())}

    def delete_records(self, topic: str, before: Mapping[int, int], timeout: float) -> None:
        if not before:
            return
        partitions = [confluent_kafka.TopicPartition(topic, number, offset) for number, offset in before.items()]
        futures = self._client.delete_records(partitions, request_timeout=timeout, operation_timeout=timeout)
        for at, future in futures.items():
            failed, needs = operations.DELETE_RECORDS.of(topic)
            self._answers.answer(future, timeout, f"{failed}[{at.partition}]", needs)

    def close(self) -> None:
        self._answers.close()

    # -- requests

    def _described(self, names: Iterable[str], timeout: float) -> Mapping[str, Any]:
        """None where a topic does not exist. Not by `describe_topics`: confluent-kafka 2.16 never frees the topic's id,
        and the lag of a stage is read every few seconds."""
        until = self._now() + timeout
        return {name: self._topic(name, max(until - self._now(), 0)) for name in dict.fromkeys(names)}

    def _topic(self, name: str, timeout: float) -> Any:
        found = self._answers.metadata(timeout, name).topics[name]
        if found.error is None:
            return found
        error = self._answers.translated(KafkaException(found.error), *operations.DESCRIBE_TOPIC.of(name))
        if error.fault is Fault.UNKNOWN_TOPIC:
            return None
        raise error

    def _config(self, resource: Any, timeout: float, operation: operations.Operation) -> dict[str, str]:
        [future] = self._client.describe_configs([resource], request_timeout=timeout).values()
        entries = self._answers.answer(future, timeout, *operation)
        return {
            name: entry.value for name, entry in entries.items() if entry.value is not None and not entry.is_sensitive
        }

    def _allowed(self, describe: Callable[[], Any]) -> frozenset[str] | None:
        try:
            allowed = describe().authorized_operations
        except KafkaException as error:
            fault = fault_of(error.args[0])
            if fault is Fault.UNAVAILABLE:
                raise self._answers.translated(error, *operations.READ_PERMISSIONS) from None
            return frozenset() if fault is Fault.DENIED else None
        return None if allowed is None else frozenset(operation.name for operation in allowed)

    def _offsets(
        self, topic: str, specs: Sequence[Mapping[int, Any]], timeout: float, **options: Any
    ) -> list[dict[int, int]]:
        """For each of `specs`, by partition; -1 where no record is as new as a timestamp."""
        requests = [
            self._client.list_offsets(
                {confluent_kafka.TopicPartition(topic, number): spec for number, spec in each.items()},
                request_timeout=timeout,
                **options,
            )
            for each in specs
        ]
        try:
            return [
                {
                    p.partition: self._offset(future, timeout, operations.READ_OFFSETS.of(topic))
                    for p, future in futures.items()
                }
                for futures in requests
            ]
        except BrokerError as error:
            if error.retriable:
                # librdkafka uses the leaders that it knows, and does not look for others when they refuse.
                with suppress(BrokerError):
                    self._answers.metadata(timeout)
            raise

    def _offset(self, future: Future[Any], timeout: float, operation: operations.Operation) -> int:
        offset: int = self._answers.answer(future, timeout, *operation).offset
        if offset < _NO_OFFSET:  # librdkafka's answer when this leader did not answer, but others did
            raise BrokerError(f"{operation.failed}: the leader of a partition is unavailable", Fault.UNAVAILABLE)
        return offset
