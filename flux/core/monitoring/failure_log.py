"""Which failures of calls are worth a line in the log: the first of a kind in full, then how many there were since."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import attrs

EVERY = 60.0
"""Seconds between two lines about one kind."""
FORGOTTEN = 600.0
"""Seconds without one after which a kind counts as new."""
MOST_KINDS = 200


@attrs.define
class _Kind:
    told: float
    """When there was a line about it."""
    last: float
    more: int = 0
    """Since then."""


@attrs.frozen
class Count:
    """`number` more failures of a kind within `seconds`."""

    kind: Any
    number: int
    seconds: float


class FailureLog:
    """Of one stage. `now`: seconds, by a clock that is never set back."""

    __slots__ = ("_kinds",)

    def __init__(self) -> None:
        self._kinds: dict[Hashable, _Kind] = {}

    def add(self, kind: Hashable, now: float) -> bool:
        """One more of a kind. Whether it is the first one, to be shown in full."""
        known = self._kinds.get(kind)
        if known is not None:
            known.more += 1
            known.last = now
            return False
        if len(self._kinds) >= MOST_KINDS:
            del self._kinds[min(self._kinds, key=lambda each: self._kinds[each].last)]
        self._kinds[kind] = _Kind(now, now)
        return True

    def counts(self, now: float) -> list[Count]:
        """The lines that are due: of each kind one in `EVERY` seconds, as long as it goes on."""
        due = []
        for kind, known in list(self._kinds.items()):
            since = now - known.told
            if 0 <= since < EVERY:
                continue
            if known.more:
                due.append(Count(kind, known.more, since))
                known.more, known.told = 0, now
            elif not 0 <= now - known.last < FORGOTTEN:
                del self._kinds[kind]
        return due
