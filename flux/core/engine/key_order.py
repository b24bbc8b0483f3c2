"""Which records of a key are outstanding, in all stages and processes: what the topic of keys says (`retry_order`).

The topic of keys has one partition and is compacted. It has one entry for each record that has moved and is not done.
Its offset is the entry's version: each forwarded copy carries the version of the entry that announced it, so a reader
sees whether a copy is the newest one of its record. What an entry says of a record holds for every process, because
all read the same log. Why that keeps the order: docs/explanation/ordering-through-retries.md.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from bisect import bisect_left, insort
from collections.abc import Container, Iterable, Iterator
from typing import Any, NamedTuple, Protocol

import attrs

Origin = tuple[int, int]
"""(partition, offset) of a record in the main topic."""
KeyName = tuple[int, bytes]
"""(partition of the main topic, key): what keeps its order."""

_NAME = re.compile(rb"([0-9]{1,10}):([0-9]{1,19})\Z")


class OrderRecord(Protocol):
    """A record of the topic of keys."""

    def key(self) -> bytes | None: ...
    def value(self) -> bytes | None: ...
    def offset(self) -> int: ...


@attrs.frozen
class OrderEntry:
    """One outstanding record. `due`: of its newest copy, in milliseconds since the epoch. `dead`: it is a dead letter
    that holds its key (`on_dead = "hold"`). `follows`: its due time is that of another record, which it follows."""

    key: bytes
    stage: int
    due: int
    attempts: int
    dead: bool = False
    follows: bool = False
    version: int = attrs.field(default=-1, eq=False)
    """Its offset in the topic of keys; -1: it was not read from there yet."""

    def value(self) -> bytes:
        fields = {"key": base64.b64encode(self.key).decode(), "stage": self.stage, "due": self.due}
        return json.dumps({**fields, "attempts": self.attempts, "dead": self.dead, "follows": self.follows}).encode()

    @classmethod
    def read(cls, value: bytes, version: int) -> OrderEntry | None:
        """None for a value that flux has not written."""
        try:
            fields: dict[str, Any] = json.loads(value)
            key = base64.b64decode(fields["key"], validate=True)
            numbers = int(fields["stage"]), int(fields["due"]), int(fields["attempts"])
            return cls(key, *numbers, bool(fields["dead"]), bool(fields["follows"]), version)
        except (ValueError, TypeError, KeyError, binascii.Error):
            return None


class Change(NamedTuple):
    """`entry` None: it was removed. `is_new`: the record was not outstanding before. `freed`: it was a dead letter that
    held its key, and is none any longer."""

    origin: Origin
    entry: OrderEntry | None
    name: KeyName
    is_new: bool
    freed: bool


def entry_name(origin: Origin) -> bytes:
    """The key of a record's entry."""
    return b"%d:%d" % origin


class KeyOrder:
    """All outstanding records of one task, as far as the topic of keys was read."""

    __slots__ = ("_entries", "_offsets", "_partitions", "position")

    def __init__(self) -> None:
        self.position = 0
        """The offset of the next record of the topic to be read."""
        self._entries: dict[Origin, OrderEntry] = {}
        self._offsets: dict[KeyName, list[int]] = {}
        """The outstanding offsets of each key, in order."""
        self._partitions: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def take(self, records: Iterable[OrderRecord]) -> list[Change]:
        """Reads records of the topic, in order. Returns what they have changed."""
        changes: list[Change] = []
        for record in records:
            offset = record.offset()
            if offset < self.position:
                continue
            self.position = offset + 1
            match = _NAME.match(record.key() or b"")
            if match is None:
                continue
            origin, value = (int(match[1]), int(match[2])), record.value()
            entry = None if value is None else OrderEntry.read(value, offset)
            if entry is None and value is not None:
                continue
            before = self._entries.get(origin)
            if before is not None:
                self._remove(origin, before)
            elif entry is None:
                continue
            if entry is not None:
                self._add(origin, entry)
            key = (entry or before).key  # type: ignore[union-attr]
            freed = before is not None and before.dead and (entry is None or not entry.dead)
            changes.append(Change(origin, entry, (origin[0], key), before is None, freed))
        return changes

    def read_to(self, position: int) -> None:
        """There is no record below this offset that was not taken."""
        self.position = max(self.position, position)

    def entry(self, origin: Origin) -> OrderEntry | None:
        return self._entries.get(origin)

    def head(self, name: KeyName) -> int | None:
        """The least outstanding offset of a key; None: nothing of it is outstanding."""
        offsets = self._offsets.get(name)
        return offsets[0] if offsets else None

    def due(self, name: KeyName, origin: Origin, version: int) -> int | None:
        """When a follower may be called as far as its key is concerned; None: its copy is no follower's, not the newest
        one, or a dead letter holds its key."""
        known = self._entries.get(origin)
        if known is None or not known.follows or known.version != version:
            return None
        head = self._entries[name[0], self._offsets[name][0]]
        if head.dead:
            return None
        return 0 if head.follows else head.due

    @property
    def names(self) -> Container[KeyName]:
        """The keys of outstanding records."""
        return self._offsets

    def holds(self, partition: int) -> bool:
        """Whether anything of a partition of the main topic is outstanding."""
        return partition in self._partitions

    def heads(self) -> Iterator[tuple[KeyName, int, OrderEntry, int]]:
        """(key, least outstanding offset, its entry, number of records outstanding) of each held key."""
        for name, offsets in self._offsets.items():
            yield name, offsets[0], self._entries[name[0], offsets[0]], len(offsets)

    @property
    def behind_dead(self) -> int:
        """Number of records behind dead letters that hold their keys."""
        return sum(number - 1 for _, _, entry, number in self.heads() if entry.dead)

    def _add(self, origin: Origin, entry: OrderEntry) -> None:
        partition, offset = origin
        self._entries[origin] = entry
        insort(self._offsets.setdefault((partition, entry.key), []), offset)
        self._partitions[partition] = self._partitions.get(partition, 0) + 1

    def _remove(self, origin: Origin, entry: OrderEntry) -> None:
        partition, offset = origin
        name = partition, entry.key
        del self._entries[origin]
        offsets = self._offsets[name]
        del offsets[bisect_left(offsets, offset)]
        if not offsets:
            del self._offsets[name]
        self._partitions[partition] -= 1
        if not self._partitions[partition]:
            del self._partitions[partition]
