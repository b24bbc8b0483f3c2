"""What the end of a call means for its record."""

from __future__ import annotations

import enum

import attrs


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


class Undecodable(Exception):
    """The task's deserializer refused the record; `__cause__` is its error."""


class Move(enum.Enum):
    NEXT = "next"
    DEAD = "dead"
    STOP = "stop"
    """The process failed, not the record: nothing moves, the worker ends, the record is delivered again."""


@attrs.frozen
class Verdict:
    move: Move
    reason: str = ""
    """`flux-reason` when the record goes to the dead letters, or on to the next stage."""
    after: float | None = None


STOP = Verdict(Move.STOP)
NEXT = Verdict(Move.NEXT, "error")
REJECTED = Verdict(Move.DEAD, "rejected")
UNDECODABLE = Verdict(Move.DEAD, "undecodable")


@attrs.frozen
class Rules:
    """Which exceptions are tried again. The nearest class in the MRO wins; ties and no match reject."""

    retry_on: tuple[type[BaseException], ...] = (Exception,)
    reject_on: tuple[type[BaseException], ...] = ()

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
        if isinstance(error, Undecodable):
            return UNDECODABLE
        for cls in type(error).__mro__:
            if cls in self.reject_on:
                return REJECTED
            if cls in self.retry_on:
                return NEXT
        return REJECTED
