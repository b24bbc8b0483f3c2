"""When so many calls fail that it is an outage and no longer the records: `FailureRate`, and the count behind it."""

from __future__ import annotations

import math
from collections import deque

import attrs

from flux.core.errors import ConfigurationError
from flux.core.limits.name_limits import NameOf, check_name_of
from flux.core.validation import is_number, is_whole, seconds, shown

_PROBES = 3
"""So many failed probes of one record in a pause count as its own failure: it may be at fault, and nothing else is
called meanwhile."""
_MOST_PROBED = 10_000
"""Records whose failed probes are counted: those of a pause of a week."""
_MOST = 100_000


@attrs.frozen
class FailureRate:
    """A share of calls that fail, from which on a task pauses as if `flux.Pause` was raised: `FailureRate(0.5, of=100,
    within=30)` is 50 failures among the last 100 calls, or fewer calls, within 30 seconds, in this process."""

    share: float
    """Above 0, at most 1."""
    of: int = attrs.field(default=100, kw_only=True)
    """Calls."""
    within: float = attrs.field(default=30.0, kw_only=True, converter=seconds)
    """Seconds, or a timedelta."""
    by: NameOf | None = attrs.field(default=None, kw_only=True)
    """message -> a name, such as a host's: failures are counted for each name, and calls for that name alone pause.
    None: for all calls together. A record for which it returns None pauses nothing."""

    def check(self) -> None:
        """Raises ConfigurationError, in one line."""
        for name, valid, wanted in (
            ("share", is_number(self.share, 0, 1) and self.share > 0, "more than 0, at most 1"),
            ("of", is_whole(self.of, 1, _MOST), f"a number of calls, at most {_MOST}"),
            ("within", is_number(self.within, 0, 86_400) and self.within > 0, "seconds, at most 86400"),
        ):
            if not valid:
                raise ConfigurationError(f"pause_when: {name} = {shown(getattr(self, name))}: give {wanted}")
        if self.by is not None:
            check_name_of("pause_when: by", self.by)

    @property
    def failures(self) -> int:
        """So many failures are too many."""
        return max(1, math.ceil(self.share * self.of - 1e-9))


class TooManyFailures(Exception):
    """The reason of a pause: `pause_when` of the task. `last`: the last failure."""

    def __init__(self, failures: int, calls: int, last: str) -> None:
        self.share = f"{failures} of the last {calls} calls failed"
        super().__init__(f"{self.share}, the last with {last}")


class FailureCount:
    """Counts failures of the calls in one process, if there is a `rate`. Times in seconds by the engine's clock."""

    __slots__ = ("_failed_at", "_probed", "_total", "paused", "rate")

    def __init__(self, rate: FailureRate | None) -> None:
        self.rate = rate
        self._total = 0
        """Calls that have ended, in all."""
        self._failed_at: deque[tuple[float, int]] = deque(maxlen=0 if rate is None else rate.of)
        """The time of each failure that may count, and the number of calls before it."""
        self._probed: dict[str, int] = {}
        """Failed probes of each record in this pause."""
        self.paused = False
        """Whether it has paused the task: then each failure is the outage's."""

    def succeeded(self, calls: int) -> None:
        self._total += calls

    def failed(self, now: float) -> None:
        """A call has failed."""
        self._failed_at.append((now, self._total))
        self._total += 1

    def exceeded(self, now: float) -> bool:
        """Whether the last calls have failed so often."""
        failed_at, rate = self._failed_at, self.rate
        if rate is None:
            return False
        oldest = self._total - rate.of
        while failed_at and (failed_at[0][1] < oldest or not 0 <= now - failed_at[0][0] <= rate.within):
            failed_at.popleft()
        return len(failed_at) >= rate.failures

    def reason(self, last: str) -> TooManyFailures:
        """For logs. `last`: the last failure."""
        calls = self._total - self._failed_at[0][1] if self._failed_at else 1
        return TooManyFailures(len(self._failed_at) or 1, calls, last)

    def is_to_blame(self, record: str) -> bool:
        """The probe of a pause has failed. Returns whether its record may be at fault itself."""
        probes = self._probed[record] = self._probed.pop(record, 0) + 1
        if probes < _PROBES:
            if len(self._probed) > _MOST_PROBED:
                del self._probed[next(iter(self._probed))]
            return False
        del self._probed[record]
        return True

    def resumed(self) -> None:
        """The pause is over: what failed before and in it does not count."""
        self._failed_at.clear()
        self._probed.clear()
        self.paused = False
