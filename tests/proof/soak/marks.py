"""What the feeder has written and the workers have done: a file that all processes map, and that outlives them."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

_HEADER = 16
_REFUSED = 0x80


class Marks:
    """A byte per record: how often a call of it succeeded (up to 127), and whether one was refused. The calls of one
    record come one after the other, so no lock is needed."""

    def __init__(self, file: Path, records: int = 0) -> None:
        """`records`: creates the file with room for as many."""
        if records:
            with file.open("wb") as new:
                new.truncate(_HEADER + records)
        with file.open("r+b") as opened:
            self._map = mmap.mmap(opened.fileno(), 0)
        self.room = len(self._map) - _HEADER

    @property
    def fed(self) -> int:
        """Records that were handed to the client: their numbers are below it."""
        return int(struct.unpack_from("<Q", self._map, 0)[0])

    @fed.setter
    def fed(self, number: int) -> None:
        struct.pack_into("<Q", self._map, 0, number)

    @property
    def done(self) -> int:
        """Calls of a worker that marks no single records."""
        return int(struct.unpack_from("<Q", self._map, 8)[0])

    @done.setter
    def done(self, number: int) -> None:
        struct.pack_into("<Q", self._map, 8, number)

    def succeeded(self, number: int) -> None:
        mark = self._map[_HEADER + number]
        self._map[_HEADER + number] = mark & _REFUSED | min(127, (mark & 127) + 1)

    def refused(self, number: int) -> None:
        self._map[_HEADER + number] |= _REFUSED

    def was_refused(self, number: int) -> bool:
        return bool(self._map[_HEADER + number] & _REFUSED)

    def untouched(self) -> int:
        """Records that no call has ended for."""
        return self._marks().count(0)

    def missing(self) -> list[int]:
        return [number for number, mark in enumerate(self._marks()) if not mark & 127]

    def repeated(self) -> int:
        """Successful calls beyond the first of each record."""
        return sum((mark & 127) - 1 for mark in self._marks() if mark & 127)

    def _marks(self) -> bytes:
        return self._map[_HEADER : _HEADER + self.fed]
