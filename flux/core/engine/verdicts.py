"""What the end of a call means for its record."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence

import attrs

from flux.core.error_text import ByType, asked, members_of, mro_of, number_of
from flux.core.message import Message
from flux.core.validation import plain

PROCESS = (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError)
"""What no rule can make a record's failure; drivers add the cancellation of what they run calls in."""


class Reject(Exception):
    """Raised in `call`: the record goes to the dead-letter topic now, with `reason` as its error message."""

    def __init__(self, reason: str = "rejected") -> None:
        super().__init__(plain(reason))


class Retry(Exception):
    """Raised in `call`: the record goes to the next stage and waits `after` seconds there (None: that stage's wait).

    `after` is at most the task's `max_delay`; more is clipped, and logged."""

    after: float | None = None

    def __init__(self, reason: str = "retry", *, after: float | None = None) -> None:
        if after is not None and not float(after) >= 0:
            raise ValueError(f"Retry(after={after!r}): give seconds, 0 or more")
        super().__init__(plain(reason))
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
        super().__init__(plain(reason))
        self.seconds = None if seconds is None else float(seconds)


class BatchFailure(Exception):
    """Raised in the `call` of a BatchTask: the messages named move on, each with its own exception, and the others are
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
    """Which messages of a call that took many have failed, each with its exception: those that `BatchFailure` names, as
    long as it names none but them; else all."""
    if issubclass(type(error), BatchFailure):
        # BatchFailure's own dictionary, whatever a subclass or the call has made of it
        named = asked(lambda: dict(object.__getattribute__(error, "failures")))
        if named is not None and named.keys() <= set(messages):
            return named  # type: ignore[no-any-return]
    return dict.fromkeys(messages, error)


class Expired(Exception):
    """The work is older than the task's `give_up_after`, and was not tried."""


class NotAwaited(Exception):
    """A call, or middleware around it, ended while work that it had made was still to be done: it returned a coroutine
    or a generator, or forgot to await one. Whether that ran, nobody can know: the call has failed."""


class SubtaskCancelled(Exception):
    """A call raised CancelledError though nobody had cancelled it: something that it waits for was cancelled. The
    call has failed; `__cause__` is that CancelledError."""


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
    first, which moves nothing, then reject; no match rejects. What is no `Exception` is a record's failure where
    one of these names it or a base of it; else, and where it is in `process`, the process has failed."""

    retry_on: tuple[type[BaseException], ...] = (Exception,)
    reject_on: tuple[type[BaseException], ...] = ()
    pause_on: tuple[type[BaseException], ...] = ()
    process: tuple[type[BaseException], ...] = PROCESS

    _known: ByType[Verdict] = attrs.field(factory=ByType, init=False, repr=False, eq=False)
    """Of types that say all."""

    def verdict(self, error: BaseException) -> Verdict:
        """What a call that ended with `error` means."""
        kind = type(error)
        known = self._known.get(kind)
        if known is None:
            known = self._verdict(error)
            if not issubclass(kind, (Retry, Pause, BaseExceptionGroup)):
                self._known.keep(kind, known)
        return known

    def _verdict(self, error: BaseException) -> Verdict:
        # by the type alone: what an object says of itself, and how its class compares, is somebody else's code
        kind = type(error)
        if self._of_process(error):
            return STOP
        if issubclass(kind, Retry):
            after = number_of(lambda: error.after)  # type: ignore[attr-defined]
            if after is None or not after >= 0:
                return NEXT  # none given, or a subclass's own idea of one
            return Verdict(Move.NEXT, "error", after)
        if issubclass(kind, Reject):
            return REJECTED
        if issubclass(kind, Pause):
            seconds = number_of(lambda: error.seconds)  # type: ignore[attr-defined]
            known = seconds is not None and 0 <= seconds < float("inf")
            return Verdict(Move.PAUSE, after=seconds) if known else PAUSE
        if issubclass(kind, Expired):
            return EXPIRED
        if issubclass(kind, Undecodable):
            return UNDECODABLE
        for cls in mro_of(kind):
            if _names(self.pause_on, cls):
                return PAUSE
            if _names(self.reject_on, cls):
                return REJECTED
            if _names(self.retry_on, cls):
                return NEXT
        return REJECTED if issubclass(kind, Exception) else STOP

    def _of_process(self, error: BaseException) -> bool:
        """A group of which any is, too."""
        looked_at = [error]
        for each in looked_at:
            if issubclass(type(each), self.process):
                return True
            looked_at += members_of(each)
        return False


def _names(classes: tuple[type[BaseException], ...], cls: type) -> bool:
    return any(each is cls for each in classes)
