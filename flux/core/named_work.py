"""Work that has a name: delayed work with an id, which a later record replaces or cancels, and ticks of a schedule.

All records of a name are in one partition of the first retry topic, so their order in the log decides, whoever wrote
them. Of an id the last record counts. Of a schedule the first record of each tick counts, and none that is written
after that of a later tick: it was counted before.
"""

from __future__ import annotations

import math
from typing import Literal

Kind = Literal["id", "cancelled", "schedule"]
_PRUNED_AT = 1_000
"""Names of a partition from which on those that are not needed any more are forgotten."""


class NamedWork:
    """A record with a name. `tick`: of a schedule, in milliseconds since the epoch, else 0."""

    __slots__ = ("begun", "due", "kind", "last", "left_out", "name", "offset", "tick", "void")

    def __init__(self, kind: Kind, name: str, tick: int = 0) -> None:
        self.kind = kind
        self.name = name
        self.tick = tick
        self.offset = -1
        self.due = 0
        """Milliseconds since the epoch."""
        self.void = False
        """Whether it must not be called: replaced or cancelled before its call, or a tick that was counted before."""
        self.last = True
        """Whether no later record of its name was read."""
        self.begun = False
        """Whether its call was made, or left out."""
        self.left_out = False

    def begin(self) -> bool:
        """Whether to make its call now."""
        # before the look: what is replaced after its start is called, and not counted as replaced
        self.begun = True
        return not self.void

    def precludes(self, later: NamedWork) -> bool:
        """Whether the tick of a later record was counted already. One that was written again to wait longer counts, and
        no other one while the first still waits."""
        again = self.begun and later.due > self.due
        return self.tick > later.tick or (self.tick == later.tick and not again)


class Names:
    """The last record of each name in one partition, while it is assigned."""

    __slots__ = ("_last", "_most", "complete", "since")

    def __init__(self) -> None:
        self._last: dict[tuple[bool, str], NamedWork] = {}
        self._most = _PRUNED_AT
        self.complete = False
        """Whether the partition was read to its end once, so that a record replaces or cancels another as soon as it is
        written."""
        self.since = math.inf
        """When records were first withheld until then, in seconds by the engine's clock."""

    def __len__(self) -> int:
        return len(self._last)

    def arrived(self, work: NamedWork, offset: int, due: int) -> int:
        """A record was read; those of a partition arrive in the order of the log, those that are done too. Returns how
        many calls it takes back."""
        work.offset, work.due = offset, due
        scheduled = work.kind == "schedule"
        key = scheduled, work.name
        known = self._last.get(key)
        taken_back = 0
        if known is not None and known.offset != offset:
            if known.offset > offset or (scheduled and known.precludes(work)):
                work.void, work.last = True, False
                return 0
            known.last = False
            if not scheduled and not known.void:
                known.void = True
                taken_back = not known.begun
        work.void = work.kind == "cancelled"
        self._last[key] = work
        if len(self._last) >= self._most:
            self._forget_ended()
        return taken_back

    def _forget_ended(self) -> None:
        # an id is free again when its work has begun; a schedule's last tick is needed while the partition is assigned
        self._last = {key: work for key, work in self._last.items() if key[0] or not (work.begun or work.void)}
        self._most = max(_PRUNED_AT, 2 * len(self._last))
