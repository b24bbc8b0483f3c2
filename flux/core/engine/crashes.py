"""Whether calls of a partition may have ended the process of a former owner, and what a commit notes about that.

A process that vanishes (a segfault, the OOM killer, `os._exit`) reports nothing, so its commits must say beforehand
that it was at work. An owner notes a mark in the metadata of its first commit, before its first call of the partition,
and removes it once calls have ended and it has survived `SETTLED` seconds, or when it gives the partition up. An owner
that finds such a mark is the successor of a process that vanished, and counts one more crash. Its first commit says so
with a mark at rest, which counts no further: it may vanish itself before it calls anything here.

What may be called narrows with the crashes in a row, and each mark is committed before the calls that it covers:

- none: any records, because the mark names none
- one: windows of few records, because the mark names the offset below which records are called (`until`)
- more (`ALONE_AFTER`): one record at a time, with nothing beside it in the process, which the mark names (`alone`).
  When all below the predecessor's `until` are cleared, the partition is back at windows.

The mark is the last number of the run lengths in the metadata (`offset_tracker.py`), where a pair is incomplete
without it: a reader that does not expect a mark drops it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from flux.core.engine.offset_tracker import OffsetTracker

ALONE_AFTER = 2
LEAST_CRASHES, MOST_CRASHES = 2, 100
"""Limits of `max_crashes`. The first crash is noticed, and counts for no record; the next one narrows, and only the one
after that proves."""
SETTLED = 10.0
"""Seconds from the first call after which an owner has survived, if no call of that time goes on."""
FIRST_WINDOW, LARGEST_WINDOW = 16, 128
"""Records. Each window is twice as large as the one before: slow calls are few in doubt, quick ones wait little."""
_BITS = 8  # of a mark's number, for the crashes and whether it rests
_MORE = 48  # bits for the distance of `alone`


class Mark(NamedTuple):
    """`crashes`: processes in a row that vanished before. `alone`: the offset of the record that is called alone, or
    was when the last of them vanished. `until`: records that are in doubt are below. `rests`: its owner calls
    nothing."""

    crashes: int
    alone: int | None = None
    until: int | None = None
    rests: bool = False

    def number(self, committed: int) -> int:
        """As stored beside the committed offset `committed`."""
        alone = 0 if self.alone is None else self.alone - committed + 1
        until = 0 if self.until is None else self.until - committed
        return self.crashes << 1 | self.rests | (until << _MORE | alone) << _BITS

    @classmethod
    def of(cls, number: int, committed: int) -> Mark:
        distances, rest = number >> _BITS, number & (1 << _BITS) - 1
        until, alone = distances >> _MORE, distances & (1 << _MORE) - 1
        return cls(
            rest >> 1,
            committed + alone - 1 if alone else None,
            committed + until if until else None,
            bool(rest & 1),
        )


class Crashes:
    """Of one assignment. `limit`: `max_crashes`; None: nothing is noted. `found`: the mark in the committed offset's
    metadata."""

    __slots__ = (
        "_changes",
        "_limit",
        "begun",
        "crashes",
        "mark",
        "named",
        "opened",
        "unclear",
        "until",
        "waits",
        "window",
    )

    def __init__(self, limit: int | None = None, found: Mark | None = None) -> None:
        found = None if limit is None else found
        self._limit = limit
        self.crashes = 0 if found is None else min(found.crashes + (not found.rests), MOST_CRASHES + 1)
        """Processes in a row that vanished before this one."""
        self.named = None if found is None else found.alone
        """The offset of the record whose call was the only one when the last of them vanished."""
        self.until = None if found is None else found.until
        """Records below this offset are in doubt, or may be called in this window; None: not known, none yet."""
        self.mark = self._at_rest if found is not None else None
        """What the next commit notes."""
        self.unclear = found is not None and not found.rests
        """Whether the last commit accuses a record, or a process, that is not at work."""
        self.opened = limit is None
        """Whether records are called as usual."""
        self.window = FIRST_WINDOW // 2
        """Size of the last window."""
        self.waits = False
        """Whether the last window waits for the commit that says so."""
        self.begun: float | None = None
        """When the first records could be called."""
        self._changes = 0

    @property
    def careful(self) -> bool:
        """Whether records are called alone."""
        return not self.opened and self.crashes >= ALONE_AFTER

    @property
    def windowed(self) -> bool:
        """Whether records are called in windows."""
        return not self.opened and 0 < self.crashes < ALONE_AFTER

    @property
    def has_window(self) -> bool:
        """Whether records of a window may be called now."""
        return self.windowed and not self.waits and self.mark is not None and not self.mark.rests

    @property
    def finding(self) -> str:
        """What the mark says, for the log."""
        found = f"{self.crashes} process(es) in a row vanished while they worked on it"
        return f"{found}; its next records are called one by one, with nothing beside them" if self.careful else found

    def begins(self, changes: int, now: float) -> bool:
        """Records may be called soon. Returns whether the mark must be noted now. `changes`: of the offset tracker."""
        if self.begun is not None:
            return False
        self.begun, self._changes = now, changes
        if not self.crashes:
            self.mark = Mark(0)
        return not self.crashes

    def give_up(self) -> None:
        """Nothing can be noted: see `max_metadata`."""
        self.unclear = self.unclear or (self.mark is not None and not self.mark.rests)
        self.opened, self.mark, self._limit = True, None, None

    def ends(self) -> None:
        """The owner gives the partition up: it is not to blame, and what it found stays."""
        suspected = self.crashes > 0 and (not self.opened or self.mark is not None)
        self.unclear = self.naming
        self.mark = self._at_rest if suspected else None

    def settles(self, changes: int, oldest: float, now: float) -> bool:
        """Whether the owner has survived, so that it removes its mark and calls records as usual. `oldest`: when the
        oldest run of the partition started."""
        if self.mark is None or self.begun is None or self.careful or changes == self._changes:
            return False
        if 0 <= now - self.begun < SETTLED or 0 <= oldest - self.begun < SETTLED:
            return False
        self.mark, self.opened = None, True
        return True

    @property
    def _at_rest(self) -> Mark:
        return Mark(self.crashes, self.named, self.until, True)

    def noted(self, offset_tracker: OffsetTracker) -> Mark | None:
        """What a commit of these offsets notes: no record that is done is accused or in doubt."""
        if self.mark is None:
            return None
        crashes, alone, until, rests = self.mark
        if until is not None and until <= offset_tracker.committable:
            until = None
        if alone is not None and offset_tracker.is_done(alone):
            return Mark(min(crashes, ALONE_AFTER), None, until, True)
        return Mark(crashes, alone, until, rests)

    # ---- windows

    def extend(self, size: int, until: int) -> None:
        """The next `size` records, below `until`, may be called once a commit has said so."""
        self.window, self.waits = size, True
        self.until = until if self.until is None else max(until, self.until)
        self.mark = Mark(self.crashes, None, self.until)

    # ---- calls alone

    @property
    def naming(self) -> bool:
        """Whether a record is to be called alone, and the next commit says so."""
        return self.careful and self.mark is not None and not self.mark.rests

    def names(self, offset: int) -> bool:
        """Whether that is the record at `offset`."""
        return self.naming and self.mark is not None and self.mark.alone == offset

    def name(self, offset: int) -> None:
        """The record at `offset` is the next one to be called alone."""
        self.mark = Mark(self.crashes if offset == self.named else ALONE_AFTER, offset, self.until)

    def doubts(self, offset: int) -> bool:
        """Whether a call of the record at `offset` may have ended a process."""
        return offset == self.named or (self.until is not None and offset < self.until)

    def rest(self) -> None:
        """No record is named, because the commit that said so failed, or may have."""
        self.mark, self.unclear = self._at_rest, True

    def kills(self, offset: int) -> bool:
        """Whether so many processes vanished after the first one, the last of them in a call of the record at `offset`
        alone, that it is dead. Its mark stays, at rest, until its dead letter is written."""
        return self._limit is not None and offset == self.named and self.crashes > self._limit

    def called(self) -> None:
        """A record that was called alone has left the process alive."""
        self.crashes, self.named = ALONE_AFTER, None
        self.rest()

    def cleared(self, now: float) -> None:
        """All records in doubt were called alone, or are dead: the next ones are called in windows."""
        self.crashes, self.named, self.until = ALONE_AFTER - 1, None, None
        self.begun, self._changes = now, -1
        self.mark = self._at_rest
