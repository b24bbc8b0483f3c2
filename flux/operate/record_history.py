"""One record's way through the stages, put together from its copies."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence

import attrs

from flux.core.message import Message
from flux.core.policy import Policy
from flux.core.ports import Record
from flux.core.stage import Role, Stage
from flux.operate.dlq.dead_letters import DeadLetter
from flux.operate.reading import message_of
from flux.operate.status.progress import Progress


class RecordState(enum.Enum):
    """What a group has done with a record."""

    PASSED = "passed"
    """Done in that stage: its call returned, or it moved on."""
    WAITING = "waiting"
    DUE = "due"
    """Not called yet, or being called."""
    DEAD = "dead"
    """In the dead-letter topic."""


class TracedRecord(DeadLetter):
    """A record of any stage, where it was found. Times in milliseconds since the epoch."""

    def __init__(self, message: Message, stage: Stage, state: RecordState, due: int | None) -> None:
        super().__init__(message)
        self.stage = stage
        self.state = state
        self.due = due
        """When it is called at the earliest; None in the main stage."""

    def __str__(self) -> str:
        return f"{self.stage.topic}[{self.partition}]@{self.offset}"


def traced_record_of(record: Record, stage: Stage, policy: Policy, progress: Progress, now_ms: int) -> TracedRecord:
    message = message_of(record, stage, policy, now_ms)
    if stage.role is Role.MAIN:
        state = RecordState.PASSED if progress.has(message.offset) else RecordState.DUE
        return TracedRecord(message, stage, state, None)
    if stage.role is Role.DEAD:
        return TracedRecord(message, stage, RecordState.DEAD, None)
    due = due_of(message, stage, policy)
    if progress.has(message.offset):
        return TracedRecord(message, stage, RecordState.PASSED, due)
    return TracedRecord(message, stage, RecordState.WAITING if due > now_ms else RecordState.DUE, due)


def due_of(message: Message, stage: Stage, policy: Policy) -> int:
    """When a record of a retry stage is due, by its headers. The Ruby library writes none: then its timestamp plus the
    stage's shortest wait."""
    if message.flux_headers.due is not None:
        return message.flux_headers.due
    try:
        wait = policy.wait(stage, 0)
    except Exception:  # the task's own function
        wait = 0.0
    return max(message.timestamp, 0) + int(wait * 1000)


@attrs.frozen
class RecordHistory:
    """A record of the main topic and its copies in other stages: never empty, oldest first."""

    id: str
    records: Sequence[TracedRecord]

    @property
    def key(self) -> bytes | None:
        return self.records[0].message.key

    @property
    def now(self) -> TracedRecord | None:
        """The copy that waits or is called, else its last dead letter; None: it is done."""
        here = [each for each in self.records if each.state in (RecordState.DUE, RecordState.WAITING)]
        if here:
            return here[-1]
        last = self.records[-1]
        return last if last.state is RecordState.DEAD else None

    @property
    def copies(self) -> int:
        """Copies that are not done: more than one after a crash or a replay."""
        return sum(each.state in (RecordState.DUE, RecordState.WAITING) for each in self.records)


def histories_of(records: Iterable[TracedRecord]) -> list[RecordHistory]:
    """Copies of the same origin together, in the order in which they were found."""
    found: dict[str, list[TracedRecord]] = {}
    for traced in records:
        found.setdefault(traced.message.id, []).append(traced)
    return [RecordHistory(name, sorted(each, key=_age)) for name, each in found.items()]


def _age(traced: TracedRecord) -> tuple[bool, int, int, int]:
    """The main topic first, whatever its producer's clock said; then by the time of writing."""
    return traced.stage.role is not Role.MAIN, traced.written_at, traced.stage.number, traced.offset
