"""The unit of work: a run, which one caller works in order, and how the rest of it is taken away from that caller."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from flux.core import trail
from flux.core.assignment import Assignment, Entry, Phase, Slice
from flux.core.lanes import Queues
from flux.core.message import Message


class Run:
    """The caller publishes in `index` which call it is about to make: those before have ended. It makes call `index`
    only if that is below `limit`; when it is not, it asks again under the engine's lock, since `cut` may have been
    undecided. That is all that keeps a cut and a running caller apart, with no lock per call.

    It works `records` (of one partition, as they came) or `entries` (tracked one by one, their lanes taken)."""

    __slots__ = ("entries", "index", "limit", "looks", "marked", "records", "refused", "seen", "started")

    records: list[Any] | None
    entries: list[Entry] | None

    def __init__(self, calls: int, now: float) -> None:
        self.index = 0
        self.limit = calls
        self.marked = 0
        """Calls before this one are accounted for."""
        self.refused = 0
        """Calls that were not made: the work was too old, or no handler could read it."""
        self.started = now
        self.seen = 0
        """Where `index` was when a watcher last looked."""
        self.looks = 0
        """How often it looked since without any progress; -1 once the run was found stuck."""

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
        if self.records is not None:
            return int(self.records[min(self.index, len(self.records) - 1)].offset())
        assert self.entries is not None
        return self.entries[min(self.index, len(self.entries) - 1)].offset

    def assignments(self) -> Iterable[Assignment]:
        raise NotImplementedError

    def settle(self, index: int, lanes: Queues) -> int:
        """Accounts for the calls before `index`, which have ended well; returns how many are new."""
        raise NotImplementedError

    def part(self, index: int, message: Message, lanes: Queues) -> Entry:
        """Takes call `index` out, all before it being settled: it did not simply end well."""
        raise NotImplementedError

    def divide(self, index: int, lanes: Queues) -> Slice | None:
        """After `cut`: gives back what is behind call `index`; what of it is not tracked in lanes is returned."""
        raise NotImplementedError

    def hold_back(self, index: int, message: Message) -> Entry | None:
        """After `cut`: takes out call `index`, which is to be made again; None when nobody needs it any more. Its lane
        stays taken."""
        raise NotImplementedError

    def finish(self, lanes: Queues) -> None:
        """All of its own calls are settled."""


class SliceRun(Run):
    """A slice of one partition's batch. Offset order satisfies order by key, so keys are not looked at."""

    __slots__ = ("_at", "_divided", "_end", "assignment")

    records: list[Any]
    entries: None

    def __init__(self, assignment: Assignment, piece: Slice, now: float) -> None:
        super().__init__(len(piece.records), now)
        self.records = piece.records
        self.entries = None
        self.assignment = assignment
        self._end = piece.end
        self._at: Entry | None = None
        """The call that it was cut at, in its lane."""
        self._divided = False

    def assignments(self) -> Iterable[Assignment]:
        return (self.assignment,)

    def settle(self, index: int, lanes: Queues) -> int:
        start = self.marked
        if start >= index:
            return 0
        self.marked = index
        assignment = self.assignment
        if assignment.phase is not Phase.GONE:
            assert assignment.ledger is not None
            assignment.ledger.done(self.records[start].offset(), self._after(index - 1))
        return index - start

    def part(self, index: int, message: Message, lanes: Queues) -> Entry:
        self.marked = index + 1
        return Entry(self.assignment, message, self.records[index].offset(), self._after(index))

    def divide(self, index: int, lanes: Queues) -> Slice | None:
        records = self.records
        if index >= len(records) or self._divided or self.assignment.phase is Phase.GONE:
            return None
        self._divided = True
        record = records[index]
        message = Message.of(record, None, trail.start())
        self._at = Entry(self.assignment, message, record.offset(), self._after(index))
        lanes.begin(self._at)
        rest = records[index + 1 :]
        return Slice(rest, self._end) if rest else None

    def hold_back(self, index: int, message: Message) -> Entry | None:
        self.marked = index + 1
        entry, self._at = self._at, None
        if entry is not None:
            entry.message = message
        return entry

    def finish(self, lanes: Queues) -> None:
        if self._at is not None:
            lanes.end(self._at)

    def _after(self, index: int) -> int:
        """The offset up to which call `index` owns the log."""
        records = self.records
        return int(records[index + 1].offset()) if index + 1 < len(records) else self._end


class LaneRun(Run):
    """Entries whose turn it is, each the first of its lane."""

    __slots__ = ()

    records: None
    entries: list[Entry]

    def __init__(self, entries: list[Entry], now: float) -> None:
        super().__init__(len(entries), now)
        self.records = None
        self.entries = entries

    def assignments(self) -> Iterable[Assignment]:
        return dict.fromkeys(entry.assignment for entry in self.entries)  # in order, so that a run can be repeated

    def settle(self, index: int, lanes: Queues) -> int:
        start = self.marked
        if start >= index:
            return 0
        self.marked = index
        for entry in self.entries[start:index]:
            assignment = entry.assignment
            if assignment.phase is not Phase.GONE:
                assert assignment.ledger is not None
                assignment.ledger.done(entry.offset, entry.end)
            lanes.end(entry)
        return index - start

    def part(self, index: int, message: Message, lanes: Queues) -> Entry:
        self.marked = index + 1
        entry = self.entries[index]
        lanes.end(entry)
        return entry

    def divide(self, index: int, lanes: Queues) -> Slice | None:
        rest = self.entries[index + 1 :]
        if rest:
            before = list(self.assignments())
            del self.entries[index + 1 :]
            left = set(self.assignments())
            for assignment in before:
                if assignment not in left:
                    assignment.running.pop(self, None)
            lanes.give_back([entry for entry in rest if entry.assignment.phase is Phase.WORKING])
        return None

    def hold_back(self, index: int, message: Message) -> Entry | None:
        self.marked = index + 1
        return self.entries[index]


class BatchRun(LaneRun):
    """One call that takes all entries, of one partition. Its index stays 0 until the call has ended; then it passes
    over the entries while the caller reports those that failed."""

    __slots__ = ()

    def cut(self) -> int:
        """One call cannot be divided."""
        return self.index

    def divide(self, index: int, lanes: Queues) -> Slice | None:
        return None
