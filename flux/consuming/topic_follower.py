"""Follows a topic: reads all that it has, and then what comes, in a thread of its own and without a group.

For compacted topics that hold a state which every process needs whole, such as commands. They are small.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from flux.core.errors import BrokerError, Fault
from flux.core.ports import BEGINNING, AdminPort, Cluster, Record, System, Thread, TopicPartition

logger = logging.getLogger("flux")

_MOST = 500  # records of a poll
_POLL = 1.0  # seconds; a record ends the wait
_TIMEOUT = 10.0  # seconds of a request
_PARTITIONS = 60.0  # seconds between two looks for new partitions
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 15.0  # seconds after a failure, doubled each time


class TopicFollower:
    """`take`: gets the records, those of a partition in order, in the follower's thread; it must not raise, nor wait
    for long. After a failure, which is logged, reading goes on behind the last record taken; a record is taken once,
    unless the topic was made anew."""

    def __init__(
        self,
        adapter: Cluster,
        admin: AdminPort,
        topic: str,
        take: Callable[[Sequence[Record]], object],
        system: System,
    ) -> None:
        self.topic = topic
        self._adapter = adapter
        self._admin = admin
        self._take = take
        self._system = system
        self._changed = system.condition()
        self._positions: dict[TopicPartition, int] = {}
        self._failure: BrokerError | None = None
        self._is_closed = False
        self._thread: Thread | None = None

    def start(self) -> None:
        self._thread = self._system.spawn(f"flux-follow-{self.topic}", self._run)

    @property
    def failure(self) -> BrokerError | None:
        """Why it does not read at the moment; None while it does."""
        return self._failure

    def position(self, partition: int) -> int:
        """The offset behind the last record of a partition that was taken, or is known not to exist."""
        return self._positions.get(TopicPartition(self.topic, partition), 0)

    def wait_until_read(self, timeout: float, open_too: bool = False) -> bool:
        """Waits up to `timeout` seconds until all that the topic has now was taken; whether it was. What is behind the
        first record of an open transaction counts if `open_too`: nobody gets it before the transaction's end. Raises
        BrokerError if the cluster does not say what the topic has."""
        deadline = self._system.monotonic() + timeout
        if open_too:
            ends = {number: marks.high for number, marks in self._admin.watermarks(self.topic, timeout).items()}
        else:
            ends = self._admin.stable_offsets(self.topic, timeout)
        wanted = {TopicPartition(self.topic, number): end for number, end in ends.items() if end > 0}
        with self._changed:
            while any(self._positions.get(at, 0) < end for at, end in wanted.items()):
                left = deadline - self._system.monotonic()
                if left <= 0 or self._is_closed:
                    return False
                self._changed.wait(left)
        return True

    def close(self, timeout: float) -> None:
        """Ends the thread; waits up to `timeout` seconds for it."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout)

    def _run(self) -> None:
        pause = _FIRST_PAUSE
        while not self._is_closed:
            try:
                self._read()
            except BrokerError as error:
                if self._failure is None:
                    logger.warning("cannot follow topic %s, tries again: %s", self.topic, error)
                    pause = _FIRST_PAUSE
                self._failure = error
            with self._changed:
                if not self._is_closed and self._failure is not None:
                    self._changed.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _read(self) -> None:
        """Returns when partitions were added, and when the follower is closed."""
        partitions = self._partitions()
        reader = self._adapter.reader({at: self._positions.get(at, BEGINNING) for at in partitions})
        try:
            looked_at = self._system.monotonic()
            while not self._is_closed:
                polled = reader.poll(_MOST, _POLL)
                for at in polled.out_of_range:
                    logger.warning("topic %s was cut or made anew: reads partition %d again", at.topic, at.partition)
                    reader.seek(at, BEGINNING)
                positions = dict(polled.reached)
                for batch in polled.batches:
                    self._take(batch.records)
                    positions[batch.partition] = batch.records[-1].offset() + 1
                if positions:
                    self._read_to(positions)
                if self._system.monotonic() - looked_at >= _PARTITIONS:
                    looked_at = self._system.monotonic()
                    if self._partitions() != partitions:
                        return
        finally:
            reader.close()

    def _partitions(self) -> list[TopicPartition]:
        found = self._admin.topics([self.topic], _TIMEOUT)[self.topic]
        if found is None:
            raise BrokerError(f"topic {self.topic} does not exist", Fault.UNKNOWN_TOPIC)
        return [TopicPartition(self.topic, number) for number in range(found.partitions)]

    def _read_to(self, positions: dict[TopicPartition, int]) -> None:
        if self._failure is not None:
            logger.info("follows topic %s again", self.topic)
        with self._changed:
            self._failure = None
            for at, position in positions.items():
                self._positions[at] = max(position, self._positions.get(at, 0))
            self._changed.notify_all()
