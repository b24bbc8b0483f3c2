"""The admin client."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from flux.adapters.memory.cluster import Cluster
from flux.adapters.memory.log import Log
from flux.core.errors import BrokerError, Fault
from flux.core.ports import GroupMember, NewTopic, Position, TopicInfo, TopicPartition, Watermarks


class MemoryAdmin:
    """`flux.core.ports.AdminPort`. In an outage each method waits `timeout` seconds before it raises."""

    def __init__(self, cluster: Cluster) -> None:
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

    def create_topics(self, topics: Sequence[NewTopic], timeout: float) -> None:
        with self._cluster.lock:
            self._cluster.require_available(timeout)
            for new in topics:
                if new.name not in self._cluster.topics:
                    self._cluster.create(new.name, new.partitions, new.replication_factor, new.config)

    def positions(self, group: str, topic: str, timeout: float) -> dict[int, Position]:
        with self._cluster.lock:
            self._cluster.require_available(timeout)
            return dict(self._cluster.group(group, topic).positions)

    def set_positions(self, group: str, topic: str, positions: Mapping[int, Position], timeout: float) -> None:
        with self._cluster.lock:
            self._cluster.require_available(timeout)
            named = {TopicPartition(topic, number): position for number, position in positions.items()}
            error = self._cluster.commit_from_outside(group, topic, named)
        if error is not None:
            raise error

    def members(self, group: str, timeout: float) -> list[GroupMember]:
        with self._cluster.lock:
            self._cluster.require_available(timeout)
            found = []
            for topic, membership in self._cluster.topics_of(group):
                membership.expire(self._cluster.system.now())
                for member in membership.members:
                    owned = [TopicPartition(topic, n) for n, owner in membership.owner.items() if owner is member]
                    found.append(GroupMember(member.id, "memory", "here", tuple(sorted(owned))))
            return found

    def watermarks(self, topic: str, timeout: float) -> dict[int, Watermarks]:
        with self._cluster.lock:
            self._cluster.require_available(timeout)
            logs = self._cluster.topic(topic).logs
            return {partition: Watermarks(log.low, log.high) for partition, log in enumerate(logs)}

    def offsets_at(self, topic: str, timestamp_ms: int, timeout: float) -> dict[int, int]:
        with self._cluster.lock:
            self._cluster.require_available(timeout)
            logs = self._cluster.topic(topic).logs
            return {number: _offset_at(log, timestamp_ms) for number, log in enumerate(logs)}

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
        """Nothing is held."""


def _offset_at(log: Log, timestamp_ms: int) -> int:
    return next((record.at for record in log.records if record.timestamp()[1] >= timestamp_ms), log.high)
