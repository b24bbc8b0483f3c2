"""Dead letters for the pages: rows, newest first, and their causes, counted once for all visitors."""

from __future__ import annotations

import heapq
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import attrs

from flux.consuming.topic_setup import REQUEST_TIMEOUT
from flux.core.errors import ConfigurationError
from flux.core.ports import CommittedOffset, Record, TopicPartition
from flux.operate.dlq.causes import CauseCount, Causes, cause_of
from flux.operate.dlq.dead_letters import DeadLetter, dead_letter_of
from flux.operate.dlq.filters import Filter
from flux.operate.dlq.replay_progress import DeadLetterState, ReplayProgress, replay_group
from flux.operate.formatting import short
from flux.operate.reading import Span, count_offsets, read, read_one, spans_of
from flux.web.watched_tasks import WatchedTask

PAGE = 50
MAX_READ = 20_000
"""Records, for one page."""
_WINDOW = 1_000
_MAX_ERROR = 300
_NO_PROGRESS = ReplayProgress(0)

Cursor = Mapping[int, int]
"""By partition: the next page starts below that offset; a missing partition is read from its end."""


@attrs.frozen
class DeadLetterRow:
    """Times in milliseconds since the epoch."""

    partition: int
    offset: int
    key: bytes | None
    reason: str
    error_type: str
    error_message: str
    cause: str
    written_at: int
    attempts: int
    replays: int
    state: DeadLetterState

    @property
    def place(self) -> str:
        return f"{self.partition}:{self.offset}"


@attrs.frozen
class Page:
    """The newest first. `older`: the start of the next page, None: there is none. `read`: records that were read."""

    rows: Sequence[DeadLetterRow]
    older: Cursor | None
    read: int


def replayed_of(task: WatchedTask) -> dict[int, ReplayProgress]:
    """What was replayed, by partition of the dead letters. Blocks; raises BrokerError."""
    stored: Mapping[int, CommittedOffset] = task.admin.committed_offsets(
        replay_group(task.policy), task.dead.topic, REQUEST_TIMEOUT
    )
    return {number: ReplayProgress.of(committed) for number, committed in stored.items()}


def row_of(dead_letter: DeadLetter, replayed: ReplayProgress | None) -> DeadLetterRow:
    message = dead_letter.message
    return DeadLetterRow(
        dead_letter.partition,
        dead_letter.offset,
        message.key,
        dead_letter.reason,
        dead_letter.error_type,
        short(dead_letter.error_message, _MAX_ERROR),
        cause_of(dead_letter).id,
        dead_letter.written_at,
        dead_letter.attempts,
        dead_letter.replays,
        (replayed or _NO_PROGRESS).state_of(dead_letter),
    )


def newest(
    task: WatchedTask,
    criteria: Filter,
    before: Cursor,
    *,
    with_replayed: bool = True,
) -> Page:
    """The dead letters that match, backwards from `before`. Blocks; raises BrokerError."""
    return _PageSearch(task, criteria, before, with_replayed).run()


class _PageSearch:
    """Reads growing windows from the ends of the partitions towards their starts."""

    def __init__(self, task: WatchedTask, criteria: Filter, before: Cursor, with_replayed: bool) -> None:
        self._task = task
        self._which = criteria
        self._with_replayed = with_replayed
        self._replayed = replayed_of(task)
        spans = spans_of(task.admin, task.dead.topic, criteria.since_ms)
        self._starts = {number: span.start for number, span in spans.items()}
        self._ends = {n: max(span.start, min(span.end, before.get(n, span.end))) for n, span in spans.items()}
        self._tops = dict(self._ends)
        self._found: dict[int, list[DeadLetterRow]] = {number: [] for number in spans}
        """By partition, the newest first."""
        self._read = 0

    def run(self) -> Page:
        window = max(1, _WINDOW // max(1, len(self._ends)))
        while self._needs_more():
            spans = {n: Span(max(self._starts[n], end - window), end) for n, end in self._ends.items()}
            spans = {n: span for n, span in spans.items() if span.start < span.end}
            self._read_back(spans)
            self._ends |= {n: span.start for n, span in spans.items()}
            window = min(2 * window, MAX_READ)
        rows = list(_merged(self._found, PAGE))
        return Page(rows, self._older(rows), self._read)

    def _needs_more(self) -> bool:
        return (
            sum(map(len, self._found.values())) < PAGE
            and self._read < MAX_READ
            and any(end > self._starts[n] for n, end in self._ends.items())
        )

    def _read_back(self, spans: Mapping[int, Span]) -> None:
        task, found = self._task, {number: list[DeadLetterRow]() for number in spans}
        topic = task.dead.topic
        for batch in read(task.adapter, topic, spans, system=task.system):
            self._read += len(batch.records)
            found[batch.partition] += self._rows(batch.records)
        for number, rows in found.items():
            self._found[number] += reversed(rows)

    def _rows(self, records: Sequence[Record]) -> Iterator[DeadLetterRow]:
        now_ms = self._task.now_ms
        for record in records:
            dead_letter = dead_letter_of(record, self._task.policy, now_ms)
            if self._which.matches(dead_letter):
                row = row_of(dead_letter, self._replayed.get(dead_letter.partition))
                if self._with_replayed or row.state is DeadLetterState.OPEN:
                    yield row

    def _older(self, shown: Sequence[DeadLetterRow]) -> Cursor | None:
        cursor = {}
        for number, rows in self._found.items():
            offsets = [row.offset for row in shown if row.partition == number]
            if len(offsets) == len(rows):
                cursor[number] = self._ends[number]
            else:
                cursor[number] = min(offsets) if offsets else self._tops[number]
        return cursor if any(end > self._starts[n] for n, end in cursor.items()) else None


def _merged(found: Mapping[int, Sequence[DeadLetterRow]], most: int) -> Iterator[DeadLetterRow]:
    """By time, but by offset within a partition, so that a page ends at one offset of each partition."""
    queues = [(-rows[0].written_at, number, 0) for number, rows in found.items() if rows]
    heapq.heapify(queues)
    for _ in range(most):
        if not queues:
            return
        _, number, index = heapq.heappop(queues)
        rows = found[number]
        yield rows[index]
        if index + 1 < len(rows):
            heapq.heappush(queues, (-rows[index + 1].written_at, number, index + 1))


def one(task: WatchedTask, partition: int, offset: int) -> tuple[DeadLetter, DeadLetterState]:
    """A dead letter, and what was decided of it. Blocks; raises ConfigurationError where there is none,
    BrokerError."""
    topic = task.dead.topic
    span = spans_of(task.admin, topic).get(partition)
    record = read_one(task.adapter, TopicPartition(topic, partition), offset, span, system=task.system)
    if record is None:
        raise ConfigurationError(f"there is no dead letter at {partition}:{offset} of {topic}: it may be deleted")
    dead_letter = dead_letter_of(record, task.policy, task.now_ms)
    return dead_letter, replayed_of(task).get(partition, _NO_PROGRESS).state_of(dead_letter)


def size(task: WatchedTask, criteria: Filter) -> int:
    """Offsets to read for `criteria`. Blocks; raises BrokerError."""
    return count_offsets(spans_of(task.admin, task.dead.topic, criteria.since_ms))


MAX_CAUSES = 1_000
TIMEOUT = 3.0
"""Seconds that one request reads; the next one continues there."""


@attrs.frozen
class CauseCounts:
    """`open`: dead letters that are neither replayed nor rejected; only these are grouped by cause. `left`: offsets not
    read yet."""

    open: int
    replayed: int
    rejected: int
    left: int
    others: int
    """Dead letters of causes beyond the first `MAX_CAUSES`."""
    causes: Sequence[CauseCount]


class CauseCounter:
    """Counts the causes of a task's dead letters, and continues as more arrive."""

    def __init__(self, task: WatchedTask) -> None:
        self._task = task
        self._lock = threading.Lock()
        self._counts = CauseCounts(0, 0, 0, 0, 0, ())
        self._counted_with: object = None
        """Replays and the starts of partitions: when they change, counting starts over."""
        self._causes = Causes(MAX_CAUSES)
        self._decided = Counter[DeadLetterState]()
        self._reached: dict[int, int] = {}

    @property
    def latest(self) -> CauseCounts:
        """What is known without reading."""
        return self._counts

    def counts(self) -> CauseCounts:
        """Reads on for up to `TIMEOUT`, unless another request does. Blocks; raises BrokerError."""
        if self._lock.acquire(blocking=False):
            try:
                self._counts = self._read_on()
            finally:
                self._lock.release()
        return self._counts

    def _read_on(self) -> CauseCounts:
        task = self._task
        replayed = replayed_of(task)
        spans = spans_of(task.admin, task.dead.topic)
        state = replayed, {number: span.start for number, span in spans.items()}
        if state != self._counted_with:
            self._counted_with, self._causes, self._decided = state, Causes(MAX_CAUSES), Counter()
            self._reached = {}
        until = task.system.monotonic() + TIMEOUT
        left = {n: Span(self._reached.get(n, span.start), span.end) for n, span in spans.items()}
        batches = read(
            task.adapter,
            task.dead.topic,
            left,
            should_stop=lambda: task.system.monotonic() >= until,
            system=task.system,
        )
        for batch in batches:
            for record in batch.records:
                dead_letter = dead_letter_of(record, task.policy, task.now_ms)
                what = replayed.get(dead_letter.partition, _NO_PROGRESS).state_of(dead_letter)
                if what is DeadLetterState.OPEN:
                    self._causes.add(dead_letter)
                else:
                    self._decided[what] += 1
            self._reached[batch.partition] = batch.reached
        rest = {n: Span(self._reached.get(n, span.start), span.end) for n, span in spans.items()}
        causes = self._causes
        return CauseCounts(
            causes.total,
            self._decided[DeadLetterState.REPLAYED],
            self._decided[DeadLetterState.REJECTED],
            count_offsets(rest),
            causes.others,
            causes.ranked(),
        )
