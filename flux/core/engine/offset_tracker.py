"""Which records of one partition are done, and which offset may be committed.

Invariant: every record below `committable`, the offset to commit, is done. So a crash can repeat records but cannot
skip one. Records end in any order; a range that is done above `committable` is kept until everything below it is done
too, and is stored in the metadata of the commit (as in Confluent's parallel-consumer), so that a restart repeats only
what ended after the last commit.

Offsets are not counted, because they have gaps: transactions and compaction remove some. A record owns the offsets
from its own up to the next record that was delivered. If gaps were filled by arithmetic instead, an offset that the
client has not delivered yet would count as done.

The broker limits the metadata. `admits` says whether one more range still fits; no call starts if it would not, because
a commit that the broker refuses would hold back all later ones.

    flux1 KIND . CRC . PAYLOAD

KIND `r`: run lengths, alternately undone and done, as LEB128 varints, and after them one more for a mark, if there is
one (`crashes.py`); `b`: one bit per offset, lowest first. CRC:
CRC-32 of "OFFSET:KIND" (the committed offset) and the payload's bytes, in hex: a string for another offset is ignored.
PAYLOAD: base64url without padding. An invalid string is ignored: that repeats calls, and loses no record.
"""

from __future__ import annotations

import base64
import binascii
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence

from flux.core.engine.crashes import Mark

MAX_METADATA = 4095
"""The broker's default limit in characters (offset.metadata.max.bytes), less the NUL that librdkafka appends."""

_FEW = 4  # fewer ranges are cheaper to add one by one
_FRAME = 16  # "flux1r." and "xxxxxxxx."
_SHAPE = re.compile(r"flux1([rb])\.([0-9a-f]{8})\.([A-Za-z0-9_-]*)\Z")


class OffsetTracker:
    """The state of one partition. Offsets only grow; `done` may come in any order."""

    __slots__ = ("_ends", "_payload", "_starts", "changes", "committable", "end")

    def __init__(
        self, committable: int, done: Iterable[tuple[int, int]] = (), max_metadata: int = MAX_METADATA
    ) -> None:
        self.committable = committable
        """The offset to commit next: everything below is done."""
        self.end = committable
        """The offset after the last delivered one."""
        self.changes = 0
        """Number of ranges that were done: changes with all progress."""
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._payload = max((max_metadata - _FRAME) * 3 // 4, 0)
        for start, end in done:
            self.done(start, end)

    def __repr__(self) -> str:
        return f"<OffsetTracker {self.committable}, done {list(self.ranges())}, delivered to {self.end}>"

    def delivered(self, first: int, end: int) -> None:
        """Records from `first` to before `end` were delivered; offsets between the last ones and these do not exist."""
        if first > self.end:
            self.done(self.end, first)
        self.end = max(self.end, end)

    def done(self, start: int, end: int) -> None:
        """The offsets of [start, end) are done."""
        if end <= self.committable:
            return
        self.changes += 1
        starts, ends = self._starts, self._ends
        if start <= self.committable:
            self.committable = end
            while starts and starts[0] <= self.committable:
                self.committable = max(self.committable, ends[0])
                del starts[0], ends[0]
            return
        low = bisect_left(ends, start)
        high = bisect_right(starts, end)
        if low < high:
            start, end = min(start, starts[low]), max(end, ends[high - 1])
        starts[low:high] = [start]
        ends[low:high] = [end]

    def all_done(self, ranges: Sequence[tuple[int, int]]) -> None:
        """The offsets of many ranges are done. They are in order and do not overlap."""
        if len(ranges) < _FEW:
            for start, end in ranges:
                self.done(start, end)
            return
        self.changes += len(ranges)
        starts, ends = self._starts, self._ends
        low, high = bisect_left(ends, ranges[0][0]), bisect_right(starts, ranges[-1][1])
        at = self.committable
        merged_starts: list[int] = []
        merged_ends: list[int] = []
        last = -1
        for start, end in sorted([*zip(starts[low:high], ends[low:high], strict=True), *ranges]):
            if start <= at:
                at = max(at, end)
            elif start <= last:
                if end > last:
                    last = merged_ends[-1] = end
            else:
                merged_starts.append(start)
                merged_ends.append(end)
                last = end
        starts[low:high], ends[low:high] = merged_starts, merged_ends
        if at > self.committable:
            self.done(self.committable, at)

    def after(self, ranges: Sequence[tuple[int, int]]) -> OffsetTracker:
        """What it will be when these ranges, which are in order and do not overlap, are done too."""
        later = OffsetTracker(self.committable)
        later.end, later._payload = self.end, self._payload
        later._starts, later._ends = self._starts[:], self._ends[:]
        later.all_done(ranges)
        return later

    def is_done(self, offset: int) -> bool:
        if offset < self.committable:
            return True
        at = bisect_right(self._starts, offset) - 1
        return at >= 0 and offset < self._ends[at]

    def ranges(self) -> Iterator[tuple[int, int]]:
        """The ranges done above `committable`."""
        return zip(self._starts, self._ends, strict=True)

    @property
    def unfinished(self) -> int:
        """Offsets that were delivered and are not done."""
        done = sum(min(end, self.end) - start for start, end in self.ranges() if start < self.end)
        return max(0, self.end - self.committable) - done

    def admits(self, end: int, in_flight: int) -> bool:
        """Whether the metadata still fits, in whatever order calls end, if a record below `end` is called beside
        `in_flight` others."""
        span = max(end, self._ends[-1] if self._ends else 0) - self.committable
        if span <= self._payload * 8:
            return True
        return (len(self._starts) + in_flight + 1) * 2 * _varint_length(span) <= self._payload

    def metadata(self, mark: Mark | None = None) -> str:
        """The string to store with the committed offset; empty if nothing above `committable` is done and there is no
        mark. A mark that does not fit is left out.

        If the limit was lowered, the highest ranges may not fit: they are left out and processed again."""
        starts, ends = self._starts, self._ends
        note = b"" if mark is None else _varint(mark.number(self.committable))
        if not starts and len(note) <= self._payload:
            return _framed("r", self.committable, note) if note else ""
        if not starts or not self._payload:
            return ""
        committable = self.committable
        lengths = bytearray()
        last = committable
        for start, end in zip(starts, ends, strict=True):
            pair = _varint(start - last) + _varint(end - start)
            if len(lengths) + len(pair) > self._payload:
                break
            lengths += pair
            last = end
        size = min((ends[-1] - committable + 7) // 8, self._payload)
        if last == ends[-1] and len(lengths) + len(note) <= (self._payload if note else size):
            return _framed("r", committable, bytes(lengths) + note)
        bits, limit = 0, committable + size * 8
        for start, end in zip(starts, ends, strict=True):
            if start >= limit:
                break
            bits |= ((1 << (min(end, limit) - start)) - 1) << (start - committable)
        return _framed("b", committable, bits.to_bytes(size, "little"))


def read_metadata(offset: int, metadata: str) -> list[tuple[int, int]] | None:
    """The ranges done above the committed offset `offset`; None if the string is foreign, damaged, or for another
    offset."""
    found = _unframed(offset, metadata)
    if found is None:
        return None
    kind, payload = found
    return list(_read_lengths(offset, payload) if kind == "r" else _read_bits(offset, payload))


def read_mark(offset: int, metadata: str) -> Mark | None:
    """The mark that was stored with the committed offset `offset`; None if there is none."""
    kind, payload = _unframed(offset, metadata) or ("", b"")
    numbers = _numbers(payload) if kind == "r" else []
    return Mark.of(numbers[-1], offset) if len(numbers) % 2 else None


def _unframed(offset: int, metadata: str) -> tuple[str, bytes] | None:
    match = _SHAPE.match(metadata)
    if not match:
        return None
    kind, crc, text = match.groups()
    try:
        payload = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        return None
    if f"{_crc(kind, offset, payload):08x}" != crc:
        return None
    return kind, payload


def _framed(kind: str, offset: int, payload: bytes) -> str:
    text = base64.urlsafe_b64encode(payload).rstrip(b"=").decode("ascii")
    return f"flux1{kind}.{_crc(kind, offset, payload):08x}.{text}"


def _crc(kind: str, offset: int, payload: bytes) -> int:
    return binascii.crc32(payload, binascii.crc32(f"{offset}:{kind}".encode("ascii")))


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _varint_length(number: int) -> int:
    return max(1, (number.bit_length() + 6) // 7)


def _numbers(payload: bytes) -> list[int]:
    numbers: list[int] = []
    number = shift = 0
    for byte in payload:
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            numbers.append(number)
            number = shift = 0
    return numbers


def _read_lengths(offset: int, payload: bytes) -> Iterator[tuple[int, int]]:
    numbers = _numbers(payload)
    at = offset
    for undone, done in zip(numbers[::2], numbers[1::2], strict=False):
        yield at + undone, at + undone + done
        at += undone + done


def _read_bits(offset: int, payload: bytes) -> Iterator[tuple[int, int]]:
    text = bin(int.from_bytes(payload, "little"))[:1:-1]
    for match in re.finditer("1+", text):
        yield offset + match.start(), offset + match.end()
