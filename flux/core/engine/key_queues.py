"""Key queues: which individually tracked records may run now, with ordering by key, by partition, or none.

Each key (or partition) has a queue. Invariant: at most one record of a queue is ready or running, and it is the
oldest. The next one becomes ready when that one has ended, so two records of a key never run at once or out of order.
A queue is held while its record waits for a retry in place or cannot be forwarded; other queues continue.

A claim takes several keys at once for a part of a slice. A claimed key counts as running: a later record of the key
waits in its queue until the claim ends. Otherwise that record could run at the same time as the part of the slice.

Most records are never queued here: a run that one caller processes completely keeps the order by itself.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from flux.core.engine.assignment import Assignment, Phase
from flux.core.engine.held_back import HeldByName
from flux.core.engine.key_queue import Claim, KeyQueue
from flux.core.engine.ordering import Ordering, key_queue_name
from flux.core.engine.slices import Entry, Slice


class KeyQueues:
    """All key queues of one stage, over its partitions. `held_back`: what limits by name hold back; None: there are
    none."""

    __slots__ = ("_aside", "_held_back", "_key_queues", "_ordering", "_ready")

    def __init__(self, ordering: Ordering, held_back: HeldByName | None = None) -> None:
        self._ordering = ordering
        self._held_back = held_back
        self._key_queues: dict[Any, KeyQueue | Claim] = {}
        self._ready: deque[Entry] = deque()
        self._aside: list[Entry] = []

    def __bool__(self) -> bool:
        """Whether any entry or key may be queued or taken: cheaper than `len`."""
        return bool(self._key_queues or self._ready or self._aside or self._held_back)

    def __len__(self) -> int:
        """Entries that have not been taken."""
        behind = sum(len(key_queue.queue) for key_queue in self._key_queues.values())
        return len(self._ready) + len(self._aside) + behind + (len(self._held_back) if self._held_back else 0)

    def ready(self, now: float) -> int:
        """Number of entries whose order allows a call now."""
        return len(self._ready) + (self._held_back.ready(now) if self._held_back else 0)

    def deadline(self, probes: bool = True) -> float | None:
        """When the first entry may start that waits for time only. `probes`: also one of a paused name."""
        return self._held_back.deadline(probes) if self._held_back else None

    def has(self, entry: Entry) -> bool:
        """Whether the key of `entry` is taken, or other records of it are queued."""
        return key_queue_name(self._ordering, entry) in self._key_queues

    def add(self, entry: Entry) -> None:
        """Appends `entry` to its key queue."""
        entry.assignment.in_key_queues += 1
        key_queue = entry.key_queue = self._key_queue(entry)
        if key_queue is None:
            self._ready.append(entry)
        elif key_queue.busy or key_queue.holds:
            key_queue.queue.append(entry)
            if self._aside and entry.offset == entry.assignment.offset_tracker.committable:  # type: ignore[union-attr]
                self.retry_aside()
        else:
            key_queue.busy = True
            self._ready.append(entry)

    def add_first(self, entry: Entry) -> None:
        """Puts `entry` back in order into its key queue: it is to be called again."""
        entry.assignment.in_key_queues += 1
        key_queue = entry.key_queue = self._key_queue(entry)
        if key_queue is not None and (key_queue.busy or key_queue.holds):
            key_queue.insert(entry)
            return
        if key_queue is not None:
            key_queue.busy = True
        self._ready.appendleft(entry)

    def begin(self, entry: Entry) -> None:
        """Counts an entry whose call is running already, as part of a slice."""
        entry.assignment.in_key_queues += 1
        entry.assignment.in_flight += 1
        key_queue = entry.key_queue = self._key_queue(entry)
        if key_queue is not None:
            key_queue.busy = True

    def take(self, most: int, now: float) -> list[Entry]:
        """Takes up to `most` entries that one caller runs in this order. An entry that its partition's metadata has no
        room for is set aside until `retry_aside`."""
        taken: list[Entry] = []
        ready, held_back = self._ready, self._held_back
        if held_back:
            ready.extendleft(reversed(held_back.open(now, most)))
        while ready and len(taken) < most:
            entry = ready.popleft()
            assignment, offset_tracker = entry.assignment, entry.assignment.offset_tracker
            assert assignment.phase is Phase.WORKING
            assert offset_tracker is not None
            others = assignment.in_flight + len(assignment.open)
            if not (offset_tracker.admits(entry.end, others) or self._leads_to(entry, offset_tracker.committable)):
                self._aside.append(entry)
                if held_back is not None:
                    held_back.set_aside(entry, now)
            elif held_back is None or held_back.admits(entry, now):
                assignment.in_flight += 1
                taken.append(entry)
        return taken

    def give_back(self, entries: list[Entry]) -> None:
        """Puts back entries that were taken and not started."""
        for entry in entries:
            entry.assignment.in_flight -= 1
            if self._held_back is not None:
                self._held_back.ended(entry, called=False)
        self._put_back([entry for entry in entries if entry.assignment.phase is Phase.WORKING])

    def retry_aside(self) -> None:
        """A committable offset has moved: entries that were set aside may fit now."""
        if self._aside:
            self._put_back(self._aside)
            self._aside = []

    def end(self, entry: Entry) -> None:
        """The call of `entry` has ended; the next entry of its key queue is ready unless that is held."""
        entry.assignment.in_key_queues -= 1
        entry.assignment.in_flight -= 1
        if self._held_back is not None:
            self._held_back.ended(entry)
        if entry.key_queue is not None:
            self._free(entry.key_queue)

    def hold(self, entry: Entry) -> None:
        """Holds the key queue of `entry` until `release`: none of its entries is taken."""
        entry.assignment.in_key_queues += 1
        key_queue = entry.key_queue = self._key_queue(entry)
        if key_queue is None:
            return
        key_queue.holds += 1
        waiting = self._held_back.take(key_queue) if self._held_back else []
        for takeable in (self._ready, self._aside, waiting):
            for other in [other for other in takeable if other.key_queue is key_queue]:
                takeable.remove(other)
                key_queue.queue.appendleft(other)
                key_queue.busy = False

    def release(self, entry: Entry) -> None:
        """Ends one `hold`."""
        entry.assignment.in_key_queues -= 1
        key_queue = entry.key_queue
        if key_queue is not None:
            key_queue.holds -= 1
            self._advance(key_queue)

    def drop(self, assignment: Assignment) -> None:
        """Discards the entries of `assignment` that were not taken."""
        for name in [name for name, key_queue in self._key_queues.items() if key_queue.assignment is assignment]:
            del self._key_queues[name]
        self._ready = deque(entry for entry in self._ready if entry.assignment is not assignment)
        self._aside = [entry for entry in self._aside if entry.assignment is not assignment]
        if self._held_back:
            self._held_back.drop(assignment)

    def claim(self, assignment: Assignment, piece: Slice, most: int) -> Claim:
        """Claims the keys of up to `most` records of a slice, in order, for one caller. A record whose key is taken
        already is put into that key's queue."""
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
        """The calls of the claimed records from `start` to before `stop` have ended."""
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
        """Gives back the claimed records from `start` on, none of which was started. A record that others wait for
        becomes the first of its key queue; the indices of the rest, which can be taken again, are returned. `begun`:
        the record before them, for which `begin` was called."""
        free: list[int] = []
        key_queues: dict[KeyQueue, None] = {}
        for index in range(start, len(claim.names)):
            name = claim.names[index]
            key_queue = None if name is None else self._key_queues.get(name)
            if isinstance(key_queue, KeyQueue):
                entry = piece.entry(claim.assignment, index, piece.message(index))
                entry.key_queue = key_queue
                claim.assignment.in_key_queues += 1
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
        """The run that had the key has ended."""
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
    def _leads_to(entry: Entry, committable: int) -> bool:
        """Whether the committable offset cannot move before `entry` has ended. It may run even if the metadata has no
        room, because all records that wait for room wait for it."""
        if entry.offset == committable:
            return True
        return entry.key_queue is not None and any(other.offset == committable for other in entry.key_queue.queue)

    def _key_queue(self, entry: Entry) -> KeyQueue | None:
        name = key_queue_name(self._ordering, entry)
        if name is None:
            return None
        key_queue = self._key_queues.get(name)
        if not isinstance(key_queue, KeyQueue):
            claimed = key_queue is not None
            key_queue = self._key_queues[name] = KeyQueue(entry.assignment, name, busy=claimed)
        return key_queue

    def _advance(self, key_queue: KeyQueue) -> None:
        if key_queue.busy or key_queue.holds or self._key_queues.get(key_queue.name) is not key_queue:
            return
        if key_queue.queue:
            key_queue.busy = True
            self._ready.append(key_queue.queue.popleft())
        else:
            del self._key_queues[key_queue.name]
