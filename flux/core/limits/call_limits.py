"""Whether a task may start calls: its rate limit and its circuit breaker. One for all of its stages in this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from flux.core.control.standing import Hold, SetRate
from flux.core.engine.runs import Run
from flux.core.error_text import brief
from flux.core.limits.breakers import BreakersByName, found_outage
from flux.core.limits.circuit_breaker import CircuitBreaker
from flux.core.limits.concurrency import ConcurrencyByName
from flux.core.limits.failure_rate import FailureCount, FailureRate
from flux.core.limits.group_share import GroupShare
from flux.core.limits.name_limits import NameLimit
from flux.core.limits.rate_limit import RateByName, RateLimit
from flux.core.message import Message

if TYPE_CHECKING:
    from flux.core.policy import Policy


class CallLimits:
    """Shared by all stages of a task in this process. `share`: of the group's rate; None: the rate is this process's
    alone. `by_name`: limits of the calls for one name."""

    __slots__ = (
        "_limited",
        "breaker",
        "breakers",
        "by_name",
        "commanded_rate",
        "failure_count",
        "held",
        "rate",
        "rate_limit",
        "share",
    )

    def __init__(
        self,
        rate: float | None = None,
        pause_when: FailureRate | None = None,
        share: GroupShare | None = None,
        by_name: Sequence[NameLimit] = (),
    ) -> None:
        self.breaker = CircuitBreaker()
        self.rate_limit = RateLimit(rate)
        self.failure_count = FailureCount(pause_when)
        self.share = share
        self.by_name = by_name
        rates = [limit for limit in by_name if isinstance(limit, RateByName)]
        self.breakers = next((limit for limit in by_name if isinstance(limit, BreakersByName)), None)
        """By name; None: there are none."""
        self._limited: RateLimit | RateByName = rates[0] if rates else self.rate_limit
        """What `rate` limits."""
        self.rate = self._limited.rate
        """Calls a second, of the process or of the group; None: no limit."""
        self.commanded_rate: SetRate | None = None
        """Who has set it; None: the task's code."""
        self.held: dict[int, Hold] = {}
        """Stages that somebody has paused."""

    @classmethod
    def of(cls, policy: Policy) -> CallLimits:
        share = GroupShare(policy.stages.retries) if policy.rate_limit_scope == "group" else None
        rate, by_name = policy.rate_limit, list[NameLimit]()
        if rate is not None and policy.rate_limit_key is not None:
            by_name.append(RateByName(rate, policy.rate_limit_key))
            rate = None
        if policy.concurrency_key is not None:
            by_name.append(ConcurrencyByName(policy.concurrency_per_key, policy.concurrency_key))
        pause_when = policy.pause_when
        if pause_when is not None and pause_when.by is not None:
            by_name.append(BreakersByName(pause_when, pause_when.by))
            pause_when = None
        return cls(rate, pause_when, share, by_name)

    def owns(self, stage: int, partitions: int) -> str | None:
        """This process owns so many partitions of the topic of `stage` now. Returns what that changes, for the log."""
        if self.share is None:
            return None
        self.share.owns(stage, partitions)
        before, after = self._limited.rate, self._own_rate()
        if after is None or after == before:
            return None
        self._limited.rate = after
        return f"rate limit: {after:.3g} of the group's {self.rate:g} calls a second, as the share of its partitions"

    def set_rate(self, rate: float | None, commanded: SetRate | None = None) -> None:
        """Another limit than the task's own, of the process or of the group; None: no limit. `commanded`: who has set
        it."""
        self.rate, self.commanded_rate = rate, commanded
        self._limited.rate = self._own_rate() or rate

    @property
    def rate_here(self) -> float | None:
        """`rate`, or this process's part of it."""
        return self._limited.rate

    def _own_rate(self) -> float | None:
        """This process's part of the rate; None: not known, or there is no limit."""
        part = 1.0 if self.share is None else self.share.part
        return None if self.rate is None or part is None else self.rate * part

    @property
    def paused(self) -> bool:
        """Whether an outage pauses the task, or the calls for a name."""
        return self.breaker.paused or bool(self.breakers is not None and self.breakers.paused)

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
        return found_outage(breaker, count, run, message.delivery_id, error, now)

    def pause_reason(self, error: BaseException) -> BaseException:
        """Why the task is paused, after a call that failed with `error`."""
        count = self.failure_count
        return error if not count.paused else count.reason(brief(error))
