"""Records that wait in retry topics, in due order."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence

import attrs

from flux.consuming.topic_setup import REQUEST_TIMEOUT
from flux.core.ports import Record
from flux.core.stage import Role, Stage
from flux.operate.formatting import short
from flux.operate.reading import Span, count_offsets, read, spans_of
from flux.operate.record_history import RecordState, traced_record_of
from flux.operate.status.progress import Progress, read_group
from flux.web.shared_reading import SharedReading
from flux.web.watched_tasks import WatchedTask

MAX_READ = 10_000
"""Records, of all retry topics together."""
SHOWN = 100
TIMEOUT = 5.0
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


def waiting_summary(task: WatchedTask) -> SharedReading[WaitingSummary]:
    return SharedReading(lambda: summarize(task), TIMEOUT, "another request is still reading this", task.system)


def summarize(task: WatchedTask) -> WaitingSummary:
    """Blocks; raises BrokerError."""
    names = task.admin.topic_names(REQUEST_TIMEOUT)
    stages = [each for each in task.policy.stages if each.role is Role.RETRY]
    stages = [each for each in [*stages, *task.policy.stages.leftovers(names)] if each.topic in names]
    now_ms = task.now_ms
    found: list[WaitingRow] = []
    unread, share = 0, MAX_READ // max(1, len(stages))
    for stage in stages:
        rows, left = _of(task, stage, share, now_ms)
        found += rows
        unread += left
    counts = [0] * len(STEPS)
    for each in found:
        counts[_step((each.due - now_ms) / 1000)] += 1
    steps = [(name, count) for (_, name), count in zip(STEPS, counts, strict=True)]
    return WaitingSummary(heapq.nsmallest(SHOWN, found), steps, unread)


def _of(task: WatchedTask, stage: Stage, most: int, now_ms: int) -> tuple[list[WaitingRow], int]:
    """The unfinished records of a stage, from its committed offsets on, and how many offsets were not read."""
    _, committed = read_group(task.admin, stage)
    known = {number: Progress.of(stored) for number, stored in committed.items()}
    spans = {
        number: Span(min(span.end, max(span.start, known.get(number, Progress()).committed or 0)), span.end)
        for number, span in spans_of(task.admin, stage.topic).items()
    }
    open_ = {number: span for number, span in spans.items() if span.start < span.end}
    share = max(1, most // max(1, len(open_)))
    taken = {number: Span(span.start, min(span.end, span.start + share)) for number, span in open_.items()}
    rows: list[WaitingRow] = []
    for batch in read(task.adapter, stage.topic, taken, system=task.system):
        rows += _rows(task, stage, batch.records, known.get(batch.partition, Progress()), now_ms)
    return rows, count_offsets(open_) - count_offsets(taken)


def _rows(
    task: WatchedTask, stage: Stage, records: Sequence[Record], progress: Progress, now_ms: int
) -> Iterator[WaitingRow]:
    for record in records:
        seen = traced_record_of(record, stage, task.policy, progress, now_ms)
        if seen.state is not RecordState.PASSED and seen.due is not None:
            yield WaitingRow(
                seen.due,
                stage.topic,
                seen.partition,
                seen.offset,
                stage,
                seen.written_at,
                seen.message.key,
                seen.message.attempt,
                short(seen.error, _MAX_ERROR),
                seen.message.origin,
            )


def _step(seconds: float) -> int:
    return next(i for i, (limit, _) in enumerate(STEPS) if limit is None or seconds <= limit)
