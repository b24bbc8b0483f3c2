"""What was decided of dead letters: which are replayed, and which are rejected, in the committed offsets of a group."""

from __future__ import annotations

import enum
import json
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from flux.consuming.topic_setup import REQUEST_TIMEOUT
from flux.core.errors import BrokerError, Fault, FluxError
from flux.core.policy import Policy
from flux.core.ports import AdminPort, CommittedOffset
from flux.operate.dlq.dead_letters import DeadLetter
from flux.operate.dlq.filters import Filter
from flux.operate.dlq.offset_set import NONE, OffsetSet

_MARK = "flux-replay-1 "
_MARK_2 = "flux-replay-2 "
"""Where offsets were chosen: earlier versions of flux pass over it, so that they replay twice and lose nothing."""


class DeadLetterState(enum.Enum):
    OPEN = "open"
    REPLAYED = "replayed"
    REJECTED = "rejected"


@attrs.frozen
class ReplayProgress:
    """What was decided of one partition, as stored in the committed offset of a group: all below `offset` are replayed,
    in `parts`, of those that match a filter, all below its offset, and of those that were chosen, the `chosen`.

    A replay of all dead letters moves the committed offset. A replay with a filter cannot, as other dead letters are
    not replayed: the commit metadata holds its filter and how far it got. So no dead letter is replayed twice,
    whichever filter chose it, and a later replay of all takes the rest. Those `rejected` are passed over by all.
    """

    offset: int
    parts: tuple[tuple[Filter, int], ...] = ()
    chosen: OffsetSet = NONE
    rejected: OffsetSet = NONE

    def start(self, criteria: Filter) -> int:
        """The offset at which a replay of `criteria` continues."""
        return max([self.offset, *(offset for part, offset in self.parts if part == criteria)])

    def state_of(self, dead_letter: DeadLetter) -> DeadLetterState:
        offset = dead_letter.offset
        if offset in self.rejected:
            return DeadLetterState.REJECTED
        if offset < self.offset or offset in self.chosen:
            return DeadLetterState.REPLAYED
        replayed = any(offset < end and part.matches(dead_letter) for part, end in self.parts)
        return DeadLetterState.REPLAYED if replayed else DeadLetterState.OPEN

    def advanced(self, criteria: Filter, offset: int) -> ReplayProgress:
        """The progress after a replay of `criteria` up to `offset`."""
        if criteria.takes_all:
            done = max(self.offset, offset)
            parts = tuple((part, end) for part, end in self.parts if end > done)
            return ReplayProgress(done, parts, self.chosen.since(done), self.rejected)
        if offset <= self.start(criteria):
            return self
        others = tuple((part, end) for part, end in self.parts if part != criteria)
        return attrs.evolve(self, parts=(*others, (criteria, offset)))

    def choosing(self, offsets: Iterable[int]) -> ReplayProgress:
        """The progress after a replay of these."""
        offsets = list(offsets)
        chosen = self.chosen.plus(offset for offset in offsets if offset >= self.offset)
        return attrs.evolve(self, chosen=chosen, rejected=self.rejected.minus(offsets))

    def rejecting(self, offsets: Iterable[int]) -> ReplayProgress:
        return attrs.evolve(self, rejected=self.rejected.plus(offsets))

    def since(self, low: int) -> ReplayProgress:
        """Without what was chosen among the deleted dead letters below `low`."""
        return attrs.evolve(self, chosen=self.chosen.since(low), rejected=self.rejected.since(low))

    def to_commit(self, most: int) -> CommittedOffset:
        """With metadata of at most `most` characters. Where the parts do not fit, the oldest are dropped: a later
        replay of all takes their dead letters again. Raises FluxError where the chosen and the rejected do not fit."""
        fixed: dict[str, Any] = {}
        for name, offsets in (("c", self.chosen), ("x", self.rejected)):
            if offsets:
                fixed[name] = offsets.to_json(most)
        new = bool(fixed) or any(part.headers or part.until_ms is not None for part, _ in self.parts)
        parts = self.parts
        while parts or fixed:
            data: Any = [[part.to_json(), end] for part, end in parts]
            text = (_MARK_2 if new else _MARK) + json.dumps(
                {**fixed, "p": data} if new else data, ensure_ascii=True, separators=(",", ":")
            )
            if len(text) <= most and None not in fixed.values():
                return CommittedOffset(self.offset, text)
            if not parts:
                raise FluxError(
                    f"{len(self.chosen) + len(self.rejected):,} dead letters of a partition, replayed or rejected one"
                    f" by one, need more than the {most:,} characters of commit metadata: replay the others, or purge"
                )
            parts = parts[1:]
        return CommittedOffset(self.offset)

    def checked(self, most: int) -> ReplayProgress:
        """Itself. Raises FluxError where a commit would have to drop any of it."""
        if self.of(self.to_commit(most)) != self:
            raise FluxError(
                f"what was replayed of a partition needs more than the {most:,} characters of commit metadata:"
                " replay all dead letters, or purge"
            )
        return self

    @classmethod
    def of(cls, committed: CommittedOffset) -> ReplayProgress:
        """Ignores metadata that is damaged or not flux's: then dead letters are replayed again, and none is lost."""
        offset, text = committed
        try:
            if text.startswith(_MARK):
                return cls(offset, _parts(json.loads(text[len(_MARK) :])))
            if text.startswith(_MARK_2):
                data = json.loads(text[len(_MARK_2) :])
                chosen, rejected = (OffsetSet.from_json(data[name]) if name in data else NONE for name in "cx")
                return cls(offset, _parts(data["p"]), chosen, rejected)
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
            pass
        return cls(offset)


def _parts(data: Any) -> tuple[tuple[Filter, int], ...]:
    parts = tuple((Filter.from_json(part), end) for part, end in data)
    if not all(type(end) is int for _, end in parts):
        raise ValueError("an offset is no number")
    return parts


def replay_group(policy: Policy) -> str:
    """The consumer group whose committed offsets say how far replays are. Unlike the dead letters' own group its name
    does not contain the number of retries: changing that must not replay everything again."""
    return f"{policy.stages[0].group}-replay"


def read_progress(admin: AdminPort, policy: Policy) -> dict[int, ReplayProgress] | None:
    """By partition of the dead letters, where there is any; None: this login may not see it. Raises BrokerError."""
    group, topic = replay_group(policy), policy.stages[policy.stages.dead].topic
    try:
        admin.members(group, REQUEST_TIMEOUT)  # librdkafka reports a refusal of these at once
        stored = admin.committed_offsets(group, topic, REQUEST_TIMEOUT)
    except BrokerError as error:
        if error.fault is not Fault.DENIED:
            raise
        return None
    return {number: ReplayProgress.of(committed) for number, committed in stored.items()}


def commit_progress(
    admin: AdminPort,
    policy: Policy,
    stored: Mapping[int, CommittedOffset],
    new: Mapping[int, CommittedOffset],
) -> None:
    """`stored`: what was committed when `new` was derived from it. Raises BrokerError, also where it has changed."""
    group, topic = replay_group(policy), policy.stages[policy.stages.dead].topic
    found = admin.committed_offsets(group, topic, REQUEST_TIMEOUT)
    for number, committed in new.items():
        if found.get(number) not in (stored.get(number), committed):
            raise BrokerError(
                f"something else, such as another replay, changed the committed offset of {group} in partition"
                f" {number}: some records may have been replayed twice"
            )
    admin.set_committed_offsets(group, topic, new, REQUEST_TIMEOUT)
