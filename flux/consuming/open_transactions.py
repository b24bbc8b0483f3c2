"""Open transactions that hold back the records of a partition: consumers get none from its last stable offset on."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping

import attrs

from flux.consuming.topic_setup import REQUEST_TIMEOUT
from flux.core.ports import AdminPort, System, TopicPartition

Open = Mapping[TopicPartition, int]
"""Last stable offsets of partitions that have an open transaction."""

_PAUSES = (0.1, 0.2, 0.4, 0.8, 1.5)
STAYS_OPEN = sum(_PAUSES)
"""Seconds, which transactions of flux do not last."""
_DAY = 86_400


@attrs.frozen
class HeldBack:
    """A transaction that does not end. `offset`: the partition's last stable offset; `since`: seconds since the epoch,
    by the timestamp of the record there; `cluster`: its name, with the addresses of brokers."""

    at: TopicPartition
    offset: int
    since: float
    cluster: str

    @property
    def problem(self) -> str:
        return f"an open transaction holds back all records from offset {self.offset:,} on"

    @property
    def remedy(self) -> str:
        brokers = self.cluster.rpartition("/")[2] or "HOST:PORT"
        where = f"--topic {self.at.topic} --partition {self.at.partition}"
        return (
            f"`kafka-transactions.sh --bootstrap-server {brokers} describe-producers {where}` names its producer:"
            " end it, or wait for its transaction.timeout.ms"
        )


def open_transactions(admin: AdminPort, topics: Iterable[str]) -> dict[TopicPartition, int]:
    """Raises BrokerError."""
    found: dict[TopicPartition, int] = {}
    for topic in topics:
        marks = admin.watermarks(topic, REQUEST_TIMEOUT)  # before the stable offsets, so that none is above its end
        stable = admin.stable_offsets(topic, REQUEST_TIMEOUT)
        found |= {
            TopicPartition(topic, n): offset for n, offset in stable.items() if n in marks and offset < marks[n].high
        }
    return found


def lasting(first: Open, look: Callable[[Iterable[str]], Open], system: System) -> dict[TopicPartition, int]:
    """Those of `first` that do not end within `STAYS_OPEN` seconds. `look`: what of some topics is open now."""
    found = dict(first)
    for pause in _PAUSES:
        if not found:
            break
        system.sleep(pause)
        later = look(dict.fromkeys(at.topic for at in found))
        found = {at: offset for at, offset in found.items() if later.get(at) == offset}
    return found


def held_back(admin: AdminPort, at: TopicPartition, offset: int, cluster: str, system: System) -> HeldBack:
    """When the transaction began, by the time index: to the second, and at most a day. Raises BrokerError."""
    now = system.now()

    def begun(age: int) -> bool:
        """Whether the record there is not older."""
        first = admin.offsets_at(at.topic, int((now - age) * 1000), REQUEST_TIMEOUT)
        return first.get(at.partition, 0) <= offset

    return HeldBack(at, offset, now - max(STAYS_OPEN, bisect_left(range(_DAY), True, key=begun)), cluster)
