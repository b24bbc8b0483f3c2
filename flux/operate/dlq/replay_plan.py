"""Decides what a replay reads, writes and takes: the order of the operator, and the cluster as it is now."""

from __future__ import annotations

import enum
from collections.abc import Mapping

import attrs

from flux.consuming.topic_setup import ASK, max_message_bytes
from flux.core import flux_headers as t
from flux.core.errors import ConfigurationError, FluxError
from flux.core.policy import Policy
from flux.core.ports import AdminPort, CommittedOffset, ProducerRecord
from flux.core.stage import Role, Stage
from flux.operate.dlq.dead_letters import DeadLetter
from flux.operate.dlq.filters import Filter
from flux.operate.dlq.replay_progress import ReplayProgress
from flux.operate.reading import Span, count_offsets, spans_of

MAX_REPLAYS = 3


def replay_group(policy: Policy) -> str:
    """The consumer group that keeps how far replays are. It does not follow the number of retries, as the dead
    letters' own does: or the first replay after a change would begin at the beginning."""
    return f"{policy.stages[0].group}-replay"


@attrs.frozen
class ReplayOptions:
    """What is to be replayed, where to, and how. `rate`: copies a second; None: as fast as it goes."""

    criteria: Filter = attrs.field(factory=Filter)
    to_main: bool = False
    limit: int | None = None
    """Copies after which it ends."""
    max_replays: int = MAX_REPLAYS
    """A letter that was replayed as often ends it."""
    rate: float | None = None
    again: bool = False
    """Those that were replayed already too."""
    dry: bool = False
    """Writes and commits nothing."""


@attrs.frozen
class ReplayPlan:
    """An order, as the cluster is now: see `plan_replay`."""

    options: ReplayOptions
    policy: Policy
    source: Stage
    target: Stage
    partitions: int
    """Of the target topic."""
    group: str
    spans: Mapping[int, Span]
    """What will be read, by partition of the dead-letter topic."""
    replayed: Mapping[int, ReplayProgress]
    stored: Mapping[int, CommittedOffset]
    """What the group had committed."""
    limit_bytes: int | None
    worked: int
    """Offsets in `spans` that the dead letters' own stage has given one more try: some of them are done."""

    @property
    def size(self) -> int:
        return count_offsets(self.spans)


class ReplayDecision(enum.Enum):
    COPY = "copy"
    OTHER = "does not match"
    DONE = "replayed before"
    TOO_OFTEN = "replayed too often"


def check_members(admin: AdminPort, policy: Policy) -> None:
    """Raises FluxError while members work the dead letters: they and a replay would work the same records."""
    dead = policy.stages[policy.stages.dead]
    members = admin.members(dead.group, ASK)
    busy = [m for m in members if not m.partitions or any(at.topic == dead.topic for at in m.partitions)]
    if busy:
        who = ", ".join(sorted({f"{member.client_id} at {member.host}" for member in busy})[:3])
        raise FluxError(
            f"{len(busy)} member(s) of group {dead.group} work the dead letters now ({who}): stop them, or add --force"
        )


def plan_replay(admin: AdminPort, policy: Policy, options: ReplayOptions) -> ReplayPlan:
    """Fixes the ends: what is written from now on, by this replay too, is none of it. Raises ConfigurationError where
    a topic is missing, and BrokerError."""
    source = policy.stages[policy.stages.dead]
    if policy.stages.retries == 0 and not options.to_main:
        raise ConfigurationError("with retries = 0 there is no retry topic: replay with --to main")
    target = policy.stages[0 if options.to_main else 1]
    found = admin.topics([source.topic, target.topic], ASK)
    for topic, info in found.items():
        if info is None:
            raise ConfigurationError(f"there is no topic {topic}: see `flux topics`")
    info = found[target.topic]
    assert info is not None
    group = replay_group(policy)
    stored = admin.committed_offsets(group, source.topic, ASK)
    worked = admin.committed_offsets(source.group, source.topic, ASK)
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
        sum(max(0, min(worked[n].offset, span.end) - span.start) for n, span in spans.items() if n in worked),
    )


def judge(dead_letter: DeadLetter, options: ReplayOptions, replayed: ReplayProgress) -> ReplayDecision:
    if not options.criteria.matches(dead_letter):
        return ReplayDecision.OTHER
    if not options.again and replayed.has(dead_letter):
        return ReplayDecision.DONE
    return ReplayDecision.TOO_OFTEN if dead_letter.replays >= options.max_replays else ReplayDecision.COPY


_KEPT = (t.FIRST_FAILED_AT, t.FAILED_AT, t.REASON, t.ERROR_TYPE, t.ERROR_MESSAGE)
"""Of flux's own: what is known of the failure. Not the trace, so that the copy is no larger than the dead letter."""


def copy_of(dead_letter: DeadLetter, target: Stage, group: str, now_ms: int, partitions: int) -> ProducerRecord:
    """The record to write to `target`, which has `partitions`. Key, value and the headers that it came with stay.

    In the main topic it is new work: nothing of flux's is left, and it goes to the partition that it came from. In a
    retry topic it is the same work, due now, as if no call had been made yet; its replays are counted.
    """
    message = dead_letter.message
    headers = [pair for pair in message.headers if not pair[0].startswith(t.PREFIX)]
    home = message.partition
    if target.role is Role.MAIN:
        if message.trail.origin is not None:
            home = message.trail.origin[1]
    else:
        headers += _trail(dead_letter, target, group, now_ms)
    return ProducerRecord(
        value=message.raw_value, key=message.key, headers=headers, partition=home % partitions, timestamp=now_ms
    )


def _trail(dead_letter: DeadLetter, target: Stage, group: str, now_ms: int) -> list[tuple[str, bytes | None]]:
    message, trail = dead_letter.message, dead_letter.message.trail
    topic, partition, offset = message.origin
    numbers = {
        t.STAGE: target.number,
        t.ATTEMPTS: 0,
        t.DUE: now_ms,
        t.ORIGIN_PARTITION: partition,
        t.ORIGIN_OFFSET: offset,
        t.REPLAYS: trail.replays + 1,
    }
    if trail.origin_timestamp is not None:
        numbers[t.ORIGIN_TIMESTAMP] = trail.origin_timestamp
    pairs: list[tuple[str, bytes | None]] = [(name, str(number).encode()) for name, number in numbers.items()]
    pairs += [(t.GROUP, group.encode()), (t.ORIGIN_TOPIC, topic.encode())]
    pairs += [(name, value) for name in _KEPT if (value := message.headers.get(name)) is not None]
    return pairs
