"""Bounds the records of one stage whose calls produced what is not acknowledged yet."""

from __future__ import annotations

from collections.abc import Hashable

MOST_UNACKNOWLEDGED = 1_000


class Unacknowledged:
    """With `MOST_UNACKNOWLEDGED` records the stage starts no calls, until a quarter is left.

    A client reports acknowledgements one by one, and needs the interpreter for each. Beside threads that make calls
    without a rest they would come ever later, and what waits for them would cost memory and garbage collections. That
    no call starts until most have come leaves them the interpreter."""

    __slots__ = ("_records", "answers", "blocked")

    def __init__(self) -> None:
        self._records: set[Hashable] = set()
        self.blocked = False
        """Whether no call may start."""
        self.answers = 0
        """Number of reports that what was produced for a record has ended."""

    def add(self, record: Hashable) -> None:
        self._records.add(record)
        if len(self._records) >= MOST_UNACKNOWLEDGED:
            self.blocked = True

    def ended(self, record: Hashable) -> None:
        """What was produced for it is acknowledged, or was not delivered."""
        self.answers += 1
        self._records.discard(record)
        if self.blocked and len(self._records) <= MOST_UNACKNOWLEDGED // 4:
            self.blocked = False
