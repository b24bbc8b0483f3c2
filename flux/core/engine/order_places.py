"""The place of a record in the order of its key, and records that wait in memory for another one of their key."""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Container, Iterable, Iterator
from operator import attrgetter

from flux.core.engine.assignment import Assignment
from flux.core.engine.key_order import KeyName, KeyOrder, Origin
from flux.core.engine.key_queues import KeyQueues
from flux.core.engine.slices import Entry
from flux.core.message import Message

_OFFSET = attrgetter("offset")
Place = tuple[KeyName, Origin, int]
"""A record's key, its place in the main topic, and the version of its copy; -1: it is in the main topic."""


def place_of(entry: Entry, main: bool) -> Place | None:
    """None: the record takes no part in any order. `main`: whether it is in the main topic."""
    if not main:
        return place_of_copy(entry.message)
    key, partition = entry.message.key, entry.assignment.partition.partition
    return None if key is None else ((partition, key), (partition, entry.offset), -1)


def place_of_copy(message: Message) -> Place | None:
    """Of a record in a retry topic."""
    parsed, key = message.flux_headers, message.key
    if key is None or parsed.order is None or parsed.origin is None:
        return None
    _, partition, offset = parsed.origin
    return (partition, key), (partition, offset), parsed.order


def follower_of(names: Container[KeyName], view: KeyOrder) -> Callable[[Message], bool]:
    """Whether a message of a retry stage is the copy of a follower with one of these keys."""

    def follows(message: Message) -> bool:
        place = place_of_copy(message)
        return place is not None and place[0] in names and view.due(*place) is not None

    return follows


class Parked:
    """Records of one stage that wait in memory, by key. `main`: in the main stage, where all of a key are in one
    partition, they stay in the order of their offsets."""

    __slots__ = ("_count", "_entries", "_main")

    def __init__(self, main: bool = False) -> None:
        self._main = main
        self._count = 0
        self._entries: dict[KeyName, list[Entry]] = {}

    def __len__(self) -> int:
        """Number of records."""
        return self._count

    def __contains__(self, name: KeyName) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[KeyName]:
        return iter(self._entries)

    def has_any(self, assignment: Assignment) -> bool:
        return any(entry.assignment is assignment for entries in self._entries.values() for entry in entries)

    def has_before(self, name: KeyName, offset: int) -> bool:
        """Of the main stage: whether an earlier record of a key waits."""
        entries = self._entries.get(name)
        return entries is not None and entries[0].offset < offset

    def add(self, name: KeyName, entry: Entry) -> None:
        entries = self._entries.setdefault(name, [])
        if self._main:
            insort(entries, entry, key=_OFFSET)
        else:
            entries.append(entry)
        self._count += 1

    def take(self, name: KeyName) -> list[Entry]:
        """Takes the records of a key, in order."""
        entries = self._entries.pop(name, [])
        self._count -= len(entries)
        return entries

    def discard(self, unwanted: Callable[[Entry], bool]) -> None:
        for name in list(self._entries):
            for entry in self.take(name):
                if not unwanted(entry):
                    self.add(name, entry)


class Room:
    """Of partitions' metadata, for one more record that is done out of order."""

    __slots__ = ("_seen", "narrow")

    def __init__(self) -> None:
        self.narrow: dict[KeyName, None] = {}
        """Keys of records that there was no room for."""
        self._seen: list[tuple[int, int]] = []
        """What the room of each partition depends on, at the last look."""

    def may_be_wider(self, assignments: Iterable[Assignment]) -> bool:
        """Whether there may be room for some of them since the last look."""
        if not self.narrow:
            return False
        trackers = [(each, each.offset_tracker) for each in assignments if each.offset_tracker is not None]
        seen = [(tracker.committable, each.in_flight + len(each.open)) for each, tracker in trackers]
        before, self._seen = self._seen, seen
        return seen != before

    def has(self, entry: Entry, name: KeyName) -> bool:
        assignment, offset_tracker = entry.assignment, entry.assignment.offset_tracker
        assert offset_tracker is not None
        others = assignment.in_flight + len(assignment.open)
        if entry.offset == offset_tracker.committable or offset_tracker.admits(entry.end, others):
            return True
        self.narrow[name] = None
        return False


def holds_back(entry: Entry) -> bool:
    """Whether the committed offset cannot pass a record, and its partition's metadata has no room for others."""
    offset_tracker = entry.assignment.offset_tracker
    assert offset_tracker is not None
    narrow = not offset_tracker.admits(offset_tracker.end, len(entry.assignment.open))
    return narrow and entry.offset == offset_tracker.committable


class Holds:
    """Key queues that are held by records of theirs."""

    __slots__ = ("_entries", "_key_queues")

    def __init__(self, key_queues: KeyQueues) -> None:
        self._key_queues = key_queues
        self._entries: dict[Entry, None] = {}

    def hold(self, entry: Entry) -> None:
        """The call of a record has returned, and what it produced may still fail: in the main stage its key waits."""
        if entry.message.stage or entry.message.key is None:
            return
        self._entries[entry] = None
        self._key_queues.hold(entry)

    def release(self, entry: Entry) -> None:
        """Does nothing for an entry that holds none."""
        if entry in self._entries:
            del self._entries[entry]
            self._key_queues.release(entry)

    def release_all(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            self.release(entry)

    def forget(self, assignment: Assignment) -> None:
        """The partition is gone, with its key queues."""
        self._entries = {entry: None for entry in self._entries if entry.assignment is not assignment}
