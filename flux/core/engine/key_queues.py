"""Which of the records that are tracked one by one may run now, under order by key, by partition, or none.

Each key (or partition) has a queue. Invariant: at most one record of a queue is ready or running, and it is the
oldest. The next one becomes ready when that one has ended, so two records of a key never run at once or out of order.
A queue can be held while its record can neither be called nor moved on; other queues go on.

A claim takes several keys at once for a part of a slice. A key that is claimed counts as running: a record that comes
later for that key waits in its queue until the claim ends. Without that, a part of a slice and a record behind it
could run at the same time.

Most records never come here: a run that is worked from beginning to end keeps the order by itself.
"""

from __future__ import annotations

from collections import deque
from itertools import takewhile
from typing import Any, Literal, Protocol

from flux.core.engine.assignment import Assignment, Entry, Phase, Slice

Ordering = Literal["key", "partition", "none"]


def key_queue_name(ordering: Ordering, entry: Entry) -> Any:
    """What orders `entry` among others; None: nothing does. A null key orders nothing, an empty one does."""
    if ordering == "none":
        return None
    if ordering == "partition":
        return entry.assignment
    key = entry.message.key
    return None if key is None else (entry.assignment, key)


class Queues(Protocol):
    """What an engine asks of its key queues, or of what stands in their place."""

    def __bool__(self) -> bool: ...
    def __len__(self) -> int: ...
    def ready(self, now: float) -> int: ...
    def deadline(self) -> float | None: ...
    def add(self, entry: Entry) -> None: ...
    def add_first(self, entry: Entry) -> None: ...
    def begin(self, entry: Entry) -> None: ...
    def take(self, most: int, now: float) -> list[Entry]: ...
    def give_back(self, entries: list[Entry]) -> None: ...
    def retry_aside(self) -> None: ...
    def end(self, entry: Entry) -> None: ...
    def hold(self, entry: Entry) -> None: ...
    def release(self, entry: Entry) -> None: ...
    def drop(self, assignment: Assignment) -> None: ...


class KeyQueue:
    """The records of one key (or partition) behind the one that is ready or running."""

    __slots__ = ("assignment", "busy", "holds", "name", "queue")

    def __init__(self, assignment: Assignment, name: Any) -> None:
        self.assignment = assignment
        self.name = name
        self.queue: deque[Entry] = deque()
        self.busy = False
        self.holds = 0

    def insert(self, entry: Entry) -> None:
        """Where it was before it was taken."""
        before = takewhile(lambda other: _place(other) < _place(entry), self.queue)
        self.queue.insert(sum(1 for _ in before), entry)

    def is_led_by_earlier(self, entry: Entry) -> bool:
        """Whether one that is called again meanwhile stood before `entry`."""
        return bool(self.queue and self.queue[0].tries and _place(self.queue[0]) < _place(entry))


class Claim:
    """The keys of records that one caller works in order. A key that nobody waits for has no key queue, only its
    claim."""

    __slots__ = ("assignment", "indices", "last", "names", "stop")
    queue = ()

    def __init__(self, assignment: Assignment) -> None:
        self.assignment = assignment
        self.indices: list[int] = []
        """Of the records in their slice."""
        self.names: list[Any] = []
        """Of their key queues; None: nothing orders the record."""
        self.last: dict[Any, int] = {}
        """The last of the records that has a name."""
        self.stop = 0
        """Up to where the slice was gone through."""


class KeyQueues:
    """All key queues of one stage, over its partitions."""

    __slots__ = ("_aside", "_key_queues", "_ordering", "_ready")

    def __init__(self, ordering: Ordering) -> None:
        self._ordering = ordering
        self._key_queues: dict[Any, KeyQueue | Claim] = {}
        self._ready: deque[Entry] = deque()
        self._aside: list[Entry] = []

    def __bool__(self) -> bool:
        """Whether there may be any, or a key is taken: cheaper than how many there are."""
        return bool(self._key_queues or self._ready or self._aside)

    def __len__(self) -> int:
        """Entries that have not been taken."""
        behind = sum(len(key_queue.queue) for key_queue in self._key_queues.values())
        return len(self._ready) + len(self._aside) + behind

    def ready(self, now: float) -> int:
        """Entries that can be taken, as far as order goes."""
        return len(self._ready)

    def deadline(self) -> float | None:
        """No time changes what can be taken."""
        return None

    def add(self, entry: Entry) -> None:
        """Queues `entry` behind all of its key queue."""
        entry.assignment.laned += 1
        key_queue = entry.key_queue = self._key_queue(entry)
        if key_queue is None:
            self._ready.append(entry)
        elif key_queue.busy or key_queue.holds:
            key_queue.queue.append(entry)
            if self._aside and entry.offset == entry.assignment.offset_tracker.position:  # type: ignore[union-attr]
                self.retry_aside()
        else:
            key_queue.busy = True
            self._ready.append(entry)

    def add_first(self, entry: Entry) -> None:
        """Queues `entry` where it was in its key queue: its call is to be made once more."""
        entry.assignment.laned += 1
        key_queue = entry.key_queue = self._key_queue(entry)
        if key_queue is not None and (key_queue.busy or key_queue.holds):
            key_queue.insert(entry)
            return
        if key_queue is not None:
            key_queue.busy = True
        self._ready.appendleft(entry)

    def begin(self, entry: Entry) -> None:
        """Accounts for an entry that runs already, as it was worked in a slice."""
        entry.assignment.laned += 1
        entry.assignment.flying += 1
        key_queue = entry.key_queue = self._key_queue(entry)
        if key_queue is not None:
            key_queue.busy = True

    def take(self, most: int, now: float) -> list[Entry]:
        """Up to `most` entries to run now, in this order, by one caller. One that its partition's metadata has no
        room for is put aside until `retry_aside`."""
        taken: list[Entry] = []
        ready = self._ready
        while ready and len(taken) < most:
            entry = ready.popleft()
            assignment, offset_tracker = entry.assignment, entry.assignment.offset_tracker
            assert assignment.phase is Phase.WORKING
            assert offset_tracker is not None
            others = assignment.flying + len(assignment.open)
            if offset_tracker.admits(entry.end, others) or self._leads_to(entry, offset_tracker.position):
                assignment.flying += 1
                taken.append(entry)
            else:
                self._aside.append(entry)
        return taken

    def give_back(self, entries: list[Entry]) -> None:
        """Entries that were taken and have not been begun."""
        for entry in entries:
            entry.assignment.flying -= 1
        self._put_back(entries)

    def retry_aside(self) -> None:
        """A position has moved: what was put aside may fit now."""
        if self._aside:
            self._put_back(self._aside)
            self._aside = []

    def end(self, entry: Entry) -> None:
        """The call of `entry` has ended; the next of its key queue is ready unless the key queue is held."""
        entry.assignment.laned -= 1
        entry.assignment.flying -= 1
        if entry.key_queue is not None:
            self._free(entry.key_queue)

    def hold(self, entry: Entry) -> None:
        """Nothing more of the key queue of `entry` starts until `release`."""
        entry.assignment.laned += 1
        key_queue = entry.key_queue = self._key_queue(entry)
        if key_queue is None:
            return
        key_queue.holds += 1
        for takeable in (self._ready, self._aside):
            for other in [other for other in takeable if other.key_queue is key_queue]:
                takeable.remove(other)
                key_queue.queue.appendleft(other)
                key_queue.busy = False

    def release(self, entry: Entry) -> None:
        """Ends one `hold`."""
        entry.assignment.laned -= 1
        key_queue = entry.key_queue
        if key_queue is not None:
            key_queue.holds -= 1
            self._advance(key_queue)

    def drop(self, assignment: Assignment) -> None:
        """Forgets what of `assignment` has not been taken."""
        for name in [name for name, key_queue in self._key_queues.items() if key_queue.assignment is assignment]:
            del self._key_queues[name]
        self._ready = deque(entry for entry in self._ready if entry.assignment is not assignment)
        self._aside = [entry for entry in self._aside if entry.assignment is not assignment]

    def claim(self, assignment: Assignment, piece: Slice, most: int) -> Claim:
        """Takes the keys of up to `most` records of a slice, in order, for one caller. A record of a key that is taken
        already is queued behind that."""
        claim, key_queues, keyed = Claim(assignment), self._key_queues, self._ordering == "key"
        indices, names, last = claim.indices, claim.names, claim.last
        index = -1
        for index, record in enumerate(piece.records):
            name, key = None, record.key() if keyed else None
            if key is not None:
                name = assignment, key
                key_queue = key_queues.get(name)
                if key_queue is None:
                    key_queues[name] = claim
                elif key_queue is not claim:
                    self.add(piece.entry(assignment, index, piece.message(index)))
                    continue
                last[name] = len(names)
            indices.append(index)
            names.append(name)
            if len(names) >= most:
                break
        claim.stop = index + 1
        return claim

    def end_claims(self, claim: Claim, start: int, stop: int) -> None:
        """The calls of the records from `start` to before `stop` have ended."""
        key_queues, names, last = self._key_queues, claim.names, claim.last
        for index in range(start, stop):
            name = names[index]
            if name is not None and last[name] == index:
                key_queue = key_queues.get(name)
                if key_queue is claim:
                    del key_queues[name]
                elif key_queue is not None:
                    self._free(key_queue)  # type: ignore[arg-type]

    def give_back_claims(self, claim: Claim, piece: Slice, start: int, begun: Entry) -> list[int]:
        """Gives back the records from `start` on, of which none was begun; returns those that can be taken anew. One
        that others stand behind is the first of its key queue. `begun`: the record before them, which was
        `begin`-ned."""
        free: list[int] = []
        key_queues: dict[KeyQueue, None] = {}
        for index in range(start, len(claim.names)):
            name = claim.names[index]
            key_queue = None if name is None else self._key_queues.get(name)
            if isinstance(key_queue, KeyQueue):
                entry = piece.entry(claim.assignment, index, piece.message(index))
                entry.key_queue = key_queue
                claim.assignment.laned += 1
                key_queue.insert(entry)
                key_queues[key_queue] = None
            else:
                free.append(index)
        for index in free:
            if self._key_queues.get(claim.names[index]) is claim:
                del self._key_queues[claim.names[index]]
        for each in key_queues:
            if each is not begun.key_queue:
                self._free(each)
        return free

    def _free(self, key_queue: KeyQueue) -> None:
        """Whoever had taken the key has ended."""
        key_queue.busy = False
        self._advance(key_queue)

    def _put_back(self, entries: list[Entry]) -> None:
        for entry in reversed(entries):
            key_queue = entry.key_queue
            if key_queue is None or not (key_queue.holds or key_queue.is_led_by_earlier(entry)):
                self._ready.appendleft(entry)
                continue
            key_queue.insert(entry)
            key_queue.busy = False
            self._advance(key_queue)

    @staticmethod
    def _leads_to(entry: Entry, position: int) -> bool:
        """Whether the position cannot move before `entry` has ended: it may run even if the metadata has no room,
        since whatever else waits for room waits for it."""
        if entry.offset == position:
            return True
        return entry.key_queue is not None and any(other.offset == position for other in entry.key_queue.queue)

    def _key_queue(self, entry: Entry) -> KeyQueue | None:
        name = key_queue_name(self._ordering, entry)
        if name is None:
            return None
        key_queue = self._key_queues.get(name)
        if not isinstance(key_queue, KeyQueue):
            claimed = key_queue is not None
            key_queue = self._key_queues[name] = KeyQueue(entry.assignment, name)
            key_queue.busy = claimed
        return key_queue

    def _advance(self, key_queue: KeyQueue) -> None:
        if key_queue.busy or key_queue.holds or self._key_queues.get(key_queue.name) is not key_queue:
            return
        if key_queue.queue:
            key_queue.busy = True
            self._ready.append(key_queue.queue.popleft())
        else:
            del self._key_queues[key_queue.name]


def _place(entry: Entry) -> tuple[int, int]:
    """In the order of its partition."""
    return entry.due, entry.offset
