"""Records that wait in retry topics, in due order, without those that were replaced or cancelled."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Sequence

import attrs

from flux.consuming.topic_setup import REQUEST_TIMEOUT
from flux.core import flux_headers
from flux.core.flux_headers import FluxHeaders
from flux.core.named_work import NamedWork, Names
from flux.core.policy import Policy
from flux.core.ports import AdminPort, Cluster, System
from flux.core.stage import Role, Stage
from flux.operate.formatting import short
from flux.operate.reading import Span, count_offsets, read, spans_of
from flux.operate.record_history import RecordState, TracedRecord, traced_record_of
from flux.operate.status.progress import Progress, read_group
from flux.system import SYSTEM

MAX_READ = 10_000
"""Records, of all retry topics together."""
SHOWN = 100
FOLLOWS = "behind an earlier record of its key"
_MAX_ERROR = 200
STEPS = (
    (0, "due now"),
    (60, "within a minute"),
    (600, "within 10 minutes"),
    (3600, "within an hour"),
    (86_400, "within a day"),
    (None, "later"),
)
"""Upper limits in seconds from now."""


@attrs.frozen(order=True)
class WaitingRow:
    """`due`, `written`: milliseconds since the epoch."""

    due: int
    topic: str
    partition: int
    offset: int
    stage: Stage = attrs.field(order=False)
    written: int = attrs.field(order=False)
    key: bytes | None = attrs.field(order=False)
    attempt: int = attrs.field(order=False)
    error: str = attrs.field(order=False)
    origin: tuple[str, int, int] = attrs.field(order=False)
    id: str = attrs.field(default="", order=False)
    """Of delayed work; empty: it has none, or it has started."""
    schedule: str = attrs.field(default="", order=False)
    """The schedule that it is a tick of; empty: it is none, or it has started."""
    tick: int = attrs.field(default=0, order=False)
    """Of a schedule: the time that it is for, in milliseconds since the epoch."""
    last_tick: tuple[int, int] | None = attrs.field(default=None, order=False)
    """Of a schedule: the tick before it, and when its call began, in milliseconds since the epoch; None: not known."""

    follows: bool = attrs.field(default=False, order=False)
    """Whether it was moved uncalled, behind an earlier record of its key (`retry_order`)."""

    @property
    def why(self) -> str:
        """The error of its last call, or that it follows another record."""
        return self.error or (FOLLOWS if self.follows else "")

    @property
    def wait(self) -> float:
        """Seconds from when it was written to its stage until it is due."""
        return max(0.0, (self.due - self.written) / 1000)


@attrs.frozen
class WaitingSummary:
    """`first`: those that are due next. `steps`: how many are due until when, each record in one. `unread`: offsets
    that were left out, behind those that were read."""

    first: Sequence[WaitingRow] = ()
    steps: Sequence[tuple[str, int]] = ()
    unread: int = 0

    @property
    def count(self) -> int:
        return sum(count for _, count in self.steps)


def summarize(
    adapter: Cluster, admin: AdminPort, policy: Policy, shown: int = SHOWN, system: System = SYSTEM
) -> WaitingSummary:
    """`shown`: most rows of `first`. Blocks; raises BrokerError."""
    names = admin.topic_names(REQUEST_TIMEOUT)
    stages = [each for each in policy.stages if each.role is Role.RETRY]
    stages = [each for each in [*stages, *policy.stages.leftovers(names)] if each.topic in names]
    now_ms = int(system.now() * 1000)
    found: list[WaitingRow] = []
    unread, share = 0, MAX_READ // max(1, len(stages))
    for stage in stages:
        reading = StageReading(adapter, admin, policy, stage, now_ms, system)
        found += reading.rows(share)
        unread += reading.unread
    counts = [0] * len(STEPS)
    for each in found:
        counts[_step((each.due - now_ms) / 1000)] += 1
    steps = [(name, count) for (_, name), count in zip(STEPS, counts, strict=True)]
    return WaitingSummary(heapq.nsmallest(shown, found), steps, unread)


@attrs.define
class StageReading:
    """Reads the unfinished records of a stage, from its committed offsets on."""

    adapter: Cluster
    admin: AdminPort
    policy: Policy
    stage: Stage
    now_ms: int
    system: System
    unread: int = 0
    """Offsets that were not read."""

    def rows(self, most: int, only: Collection[int] | None = None) -> list[WaitingRow]:
        """Those of `most` records. `only`: the partitions to read; None: all. Blocks; raises BrokerError."""
        stage = self.stage
        _, committed = read_group(self.admin, stage)
        known = {number: Progress.of(stored) for number, stored in committed.items()}
        spans = {
            number: Span(min(span.end, max(span.start, known.get(number, Progress()).committed or 0)), span.end)
            for number, span in spans_of(self.admin, stage.topic).items()
            if only is None or number in only
        }
        open_ = {number: span for number, span in spans.items() if span.start < span.end}
        share = max(1, most // max(1, len(open_)))
        taken = {number: Span(span.start, min(span.end, span.start + share)) for number, span in open_.items()}
        self.unread = count_offsets(open_) - count_offsets(taken)
        names: dict[int, Names] = {}
        rows: list[tuple[WaitingRow, NamedWork | None]] = []
        for batch in read(self.adapter, stage.topic, taken, system=self.system):
            progress = known.get(batch.partition, Progress())
            for record in batch.records:
                seen = traced_record_of(record, stage, self.policy, progress, self.now_ms)
                named = seen.message.named if stage.has_names else None
                if named is not None:
                    named.begun = seen.state is RecordState.PASSED
                    names.setdefault(batch.partition, Names()).arrived(named, seen.offset, seen.due or 0)
                if seen.state is not RecordState.PASSED and seen.due is not None:
                    rows.append((self._row(seen, seen.due, named), named))
        return [row for row, named in rows if named is None or not named.void]

    def _row(self, seen: TracedRecord, due: int, named: NamedWork | None) -> WaitingRow:
        message, name = seen.message, "" if named is None else named.name
        return WaitingRow(
            due,
            self.stage.topic,
            seen.partition,
            seen.offset,
            self.stage,
            seen.written_at,
            message.key,
            message.attempt,
            short(seen.error, _MAX_ERROR),
            message.origin,
            id="" if named is None or named.kind == "schedule" else name,
            schedule=name if named is not None and named.kind == "schedule" else "",
            tick=0 if named is None else named.tick,
            last_tick=_last_tick(message.headers.get(flux_headers.LAST_TICK)),
            follows=_follows(message.flux_headers),
        )


def _follows(headers: FluxHeaders) -> bool:
    return headers.order is not None and headers.attempts == headers.replays == 0


def _last_tick(value: bytes | None) -> tuple[int, int] | None:
    parts = (value or b"").split()
    return (int(parts[0]), int(parts[1])) if len(parts) == 2 and all(map(bytes.isdigit, parts)) else None


def _step(seconds: float) -> int:
    return next(i for i, (limit, _) in enumerate(STEPS) if limit is None or seconds <= limit)
