"""What the end of a call means for its record."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence

import attrs

from flux.core.message import Message


class Reject(Exception):
    """Raised in `call`: the record goes to the dead-letter topic now, with `reason` as its error message."""

    def __init__(self, reason: str = "rejected") -> None:
        super().__init__(reason)


class Retry(Exception):
    """Raised in `call`: the record goes to the next stage and waits `after` seconds there (None: that stage's wait).

    `after` is at most the task's `max_delay`; more is clipped, and logged."""

    after: float | None = None

    def __init__(self, reason: str = "retry", *, after: float | None = None) -> None:
        if after is not None and not float(after) >= 0:
            raise ValueError(f"Retry(after={after!r}): give seconds, 0 or more")
        super().__init__(reason)
        self.after = None if after is None else float(after)


class Pause(Exception):
    """Raised in `call`: not the record's fault, as what it needs is away. No record moves and no attempt is counted;
    the task makes no new calls here until one record, tried after `seconds`, ends otherwise.

    `seconds` None: 1 s, doubled up to 60 s by each try that finds the same, and drawn to be up to a tenth longer.
    """

    seconds: float | None = None

    def __init__(self, seconds: float | None = None, reason: str = "paused") -> None:
        if seconds is not None and not 0 <= float(seconds) < float("inf"):
            raise ValueError(f"Pause({seconds!r}): give seconds, 0 or more")
        super().__init__(reason)
        self.seconds = None if seconds is None else float(seconds)


class Failed(Exception):
    """Raised in the `call` of a BatchTask: the messages named move on, each with its own exception, and the others are
    done. `failures`: message -> exception."""

    def __init__(self, failures: Mapping[Message, BaseException]) -> None:
        self.failures = dict(failures)
        if not self.failures:
            raise ValueError("Failed({}): name the messages that failed, each with its exception")
        for message, error in self.failures.items():
            if not isinstance(message, Message) or not isinstance(error, BaseException):
                raise TypeError(f"Failed({{{message!r}: {error!r}}}): give message -> exception")
        super().__init__(f"{len(self.failures)} record(s) failed")


def failures_of(messages: Sequence[Message], error: BaseException) -> Mapping[Message, BaseException]:
    """Which messages of a call that took many have failed, each with its exception: those that `Failed` names, as long
    as it names none but them; else all."""
    if isinstance(error, Failed) and error.failures.keys() <= set(messages):
        return error.failures
    return dict.fromkeys(messages, error)


class Expired(Exception):
    """The work is older than the task's `give_up_after`, and was not tried."""


class Undecodable(Exception):
    """The task's deserializer refused the record; `__cause__` is its error."""


class Move(enum.Enum):
    NEXT = "next"
    AGAIN = "again"
    """In place, after a moment."""
    DEAD = "dead"
    PAUSE = "pause"
    """What the task needs is away: nothing moves, and it makes no calls for a while."""
    STOP = "stop"
    """The process failed, not the record: nothing moves, the worker ends, the record is delivered again."""


@attrs.frozen
class Verdict:
    move: Move
    reason: str = ""
    """`flux-reason` when the record goes to the dead letters, or on to the next stage."""
    after: float | None = None
    """Seconds: the wait, or the pause, where the call knew."""


STOP = Verdict(Move.STOP)
NEXT = Verdict(Move.NEXT, "error")
REJECTED = Verdict(Move.DEAD, "rejected")
UNDECODABLE = Verdict(Move.DEAD, "undecodable")
EXPIRED = Verdict(Move.DEAD, "expired")
PAUSE = Verdict(Move.PAUSE)


@attrs.frozen
class Rules:
    """Which exceptions are tried again, and which pause the task. The nearest class in the MRO wins; of ties, a pause
    first, which moves nothing, then reject; no match rejects."""

    retry_on: tuple[type[BaseException], ...] = (Exception,)
    reject_on: tuple[type[BaseException], ...] = ()
    pause_on: tuple[type[BaseException], ...] = ()

    def verdict(self, error: BaseException) -> Verdict:
        """What a call that ended with `error` means."""
        if isinstance(error, MemoryError) or not isinstance(error, Exception):
            return STOP
        if isinstance(error, Retry):
            after = error.after
            if not isinstance(after, int | float) or not after >= 0:
                return NEXT  # none given, or a subclass's own idea of one
            return Verdict(Move.NEXT, "error", after)
        if isinstance(error, Reject):
            return REJECTED
        if isinstance(error, Pause):
            seconds = error.seconds  # a subclass may have its own idea of it
            known = isinstance(seconds, int | float) and 0 <= seconds < float("inf")
            return Verdict(Move.PAUSE, after=seconds) if known else PAUSE
        if isinstance(error, Expired):
            return EXPIRED
        if isinstance(error, Undecodable):
            return UNDECODABLE
        for cls in type(error).__mro__:
            if cls in self.pause_on:
                return PAUSE
            if cls in self.reject_on:
                return REJECTED
            if cls in self.retry_on:
                return NEXT
        return REJECTED
