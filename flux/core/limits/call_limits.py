"""Whether a task may start calls: its rate limit and its circuit breaker. One for all of its stages in this process."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from flux.core.control.standing import Hold
from flux.core.engine.runs import Run
from flux.core.error_text import brief
from flux.core.limits.failure_rate import FailureCount, FailureRate
from flux.core.limits.group_share import GroupShare
from flux.core.message import Message

if TYPE_CHECKING:
    from flux.core.policy import Policy

UNBOUNDED = 1 << 30
_AT_ONCE = 0.01  # seconds of calls that one caller may start at once
_LATENESS = 0.05  # seconds that callers may be late, as on a busy machine, and still catch up


class RateLimit:
    """Spreads calls evenly. `rate`: calls per second; None: unlimited. Times in seconds by the engine's clock."""

    __slots__ = ("_next", "rate")

    def __init__(self, rate: float | None = None) -> None:
        self.rate = rate
        self._next = 0.0
        """When the next call may start."""

    def most(self, now: float) -> int:
        """Number of calls that may start now."""
        if self.rate is None:
            return UNBOUNDED
        behind = now - self._next
        if behind < 0:
            return 0 if -behind <= 1 / self.rate + _LATENESS else 1  # further ahead: the clock was set back
        return 1 + int(min(behind, _AT_ONCE) * self.rate)

    def opens_at(self, now: float) -> float:
        """When the next call may start; `now` or earlier: at once."""
        return now if self.rate is None else max(now, min(self._next, now + 1 / self.rate + _LATENESS))

    def started(self, calls: int, now: float) -> None:
        """A run with that many calls was handed out."""
        if self.rate is None:
            return
        behind = self._next if self._next <= now + 1 / self.rate + _LATENESS else now  # the clock was set back
        late = now - behind <= _LATENESS  # otherwise there was nothing to call
        self._next = (behind if late else now - _AT_ONCE) + calls / self.rate


FIRST_PAUSE = 1.0
"""Seconds until the first probe; doubled by each probe that finds the outage again."""
LONGEST_PAUSE = 60.0
JITTER = 0.1
"""A pause is longer by up to this part, at random, so that workers do not probe together. It is never shorter: a probe
just before the end of an outage would double the pause once more."""
_TOLERANCE = 0.05  # seconds; a probe further away than the pause was long means that the clock was set back


class CircuitBreaker:
    """Pauses a task while an outage lasts, which is not a record's fault. The call that finds one opens it: no call
    starts until one call, the probe, has ended otherwise. A pause is local to this process: another member that takes
    over a partition makes calls. Times in seconds by the engine's clock."""

    __slots__ = ("_pause", "_probe", "_span", "_until", "error", "since")

    def __init__(self) -> None:
        self._until = 0.0
        self._span = 0.0
        """Duration of the pause when it began."""
        self._pause = FIRST_PAUSE
        self._probe: Run | None = None
        self.since: float | None = None
        """When the task was paused; None: it is not."""
        self.error: BaseException | None = None
        """The reason of the pause."""

    @property
    def paused(self) -> bool:
        return self.since is not None

    def is_probe(self, run: Run | None) -> bool:
        return run is not None and run is self._probe

    def most(self, now: float) -> int:
        """Number of calls that may start now."""
        if self.since is None:
            return UNBOUNDED
        return 0 if self._probe is not None or self._left(now) > 0 else 1

    def opens_at(self, now: float) -> float | None:
        """When the next call may start; `now` or earlier: at once. None: after the running probe."""
        if self._probe is not None:
            return None
        return now if self.since is None else now + max(self._left(now), 0.0)

    def started(self, run: Run) -> None:
        """A run was handed out; during a pause it is the probe."""
        if self.since is not None:
            self._probe = run

    def ended(self, run: Run, called: bool) -> bool:
        """A run has ended. Returns whether that ends the pause: it was the probe and found no outage. `called`: whether
        it made a call at all."""
        if self._probe is not run:
            return False
        self._probe = None
        if called:
            self.since = self.error = None
            self._pause = FIRST_PAUSE
        return called

    def pause(self, run: Run | None, error: BaseException, seconds: float | None, drawn: float, now: float) -> bool:
        """A call of `run` found an outage. `seconds`: until the probe, if the call decided; `drawn`: a random number
        from 0 to 1. Returns whether this is news: it began the pause, or it was the probe."""
        probed, begun = self.is_probe(run), self.since is None
        if probed:
            self._probe = None
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
        if begun:
            self.since = now
        if begun or probed:
            self.error = error
            span = self._pause * (1 + JITTER * drawn) if seconds is None else seconds
            self._span, self._until = span, now + span
        elif seconds is not None and self._probe is None and now + seconds > self._until:
            self._span, self._until = seconds, now + seconds
        return begun or probed

    def _left(self, now: float) -> float:
        """Seconds until the probe."""
        left = self._until - now
        return left if left <= self._span + _TOLERANCE else 0.0


class CallLimits:
    """Shared by all stages of a task in this process. `share`: of the group's rate; None: the rate is this process's
    alone."""

    __slots__ = ("breaker", "failure_count", "held", "rate", "rate_limit", "share")

    def __init__(
        self, rate: float | None = None, pause_when: FailureRate | None = None, share: GroupShare | None = None
    ) -> None:
        self.breaker = CircuitBreaker()
        self.rate_limit = RateLimit(rate)
        self.failure_count = FailureCount(pause_when)
        self.share = share
        self.rate = rate
        """Calls a second, of the process or of the group; None: no limit."""
        self.held: dict[int, Hold] = {}
        """Stages that somebody has paused."""

    @classmethod
    def of(cls, policy: Policy) -> CallLimits:
        share = GroupShare(policy.stages.retries) if policy.rate_limit_scope == "group" else None
        return cls(policy.rate_limit, policy.pause_when, share)

    def owns(self, stage: int, partitions: int) -> str | None:
        """This process owns so many partitions of the topic of `stage` now. Returns what that changes, for the log."""
        if self.share is None:
            return None
        self.share.owns(stage, partitions)
        before, after = self.rate_limit.rate, self._own_rate()
        if after is None or after == before:
            return None
        self.rate_limit.rate = after
        return f"rate limit: {after:.3g} of the group's {self.rate:g} calls a second, as the share of its partitions"

    def set_rate(self, rate: float | None) -> None:
        """Another limit than the task's own, of the process or of the group; None: no limit."""
        self.rate = rate
        self.rate_limit.rate = self._own_rate() or rate

    def _own_rate(self) -> float | None:
        """This process's part of the rate; None: not known, or there is no limit."""
        part = 1.0 if self.share is None else self.share.part
        return None if self.rate is None or part is None else self.rate * part

    @property
    def limited(self) -> bool:
        """Whether runs must be as small as `most`."""
        return self.rate_limit.rate is not None or self.breaker.paused

    def most(self, now: float) -> int:
        """Number of calls that may start now."""
        return min(self.breaker.most(now), self.rate_limit.most(now))

    def opens_at(self, now: float) -> float | None:
        """When the next call may start; `now` or earlier: at once. None: after the running probe."""
        opens = self.breaker.opens_at(now)
        return None if opens is None else max(opens, self.rate_limit.opens_at(now))

    def started(self, run: Run, calls: int, now: float) -> None:
        """A run with that many calls was handed out."""
        self.rate_limit.started(calls, now)
        self.breaker.started(run)

    def ended(self, run: Run, called: bool) -> None:
        """A run has ended. `called`: whether it made a call at all."""
        if self.breaker.ended(run, called):
            self.failure_count.resumed()

    def is_outage(
        self, run: Run, message: Message, error: BaseException, now: float, settle: Callable[[], None]
    ) -> bool:
        """Whether a call of `run` failed by an outage, as so many fail, and not by its record. `settle`: accounts for
        calls that have succeeded; called first."""
        count, breaker = self.failure_count, self.breaker
        if count.rate is None:
            return False
        settle()
        count.failed(now)
        if count.paused:
            if not (breaker.is_probe(run) and count.is_to_blame(message.delivery_id)):
                return True
            breaker.pause(run, count.reason(brief(error)), None, 0.0, now)
            return False
        count.paused = not breaker.paused and count.exceeded(now)
        return count.paused

    def pause_reason(self, error: BaseException) -> BaseException:
        """Why the task is paused, after a call that failed with `error`."""
        count = self.failure_count
        return error if not count.paused else count.reason(brief(error))
