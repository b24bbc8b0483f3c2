"""What a replay reads and writes: from the operator's options, the cluster as it is now, and earlier replays."""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping

import attrs

from flux.consuming.topic_setup import REQUEST_TIMEOUT, max_message_bytes
from flux.core import flux_headers as h
from flux.core.errors import ConfigurationError, FluxError
from flux.core.policy import Policy
from flux.core.ports import AdminPort, CommittedOffset, ProducerRecord
from flux.core.stage import Role, Stage
from flux.operate.dlq.dead_letters import DeadLetter
from flux.operate.dlq.filters import Filter
from flux.operate.formatting import many
from flux.operate.reading import Span, count_offsets, spans_of

_MARK = "flux-replay-1 "


@attrs.frozen
class ReplayProgress:
    """What was replayed of one partition, as stored in the committed offset of a group: all below `offset`, and in
    `parts`, of those that match a filter, all below its offset.

    A replay of all dead letters moves the committed offset. A replay with a filter cannot, as other dead letters are
    not replayed: the commit metadata holds its filter and how far it got. So no dead letter is replayed twice,
    whichever filter chose it, and a later replay of all takes the rest.
    """

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


MAX_REPLAYS = 3


def replay_group(policy: Policy) -> str:
    """The consumer group whose committed offsets say how far replays are. Unlike the dead letters' own group its name
    does not contain the number of retries: changing that must not replay everything again."""
    return f"{policy.stages[0].group}-replay"


@attrs.frozen
class ReplayOptions:
    """What to replay, where to, and how. `rate`: copies per second; None: no limit."""

    criteria: Filter = attrs.field(factory=Filter)
    to_main: bool = False
    limit: int | None = None
    """Copies after which the replay stops."""
    max_replays: int = MAX_REPLAYS
    """The replay stops at a dead letter that was replayed this often."""
    rate: float | None = None
    again: bool = False
    """Also those that were replayed already."""
    dry: bool = False
    """Writes and commits nothing."""


@attrs.frozen
class ReplayPlan:
    """What a replay does: see `plan_replay`."""

    options: ReplayOptions
    policy: Policy
    source: Stage
    target: Stage
    partitions: int
    """Of the target topic."""
    group: str
    spans: Mapping[int, Span]
    """What is read, by partition of the dead-letter topic."""
    replayed: Mapping[int, ReplayProgress]
    stored: Mapping[int, CommittedOffset]
    """The group's committed offsets."""
    limit_bytes: int | None
    retried: int
    """Offsets in `spans` that a worker of the dead-letter stage has given one more try."""

    @property
    def size(self) -> int:
        return count_offsets(self.spans)


class ReplayDecision(enum.Enum):
    COPY = "copy"
    OTHER = "does not match"
    DONE = "replayed before"
    TOO_OFTEN = "replayed too often"


def check_members(admin: AdminPort, policy: Policy) -> None:
    """Raises FluxError while workers consume the dead letters: they and a replay would try the same records."""
    dead = policy.stages[policy.stages.dead]
    members = admin.members(dead.group, REQUEST_TIMEOUT)
    busy = [m for m in members if not m.partitions or any(at.topic == dead.topic for at in m.partitions)]
    if busy:
        who = ", ".join(sorted({f"{member.client_id} at {member.host}" for member in busy})[:3])
        raise FluxError(
            f"group {dead.group} has {many(len(busy), 'member')} consuming the dead letters ({who}): stop the"
            " workers, or add --force"
        )


def plan_replay(admin: AdminPort, policy: Policy, options: ReplayOptions) -> ReplayPlan:
    """Reads up to the ends as of now, so that a replay never takes what it wrote. Raises ConfigurationError where a
    topic is missing, and BrokerError."""
    source = policy.stages[policy.stages.dead]
    if policy.stages.retries == 0 and not options.to_main:
        raise ConfigurationError("with retries = 0 there is no retry topic: replay with --to main")
    target = policy.stages[0 if options.to_main else 1]
    found = admin.topics([source.topic, target.topic], REQUEST_TIMEOUT)
    for topic, info in found.items():
        if info is None:
            raise ConfigurationError(f"there is no topic {topic}: see `flux topics`")
    info = found[target.topic]
    assert info is not None
    group = replay_group(policy)
    stored = admin.committed_offsets(group, source.topic, REQUEST_TIMEOUT)
    retried = admin.committed_offsets(source.group, source.topic, REQUEST_TIMEOUT)
    spans, replayed = {}, {}
    for number, span in spans_of(admin, source.topic, options.criteria.since_ms).items():
        known = ReplayProgress.of(stored[number]) if number in stored else ReplayProgress(0)
        replayed[number] = known
        start = span.start if options.again else max(span.start, known.start(options.criteria))
        spans[number] = Span(min(start, span.end), span.end)
    return ReplayPlan(
        options,
        policy,
        source,
        target,
        info.partitions,
        group,
        spans,
        replayed,
        stored,
        max_message_bytes(admin, target.topic),
        sum(max(0, min(retried[n].offset, span.end) - span.start) for n, span in spans.items() if n in retried),
    )


def decide(dead_letter: DeadLetter, options: ReplayOptions, replayed: ReplayProgress) -> ReplayDecision:
    if not options.criteria.matches(dead_letter):
        return ReplayDecision.OTHER
    if not options.again and replayed.has(dead_letter):
        return ReplayDecision.DONE
    return ReplayDecision.TOO_OFTEN if dead_letter.replays >= options.max_replays else ReplayDecision.COPY


_KEPT = (h.FIRST_FAILED_AT, h.FAILED_AT, h.REASON, h.ERROR_TYPE, h.ERROR_MESSAGE)
"""The failure. Without the trace, so that the copy is no larger than the dead letter."""


def copy_of(dead_letter: DeadLetter, target: Stage, group: str, now_ms: int, partitions: int) -> ProducerRecord:
    """The record to write to `target`, which has `partitions`. Key, value and the user's headers stay.

    In the main topic it is a new record, without flux headers, in the partition that it came from. In a retry topic it
    keeps its origin, is due now, has no attempts yet, and its replays are counted.
    """
    message = dead_letter.message
    headers = [pair for pair in message.headers if not pair[0].startswith(h.PREFIX)]
    home = message.partition
    if target.role is Role.MAIN:
        if message.flux_headers.origin is not None:
            home = message.flux_headers.origin[1]
    else:
        headers += _flux_headers(dead_letter, target, group, now_ms)
    return ProducerRecord(
        value=message.raw_value, key=message.key, headers=headers, partition=home % partitions, timestamp=now_ms
    )


def _flux_headers(dead_letter: DeadLetter, target: Stage, group: str, now_ms: int) -> list[tuple[str, bytes | None]]:
    message, replays = dead_letter.message, dead_letter.message.flux_headers.replays
    topic, partition, offset = message.origin
    numbers = {
        h.STAGE: target.number,
        h.ATTEMPTS: 0,
        h.DUE: now_ms,
        h.ORIGIN_PARTITION: partition,
        h.ORIGIN_OFFSET: offset,
        h.REPLAYS: replays + 1,
    }
    if message.flux_headers.origin_timestamp is not None:
        numbers[h.ORIGIN_TIMESTAMP] = message.flux_headers.origin_timestamp
    pairs: list[tuple[str, bytes | None]] = [(name, str(number).encode()) for name, number in numbers.items()]
    pairs += [(h.GROUP, group.encode()), (h.ORIGIN_TOPIC, topic.encode())]
    pairs += [(name, value) for name in _KEPT if (value := message.headers.get(name)) is not None]
    return pairs
