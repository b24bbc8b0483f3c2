"""What was replayed of one partition, as the position of a consumer group says it.

Replays of all letters move the position. A replay of some (one cause, say) cannot: the others are not done. What it
did stands in the string beside the position instead: which filter, and up to which offset. So no letter is replayed
twice, whichever way it was chosen, and a later replay of all takes what is left.
"""

from __future__ import annotations

import json

import attrs

from flux.core.ports import CommittedOffset
from flux.operate.dlq.dead_letters import Letter
from flux.operate.dlq.filters import Filter

_MARK = "flux-replay-1 "


@attrs.frozen
class Replayed:
    """`offset`: all below it are done. `parts`: (filter, offset): of those that match, all below that offset."""

    offset: int
    parts: tuple[tuple[Filter, int], ...] = ()

    def start(self, which: Filter) -> int:
        """Where a replay of `which` goes on."""
        return max([self.offset, *(offset for part, offset in self.parts if part == which)])

    def has(self, letter: Letter) -> bool:
        offset = letter.offset
        return offset < self.offset or any(offset < end and part.matches(letter) for part, end in self.parts)

    def advanced(self, which: Filter, offset: int) -> Replayed:
        """After a replay of `which` has come to `offset`."""
        if which.takes_all:
            done = max(self.offset, offset)
            return Replayed(done, tuple((part, end) for part, end in self.parts if end > done))
        others = tuple((part, end) for part, end in self.parts if part != which)
        return self if offset <= self.start(which) else Replayed(self.offset, (*others, (which, offset)))

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
    def of(cls, position: CommittedOffset) -> Replayed:
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
