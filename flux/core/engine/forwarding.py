"""The transfers of one stage on their way: written, tried again, or kept because the target refuses them."""

from __future__ import annotations

import enum
from collections import deque

import attrs

from flux.core.engine.assignment import Assignment, Phase
from flux.core.engine.commands import Level, Notice
from flux.core.engine.forwards import Detail, ForwardedCopy
from flux.core.engine.slices import Entry
from flux.core.errors import BrokerError, Fault

MOST_OPEN = 5_000
MOST_OPEN_BYTES = 32 * 1024 * 1024
_LONGEST_PASSING = 30.0
_LONGEST_KEPT = 60.0

_REMEDIES = {
    Fault.TOO_LARGE: "raise max.message.bytes of {topic}",
    Fault.UNKNOWN_TOPIC: "create it: flux topics TASK --create",
    Fault.DENIED: "grant WRITE on it",
}
_GONE = Phase.GONE
_PASSING = {Fault.UNAVAILABLE, Fault.FATAL, Fault.FENCED, Fault.LOGIN}


def remedy(fault: Fault, topic: str) -> str:
    """What lets a topic take a record that it refuses."""
    return _REMEDIES.get(fault, "see the broker's log").format(topic=topic)


def way_out(fault: Fault, topic: str) -> str:
    """The same, for a record that waits for that."""
    return f"{remedy(fault, topic)}, or take the record out of the way with flux skip"


class ForwardState(enum.Enum):
    QUEUED = "queued"
    WRITING = "writing"
    WAITING = "waiting"
    """The cluster could not take it, and is asked again."""
    KEPT = "kept"
    """The target refuses it: this record and its key are kept, the others go on."""


@attrs.define(eq=False)
class Forward:
    """One transfer and how far it is."""

    entry: Entry
    forwarded_copy: ForwardedCopy
    size: int
    state: ForwardState = ForwardState.QUEUED
    failures: int = 0
    at: float = 0.0
    """When it is tried again, by the clock of the engine."""
    alone: bool = False
    """Written with no other beside it: a client's batch fails as a whole when one record in it is too large."""
    kept: bool = False
    """Whether its key queue is held."""
    refused: Fault | None = None
    """Why its target takes it not, when it is kept."""
    away: bool = False
    """Whether the cluster could not take it when it was last tried: the stage stands still."""

    def __str__(self) -> str:
        record, target = self.forwarded_copy.message, self.forwarded_copy.target.topic
        why = "" if self.refused is None else f" ({self.refused.value}: {way_out(self.refused, target)})"
        return f"{record.topic}[{record.partition}]@{record.offset} to {target}{why}"

    @property
    def gone(self) -> bool:
        """Whether its partition is not this member's any more: it must not be written."""
        return self.entry.assignment.phase is _GONE


class Forwards:
    """All transfers of one stage that are not acknowledged."""

    __slots__ = ("_again", "_alone", "_bytes", "_open", "_queue", "_sole", "_waiting", "_writing")

    def __init__(self) -> None:
        self._open: dict[Entry, Forward] = {}
        self._queue: deque[Forward] = deque()
        self._alone: deque[Forward] = deque()
        self._sole: Forward | None = None
        """The one that is being written alone."""
        self._again: dict[Forward, None] = {}
        """Those tried again later, in the order of their failures."""
        self._waiting = 0
        self._writing = 0
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._open)

    @property
    def blocked(self) -> bool:
        """Whether the stage may make no new calls: the cluster is away, or too much is open."""
        return self._waiting > 0 or len(self._open) >= MOST_OPEN or self._bytes >= MOST_OPEN_BYTES

    @property
    def queued(self) -> bool:
        """Whether `take` would give any."""
        if self._sole is not None:
            return False
        return bool(self._queue) if not self._alone else not self._writing

    @property
    def deadline(self) -> float | None:
        """When the next one is tried again."""
        return min((forward.at for forward in self._again), default=None)

    def of(self, entry: Entry) -> Forward | None:
        """The transfer of an entry, if it has one."""
        return self._open.get(entry)

    def has(self, entry: Entry) -> bool:
        return entry in self._open

    def moving(self, entry: Entry) -> bool:
        """Whether an end of this entry's transfer is near: it is queued or being written."""
        forward = self._open.get(entry)
        return forward is not None and forward.state in (ForwardState.QUEUED, ForwardState.WRITING)

    def moving_all(self) -> list[Forward]:
        """Transfers that may still be acknowledged by themselves."""
        return [forward for forward in self._open.values() if forward.state is not ForwardState.KEPT]

    @property
    def any_moving(self) -> bool:
        """Whether any transfer may still be acknowledged by itself, those waiting for the cluster included."""
        return any(forward.state is not ForwardState.KEPT for forward in self._open.values())

    @property
    def refused(self) -> list[Forward]:
        """Those that their targets refuse, whether or not they are tried again just now."""
        return [forward for forward in self._open.values() if forward.refused is not None]

    def add(self, forward: Forward) -> None:
        self._open[forward.entry] = forward
        self._bytes += forward.size
        self._queue.append(forward)

    @property
    def writing(self) -> int:
        """How many are handed to the client and not acknowledged."""
        return self._writing

    def take(self, now: float) -> list[Forward]:
        """What to write now, in this order."""
        # a time further away than the longest wait is from before the clock was set back
        for forward in [forward for forward in self._again if not now < forward.at <= now + _LONGEST_KEPT]:
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

    def written(self, forward: Forward) -> None:
        """Acknowledged by all in-sync replicas."""
        self._ended(forward)
        if self._open.pop(forward.entry, None) is not None:
            self._bytes -= forward.size
            self._is_away(forward, False)

    def unwritten(self, forward: Forward, error: BrokerError, now: float) -> Notice | None:
        """The write failed. Afterwards `forward.state` says whether the stage waits or the record is kept."""
        self._ended(forward)
        if forward.entry not in self._open:
            return None
        forwarded_copy = forward.forwarded_copy
        if error.fault is Fault.TOO_LARGE and not (forward.alone and forwarded_copy.detail is Detail.NONE):
            if forward.alone:
                forwarded_copy.detail = Detail(forwarded_copy.detail - 1)
            forward.alone = True
            forward.state = ForwardState.QUEUED
            self._is_away(forward, False)
            self._alone.append(forward)
            return None
        forward.failures += 1
        passing = error.fault in _PASSING
        forward.state = ForwardState.WAITING if passing else ForwardState.KEPT
        forward.refused = None if passing else error.fault
        forward.at = now + min(2.0 ** min(forward.failures - 1, 10), _LONGEST_PASSING if passing else _LONGEST_KEPT)
        self._is_away(forward, passing)
        self._again[forward] = None
        return self._notice(forward, error)

    def forget(self, assignment: Assignment) -> None:
        """The partition is gone: nothing of it is written any more."""
        for entry in [entry for entry in self._open if entry.assignment is assignment]:
            forward = self._open.pop(entry)
            self._bytes -= forward.size
            self._is_away(forward, False)
            self._again.pop(forward, None)
        self._queue = deque(forward for forward in self._queue if forward.entry.assignment is not assignment)
        self._alone = deque(forward for forward in self._alone if forward.entry.assignment is not assignment)

    def _is_away(self, forward: Forward, away: bool) -> None:
        self._waiting += away - forward.away
        forward.away = away

    def _ended(self, forward: Forward) -> None:
        self._writing -= 1
        if self._sole is forward:
            self._sole = None

    def _notice(self, forward: Forward, error: BrokerError) -> Notice:
        topic, kind = forward.forwarded_copy.target.topic, (forward.forwarded_copy.target.topic, error.fault)
        record = forward.forwarded_copy.message
        where = f"{record.topic}[{record.partition}]@{record.offset}"
        if forward.state is ForwardState.WAITING:
            return Notice(
                Level.WARNING,
                f"{topic} cannot be written ({error}): {len(self._open)} record(s) from {where} on wait for it;"
                " the stage stands still and tries again",
                record,
                kind,
            )
        return Notice(
            Level.ERROR,
            f"{topic} refuses {where} ({error}): the record is kept and tried again, its key waits;"
            f" {way_out(error.fault, topic)}",
            record,
            kind,
        )
