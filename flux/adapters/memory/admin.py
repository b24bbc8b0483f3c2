"""The admin client."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from flux.adapters.memory.cluster import Cluster
from flux.core.ports import NewTopic, Position, TopicInfo, Watermarks


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

    def watermarks(self, topic: str, timeout: float) -> dict[int, Watermarks]:
        with self._cluster.lock:
            self._cluster.require_available(timeout)
            logs = self._cluster.topic(topic).logs
            return {partition: Watermarks(log.low, log.high) for partition, log in enumerate(logs)}

    def close(self) -> None:
        """Nothing is held."""
