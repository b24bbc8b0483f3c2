"""Finds a record in all stages of its task: reads each topic from the time index on, within limits.

Each topic has its share of the limit; what some topics did not use goes to the others, the main topic first. When a
stage was read completely and has no copy, later stages are not read: a forwarded copy goes to the next stage or to the
dead letters. Committed offsets are read before any record, so that the forwarded copy of whatever they pass is found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import attrs

from flux.consuming.topic_setup import REQUEST_TIMEOUT
from flux.core.errors import ConfigurationError
from flux.core.policy import Policy
from flux.core.ports import AdminPort, Cluster, CommittedOffset, Record, System, TopicPartition
from flux.core.stage import Role, Stage
from flux.operate.reading import Span, Spans, count_offsets, read, read_one, spans_of
from flux.operate.record_history import RecordHistory, TracedRecord, histories_of, traced_record_of
from flux.operate.status.progress import Progress, read_group
from flux.system import SYSTEM

MAX_FOUND = 1_000
_SKEW_MS = 60_000
"""How far the clocks of the producer and of the worker may differ."""


@attrs.frozen
class TraceQuery:
    """Records with a key, or the one record at an offset of the main topic, with its copies."""

    key: bytes | None = None
    origin: tuple[int, int] | None = None
    """(partition, offset)"""


@attrs.frozen
class TraceLimits:
    """`records`: records to read, in all topics together; `seconds`: time for reading; `since_ms`: where reading starts
    for a key, in milliseconds since the epoch (None: at the oldest record)."""

    records: int = 200_000
    seconds: float = 60.0
    since_ms: int | None = None


@attrs.frozen
class UnreadRange:
    """Offsets of a topic that were not read, as a limit was reached."""

    topic: str
    offsets: int


@attrs.define
class TraceResult:
    histories: list[RecordHistory] = attrs.field(factory=list)
    read: int = 0
    """Records that were read."""
    unread: list[UnreadRange] = attrs.field(factory=list)
    """Empty: a record that was not found does not exist."""
    committed: dict[str, dict[int, CommittedOffset]] = attrs.field(factory=dict)
    """By topic and partition, of the groups of the main and the retry stages."""
    origin_missing: bool = False
    """Whether the main topic does not have the origin (any more)."""
    truncated: bool = False
    """Whether more than `MAX_FOUND` records matched."""


def trace(
    adapter: Cluster,
    admin: AdminPort,
    policy: Policy,
    query: TraceQuery,
    limits: TraceLimits,
    *,
    should_stop: Callable[[], bool] = lambda: False,
    on_progress: Callable[[int], object] = lambda count: None,
    system: System = SYSTEM,
) -> TraceResult:
    """Raises ConfigurationError where there is no main topic, BrokerError."""
    return _Search(adapter, admin, policy, query, limits, should_stop, on_progress, system).run()


@attrs.define
class _Search:
    _adapter: Cluster
    _admin: AdminPort
    _policy: Policy
    _query: TraceQuery
    _limits: TraceLimits
    _caller_stops: Callable[[], bool]
    _on_progress: Callable[[int], object]
    _system: System
    _found: list[TracedRecord] = attrs.field(factory=list, init=False)
    _unread: dict[Stage, Spans] = attrs.field(factory=dict, init=False)
    """What is left to read, of stages that were started."""
    _trace: TraceResult = attrs.field(factory=TraceResult, init=False)
    _left: int = attrs.field(init=False)
    _any_key: bool = attrs.field(init=False)
    _key: bytes | None = attrs.field(init=False)
    _now_ms: int = attrs.field(init=False)
    _deadline: float = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._left = self._limits.records
        self._key = self._query.key
        self._any_key = self._key is None
        self._now_ms = int(self._system.now() * 1000)
        self._deadline = self._system.monotonic() + self._limits.seconds

    def run(self) -> TraceResult:
        trace = self._trace
        stages = self._stages()
        for stage in stages:
            if stage.role is not Role.DEAD:
                _, trace.committed[stage.topic] = read_group(self._admin, stage)
        main, *retries = stages
        dead = retries.pop() if retries and retries[-1].role is Role.DEAD else None
        may_have_moved_on = True
        if self._query.origin is not None:
            self._find_origin(main)
        else:
            self._search(main, len(stages))
        since = self._since()
        for number, stage in enumerate(retries):
            if may_have_moved_on or stage.role is Role.LEFTOVER:
                found = self._search(stage, len(stages) - 1 - number, since)
                may_have_moved_on = found or stage.role is Role.LEFTOVER
        if dead is not None:
            self._search(dead, 1, since)
        for stage, spans in self._unread.items():  # with what the others did not use
            self._unread[stage] = self._read(stage, spans, self._left)
        sizes = [(stage.topic, count_offsets(spans)) for stage, spans in self._unread.items()]
        trace.unread = [UnreadRange(topic, size) for topic, size in sizes if size]
        trace.histories = histories_of(self._found)
        return trace

    def _should_stop(self) -> bool:
        return self._caller_stops() or self._system.monotonic() >= self._deadline

    def _stages(self) -> list[Stage]:
        """Stages whose topic exists; the dead letters last."""
        names, stages = self._admin.topic_names(REQUEST_TIMEOUT), list(self._policy.stages)
        if stages[0].topic not in names:
            raise ConfigurationError(f"there is no topic {stages[0].topic}: see `flux topics`")
        dead = stages.pop()
        return [stage for stage in [*stages, *self._policy.stages.leftovers(names), dead] if stage.topic in names]

    def _find_origin(self, main: Stage) -> None:
        assert self._query.origin is not None
        partition, offset = self._query.origin
        span = spans_of(self._admin, main.topic).get(partition)
        record = read_one(self._adapter, TopicPartition(main.topic, partition), offset, span, system=self._system)
        if record is None:
            self._trace.origin_missing = True
            return
        self._trace.read += 1
        self._left -= 1
        # copies have the same key, and comparing it is cheaper than reading headers
        self._key, self._any_key = record.key(), False
        self._found.append(self._traced(record, main))

    def _since(self) -> int | None:
        """Copies cannot be older than the record."""
        if self._query.origin is None or not self._found:
            return self._limits.since_ms
        born = self._found[0].written_at
        return born - _SKEW_MS if 0 < born <= self._now_ms else self._limits.since_ms

    def _search(self, stage: Stage, topics: int, since: int | None = None) -> bool:
        """Reads one topic within its share of the limit; `topics`: how many are left. Returns whether a record may have
        moved on from it: a copy was found, or not all was read."""
        since = self._limits.since_ms if since is None else since
        spans = spans_of(self._admin, stage.topic, since)
        before, left = len(self._found), self._left - self._left // topics
        rest: dict[int, Span] = {}
        likely = self._likely(len(spans))
        for chosen in (likely, spans.keys() - likely):
            part = {number: span for number, span in spans.items() if number in chosen}
            rest |= self._read(stage, part, self._left - left)
        self._unread[stage] = rest
        return len(self._found) > before or count_offsets(rest) > 0 or self._is_cut(stage, spans)

    def _likely(self, count: int) -> set[int]:
        """Partitions of forwarded copies, if the topic has always had this many."""
        return {each.partition % count for each in self._found} if count else set()

    def _is_cut(self, stage: Stage, spans: Spans) -> bool:
        """Whether the record may have been here and is deleted already."""
        marks = self._admin.watermarks(stage.topic, REQUEST_TIMEOUT)
        return any(mark.low > 0 and spans[n].start <= mark.low for n, mark in marks.items() if n in spans)

    def _read(self, stage: Stage, spans: Spans, most: int) -> dict[int, Span]:
        """Reads at most `most` records; returns what is left of the spans."""
        left = {number: span for number, span in spans.items() if span.start < span.end}
        if not left or most <= 0 or self._trace.truncated or self._should_stop():
            return left
        used = 0
        for batch in read(self._adapter, stage.topic, dict(left), should_stop=self._should_stop, system=self._system):
            records, reached = batch.records, batch.reached
            if len(records) > most - used:
                records = records[: most - used]
                reached = records[-1].offset() + 1
            used += len(records)
            self._on_progress(len(records))
            left[batch.partition] = Span(reached, left[batch.partition].end)
            self._found += self._matching(records, stage)
            if used >= most or self._full():
                break
        self._left -= used
        self._trace.read += used
        return left

    def _full(self) -> bool:
        if len(self._found) > MAX_FOUND:
            self._trace.truncated = True
            del self._found[MAX_FOUND:]
        return self._trace.truncated

    def _matching(self, records: Iterable[Record], stage: Stage) -> Iterator[TracedRecord]:
        for record in records:
            if self._any_key or record.key() == self._key:
                traced = self._traced(record, stage)
                if self._is_wanted(traced):
                    yield traced

    def _is_wanted(self, traced: TracedRecord) -> bool:
        origin = self._query.origin
        if origin is None:
            return True
        return traced.message.origin == (self._policy.stages.topic, *origin)

    def _traced(self, record: Record, stage: Stage) -> TracedRecord:
        stored = self._trace.committed.get(stage.topic, {}).get(record.partition())
        return traced_record_of(record, stage, self._policy, Progress.of(stored), self._now_ms)
