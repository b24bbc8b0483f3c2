"""A set of offsets of one partition, short enough as text for commit metadata."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from operator import itemgetter

import attrs

from flux.core.engine.offset_tracker import OffsetTracker, read_metadata

_start = itemgetter(0)


@attrs.frozen
class OffsetSet:
    """`ranges`: half-open, in order, none touches the next one."""

    ranges: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, offsets: Iterable[int]) -> OffsetSet:
        return cls().plus(offsets)

    def __contains__(self, offset: int) -> bool:
        at = bisect_right(self.ranges, offset, key=_start) - 1
        return at >= 0 and offset < self.ranges[at][1]

    def __len__(self) -> int:
        return sum(end - start for start, end in self.ranges)

    def plus(self, offsets: Iterable[int]) -> OffsetSet:
        merged: list[tuple[int, int]] = []
        for start, end in sorted([*self.ranges, *((offset, offset + 1) for offset in offsets)]):
            if merged and start <= merged[-1][1]:
                merged[-1] = merged[-1][0], max(end, merged[-1][1])
            else:
                merged.append((start, end))
        return OffsetSet(tuple(merged))

    def minus(self, offsets: Iterable[int]) -> OffsetSet:
        gone, left = sorted(offsets), list[tuple[int, int]]()
        for start, end in self.ranges:
            for offset in gone[bisect_left(gone, start) : bisect_left(gone, end)]:
                if start < offset:
                    left.append((start, offset))
                start = offset + 1
            if start < end:
                left.append((start, end))
        return OffsetSet(tuple(left))

    def since(self, low: int) -> OffsetSet:
        """Without the offsets below `low`."""
        return OffsetSet(tuple((max(start, low), end) for start, end in self.ranges if end > low))

    def to_json(self, most: int) -> list[int | str] | None:
        """None: it would need more than `most` characters."""
        base = self.ranges[0][0] - 1 if self.ranges else -1  # below the first one, which the tracker would pass over
        text = OffsetTracker(base, self.ranges, most).metadata()
        return [base, text] if read_metadata(base, text) == list(self.ranges) else None

    @classmethod
    def from_json(cls, data: object) -> OffsetSet:
        """Raises ValueError for what `to_json` never returns."""
        if isinstance(data, list) and len(data) == 2 and type(data[0]) is int and type(data[1]) is str:
            ranges = read_metadata(data[0], data[1])
            if ranges is not None:
                return cls(tuple(ranges))
        raise ValueError("not a set of offsets")


NONE = OffsetSet()
