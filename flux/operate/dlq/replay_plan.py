"""What a replay reads and writes: from the operator's options, the cluster as it is now, and earlier replays."""

from __future__ import annotations

import enum
from collections.abc import Mapping

import attrs

from flux.consuming.topic_setup import REQUEST_TIMEOUT, max_message_bytes
from flux.core import flux_headers as h
from flux.core.errors import ConfigurationError, FluxError
from flux.core.message import Message
from flux.core.policy import Policy
from flux.core.ports import AdminPort, CommittedOffset, ProducerRecord
from flux.core.stage import Role, Stage
from flux.operate.dlq.dead_letters import DeadLetter
from flux.operate.dlq.filters import Filter
from flux.operate.dlq.replay_progress import DeadLetterState, ReplayProgress, replay_group
from flux.operate.formatting import many
from flux.operate.reading import Pieces, Span, Spans, count_offsets, pieces_of, spans_of

MAX_REPLAYS = 3


@attrs.frozen
class Edit:
    """A dead letter's key, value and own headers, as they are to be replayed."""

    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]


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
    """Also those that were replayed already, and of chosen ones those that were rejected."""
    dry: bool = False
    """Writes and commits nothing."""
    rejected: bool = False
    """Those that were rejected, and no others."""
    edits: Mapping[tuple[int, int], Edit] = attrs.field(factory=dict)
    """What to write instead of the dead letter at a partition and offset."""

    @property
    def one_by_one(self) -> bool:
        """Each offset is marked, as they are chosen by what a filter's progress does not tell."""
        return self.criteria.only is not None or self.rejected


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
    pieces: Pieces
    """What is read, by partition of the dead-letter topic."""
    replayed: Mapping[int, ReplayProgress]
    stored: Mapping[int, CommittedOffset]
    """The group's committed offsets."""
    limit_bytes: int | None
    retried: int
    """Offsets of those that a worker of the dead-letter stage has given one more try."""

    @property
    def size(self) -> int:
        return sum(count_offsets({0: span}) for spans in self.pieces.values() for span in spans)


class ReplayDecision(enum.Enum):
    COPY = "copy"
    OTHER = "does not match"
    DONE = "replayed before"
    REJECTED = "rejected"
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
    if policy.on_dead == "hold" and options.to_main:
        raise ConfigurationError('with on_dead = "hold" a dead letter holds its key: replay it with --to retry')
    target = policy.stages[0 if options.to_main else 1]
    found = admin.topics([source.topic, target.topic], REQUEST_TIMEOUT)
    for topic, info in found.items():
        if info is None:
            raise ConfigurationError(f"there is no topic {topic}: see `flux topics`")
    info = found[target.topic]
    assert info is not None
    group, criteria = replay_group(policy), options.criteria
    stored = admin.committed_offsets(group, source.topic, REQUEST_TIMEOUT)
    retried = admin.committed_offsets(source.group, source.topic, REQUEST_TIMEOUT)
    spans, replayed = spans_of(admin, source.topic, criteria.since_ms), {}
    for number, span in spans.items():
        known = ReplayProgress.of(stored[number]) if number in stored else ReplayProgress(0)
        replayed[number] = known.since(span.start) if criteria.since_ms is None else known
    if options.one_by_one:
        pieces = chosen_pieces(criteria, source.topic, spans)
        for number, offsets in criteria.by_partition.items():
            replayed[number].choosing(offsets).checked(policy.max_metadata)
    else:
        pieces = {}
        for number, span in spans.items():
            start = span.start if options.again else max(span.start, replayed[number].start(criteria))
            pieces[number] = [Span(min(start, span.end), span.end)]
    counted = {n: Span(p[0].start, p[-1].end) for n, p in pieces.items() if p and n in retried}
    return ReplayPlan(
        options,
        policy,
        source,
        target,
        info.partitions,
        group,
        pieces,
        replayed,
        stored,
        max_message_bytes(admin, target.topic),
        sum(max(0, min(retried[n].offset, span.end) - span.start) for n, span in counted.items()),
    )


def chosen_pieces(criteria: Filter, topic: str, spans: Spans) -> Pieces:
    """What to read of `spans` for a filter. Raises ConfigurationError for a place beyond the end of a partition."""
    if criteria.only is None:
        return {number: [span] for number, span in spans.items()}
    wanted = criteria.by_partition
    for number, offsets in wanted.items():
        if number not in spans:
            raise ConfigurationError(f"{topic} has no partition {number}")
        if offsets[-1] >= spans[number].end:
            raise ConfigurationError(
                f"there is no dead letter at {number}:{offsets[-1]}: {topic} ends at {number}:{spans[number].end}"
            )
    return {number: pieces_of(offsets, spans[number]) for number, offsets in wanted.items()}


def decide(dead_letter: DeadLetter, options: ReplayOptions, replayed: ReplayProgress) -> ReplayDecision:
    if not options.criteria.matches(dead_letter):
        return ReplayDecision.OTHER
    state = replayed.state_of(dead_letter)
    if state is DeadLetterState.REJECTED:
        if not (options.rejected or (options.again and options.criteria.only is not None)):
            return ReplayDecision.REJECTED
    elif options.rejected:
        return ReplayDecision.OTHER
    elif state is DeadLetterState.REPLAYED and not options.again:
        return ReplayDecision.DONE
    return ReplayDecision.TOO_OFTEN if dead_letter.replays >= options.max_replays else ReplayDecision.COPY


_KEPT = (h.FIRST_FAILED_AT, h.FAILED_AT, h.REASON, h.ERROR_TYPE, h.ERROR_MESSAGE, h.ORDER)
"""The failure. Without the trace, so that the copy is no larger than the dead letter."""


def copy_of(
    dead_letter: DeadLetter, target: Stage, group: str, now_ms: int, partitions: int, edit: Edit | None = None
) -> ProducerRecord:
    """The record to write to `target`, which has `partitions`. Key, value and the user's headers stay, but for an
    `edit`.

    In the main topic it is a new record, without flux headers, in the partition that it came from, or, with another
    key, in that key's. In a retry topic it keeps its origin, is due now, has no attempts yet, and its replays are
    counted.
    """
    message = dead_letter.message
    edit = edit or Edit(message.key, message.raw_value, own_headers(message))
    headers = list(edit.headers)
    home = message.partition
    if target.role is Role.MAIN:
        if message.flux_headers.origin is not None:
            home = message.flux_headers.origin[1]
    else:
        headers += _flux_headers(dead_letter, target, group, now_ms)
    moved = target.role is Role.MAIN and edit.key != message.key
    return ProducerRecord(
        value=edit.value,
        key=edit.key,
        headers=headers,
        partition=None if moved else home % partitions,
        timestamp=now_ms,
    )


def own_headers(message: Message) -> tuple[tuple[str, bytes | None], ...]:
    """Those that the record came with."""
    return tuple((name, value) for name, value in message.headers if not name.startswith(h.PREFIX))


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
