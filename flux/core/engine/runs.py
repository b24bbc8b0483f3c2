"""The unit of work: a run, whose calls one caller makes in order, and how the rest of it is taken from that caller.

Two sides use a run at once: the caller, which makes calls and takes no lock, and the engine, which may cut the run.
They agree through two numbers. The caller publishes in `index` the call that it is about to make, and then compares it
with `limit`. To cut, the engine reads `index`, lowers `limit` to just above it, and reads `index` again. If it is still
the same, the caller will see the new limit before its next call. If it has changed, the caller may have passed the
check of the old limit, so its current call stays its own, and the engine tries again from there. So each record is
called by this caller or given to others, never both and never neither. Without the second read, a caller that had just
passed the check would make a call that the engine hands out too. A caller that finds its index at the limit checks once
more under the lock, because the engine may have been between these steps.

A failure is noted before the next `index` is published. So the failures of all calls below an index are known when
these calls are accounted for, and no record counts as done because its failure came late.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from flux.core.engine.assignment import Assignment, Phase
from flux.core.engine.forwards import Failure
from flux.core.engine.ordering import Queues
from flux.core.engine.slices import Entry, Slice
from flux.core.message import Message

NotedFailures = list[tuple[Entry, Failure]]
"""Records whose calls failed, in call order."""


class Run:
    """`index`: the call that the caller is about to make; earlier ones have ended. `limit`: the end of the calls that
    it may make. `failures`: failed calls before `index` that hold back nothing. The module describes how the two sides
    agree.

    It has `records` (of one partition of the main topic), `messages` (of a retry topic) or `entries` (tracked
    individually, whose key queues it has taken)."""

    __slots__ = (
        "calls",
        "checks",
        "entries",
        "failures",
        "index",
        "limit",
        "marked",
        "messages",
        "moved",
        "records",
        "refused",
        "seen",
        "started",
    )

    records: list[Any] | None
    messages: list[Message] | None
    entries: list[Entry] | None
    batched = False
    """Whether it is a single call with all records."""

    def __init__(self, calls: int, now: float) -> None:
        self.index = 0
        self.limit = calls
        self.marked = 0
        """Calls before this one are accounted for."""
        self.failures: list[tuple[int, Failure, Message]] = []
        """(index, failure, message) of failed calls that are not accounted for. The caller appends, the engine takes
        them out: an error holds the frames of its call, which hold this run, so it would live on until Python collects
        cycles."""
        self.refused = 0
        """Calls that were not made: the record had expired, or could not be deserialized."""
        self.calls = calls
        """Number of calls before any cut; for a batch, of records."""
        self.started = now
        self.seen = 0
        """`index` at the watcher's last check."""
        self.moved = now
        """When the watcher saw that index first."""
        self.checks = 0
        """The watcher's checks since then without progress; -1 once the run was found stuck."""

    def note(self, failure: Failure, message: Message) -> None:
        """The caller's current call failed."""
        self.failures.append((self.index, failure, message))

    def cut(self) -> int:
        """Ends the run after its current call, and returns that call's index. Needs the engine's lock."""
        limit = self.limit
        while True:
            index = self.index
            self.limit = min(index + 1, limit)
            # if the caller has moved on, it may have passed the check of the old limit: its current call is its own
            if self.index == index:
                return index

    @property
    def offset(self) -> int:
        """Offset of the current call's record."""
        raise NotImplementedError

    def assignments(self) -> Iterable[Assignment]:
        raise NotImplementedError

    def settle(self, index: int, key_queues: Queues) -> tuple[int, NotedFailures]:
        """Accounts for the calls before `index`, which have ended. Returns how many of them are new and succeeded, and
        those that failed."""
        raise NotImplementedError

    def part(self, index: int, message: Message, key_queues: Queues) -> Entry:
        """Takes call `index` out of the run, because it did not simply succeed. All before it are settled."""
        raise NotImplementedError

    def divide(self, index: int, key_queues: Queues) -> Slice | None:
        """After `cut`: gives back the records after call `index`. Returns those that are not entries."""
        raise NotImplementedError

    def hold_back(self, index: int, message: Message, key_queues: Queues) -> Entry | None:
        """After `cut`: takes call `index` out of the run, because it is to be made again. Its key queue stays taken.
        Returns None if its partition is gone."""
        raise NotImplementedError

    def finish(self, key_queues: Queues) -> None:
        """All calls of the run are settled."""

    def due_times(self, calls: int) -> list[int]:
        """Due times of the first `calls` records in milliseconds since the epoch; in the main topic, their timestamps;
        0 or less if there is none."""
        raise NotImplementedError

    def _noted(self, index: int) -> list[tuple[int, Failure, Message]]:
        """Takes the failures of calls before `index`."""
        failures = self.failures
        last = len(failures)
        while last and failures[last - 1][0] >= index:
            last -= 1
        taken = failures[:last]
        del failures[:last]
        return taken


class KeyQueueRun(Run):
    """A run of entries, each the first of its key queue."""

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
            key_queues.give_back(rest)
        return None

    def hold_back(self, index: int, message: Message, key_queues: Queues) -> Entry | None:
        self.marked = index + 1
        return self.entries[index]

    def due_times(self, calls: int) -> list[int]:
        return [entry.due or entry.message.timestamp for entry in self.entries[:calls]]


class OrderedRun(KeyQueueRun):
    """A run of entries of a retry stage with `retry_order`: `ended` decides when one that has succeeded is done."""

    __slots__ = ("_ended",)

    def __init__(self, entries: list[Entry], now: float, ended: Callable[[Entry], None]) -> None:
        super().__init__(entries, now)
        self._ended = ended

    def settle(self, index: int, key_queues: Queues) -> tuple[int, NotedFailures]:
        start, self.marked = self.marked, max(self.marked, index)
        failures = {number: failure for number, failure, _ in self._noted(index)} if self.failures else {}
        failed: NotedFailures = []
        for number in range(start, index):
            entry = self.entries[number]
            if number in failures:
                failed.append((entry, failures[number]))
            elif entry.assignment.phase is not Phase.GONE:
                self._ended(entry)
            key_queues.end(entry)
        return max(0, index - start) - len(failed), failed


class OneCall(Run):
    """A single call with all records, of one partition. Its index stays 0 until the call has ended; then it moves over
    the records while the caller reports those that failed."""

    __slots__ = ()
    batched = True

    def cut(self) -> int:
        """Returns the index only, because a single call cannot be divided."""
        return self.index

    def divide(self, index: int, key_queues: Queues) -> Slice | None:
        return None


class BatchRun(OneCall, KeyQueueRun):
    """A batch of entries."""

    __slots__ = ()
