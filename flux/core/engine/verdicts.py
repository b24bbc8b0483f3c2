"""Verdicts: what the end of a call means for its record, and the exceptions that decide it."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from datetime import timedelta

import attrs

from flux.core.error_text import TypeCache, guarded, members_of, mro_of, number_of
from flux.core.message import Message
from flux.core.validation import Seconds, plain
from flux.core.validation import seconds as to_seconds

PROCESS = (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError)
"""Failures of the process, which no rule can make a record's. Drivers add the cancellation of their calls."""


class Reject(Exception):
    """Raised in `call`: the record goes to the dead-letter topic now, with `reason` as its error message."""

    def __init__(self, reason: str = "rejected") -> None:
        super().__init__(plain(reason))


class Retry(Exception):
    """Raised in `call`: the record goes to the next stage and waits `after` seconds there (None: that stage's wait).

    An `after` above the task's `max_delay` is clipped and logged. Raises TypeError for a number as `reason`."""

    after: float | None = None

    def __init__(self, reason: str = "retry", *, after: Seconds | None = None) -> None:
        if isinstance(reason, int | float | timedelta):
            raise TypeError(f"Retry({reason!r}): a wait is named: Retry(after={reason!r})")
        wait = None if after is None else float(to_seconds(after))
        if wait is not None and not wait >= 0:
            raise ValueError(f"Retry(after={after!r}): give seconds, 0 or more")
        super().__init__(plain(reason))
        self.after = wait


class Pause(Exception):
    """Raised in `call`: a dependency is down, so the record is not at fault. No record is moved and no attempt counted.
    The task makes no new calls in this process until one record, tried after `seconds`, ends otherwise.

    `seconds` None: 1 s, doubled up to 60 s by each try that finds the same, plus up to a tenth at random.
    """

    seconds: float | None = None

    def __init__(self, seconds: Seconds | None = None, reason: str = "paused") -> None:
        wait = None if seconds is None else float(to_seconds(seconds))
        if wait is not None and not 0 <= wait < float("inf"):
            raise ValueError(f"Pause({seconds!r}): give seconds, 0 or more")
        super().__init__(plain(reason))
        self.seconds = wait


class BatchFailure(Exception):
    """Raised in the `call` of a BatchTask: these messages have failed, each with its own exception, and the others are
    done. `failures`: message -> exception."""

    def __init__(self, failures: Mapping[Message, BaseException]) -> None:
        self.failures = dict(failures)
        if not self.failures:
            raise ValueError("BatchFailure({}): name the messages that failed, each with its exception")
        for message, error in self.failures.items():
            if not issubclass(type(message), Message) or not issubclass(type(error), BaseException):
                what = f"{type(message).__name__}: {type(error).__name__}"
                raise TypeError(f"BatchFailure({{{what}}}): give message -> exception")
        super().__init__(f"{len(self.failures)} record(s) failed")


def failures_of(messages: Sequence[Message], error: BaseException) -> Mapping[Message, BaseException]:
    """The failed messages of a call with many, each with its exception: those of a `BatchFailure` if all of them are
    messages of the call, else all messages."""
    if issubclass(type(error), BatchFailure):
        # read past subclasses, which may override the attribute; the call may have replaced the dictionary
        named = guarded(lambda: dict(object.__getattribute__(error, "failures")))
        if named is not None and named.keys() <= set(messages):
            return named  # type: ignore[no-any-return]
    return dict.fromkeys(messages, error)


class Expired(Exception):
    """The record is older than the task's `give_up_after`; no call was made."""


class Skipped(Exception):
    """Somebody wants the record in the dead letters without a call (`flux skip`)."""


class NotAwaited(Exception):
    """A call, or middleware around it, returned a coroutine or a generator, or forgot to await one. Its work may not
    have run, so the call has failed."""


class SubtaskCancelled(Exception):
    """A call raised CancelledError although it was not cancelled: something that it awaited was. The call has failed;
    `__cause__` is that CancelledError."""


class Undecodable(Exception):
    """The task's deserializer raised; `__cause__` is its exception."""


class Tombstone(Exception):
    """The record has no value, and the task's type parameter is without None; no call was made."""


class Crashed(Exception):
    """A record's call was the only one of the process when that vanished, and processes vanished `max_crashes` times in
    a row; no further call was made."""


class Move(enum.Enum):
    NEXT = "next"
    AGAIN = "again"
    """Retried in place."""
    DEAD = "dead"
    PAUSE = "pause"
    """An outage: no record is moved, and the task makes no calls for a while."""
    HOLD = "hold"
    """As PAUSE, for the calls of one name."""
    STOP = "stop"
    """The process failed, not the record: the worker ends, and the record is delivered again."""


@attrs.frozen
class Verdict:
    move: Move
    reason: str = ""
    """The `flux-reason` of the forwarded copy."""
    after: float | None = None
    """Seconds of the wait or the pause, if the call decided."""
    attempted: bool = True
    """Whether it counts as an attempt."""


STOP = Verdict(Move.STOP)
NEXT = Verdict(Move.NEXT, "error")
REJECTED = Verdict(Move.DEAD, "rejected")
UNDECODABLE = Verdict(Move.DEAD, "undecodable")
TOMBSTONE = Verdict(Move.DEAD, "tombstone")
EXPIRED = Verdict(Move.DEAD, "expired", attempted=False)
SKIPPED = Verdict(Move.DEAD, "skipped", attempted=False)
CRASHED = Verdict(Move.DEAD, "crashed")
PAUSE = Verdict(Move.PAUSE)


@attrs.frozen
class Rules:
    """Which exceptions are retried, reject the record, or pause the task. The nearest class in the MRO wins; of ties,
    pause wins over reject, and reject over retry; no match rejects. An exception that is no `Exception` is a failure of
    the record only if one of these lists it or a base of it; otherwise, and always if it is in `process`, the process
    has failed."""

    retry_on: tuple[type[BaseException], ...] = (Exception,)
    reject_on: tuple[type[BaseException], ...] = ()
    pause_on: tuple[type[BaseException], ...] = ()
    process: tuple[type[BaseException], ...] = PROCESS

    _known: TypeCache[Verdict] = attrs.field(factory=TypeCache, init=False, repr=False, eq=False)
    """Verdicts of types for which the type alone decides."""

    def verdict(self, error: BaseException) -> Verdict:
        """The verdict for a call that raised `error`."""
        kind = type(error)
        known = self._known.get(kind)
        if known is None:
            known = self._verdict(error)
            if not issubclass(kind, (Retry, Pause, BaseExceptionGroup)):
                self._known.keep(kind, known)
        return known

    def _verdict(self, error: BaseException) -> Verdict:
        # by identity of types alone: an object's attributes and its class's comparisons are users' code
        kind = type(error)
        if self._of_process(error):
            return STOP
        if issubclass(kind, Retry):
            after = number_of(lambda: to_seconds(error.after))  # type: ignore[attr-defined]
            if after is None or not after >= 0:
                return NEXT  # none given, or an invalid one from a subclass
            return Verdict(Move.NEXT, "error", after)
        if issubclass(kind, Reject):
            return REJECTED
        if issubclass(kind, Pause):
            seconds = number_of(lambda: to_seconds(error.seconds))  # type: ignore[attr-defined]
            known = seconds is not None and 0 <= seconds < float("inf")
            return Verdict(Move.PAUSE, after=seconds) if known else PAUSE
        if issubclass(kind, Expired):
            return EXPIRED
        if issubclass(kind, Skipped):
            return SKIPPED
        if issubclass(kind, Undecodable):
            return UNDECODABLE
        if issubclass(kind, Tombstone):
            return TOMBSTONE
        for cls in mro_of(kind):
            if _names(self.pause_on, cls):
                return PAUSE
            if _names(self.reject_on, cls):
                return REJECTED
            if _names(self.retry_on, cls):
                return NEXT
        return REJECTED if issubclass(kind, Exception) else STOP

    def _of_process(self, error: BaseException) -> bool:
        """Whether `error`, or any exception in a group, is a failure of the process."""
        looked_at = [error]
        for each in looked_at:
            if issubclass(type(each), self.process):
                return True
            looked_at += members_of(each)
        return False


def _names(classes: tuple[type[BaseException], ...], cls: type) -> bool:
    return any(each is cls for each in classes)
