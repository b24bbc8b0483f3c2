"""What was replayed of one partition, as stored in the committed offset of a consumer group.

A replay of all dead letters moves the committed offset. A replay with a filter cannot, as other dead letters are not
replayed: the commit metadata holds its filter and how far it got. So no dead letter is replayed twice, whichever filter
chose it, and a later replay of all takes the rest.
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
    """All below `offset` are replayed. `parts`: of those that match a filter, all below its offset are."""

    offset: int
    parts: tuple[tuple[Filter, int], ...] = ()

    def start(self, criteria: Filter) -> int:
        """The offset at which a replay of `criteria` continues."""
        return max([self.offset, *(offset for part, offset in self.parts if part == criteria)])

    def has(self, dead_letter: DeadLetter) -> bool:
        offset = dead_letter.offset
        return offset < self.offset or any(offset < end and part.matches(dead_letter) for part, end in self.parts)

    def advanced(self, criteria: Filter, offset: int) -> ReplayProgress:
        """The progress after a replay of `criteria` up to `offset`."""
        if criteria.takes_all:
            done = max(self.offset, offset)
            return ReplayProgress(done, tuple((part, end) for part, end in self.parts if end > done))
        others = tuple((part, end) for part, end in self.parts if part != criteria)
        return self if offset <= self.start(criteria) else ReplayProgress(self.offset, (*others, (criteria, offset)))

    def to_commit(self, most: int) -> CommittedOffset:
        """With metadata of at most `most` characters. Where the parts do not fit, the oldest are dropped: a later
        replay of all takes their dead letters again."""
        parts = self.parts
        while parts:
            data = [[part.to_json(), end] for part, end in parts]
            text = _MARK + json.dumps(data, ensure_ascii=True, separators=(",", ":"))
            if len(text) <= most:
                return CommittedOffset(self.offset, text)
            parts = parts[1:]
        return CommittedOffset(self.offset)

    @classmethod
    def of(cls, committed: CommittedOffset) -> ReplayProgress:
        """Ignores metadata that is damaged or not flux's: then dead letters are replayed again, and none is lost."""
        offset, text = committed
        if text.startswith(_MARK):
            try:
                data = json.loads(text[len(_MARK) :])
                parts = tuple((Filter.from_json(part), end) for part, end in data)
                if all(type(end) is int for _, end in parts):
                    return cls(offset, parts)
            except (ValueError, TypeError, AttributeError, RecursionError):
                pass
        return cls(offset)
