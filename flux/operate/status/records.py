"""Reads what a group has not done: the first record of each partition, and how many records there are.

Offsets have gaps: the markers of transactions, aborted records, compaction. Only a reader finds them, so counting is
bounded, and offsets that were not examined count as records.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from flux.core.ports import BEGINNING, Batch, Cluster, Record, System, TopicPartition
from flux.operate.reading import Span
from flux.system import SYSTEM

MAX_PARTITIONS = 500
"""Read together: a client buffers some hundred KB of each."""
MAX_COUNTED = 10_000
"""Offsets that are examined at once, of all partitions together."""
MAX_BYTES = 16 * 1024 * 1024
"""Of the values that are read for counting."""
TIMEOUT = 5.0
_LOOK = 0.25
_PIECE = 500


@attrs.frozen
class Gaps:
    """Of one partition: the half-open ranges, in order, that have no record among the offsets from `start` on, below
    `end`."""

    start: int
    end: int
    ranges: tuple[tuple[int, int], ...] = ()

    def records(self, start: int, end: int) -> int:
        """Records from `start` on, below `end`, at most."""
        gaps = sum(max(0, min(stop, end) - max(first, start)) for first, stop in self.ranges)
        return max(0, end - start) - gaps


NOT_EXAMINED = Gaps(0, 0)


@attrs.frozen
class Counted:
    """What a partition holds from `low` on, below `high`: `records` below `reached`; behind that, offsets are known
    only."""

    low: int
    high: int
    reached: int
    records: int

    @property
    def most(self) -> int:
        """Records, at most."""
        return self.records + self.high - self.reached

    @property
    def exact(self) -> bool:
        return self.reached >= self.high

    @property
    def has_gaps(self) -> bool:
        return self.records < self.reached - self.low

    def since(self, earlier: Counted) -> int:
        """Records that came since, at most."""
        if earlier.exact and earlier.low == self.low:
            return max(0, self.most - earlier.most)
        return max(0, self.high - earlier.high)

    def further(self, gaps: Gaps) -> Counted:
        """With what was examined from `reached` on."""
        return attrs.evolve(self, reached=gaps.end, records=self.records + gaps.records(self.reached, gaps.end))

    def up_to(self, low: int, high: int) -> Counted:
        """Of the same partition later. Where its oldest records were deleted, counting starts over."""
        if self.low == low and self.reached <= high:
            return attrs.evolve(self, high=high)
        return Counted(low, high, low, 0)


@attrs.frozen
class Examined:
    """`first`: without the partitions that have no record, or none within `TIMEOUT` seconds."""

    first: dict[TopicPartition, Record]
    gaps: dict[TopicPartition, Gaps]


def examine(
    adapter: Cluster, spans: Mapping[TopicPartition, Span], *, counts: bool = True, system: System = SYSTEM
) -> Examined:
    """The first record in or after each span, and, if it `counts`, the gaps of the shortest spans, as far as the limits
    of this module allow. Raises BrokerError, and ConfigurationError for records that this client cannot read."""
    spans = dict(list(spans.items())[:MAX_PARTITIONS])
    examinations = _begin(spans, MAX_COUNTED if counts else 0)
    open_ = dict(examinations)
    if open_:
        reader = adapter.reader({at: span.start for at, span in spans.items()})
        until, size = system.monotonic() + TIMEOUT, 0
        try:
            while open_ and system.monotonic() < until:
                polled = reader.poll(_PIECE, _LOOK)
                for at in polled.out_of_range:
                    reader.seek(at, BEGINNING)  # deleted meanwhile
                for batch in polled.batches:
                    if batch.partition in open_:
                        size += open_[batch.partition].take(batch)
                for at, reached in polled.reached.items():
                    if at in open_:
                        open_.pop(at).reach(reached)
                enough = size > MAX_BYTES
                open_ = {
                    at: each for at, each in open_.items() if not (each.ended or (enough and each.first is not None))
                }
        finally:
            reader.close()
    return Examined(
        {at: each.first for at, each in examinations.items() if each.first is not None},
        {at: Gaps(spans[at].start, each.reached, tuple(each.gaps)) for at, each in examinations.items()},
    )


def _begin(spans: Mapping[TopicPartition, Span], left: int) -> dict[TopicPartition, _Examination]:
    """To the end in the shortest spans, `left` offsets in all, and to the first record in the others."""
    found = {}
    for at, span in sorted(spans.items(), key=lambda each: each[1].end - each[1].start):
        left -= span.end - span.start
        found[at] = _Examination(span.start, span.end if left >= 0 else span.start + 1)
    return found


@attrs.define
class _Examination:
    """Of one partition. `reached`: all offsets below it are examined."""

    reached: int
    end: int
    first: Record | None = None
    gaps: list[tuple[int, int]] = attrs.field(factory=list)

    @property
    def ended(self) -> bool:
        return self.reached >= self.end

    def take(self, batch: Batch) -> int:
        """Returns the bytes of the records that it counts."""
        if self.first is None:
            self.first = batch.records[0]
        size = 0
        for record in batch.records:
            self.reach(record.offset())
            if self.ended:
                break
            self.reached += 1
            size += len(record.value() or b"")
        return size

    def reach(self, offset: int) -> None:
        """There is no record below `offset` that was not delivered."""
        offset = min(offset, self.end)
        if offset > self.reached:
            self.gaps.append((self.reached, offset))
            self.reached = offset
