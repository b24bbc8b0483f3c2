"""What was replayed of one partition, as the position of a consumer group says it.

Replays of all letters move the position. A replay of some (one cause, say) cannot: the others are not done. What it
did stands in the string beside the position instead: which filter, and up to which offset. So no letter is replayed
twice, whichever way it was chosen, and a later replay of all takes what is left.
"""

from __future__ import annotations

import json

import attrs

from flux.core.ports import CommittedOffset
from flux.operate.dlq.dead_letters import DeadLetter
from flux.operate.dlq.filters import Filter

_MARK = "flux-replay-1 "


@attrs.frozen
class ReplayProgress:
    """`offset`: all below it are done. `parts`: (filter, offset): of those that match, all below that offset."""

    offset: int
    parts: tuple[tuple[Filter, int], ...] = ()

    def start(self, criteria: Filter) -> int:
        """Where a replay of `criteria` goes on."""
        return max([self.offset, *(offset for part, offset in self.parts if part == criteria)])

    def has(self, dead_letter: DeadLetter) -> bool:
        offset = dead_letter.offset
        return offset < self.offset or any(offset < end and part.matches(dead_letter) for part, end in self.parts)

    def advanced(self, criteria: Filter, offset: int) -> ReplayProgress:
        """After a replay of `criteria` has come to `offset`."""
        if criteria.takes_all:
            done = max(self.offset, offset)
            return ReplayProgress(done, tuple((part, end) for part, end in self.parts if end > done))
        others = tuple((part, end) for part, end in self.parts if part != criteria)
        return self if offset <= self.start(criteria) else ReplayProgress(self.offset, (*others, (criteria, offset)))

    def position(self, most: int) -> CommittedOffset:
        """As it is committed, with a string of at most `most` characters. Where it would not fit, the oldest parts are
        forgotten: a later replay of all takes those letters again."""
        parts = self.parts
        while parts:
            data = [[part.to_json(), end] for part, end in parts]
            text = _MARK + json.dumps(data, ensure_ascii=True, separators=(",", ":"))
            if len(text) <= most:
                return CommittedOffset(self.offset, text)
            parts = parts[1:]
        return CommittedOffset(self.offset)

    @classmethod
    def of(cls, position: CommittedOffset) -> ReplayProgress:
        """A string that is foreign or damaged is ignored: that repeats, and loses nothing."""
        offset, text = position
        if text.startswith(_MARK):
            try:
                data = json.loads(text[len(_MARK) :])
                parts = tuple((Filter.from_json(part), end) for part, end in data)
                if all(type(end) is int for _, end in parts):
                    return cls(offset, parts)
            except (ValueError, TypeError, AttributeError, RecursionError):
                pass
        return cls(offset)
