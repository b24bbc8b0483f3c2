"""Questions about a cluster, and the making of topics, by confluent-kafka."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import confluent_kafka
from confluent_kafka import Consumer, ConsumerGroupType, KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    OffsetSpec,
)
from confluent_kafka.admin import NewTopic as ClientNewTopic  # type: ignore[attr-defined]

from flux.adapters.confluent.consumer import position_of
from flux.adapters.confluent.errors import fault_of
from flux.adapters.confluent.log import ClientLog, logger
from flux.core.errors import BrokerError, Fault
from flux.core.ports import (
    CommittedOffset,
    GroupMember,
    GroupProtocol,
    NewTopic,
    Permissions,
    System,
    TopicInfo,
    TopicPartition,
    Watermarks,
)

_NONE = -1  # an answer: no record is as new as that
_LOOK = 0.2  # seconds between two looks at whether the login was refused


_MOVING = {
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError._WAIT_COORD,
    KafkaError._TIMED_OUT,
}
_SHARE = 0.3
"""Of a time limit: a client that was told of a coordinator that is none yet asks that one to the end."""


class ConfluentAdmin:
    """`flux.core.ports.AdminPort`. Thread-safe. `protocol`: by which the adapter's consumers join a group."""

    def __init__(
        self, properties: dict[str, Any], log: ClientLog, system: System, protocol: str = "cooperative-sticky"
    ) -> None:
        self._log = log
        self._protocol = protocol
        self._now = system.monotonic
        self._users_error_cb = properties.get("error_cb")
        self._login: BrokerError | None = None
        self._properties = {"logger": log} | properties | {"error_cb": self._on_error}
        self._client: Any = AdminClient(self._properties)
        self._properties.pop("group.instance.id", None)  # a member of that name would be fenced

    def topic_names(self, timeout: float) -> set[str]:
        return set(self._metadata(timeout).topics)

    def topics(self, names: Iterable[str], timeout: float) -> dict[str, TopicInfo | None]:
        found = self._described(names, timeout)
        return {
            name: None
            if topic is None
            else TopicInfo(len(topic.partitions), max((len(p.replicas) for p in topic.partitions), default=0))
            for name, topic in found.items()
        }

    def topic_config(self, topic: str, timeout: float) -> dict[str, str]:
        resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
        doing, needs = f"cannot read the configuration of topic {topic}", f"DESCRIBE_CONFIGS on topic {topic}"
        return self._config(resource, timeout, doing, needs)

    def set_topic_config(self, topic: str, config: Mapping[str, str], timeout: float) -> None:
        changes = [
            ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in config.items()
        ]
        resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=changes)
        asked = self._client.incremental_alter_configs([resource], request_timeout=timeout)
        doing, needs = f"cannot change the configuration of topic {topic}", f"ALTER_CONFIGS on topic {topic}"
        self._answer(asked[resource], timeout, doing, needs)

    def broker_configs(self, timeout: float) -> dict[int, dict[str, str]]:
        numbers = sorted(self._metadata(timeout).brokers)
        doing, needs = "cannot read the configuration of the brokers", "DESCRIBE_CONFIGS on the cluster"
        # librdkafka takes one broker a call.
        resources = [ConfigResource(ConfigResource.Type.BROKER, str(number)) for number in numbers]
        return {
            number: self._config(resource, timeout, doing, needs)
            for number, resource in zip(numbers, resources, strict=True)
        }

    def create_topics(self, topics: Sequence[NewTopic], timeout: float) -> None:
        if not topics:
            return
        new = [ClientNewTopic(t.name, t.partitions, t.replication_factor, config=dict(t.config)) for t in topics]
        asked = self._client.create_topics(new, operation_timeout=timeout, request_timeout=timeout)
        for name, future in asked.items():
            try:
                self._result(future, timeout)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise self._translated(
                        error, f"cannot create topic {name}", f"CREATE on topic {name} or on the cluster"
                    ) from None

    def delete_topics(self, names: Sequence[str], timeout: float) -> None:
        if not names:
            return
        asked = self._client.delete_topics(list(names), operation_timeout=timeout, request_timeout=timeout)
        for name, future in asked.items():
            try:
                self._answer(future, timeout, f"cannot delete topic {name}", f"DELETE on topic {name}")
            except BrokerError as error:
                if error.fault is not Fault.UNKNOWN_TOPIC:
                    raise

    def permissions(self, topics: Sequence[str], groups: Sequence[str], timeout: float) -> Permissions:
        options = {"include_authorized_operations": True, "request_timeout": timeout}
        asked = self._client.describe_topics(TopicCollection(list(topics)), **options) if topics else {}
        of_topics = {name: self._allowed(partial(self._result, future, timeout)) for name, future in asked.items()}
        of_groups = {name: self._allowed(partial(self._group, name, timeout, **options)) for name in groups}
        whole = self._client.describe_cluster(**options)
        return Permissions(of_topics, of_groups, self._allowed(partial(self._result, whole, timeout)))

    def committed_offsets(self, group: str, topic: str, timeout: float) -> dict[int, CommittedOffset]:
        doing, needs = f"cannot read the committed offsets of group {group}", f"DESCRIBE on group {group}"
        described = self._described([topic], timeout)[topic]
        if described is None:
            return {}
        partitions = [confluent_kafka.TopicPartition(topic, p.id) for p in described.partitions]
        try:
            with self._outsider(group, partitions, timeout) as (_, committed):
                offsets = {p.partition: position_of(p) for p in committed}
        except KafkaException as error:
            raise self._translated(error, doing, needs) from None
        return {number: position for number, position in offsets.items() if position is not None}

    def set_committed_offsets(
        self, group: str, topic: str, offsets: Mapping[int, CommittedOffset], timeout: float
    ) -> None:
        if not offsets:
            return
        doing, needs = (
            f"cannot set the committed offsets of group {group}",
            f"READ on group {group} and on topic {topic}",
        )
        theirs = [
            confluent_kafka.TopicPartition(topic, number, offset, metadata)
            for number, (offset, metadata) in offsets.items()
        ]
        try:
            # A commit that waits has no limit of the caller's; the question before it goes the same way, and has one.
            with self._outsider(group, theirs, timeout) as (outsider, _):
                _raise_first_error(outsider.commit(offsets=theirs, asynchronous=False))
        except KafkaException as error:
            raise self._translated(error, doing, needs) from None
        except ValueError as error:
            raise BrokerError(f"{doing}: the metadata is no text for Kafka ({error})", Fault.METADATA) from None

    def members(self, group: str, timeout: float) -> list[GroupMember]:
        found = self._described_group(group, timeout)
        if found is None:
            return []
        return [
            GroupMember(
                member.member_id,
                member.client_id,
                member.host.lstrip("/"),
                tuple(sorted(TopicPartition(p.topic, p.partition) for p in member.assignment.topic_partitions)),
            )
            for member in found.members
        ]

    def unreadable_codecs(self, topic: str, timeout: float) -> Mapping[str, str]:
        """librdkafka brings them all."""
        return {}

    def group_protocol(self, group: str, timeout: float) -> GroupProtocol:
        found = self._described_group(group, timeout)
        if found is None or not found.members:
            used = ""
        elif found.type is ConsumerGroupType.CONSUMER:
            used = "consumer"
        else:
            used = found.partition_assignor or ""
        return GroupProtocol(used, (self._protocol,))

    @contextmanager
    def _outsider(self, group: str, partitions: list[Any], timeout: float) -> Iterator[tuple[Any, list[Any]]]:
        """A consumer that never joins the group, and what the group has committed. Not the admin client: while a
        group's coordinator is being found, librdkafka 2.16 goes from its question to a consumer that an admin client
        does not have, and the process dies. Raises KafkaException."""
        until = self._now() + timeout
        while True:
            made = Consumer({**self._properties, "group.id": group, "enable.auto.commit": False})
            try:
                try:
                    committed = made.committed(partitions, max(min(timeout * _SHARE, until - self._now()), 0.001))
                    _raise_first_error(committed)
                except KafkaException as error:
                    if error.args[0].code() not in _MOVING or self._now() + _LOOK > until:
                        raise
                    self._client.poll(_LOOK)
                    continue
                yield made, committed
                return
            finally:
                made.close()

    def watermarks(self, topic: str, timeout: float) -> dict[int, Watermarks]:
        described = self._described([topic], timeout)[topic]
        if described is None:
            raise BrokerError(f"cannot read the offsets of topic {topic}: it does not exist", Fault.UNKNOWN_TOPIC)
        numbers = [p.id for p in described.partitions]
        earliest, latest = OffsetSpec.earliest(), OffsetSpec.latest()  # type: ignore[no-untyped-call]
        low, high = self._offsets(topic, [dict.fromkeys(numbers, spec) for spec in (earliest, latest)], timeout)
        return {number: Watermarks(low[number], high[number]) for number in sorted(low)}

    def offsets_at(self, topic: str, timestamp_ms: int, timeout: float) -> dict[int, int]:
        ends = {number: mark.high for number, mark in self.watermarks(topic, timeout).items()}
        [found] = self._offsets(topic, [dict.fromkeys(ends, OffsetSpec.for_timestamp(timestamp_ms))], timeout)
        return {number: ends[number] if offset == _NONE else offset for number, offset in sorted(found.items())}

    def delete_records(self, topic: str, before: Mapping[int, int], timeout: float) -> None:
        if not before:
            return
        theirs = [confluent_kafka.TopicPartition(topic, number, offset) for number, offset in before.items()]
        asked = self._client.delete_records(theirs, request_timeout=timeout, operation_timeout=timeout)
        for at, future in asked.items():
            self._answer(
                future, timeout, f"cannot delete records of {topic}[{at.partition}]", f"DELETE on topic {topic}"
            )

    def close(self) -> None:
        """confluent-kafka frees the client when nothing refers to it any more."""
        self._client = None

    # -- answers

    def _metadata(self, timeout: float) -> Any:
        # A refused login is heard of between two questions only, so each waits longer than the one before.
        until, slice_ = self._now() + timeout, 1.0
        while True:
            left = until - self._now()
            try:
                found = self._client.list_topics(timeout=max(min(slice_, left), 0.001))
            except KafkaException as error:
                self._client.poll(0)
                if self._login is not None or left <= slice_ or fault_of(error.args[0]) is not Fault.UNAVAILABLE:
                    raise self._translated(error, "cannot list the topics", "DESCRIBE on the topics") from None
            else:
                self._log.authentication.accepted()
                return found
            slice_ *= 2

    def _described(self, names: Iterable[str], timeout: float) -> Mapping[str, Any]:
        wanted = list(dict.fromkeys(names))
        if not wanted:
            return {}
        found: dict[str, Any] = {}
        asked = self._client.describe_topics(TopicCollection(wanted), request_timeout=timeout)
        for name, future in asked.items():
            try:
                found[name] = self._result(future, timeout)
            except KafkaException as error:
                if fault_of(error.args[0]) is not Fault.UNKNOWN_TOPIC:
                    raise self._translated(
                        error, f"cannot describe topic {name}", f"DESCRIBE on topic {name}"
                    ) from None
                found[name] = None
        return found

    def _config(self, resource: Any, timeout: float, doing: str, needs: str) -> dict[str, str]:
        [future] = self._client.describe_configs([resource], request_timeout=timeout).values()
        entries = self._answer(future, timeout, doing, needs)
        return {
            name: entry.value for name, entry in entries.items() if entry.value is not None and not entry.is_sensitive
        }

    def _described_group(self, group: str, timeout: float) -> Any:
        """None where there is no such group."""
        try:
            return self._group(group, timeout, request_timeout=timeout)
        except KafkaException as error:
            if error.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND:
                return None
            raise self._translated(error, f"cannot describe group {group}", f"DESCRIBE on group {group}") from None

    def _group(self, group: str, timeout: float, **options: Any) -> Any:
        until = self._now() + timeout
        while True:
            try:
                return self._result(self._client.describe_consumer_groups([group], **options)[group], timeout)
            except KafkaException as error:
                # Unlike its consumers, librdkafka's admin does not wait for a coordinator that is being made.
                if fault_of(error.args[0]) is not Fault.UNAVAILABLE or self._now() + _LOOK > until:
                    raise
                self._client.poll(_LOOK)

    def _allowed(self, describe: Callable[[], Any]) -> frozenset[str] | None:
        try:
            operations = describe().authorized_operations
        except KafkaException as error:
            fault = fault_of(error.args[0])
            if fault is Fault.UNAVAILABLE:
                raise self._translated(error, "cannot ask for permissions", "DESCRIBE") from None
            return frozenset() if fault is Fault.DENIED else None
        return None if operations is None else frozenset(operation.name for operation in operations)

    def _answer(self, future: Future[Any], timeout: float, doing: str, needs: str) -> Any:
        try:
            return self._result(future, timeout)
        except KafkaException as error:
            raise self._translated(error, doing, needs) from None

    def _offsets(self, topic: str, specs: Sequence[Mapping[int, Any]], timeout: float) -> list[dict[int, int]]:
        """For each of `specs`, by partition; -1 where no record is as new as a timestamp."""
        doing, needs = f"cannot read the offsets of topic {topic}", f"DESCRIBE on topic {topic}"
        asked = [
            self._client.list_offsets(
                {confluent_kafka.TopicPartition(topic, number): spec for number, spec in each.items()},
                request_timeout=timeout,
            )
            for each in specs
        ]
        try:
            return [
                {p.partition: self._offset(future, timeout, doing, needs) for p, future in futures.items()}
                for futures in asked
            ]
        except BrokerError as error:
            if error.retriable:
                # It asks the leaders that it knows, and does not learn of others by being refused.
                with suppress(BrokerError):
                    self._metadata(timeout)
            raise

    def _offset(self, future: Future[Any], timeout: float, doing: str, needs: str) -> int:
        offset: int = self._answer(future, timeout, doing, needs).offset
        if offset < _NONE:  # how librdkafka tells of a leader that did not answer, when others did
            raise BrokerError(f"{doing}: the leader of a partition is away", Fault.UNAVAILABLE)
        return offset

    def _result(self, future: Future[Any], timeout: float) -> Any:
        """Raises LOGIN as soon as the login is refused: the question itself would only time out."""
        until = self._now() + timeout + 1  # librdkafka's own limit comes first
        while not wait([future], _LOOK).done:
            self._client.poll(0)
            if refused := self._refused():
                raise refused
            if self._now() > until:
                raise BrokerError(f"no answer within {timeout:g} s", Fault.UNAVAILABLE)
        self._client.poll(0)
        found = future.result()
        self._log.authentication.accepted()
        return found

    def _on_error(self, error: KafkaError) -> None:
        try:
            self._login = self._log.refusal(error, "cannot log in") or self._login
            if self._users_error_cb is not None:
                self._users_error_cb(error)
        except Exception:
            logger.exception("an error callback failed")

    def _translated(self, error: KafkaException, doing: str, needs: str) -> BrokerError:
        translation = self._log.translated(error.args[0], doing, needs)
        return (self._refused() if translation.retriable else None) or translation

    def _refused(self) -> BrokerError | None:
        """The login's refusal since the last question that it answered: it may be taken again by the next one."""
        login, self._login = self._login, None
        return None if self._log.authentication.worked else login


def _raise_first_error(partitions: Iterable[Any]) -> None:
    for partition in partitions:
        if partition.error:
            raise KafkaException(partition.error)
