"""Dead letters as rows: what is kept of one, without its value."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence

import attrs

from flux.consuming.topic_setup import ASK
from flux.core.errors import ConfigurationError
from flux.core.ports import CommittedOffset, Record, TopicPartition
from flux.operate.dlq.causes import cause_of
from flux.operate.dlq.dead_letters import Letter, letter_of
from flux.operate.dlq.filters import Filter
from flux.operate.dlq.replay_plan import replay_group
from flux.operate.dlq.replay_progress import Replayed
from flux.operate.formatting import short
from flux.operate.reading import Span, read, read_one, size_of, spans_of
from flux.web.watched_tasks import Subject

PAGE = 50
MOST_READ = 20_000
"""Records, for one page."""
_WINDOW = 1_000
_MOST_ERROR = 300

Cursor = Mapping[int, int]
"""By partition: letters below that offset come next; a partition that is left out is read from its end."""


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
    replayed: bool

    @property
    def place(self) -> str:
        return f"{self.partition}:{self.offset}"


@attrs.frozen
class Page:
    """The newest first. `older`: where the next page begins, None: there is none. `read`: records looked at."""

    rows: Sequence[DeadLetterRow]
    older: Cursor | None
    read: int


def replayed_of(subject: Subject) -> dict[int, Replayed]:
    """What was replayed, by partition of the dead letters. Blocks; raises BrokerError."""
    stored: Mapping[int, CommittedOffset] = subject.admin.committed_offsets(
        replay_group(subject.policy), subject.dead.topic, ASK
    )
    return {number: Replayed.of(position) for number, position in stored.items()}


def row_of(letter: Letter, replayed: Replayed | None) -> DeadLetterRow:
    message = letter.message
    return DeadLetterRow(
        letter.partition,
        letter.offset,
        message.key,
        letter.reason,
        letter.error_type,
        short(letter.error_message, _MOST_ERROR),
        cause_of(letter).id,
        letter.written_at,
        letter.attempts,
        letter.replays,
        replayed is not None and replayed.has(letter),
    )


def newest(
    subject: Subject,
    which: Filter,
    before: Cursor,
    *,
    with_replayed: bool = True,
    stopping: Callable[[], bool] = lambda: False,
) -> Page:
    """The letters that match, backwards from `before`. Blocks; raises BrokerError."""
    return _PageSearch(subject, which, before, with_replayed, stopping).run()


class _PageSearch:
    """Reads windows that grow, from the ends of the partitions towards their beginnings."""

    def __init__(
        self, subject: Subject, which: Filter, before: Cursor, with_replayed: bool, stopping: Callable[[], bool]
    ) -> None:
        self._subject = subject
        self._which = which
        self._with_replayed = with_replayed
        self._stopping = stopping
        self._replayed = replayed_of(subject)
        spans = spans_of(subject.admin, subject.dead.topic, which.since_ms)
        self._starts = {number: span.start for number, span in spans.items()}
        self._ends = {n: max(span.start, min(span.end, before.get(n, span.end))) for n, span in spans.items()}
        self._tops = dict(self._ends)
        self._found: dict[int, list[DeadLetterRow]] = {number: [] for number in spans}
        """By partition, the newest first."""
        self._read = 0

    def run(self) -> Page:
        window = max(1, _WINDOW // max(1, len(self._ends)))
        while self._is_wanting():
            spans = {n: Span(max(self._starts[n], end - window), end) for n, end in self._ends.items()}
            spans = {n: span for n, span in spans.items() if span.start < span.end}
            self._read_back(spans)
            self._ends |= {n: span.start for n, span in spans.items()}
            window = min(2 * window, MOST_READ)
        rows = list(_merged(self._found, PAGE))
        return Page(rows, self._older(rows), self._read)

    def _is_wanting(self) -> bool:
        return (
            sum(map(len, self._found.values())) < PAGE
            and self._read < MOST_READ
            and any(end > self._starts[n] for n, end in self._ends.items())
            and not self._stopping()
        )

    def _read_back(self, spans: Mapping[int, Span]) -> None:
        subject, found = self._subject, {number: list[DeadLetterRow]() for number in spans}
        topic = subject.dead.topic
        for piece in read(subject.adapter, topic, spans, stopping=self._stopping, system=subject.system):
            self._read += len(piece.records)
            found[piece.partition] += self._rows(piece.records)
        for number, rows in found.items():
            self._found[number] += reversed(rows)

    def _rows(self, records: Sequence[Record]) -> Iterator[DeadLetterRow]:
        now_ms = self._subject.now_ms
        for record in records:
            letter = letter_of(record, self._subject.policy, now_ms)
            if self._which.matches(letter):
                row = row_of(letter, self._replayed.get(letter.partition))
                if self._with_replayed or not row.replayed:
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
    """By time; but within a partition by offset, whatever clocks said, so that a page ends at an offset of each."""
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


def one(subject: Subject, partition: int, offset: int) -> tuple[Letter, bool]:
    """A dead letter, and whether it was replayed. Blocks; raises ConfigurationError where there is none,
    BrokerError."""
    topic = subject.dead.topic
    span = spans_of(subject.admin, topic).get(partition)
    record = None
    if span is not None and span.start <= offset < span.end:
        record = read_one(subject.adapter, TopicPartition(topic, partition), offset, system=subject.system)
    if record is None:
        raise ConfigurationError(f"there is no dead letter at {partition}:{offset} of {topic}: it may be deleted")
    letter = letter_of(record, subject.policy, subject.now_ms)
    replayed = replayed_of(subject).get(partition)
    return letter, replayed is not None and replayed.has(letter)


def size(subject: Subject, which: Filter) -> int:
    """Offsets that a reading of `which` passes. Blocks; raises BrokerError."""
    return size_of(spans_of(subject.admin, subject.dead.topic, which.since_ms))
