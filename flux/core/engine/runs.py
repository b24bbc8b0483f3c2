"""The unit of work: a run, which one caller works in order, and how the rest of it is taken away from that caller.

Two sides touch a run at once: the caller, which makes calls and takes no lock, and the engine, which may cut the run.
They agree through two numbers. The caller publishes in `index` the call that it is about to make, and then compares it
with `limit`. To cut, the engine reads `index`, lowers `limit` to just above it, and reads `index` again. If it is still
the same, the caller will see the new limit before its next call. If it has changed, the caller may have passed the
check of the old limit, so the call that it is at stays its own, and the engine tries again from there. So a record is
called by the caller or given to others, never both and never neither. Without the second look, a caller that had just
passed the check would make a call that the engine hands out too. A caller that finds its index at the limit asks once
more under the lock, because the engine may have been between these steps.

A failure is noted before the next `index` is published. So whoever accounts for the calls below an index finds their
failures there, and no record counts as done because its failure came late.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from flux.core.engine.assignment import Assignment, Phase
from flux.core.engine.forwards import Failure
from flux.core.engine.ordering import Queues
from flux.core.engine.slices import Entry, Slice
from flux.core.message import Message

NotedFailures = list[tuple[Entry, Failure]]
"""Records whose calls failed, in the order of their calls."""


class Run:
    """`index`: the call that the caller is about to make; those before have ended. `limit`: the calls that are its own.
    `failures`: calls before `index` that failed and hold nothing back. See above for how the two sides agree.

    It works `records` (of one partition, as they came), `messages` (made of such, for records of a retry topic) or
    `entries` (tracked one by one, their key queues taken)."""

    __slots__ = (
        "calls",
        "entries",
        "failures",
        "index",
        "limit",
        "looks",
        "marked",
        "messages",
        "records",
        "refused",
        "seen",
        "started",
    )

    records: list[Any] | None
    messages: list[Message] | None
    entries: list[Entry] | None
    batched = False
    """Whether it is one call, of all its records."""

    def __init__(self, calls: int, now: float) -> None:
        self.index = 0
        self.limit = calls
        self.marked = 0
        """Calls before this one are accounted for."""
        self.failures: list[tuple[int, Failure, Message]] = []
        """Calls that failed and are not accounted for, by index. The caller appends, the engine takes out: an error
        holds the frames of its call, which hold this run, so what stayed here would live until Python looks for
        cycles."""
        self.refused = 0
        """Calls that were not made: the work was too old, or no handler could read it."""
        self.calls = calls
        """At first, before any cut; of a batch its records."""
        self.started = now
        self.seen = 0
        """Where `index` was when a watcher last looked."""
        self.looks = 0
        """How often it looked since without any progress; -1 once the run was found stuck."""

    def note(self, failure: Failure, message: Message) -> None:
        """The call that the caller is at failed."""
        self.failures.append((self.index, failure, message))

    def cut(self) -> int:
        """Ends the run after the call that it is in; returns that call's index. With the engine's lock held."""
        limit = self.limit
        while True:
            index = self.index
            self.limit = min(index + 1, limit)
            # if the caller went on meanwhile, it may have passed the check of the old limit: what it is at is its own
            if self.index == index:
                return index

    @property
    def offset(self) -> int:
        """Of the record that the caller is at."""
        raise NotImplementedError

    def assignments(self) -> Iterable[Assignment]:
        raise NotImplementedError

    def settle(self, index: int, key_queues: Queues) -> tuple[int, NotedFailures]:
        """Accounts for the calls before `index`, which have ended; returns how many of them are new and ended well,
        and the others."""
        raise NotImplementedError

    def part(self, index: int, message: Message, key_queues: Queues) -> Entry:
        """Takes call `index` out, all before it being settled: it did not simply end well."""
        raise NotImplementedError

    def divide(self, index: int, key_queues: Queues) -> Slice | None:
        """After `cut`: gives back what is behind call `index`; what of it is not tracked in key queues is returned."""
        raise NotImplementedError

    def hold_back(self, index: int, message: Message, key_queues: Queues) -> Entry | None:
        """After `cut`: takes out call `index`, which is to be made again; None when nobody needs it any more. Its key
        queue stays taken."""
        raise NotImplementedError

    def finish(self, key_queues: Queues) -> None:
        """All of its own calls are settled."""

    def due_times(self, calls: int) -> list[int]:
        """When the records of the first calls were due, in milliseconds since the epoch; in the main topic their
        timestamps; 0 or less where there is none."""
        raise NotImplementedError

    def _noted(self, index: int) -> list[tuple[int, Failure, Message]]:
        """Takes out the failures of calls before `index`."""
        failures = self.failures
        last = len(failures)
        while last and failures[last - 1][0] >= index:
            last -= 1
        taken = failures[:last]
        del failures[:last]
        return taken


class SliceRun(Run):
    """A slice of one partition's records. Its order satisfies order by key, so keys are not looked at."""

    __slots__ = ("_at", "_divided", "_piece", "assignment")

    records: list[Any]
    entries: None

    def __init__(self, assignment: Assignment, piece: Slice, now: float) -> None:
        super().__init__(len(piece.records), now)
        self.records = piece.records
        self.messages = piece.messages
        self.entries = None
        self.assignment = assignment
        self._piece = piece
        self._at: Entry | None = None
        """The call that it was cut at, in its key queue."""
        self._divided = False

    @property
    def offset(self) -> int:
        return int(self.records[min(self.index, len(self.records) - 1)].offset())

    def assignments(self) -> Iterable[Assignment]:
        return (self.assignment,)

    def settle(self, index: int, key_queues: Queues) -> tuple[int, NotedFailures]:
        start = self.marked
        if start >= index:
            return 0, []
        self.marked = index
        assignment, piece = self.assignment, self._piece
        failed: NotedFailures = []
        at, ranges = start, []
        for number, failure, message in self._noted(index) if self.failures else ():
            if number > at:
                ranges += piece.ranges(at, number)
            failed.append((piece.entry(assignment, number, message), failure))
            at = number + 1
        if at < index:
            ranges += piece.ranges(at, index)
        if ranges and assignment.phase is not Phase.GONE:
            if piece.ends is not None:
                ranges.sort()
            assert assignment.offset_tracker is not None
            assignment.offset_tracker.all_done(ranges)
        return index - start - len(failed), failed

    def part(self, index: int, message: Message, key_queues: Queues) -> Entry:
        self.marked = index + 1
        return self._piece.entry(self.assignment, index, message)

    def divide(self, index: int, key_queues: Queues) -> Slice | None:
        piece = self._piece
        if index >= len(piece.records) or self._divided or self.assignment.phase is Phase.GONE:
            return None
        self._divided = True
        self._at = at = piece.entry(self.assignment, index, piece.message(index))
        key_queues.begin(at)
        return self._rest(index + 1, at) if index + 1 < len(piece.records) else None

    def _rest(self, start: int, at: Entry) -> Slice | None:
        """What is behind the call that it was cut at."""
        return self._piece.part(start)

    def hold_back(self, index: int, message: Message, key_queues: Queues) -> Entry | None:
        self.marked = index + 1
        entry, self._at = self._at, None
        if entry is not None:
            entry.message = message
        return entry

    def finish(self, key_queues: Queues) -> None:
        if self._at is not None:
            key_queues.end(self._at)

    def due_times(self, calls: int) -> list[int]:
        due_times = self._piece.due_times
        return [record.timestamp()[1] for record in self.records[:calls]] if due_times is None else due_times[:calls]


class KeyQueueRun(Run):
    """Entries whose turn it is, each the first of its key queue."""

    __slots__ = ()

    records: None
    messages: None
    entries: list[Entry]

    def __init__(self, entries: list[Entry], now: float) -> None:
        super().__init__(len(entries), now)
        self.records = self.messages = None
        self.entries = entries

    @property
    def offset(self) -> int:
        return self.entries[min(self.index, len(self.entries) - 1)].offset

    def assignments(self) -> Iterable[Assignment]:
        return dict.fromkeys(entry.assignment for entry in self.entries)  # in order, so that a run can be repeated

    def settle(self, index: int, key_queues: Queues) -> tuple[int, NotedFailures]:
        start = self.marked
        if start >= index:
            return 0, []
        self.marked = index
        failures = {number: failure for number, failure, _ in self._noted(index)} if self.failures else {}
        failed: NotedFailures = []
        for number, entry in enumerate(self.entries[start:index], start):
            assignment = entry.assignment
            failure = failures.get(number) if failures else None
            if failure is not None:
                failed.append((entry, failure))
            elif assignment.phase is not Phase.GONE:
                assert assignment.offset_tracker is not None
                assignment.offset_tracker.done(entry.offset, entry.end)
            key_queues.end(entry)
        return index - start - len(failed), failed

    def part(self, index: int, message: Message, key_queues: Queues) -> Entry:
        self.marked = index + 1
        entry = self.entries[index]
        key_queues.end(entry)
        return entry

    def divide(self, index: int, key_queues: Queues) -> Slice | None:
        rest = self.entries[index + 1 :]
        if rest:
            before = list(self.assignments())
            del self.entries[index + 1 :]
            left = set(self.assignments())
            for assignment in before:
                if assignment not in left:
                    assignment.running.pop(self, None)
            key_queues.give_back([entry for entry in rest if entry.assignment.phase is Phase.WORKING])
        return None

    def hold_back(self, index: int, message: Message, key_queues: Queues) -> Entry | None:
        self.marked = index + 1
        return self.entries[index]

    def due_times(self, calls: int) -> list[int]:
        return [entry.due or entry.message.timestamp for entry in self.entries[:calls]]


class _OneCall(Run):
    """One call that takes all records, of one partition. Its index stays 0 until the call has ended; then it passes
    over the records while the caller reports those that failed."""

    __slots__ = ()
    batched = True

    def cut(self) -> int:
        """One call cannot be divided."""
        return self.index

    def divide(self, index: int, key_queues: Queues) -> Slice | None:
        return None


class BatchRun(_OneCall, KeyQueueRun):
    """Of entries."""

    __slots__ = ()


class WholeBatchRun(_OneCall, SliceRun):
    """Of a slice."""

    __slots__ = ()

    def hold_back(self, index: int, message: Message, key_queues: Queues) -> Entry | None:
        self.marked = index + 1
        if self.assignment.phase is Phase.GONE:
            return None
        entry = self._piece.entry(self.assignment, index, message)
        key_queues.begin(entry)
        return entry
