"""The open forwards of one stage: to be written, retried later, or kept because the target topic refuses them."""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Iterable, Sequence

import attrs

from flux.core.engine.assignment import Assignment, Phase
from flux.core.engine.commands import Level, LogEvent
from flux.core.engine.forwards import Detail, ForwardedCopy
from flux.core.engine.slices import Entry
from flux.core.errors import BrokerError, Fault

MOST_OPEN = 5_000
MOST_IN_TRANSACTION = 20_000
"""The same with `exactly_once`, where they wait for the next transaction."""
MOST_OPEN_BYTES = 32 * 1024 * 1024
_LONGEST_WAITING = 30.0
_LONGEST_KEPT = 60.0
_SHOWN = 5  # forwards that a log line lists

_REMEDIES = {
    Fault.TOO_LARGE: "raise max.message.bytes of {topic}",
    Fault.UNKNOWN_TOPIC: "create it: flux topics TASK --create",
    Fault.DENIED: "grant WRITE on it",
}
_GONE = Phase.GONE
_UNAVAILABLE = {Fault.UNAVAILABLE, Fault.FATAL, Fault.FENCED, Fault.LOGIN}


def remedy(fault: Fault, topic: str) -> str:
    """How to make a topic accept a record that it refuses."""
    return _REMEDIES.get(fault, "see the broker's log").format(topic=topic)


def remedy_or_skip(fault: Fault, topic: str) -> str:
    """As `remedy`, or how to skip the record."""
    return f"{remedy(fault, topic)}, or take the record out of the way with flux skip"


class ForwardState(enum.Enum):
    QUEUED = "queued"
    WRITING = "writing"
    WAITING = "waiting"
    """The cluster is unavailable: it is retried."""
    KEPT = "kept"
    """The target topic refuses it: its record and key wait, others continue."""


@attrs.define(eq=False)
class Forward:
    """One forwarded copy and its state."""

    entry: Entry
    forwarded_copy: ForwardedCopy
    size: int
    state: ForwardState = ForwardState.QUEUED
    failures: int = 0
    at: float = 0.0
    """When it is retried, in seconds by the engine's clock."""
    alone: bool = False
    """Whether it is written alone: a client's batch fails as a whole if one record in it is too large."""
    kept: bool = False
    """Whether its key queue is held."""
    refused: Fault | None = None
    """Why the target topic refuses it."""
    unavailable: bool = False
    """Whether the cluster was unavailable at the last attempt: the stage makes no new calls."""

    def __str__(self) -> str:
        record, target = self.forwarded_copy.message, self.forwarded_copy.target.topic
        why = "" if self.refused is None else f" ({self.refused.value}: {remedy_or_skip(self.refused, target)})"
        return f"{record.topic}[{record.partition}]@{record.offset} to {target}{why}"

    @property
    def gone(self) -> bool:
        """Whether its partition is not owned any more, so that it must not be written."""
        return self.entry.assignment.phase is _GONE


class Forwards:
    """All forwards of one stage that are not acknowledged."""

    __slots__ = (
        "_again",
        "_alone",
        "_bytes",
        "_most_open",
        "_open",
        "_queue",
        "_sole",
        "_waiting",
        "_writing",
        "answers",
    )

    def __init__(self, most_open: int = MOST_OPEN) -> None:
        self._most_open = most_open
        self._open: dict[Entry, Forward] = {}
        self._queue: deque[Forward] = deque()
        self._alone: deque[Forward] = deque()
        self._sole: Forward | None = None
        """The forward that is being written alone."""
        self._again: dict[Forward, None] = {}
        """Forwards to retry later, in the order of their failures."""
        self._waiting = 0
        self._writing = 0
        self._bytes = 0
        self.answers = 0
        """Number of forwards that were acknowledged."""

    def __len__(self) -> int:
        return len(self._open)

    @property
    def blocked(self) -> bool:
        """Whether the stage must not start calls: the cluster is unavailable, or too many forwards are open."""
        return self._waiting > 0 or len(self._open) >= self._most_open or self._bytes >= MOST_OPEN_BYTES

    @property
    def queued(self) -> bool:
        """Whether `take` would return any."""
        if self._sole is not None:
            return False
        return bool(self._queue) if not self._alone else not self._writing

    @property
    def deadline(self) -> float | None:
        """When the next one is retried."""
        return min((forward.at for forward in self._again), default=None)

    def retries(self, now: float) -> bool:
        """Whether `take` would return one to be retried."""
        return any(_retried(forward, now) for forward in self._again)

    def of(self, entry: Entry) -> Forward | None:
        """The forward of an entry, if it has one."""
        return self._open.get(entry)

    def has(self, entry: Entry) -> bool:
        return entry in self._open

    def moving(self, entry: Entry) -> bool:
        """Whether the entry's forward is queued or being written, so that it ends soon."""
        forward = self._open.get(entry)
        return forward is not None and forward.state in (ForwardState.QUEUED, ForwardState.WRITING)

    def moving_all(self) -> list[Forward]:
        """Forwards that may be acknowledged without help."""
        return [forward for forward in self._open.values() if forward.state is not ForwardState.KEPT]

    @property
    def any_moving(self) -> bool:
        """Whether any forward may be acknowledged without help, those that wait for the cluster included."""
        return any(forward.state is not ForwardState.KEPT for forward in self._open.values())

    @property
    def refused(self) -> list[Forward]:
        """Forwards that their target topics refuse, even if they are being retried now."""
        return [forward for forward in self._open.values() if forward.refused is not None]

    def add(self, forward: Forward) -> None:
        self._open[forward.entry] = forward
        self._bytes += forward.size
        self._queue.append(forward)

    @property
    def writing(self) -> int:
        """Number of forwards that were handed to the client and are not acknowledged."""
        return self._writing

    def take(self, now: float) -> list[Forward]:
        """Takes the forwards to write now, in order."""
        for forward in [forward for forward in self._again if _retried(forward, now)]:
            del self._again[forward]
            forward.state = ForwardState.QUEUED
            (self._alone if forward.alone else self._queue).append(forward)
        if self._sole is not None:
            taken = []
        elif self._alone:
            taken = [] if self._writing else [self._alone.popleft()]
            self._sole = taken[0] if taken else None
        else:
            taken = list(self._queue)
            self._queue.clear()
        for forward in taken:
            forward.state = ForwardState.WRITING
        self._writing += len(taken)
        return taken

    @property
    def pressing(self) -> bool:
        """Whether so many are open that the stage would soon have to stop starting calls."""
        return len(self._open) >= self._most_open // 2 or self._bytes >= MOST_OPEN_BYTES // 2

    def put_back(self, forwards: Iterable[Forward]) -> None:
        """These were taken and not written: they are taken again first, in the same order."""
        kept = []
        for forward in forwards:
            self._ended(forward)
            if forward.entry in self._open:
                forward.state = ForwardState.QUEUED
                kept.append(forward)
        self._alone.extendleft(forward for forward in reversed(kept) if forward.alone)
        self._queue.extendleft(forward for forward in reversed(kept) if not forward.alone)

    def written(self, forward: Forward) -> None:
        """All in-sync replicas have acknowledged it."""
        self.answers += 1
        self._ended(forward)
        if self._open.pop(forward.entry, None) is not None:
            self._bytes -= forward.size
            self._set_unavailable(forward, False)

    def unwritten(self, forward: Forward, error: BrokerError, now: float) -> LogEvent | None:
        """The write failed: `forward.state` becomes WAITING (retried) or KEPT. Returns a log line, if any."""
        self._ended(forward)
        if forward.entry not in self._open:
            return None
        forwarded_copy = forward.forwarded_copy
        if error.fault is Fault.TOO_LARGE and not (forward.alone and forwarded_copy.detail is Detail.NONE):
            if forward.alone:
                forwarded_copy.detail = Detail(forwarded_copy.detail - 1)
            forward.alone = True
            forward.state = ForwardState.QUEUED
            self._set_unavailable(forward, False)
            self._alone.append(forward)
            return None
        forward.failures += 1
        unavailable = error.fault in _UNAVAILABLE
        forward.state = ForwardState.WAITING if unavailable else ForwardState.KEPT
        forward.refused = None if unavailable else error.fault
        longest = _LONGEST_WAITING if unavailable else _LONGEST_KEPT
        forward.at = now + min(2.0 ** min(forward.failures - 1, 10), longest)
        self._set_unavailable(forward, unavailable)
        self._again[forward] = None
        return self._log_event(forward, error)

    def forget(self, assignment: Assignment) -> None:
        """The partition is gone: its forwards are discarded."""
        for entry in [entry for entry in self._open if entry.assignment is assignment]:
            forward = self._open.pop(entry)
            self._bytes -= forward.size
            self._set_unavailable(forward, False)
            self._again.pop(forward, None)
        self._queue = deque(forward for forward in self._queue if forward.entry.assignment is not assignment)
        self._alone = deque(forward for forward in self._alone if forward.entry.assignment is not assignment)

    def _set_unavailable(self, forward: Forward, unavailable: bool) -> None:
        self._waiting += unavailable - forward.unavailable
        forward.unavailable = unavailable

    def _ended(self, forward: Forward) -> None:
        self._writing -= 1
        if self._sole is forward:
            self._sole = None

    def _log_event(self, forward: Forward, error: BrokerError) -> LogEvent:
        topic, kind = forward.forwarded_copy.target.topic, (forward.forwarded_copy.target.topic, error.fault)
        record = forward.forwarded_copy.message
        where = f"{record.topic}[{record.partition}]@{record.offset}"
        if forward.state is ForwardState.WAITING:
            return LogEvent(
                Level.WARNING,
                f"{topic} cannot be written ({error}): {len(self._open)} record(s) from {where} on wait for it;"
                " the stage pauses and retries",
                record,
                kind,
            )
        return LogEvent(
            Level.ERROR,
            f"{topic} refuses {where} ({error}): the record is kept and retried, its key waits;"
            f" {remedy_or_skip(error.fault, topic)}",
            record,
            kind,
        )


def not_written(forwards: Sequence[Forward]) -> LogEvent:
    """The stage has left its group before these were acknowledged."""
    shown = list(map(str, forwards[:_SHOWN]))
    more = len(forwards) - len(shown)
    return LogEvent(
        Level.ERROR,
        f"not committed, because their forwarded copies were not written: {', '.join(shown)}"
        f"{f' and {more} more' if more else ''}: they are processed again",
    )


def _retried(forward: Forward, now: float) -> bool:
    """Whether a failed forward is due. If it is further away than the longest wait, the clock was set back."""
    return not now < forward.at <= now + _LONGEST_KEPT
