"""The causes of a task's dead letters: read once for all who look, and read on as more come."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import attrs

from flux.operate.dlq.causes import Causes, Tally
from flux.operate.dlq.dead_letters import letter_of
from flux.operate.dlq.replay_progress import Replayed
from flux.operate.reading import Span, read, size_of, spans_of
from flux.web.dead_letters import replayed_of
from flux.web.watched_tasks import Subject

MOST_CAUSES = 1_000
PATIENCE = 3.0
"""Seconds that one visitor reads on at most; the next one goes on there."""


@attrs.frozen
class Picture:
    """`open`: letters that no replay has passed; only these are told apart by cause. `left`: offsets not read yet."""

    open: int = 0
    replayed: int = 0
    left: int = 0
    others: int = 0
    """Of causes beyond the first `MOST_CAUSES`."""
    tallies: Sequence[Tally] = ()


class Census:
    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._lock = threading.Lock()
        self._picture = Picture()
        self._began_with: object = None
        """What makes all that was counted wrong, when it changes: replays, and letters that are deleted."""
        self._causes = Causes(MOST_CAUSES)
        self._replayed = 0
        self._reached: dict[int, int] = {}

    @property
    def picture_now(self) -> Picture:
        """What is known without asking."""
        return self._picture

    def picture(self) -> Picture:
        """Reads on for a moment, unless another does so already. Blocks; raises BrokerError."""
        if self._lock.acquire(blocking=False):
            try:
                self._picture = self._read_on()
            finally:
                self._lock.release()
        return self._picture

    def _read_on(self) -> Picture:
        subject = self._subject
        replayed = replayed_of(subject)
        spans = spans_of(subject.admin, subject.dead.topic)
        state = replayed, {number: span.start for number, span in spans.items()}
        if state != self._began_with:
            self._began_with, self._causes, self._replayed = state, Causes(MOST_CAUSES), 0
            self._reached = {}
        until = subject.system.monotonic() + PATIENCE
        left = {n: Span(self._reached.get(n, span.start), span.end) for n, span in spans.items()}
        pieces = read(
            subject.adapter,
            subject.dead.topic,
            left,
            stopping=lambda: subject.system.monotonic() >= until,
            system=subject.system,
        )
        for piece in pieces:
            for record in piece.records:
                letter = letter_of(record, subject.policy, subject.now_ms)
                if replayed.get(letter.partition, Replayed(0)).has(letter):
                    self._replayed += 1
                else:
                    self._causes.add(letter)
            self._reached[piece.partition] = piece.reached
        rest = {n: Span(self._reached.get(n, span.start), span.end) for n, span in spans.items()}
        causes = self._causes
        return Picture(causes.total, self._replayed, size_of(rest), causes.others, causes.ranked())
