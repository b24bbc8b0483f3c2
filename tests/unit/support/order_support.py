"""A key's order through retries, without a cluster: engines that share what the topic of keys says."""

from __future__ import annotations

from typing import Any

import attrs

from flux.core import flux_headers
from flux.core.engine import Engine
from flux.core.engine.forwarding import Forward
from flux.core.engine.key_order import KeyOrder, OrderEntry, entry_name
from flux.core.engine.order_writes import EntryWrite
from flux.core.ports import ProducerRecord, TopicPartition
from flux.core.stage import Stage
from unit.support.engine_support import T0_MS, Driver, FakeRecord, record

KEYS = "t-g-keys"


@attrs.define
class Keys:
    """The topic of keys and what was read of it. Times of entries are those of the records' due headers."""

    log: list[tuple[bytes, bytes | None]] = attrs.field(factory=list)
    view: KeyOrder = attrs.field(factory=KeyOrder)

    def set(self, offset: int, key: bytes = b"k", stage: int = 1, due: int = 0, attempts: int = 1, **more: Any) -> int:
        """Enters a record of partition 0; returns the entry's version."""
        self.log.append((entry_name((0, offset)), OrderEntry(key, stage, due, attempts, **more).value()))
        return len(self.log) - 1

    def remove(self, offset: int) -> None:
        self.log.append((entry_name((0, offset)), None))


class Ordered(Driver):
    """A stage with `retry_order`. Nothing is read of the topic of keys before `read`."""

    def __init__(self, stage: int | Stage = 0, keys: Keys | None = None, **settings: Any) -> None:
        super().__init__(stage, retry_order="key", **settings)
        self.keys = keys or Keys()
        self.engine = Engine(self.policy, self.stage, key_order=self.keys.view)
        assert self.engine.order is not None
        self.order = self.engine.order
        self.written: list[ProducerRecord] = []
        """The copies so far."""

    def read(self) -> None:
        """All that the topic of keys has is read."""
        position, log = self.keys.view.position, self.keys.log
        records = [FakeRecord(at, *log[at]) for at in range(position, len(log))]
        self.order.read(self.keys.view.take(records), self.now)

    def writes(self) -> list[Forward]:
        return list(self.engine.writes(self.now))

    def stored(self, *forwards: Forward) -> list[str]:
        """These are stored and acknowledged. Returns their topics."""
        topics = []
        for forward in forwards:
            copy = forward.forwarded_copy
            outgoing = copy.producer_record(T0_MS, None)
            if isinstance(copy, EntryWrite):
                assert outgoing.key is not None
                self.keys.log.append((outgoing.key, outgoing.value))
            else:
                self.written.append(outgoing)
            topics.append(copy.target.topic)
            self.engine.written(forward, self.now)
        return topics

    def settle(self) -> list[str]:
        """All that is to be written is stored, acknowledged and read back. Returns the topics, in order."""
        topics: list[str] = []
        while forwards := self.writes():
            topics += self.stored(*forwards)
            self.read()
        return topics

    def copy(
        self, at: int, origin: int, version: int | None, key: bytes | None = b"k", attempts: int = 1, due: int = 0
    ) -> FakeRecord:
        """A record of this retry stage, by default one that is due."""
        headers: list[tuple[str, bytes | None]] = [
            (flux_headers.DUE, b"%d" % due),
            (flux_headers.ATTEMPTS, b"%d" % attempts),
            (flux_headers.ORIGIN_TOPIC, b"t"),
            (flux_headers.ORIGIN_PARTITION, b"0"),
            (flux_headers.ORIGIN_OFFSET, b"%d" % origin),
            ("mine", b"x"),
        ]
        if version is not None:
            headers.append((flux_headers.ORDER, b"%d" % version))
        return record(at, key, TopicPartition(self.stage.topic, 0), headers=headers)

    def headers(self, index: int = -1) -> dict[str, bytes | None]:
        return dict(self.written[index].headers)
