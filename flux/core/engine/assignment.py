"""The state of an assigned partition, from assignment to revocation or loss, as a transition table.

Each new assignment is a new object. A call that ends after the rebalance still refers to the old object, which is GONE,
and so can neither commit nor forward a record.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from flux.core.engine.crashes import Crashes
from flux.core.engine.offset_tracker import OffsetTracker, read_mark, read_metadata
from flux.core.engine.slices import Entry, Slice
from flux.core.named_work import Names
from flux.core.ports import BEGINNING, CommittedOffset, TopicPartition

if TYPE_CHECKING:
    from flux.core.engine.runs import Run


class Phase(enum.Enum):
    WORKING = "working"
    DRAINING = "draining"
    """Being revoked: no new calls; calls in flight may still end and be committed."""
    GONE = "gone"


class Event(enum.Enum):
    REVOKING = "revoking"
    REVOKED = "revoked"
    LOST = "lost"


TRANSITIONS: dict[tuple[Phase, Event], Phase] = {
    (Phase.WORKING, Event.REVOKING): Phase.DRAINING,
    (Phase.WORKING, Event.LOST): Phase.GONE,
    (Phase.DRAINING, Event.REVOKING): Phase.DRAINING,
    (Phase.DRAINING, Event.REVOKED): Phase.GONE,
    (Phase.DRAINING, Event.LOST): Phase.GONE,
}


class Assignment:
    """One partition while this member owns it."""

    __slots__ = (
        "backlog",
        "backlogged",
        "committed",
        "crashes",
        "held",
        "in_flight",
        "in_key_queues",
        "jitter",
        "max_metadata",
        "names",
        "offset_tracker",
        "open",
        "partition",
        "paused",
        "phase",
        "queued",
        "restored",
        "running",
        "start",
        "waiting",
        "waiting_bytes",
        "waiting_offsets",
    )

    def __init__(
        self,
        partition: TopicPartition,
        start: int,
        done: list[tuple[int, int]],
        committed: CommittedOffset | None,
        jitter: int,
        max_metadata: int,
        crashes: Crashes | None = None,
    ) -> None:
        self.partition = partition
        self.phase = Phase.WORKING
        self.max_metadata = max_metadata
        self.offset_tracker = None if start == BEGINNING else OffsetTracker(start, done, max_metadata)
        """None until the first record shows where the partition begins."""
        self.restored = done[-1][1] if done else 0
        """Records below this offset may have been completed by another owner."""
        self.committed = committed
        self.crashes = Crashes() if crashes is None else crashes
        self.start = start
        self.jitter = jitter
        """Random part of the default waits, 0 … 29."""
        self.backlog: deque[Slice] = deque()
        self.backlogged = 0
        """Records in the backlog, those held included."""
        self.held: deque[Slice] = deque()
        """Slices of the backlog whose records may not be taken as usual: see `crashes.py`."""
        self.queued = False
        """Whether it is in the round of partitions with a backlog."""
        self.running: dict[Run, None] = {}
        """Runs with records of this partition."""
        self.in_key_queues = 0
        """Entries in key queues, including running ones and those that hold their key."""
        self.in_flight = 0
        """Entries that a caller has taken, plus the part runs beside them."""
        self.open: dict[Entry, None] = {}
        """Entries whose call has ended but that are not done: being forwarded, waiting for a retry in place, or for
        the acknowledgement of what they produced."""
        self.waiting = 0
        self.waiting_bytes = 0
        self.waiting_offsets = 0
        """Offsets that the waiting records own."""
        self.paused = False
        self.names = Names()

    def __repr__(self) -> str:
        return f"<Assignment {self.partition} {self.phase.value}>"

    def to(self, event: Event) -> None:
        self.phase = TRANSITIONS[self.phase, event]

    @property
    def committable(self) -> CommittedOffset | None:
        """What may be committed now; None if not known yet."""
        if self.offset_tracker is None:
            return None
        return self._offset(self.offset_tracker)

    def committable_after(self, ended: list[tuple[int, int]]) -> CommittedOffset:
        """What may be committed together with the end of these offset ranges, which are in memory and not done."""
        assert self.offset_tracker is not None
        ended.sort()
        later = self.offset_tracker.after(ended)
        return self._offset(later)

    def _offset(self, offset_tracker: OffsetTracker) -> CommittedOffset:
        return CommittedOffset(offset_tracker.committable, offset_tracker.metadata(self.crashes.noted(offset_tracker)))

    def owes(self, offsets: Mapping[TopicPartition, CommittedOffset], latest: bool) -> bool:
        """Whether something is repeated or skipped unless its offset in `offsets` is committed: not for a mark alone,
        nor for the start offset of a partition without a commit, unless that was the `latest`."""
        offset, committed = offsets[self.partition], self.committed
        if committed is None:
            return latest or offset != CommittedOffset(self.start)
        return offset.offset != committed.offset or (read_metadata(*offset) or []) != (read_metadata(*committed) or [])

    @property
    def is_noted(self) -> bool:
        """Whether the last commit has the current mark."""
        committed, offset_tracker = self.committed, self.offset_tracker
        if committed is None or offset_tracker is None:
            return False
        return read_mark(*committed) == self.crashes.noted(offset_tracker)

    def notes(self, committable: CommittedOffset) -> bool:
        """Whether there is no mark, or a commit of `committable` has room for it."""
        return self.crashes.mark is None or read_mark(*committable) is not None

    def survives(self, now: float) -> bool:
        """Whether its owner has survived: then it notes no mark any more."""
        if self.offset_tracker is None:
            return False
        oldest = min((run.started for run in self.running), default=now)
        return self.crashes.settles(self.offset_tracker.changes, oldest, now)

    def read_to(self, end: int) -> bool:
        """No more records will be delivered below offset `end`. Returns whether that moves the committable offset."""
        if self.offset_tracker is None:
            self._begin(end)
            return True
        before = self.offset_tracker.committable
        self.offset_tracker.delivered(end, end)
        return self.offset_tracker.committable != before

    def _begin(self, start: int) -> OffsetTracker:
        """The partition has shown its oldest offset."""
        self.start, self.offset_tracker = start, OffsetTracker(start, (), self.max_metadata)
        return self.offset_tracker

    def give_back(self, piece: Slice) -> None:
        """Puts a slice that was taken from the backlog, or its rest, back in order."""
        before: list[Slice] = []
        place = piece.place
        while self.backlog and self.backlog[0].place < place:
            before.append(self.backlog.popleft())
        self.backlog.appendleft(piece)
        self.backlog.extendleft(reversed(before))
        self.backlogged += len(piece.records)

    def deliver(self, records: list[Any]) -> Iterator[Slice]:
        """Records in the offset tracker that these were delivered. Returns slices of those that are neither done nor
        in memory already."""
        first, last = records[0].offset(), records[-1].offset()
        offset_tracker = self._begin(first) if self.offset_tracker is None else self.offset_tracker
        before = offset_tracker.end
        if first >= before and first >= self.restored:
            offset_tracker.delivered(first, last + 1)
            yield Slice(records, last + 1)
            return
        if first < before:
            records = [record for record in records if record.offset() >= before]
            if not records:
                return
        offset_tracker.delivered(records[0].offset(), last + 1)
        start = None
        for index, record in enumerate(records):
            if offset_tracker.is_done(record.offset()):
                if start is not None:
                    yield Slice(records[start:index], record.offset())
                start = None
                # the other owner may not have known the end of the gap after it
                offset_tracker.done(
                    record.offset(), records[index + 1].offset() if index + 1 < len(records) else last + 1
                )
            elif start is None:
                start = index
        if start is not None:
            yield Slice(records[start:], last + 1)
