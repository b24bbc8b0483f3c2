"""The admin client of the in-memory cluster."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from flux.adapters.memory.cluster import MemoryCluster
from flux.core.errors import BrokerError, Fault
from flux.core.ports import (
    CommittedOffset,
    GroupMember,
    GroupProtocol,
    NewTopic,
    Permissions,
    TopicInfo,
    TopicPartition,
    Watermarks,
)

_PROTOCOL = "cooperative-sticky"
_BROKER = {"offsets.retention.minutes": "10080"}
_ALL = frozenset(
    {"READ", "WRITE", "CREATE", "DELETE", "ALTER", "DESCRIBE", "DESCRIBE_CONFIGS", "ALTER_CONFIGS", "IDEMPOTENT_WRITE"}
)


class MemoryAdmin:
    """`flux.core.ports.AdminPort`. In an outage each method waits `timeout` seconds before it raises."""

    def __init__(self, cluster: MemoryCluster) -> None:
        self._cluster = cluster

    def topic_names(self, timeout: float) -> set[str]:
        with self._cluster.lock:
            self._cluster.require_available(timeout)
            return set(self._cluster.topics)

    def topics(self, names: Iterable[str], timeout: float) -> dict[str, TopicInfo | None]:
        with self._cluster.lock:
            self._cluster.require_available(timeout)
            found = {name: self._cluster.topics.get(name) for name in names}
        return {
            name: TopicInfo(len(topic.logs), topic.replication_factor) if topic else None
            for name, topic in found.items()
        }

    def topic_config(self, topic: str, timeout: float) -> dict[str, str]:
        with self._cluster.lock:
            self._cluster.require_available(timeout)
            return dict(self._cluster.topic(topic).config)

    def set_topic_config(self, topic: str, config: Mapping[str, str], timeout: float) -> None:
        with self._cluster.lock:
            self._cluster.require_available(timeout)
            self._cluster.topic(topic).config.update(config)

    def broker_configs(self, timeout: float) -> dict[int, dict[str, str]]:
        with self._cluster.lock:
            self._cluster.require_available(timeout)
            return {0: dict(_BROKER)}

    def create_topics(self, topics: Sequence[NewTopic], timeout: float) -> None:
        with self._cluster.lock:
            self._cluster.require_available(timeout)
            for new in topics:
                if new.name not in self._cluster.topics:
                    self._cluster.create(new.name, new.partitions, new.replication_factor, new.config)

    def delete_topics(self, names: Sequence[str], timeout: float) -> None:
        with self._cluster.lock:
            self._cluster.require_available(timeout)
            for name in names:
                if name in self._cluster.topics:
                    self._cluster.delete(name)

    def permissions(self, topics: Sequence[str], groups: Sequence[str], timeout: float) -> Permissions:
        with self._cluster.lock:
            self._cluster.require_available(timeout)
            there = {name: _ALL if name in self._cluster.topics else None for name in topics}
        return Permissions(there, dict.fromkeys(groups, _ALL), _ALL)

    def committed_offsets(self, group: str, topic: str, timeout: float) -> dict[int, CommittedOffset]:
        with self._cluster.lock:
            found = self._cluster.topics.get(topic)
            partitions = [TopicPartition(topic, number) for number in range(len(found.logs) if found else 0)]
            self._cluster.require_settled(group, partitions, timeout)
            return dict(self._cluster.group(group, topic).committed)

    def set_committed_offsets(
        self, group: str, topic: str, offsets: Mapping[int, CommittedOffset], timeout: float
    ) -> None:
        with self._cluster.lock:
            self._cluster.require_available(timeout)
            named = {TopicPartition(topic, number): offset for number, offset in offsets.items()}
            error = self._cluster.commit_from_outside(group, topic, named)
        if error is not None:
            raise error

    def members(self, group: str, timeout: float) -> list[GroupMember]:
        with self._cluster.lock:
            self._cluster.require_available(timeout)
            found = []
            for topic, membership in self._cluster.topics_of(group):
                membership.expire(self._cluster.system.monotonic())
                for member in membership.members:
                    owned = [TopicPartition(topic, n) for n, owner in membership.owner.items() if owner is member]
                    found.append(GroupMember(member.id, member.client_id, "here", tuple(sorted(owned))))
            return found

    def unreadable_codecs(self, topic: str, timeout: float) -> Mapping[str, str]:
        """None: nothing is compressed."""
        return {}

    def group_protocol(self, group: str, timeout: float) -> GroupProtocol:
        return GroupProtocol(_PROTOCOL if self.members(group, timeout) else "", (_PROTOCOL,))

    def watermarks(self, topic: str, timeout: float) -> dict[int, Watermarks]:
        with self._cluster.lock:
            self._cluster.require_available(timeout)
            logs = self._cluster.topic(topic).logs
            return {partition: Watermarks(log.low, log.high) for partition, log in enumerate(logs)}

    def stable_offsets(self, topic: str, timeout: float) -> dict[int, int]:
        with self._cluster.lock:
            self._cluster.require_available(timeout)
            return {partition: log.stable for partition, log in enumerate(self._cluster.topic(topic).logs)}

    def offsets_at(self, topic: str, timestamp_ms: int, timeout: float) -> dict[int, int]:
        with self._cluster.lock:
            self._cluster.require_available(timeout)
            logs = self._cluster.topic(topic).logs
            return {number: log.offset_at(timestamp_ms) for number, log in enumerate(logs)}

    def delete_records(self, topic: str, before: Mapping[int, int], timeout: float) -> None:
        with self._cluster.lock:
            self._cluster.require_available(timeout)
            logs = self._cluster.topic(topic).logs
            for number, offset in before.items():
                if not 0 <= number < len(logs):
                    raise BrokerError(f"there is no {TopicPartition(topic, number)}", Fault.UNKNOWN_TOPIC)
                if not 0 <= offset <= logs[number].high:
                    raise BrokerError(f"{TopicPartition(topic, number)} ends at {logs[number].high}, not {offset}")
                logs[number].delete_before(offset)
            self._cluster.wake(topic)

    def close(self) -> None:
        """Does nothing."""
