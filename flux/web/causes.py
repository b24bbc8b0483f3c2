"""Counts the causes of a task's dead letters once for all visitors, and continues as more arrive."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import attrs

from flux.operate.dlq.causes import CauseCount, Causes
from flux.operate.dlq.dead_letters import dead_letter_of
from flux.operate.dlq.replay_progress import ReplayProgress
from flux.operate.reading import Span, count_offsets, read, spans_of
from flux.web.dead_letters import replayed_of
from flux.web.watched_tasks import WatchedTask

MAX_CAUSES = 1_000
TIMEOUT = 3.0
"""Seconds that one request reads; the next one continues there."""


@attrs.frozen
class CauseCounts:
    """`open`: dead letters that are not replayed; only these are grouped by cause. `left`: offsets not read yet."""

    open: int
    replayed: int
    left: int
    others: int
    """Dead letters of causes beyond the first `MAX_CAUSES`."""
    causes: Sequence[CauseCount]


class CauseCounter:
    def __init__(self, task: WatchedTask) -> None:
        self._subject = task
        self._lock = threading.Lock()
        self._picture = CauseCounts(0, 0, 0, 0, ())
        self._counted_with: object = None
        """Replays and the starts of partitions: when they change, counting starts over."""
        self._causes = Causes(MAX_CAUSES)
        self._replayed = 0
        self._reached: dict[int, int] = {}

    @property
    def latest(self) -> CauseCounts:
        """What is known without reading."""
        return self._picture

    def counts(self) -> CauseCounts:
        """Reads on for up to `TIMEOUT`, unless another request does. Blocks; raises BrokerError."""
        if self._lock.acquire(blocking=False):
            try:
                self._picture = self._read_on()
            finally:
                self._lock.release()
        return self._picture

    def _read_on(self) -> CauseCounts:
        task = self._subject
        replayed = replayed_of(task)
        spans = spans_of(task.admin, task.dead.topic)
        state = replayed, {number: span.start for number, span in spans.items()}
        if state != self._counted_with:
            self._counted_with, self._causes, self._replayed = state, Causes(MAX_CAUSES), 0
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
                if replayed.get(dead_letter.partition, ReplayProgress(0)).has(dead_letter):
                    self._replayed += 1
                else:
                    self._causes.add(dead_letter)
            self._reached[batch.partition] = batch.reached
        rest = {n: Span(self._reached.get(n, span.start), span.end) for n, span in spans.items()}
        causes = self._causes
        return CauseCounts(causes.total, self._replayed, count_offsets(rest), causes.others, causes.ranked())
