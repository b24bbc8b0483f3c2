"""Reads the topic of keys for all stages of a task in this process (`retry_order`)."""

from __future__ import annotations

from collections.abc import Sequence

from flux.consuming.coordinator.common import Shared
from flux.consuming.topic_follower import TopicFollower
from flux.core.engine.key_order import KeyOrder
from flux.core.ports import BEGINNING, AdminPort, Cluster, ReaderPort, Record, System, TopicPartition

_CLOSING = 2.0  # seconds to wait for the end of the follower's thread
_MOST = 500  # records of a poll


class KeysReading:
    """For a task that keeps no order, it does nothing."""

    def __init__(self, common: Shared) -> None:
        self._common = common
        self._key_order: KeyOrder | None = next((each.engine.key_order for each in common.runtimes), None)
        self._follower: TopicFollower | None = None
        self._reader: ReaderPort | None = None

    def follow(self, adapter: Cluster, admin: AdminPort, system: System) -> None:
        """Starts to read, in a thread of its own."""
        if self._key_order is not None:
            keys = self._common.policy.stages.keys_topic
            self._follower = TopicFollower(adapter, admin, keys, self._take, system)
            self._follower.start()

    def follow_here(self, adapter: Cluster) -> None:
        """Reads when `poll` or `read` is called, in the caller's thread, instead of `follow`."""
        if self._key_order is not None:
            self._reader = adapter.reader({TopicPartition(self._common.policy.stages.keys_topic, 0): BEGINNING})

    def read(self, timeout: float) -> int | None:
        """Waits until all that the topic has now was read. Returns the offset behind it, or None if that takes longer
        than `timeout` seconds. Raises BrokerError."""
        if self._reader is not None:
            while self.poll():
                pass
            return 0
        follower = self._follower
        # behind an open transaction may be what a former owner has committed
        if follower is None or not follower.wait_until_read(timeout, open_too=True):
            return None
        return follower.position(0)

    def poll(self) -> bool:
        """After `follow_here`: reads what has come. Returns whether anything has."""
        batches = [] if self._reader is None else self._reader.poll(_MOST, 0.0).batches
        for batch in batches:
            self._take(batch.records)
        return bool(batches)

    def close(self) -> None:
        if self._follower is not None:
            self._follower.close(_CLOSING)
        if self._reader is not None:
            self._reader.close()

    def _take(self, records: Sequence[Record]) -> None:
        common, key_order = self._common, self._key_order
        assert key_order is not None
        with common.lock:
            changes = key_order.take(records)
            for runtime in common.runtimes:
                if runtime.engine.order is not None:
                    runtime.engine.order.read(changes, runtime.now_locked())
            common.wake_all_locked()
