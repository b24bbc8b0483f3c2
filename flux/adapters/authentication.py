"""Whether brokers take an adapter's login, and what is said where they do not: one for all clients of an adapter."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from flux.adapters.warnings import Warnings
from flux.core.errors import BrokerError, Fault
from flux.core.monitoring.log_throttle import LogThrottle
from flux.core.ports import System

_RECENT = 30.0  # seconds for which a login that was refused explains why nothing is answered


class Problem(NamedTuple):
    """Why a login does not work. `kind`: a word or two, for those that count; `text`: one line, with its remedy."""

    kind: str
    text: str
    fault: Fault = Fault.LOGIN


class Authentication:
    """Thread-safe."""

    def __init__(self, masked: Callable[[str], str], system: System) -> None:
        self.masked = masked
        self.worked = False
        """Whether any broker has taken the login: one that is refused afterwards may be taken again."""
        self._now = system.monotonic
        self.throttle = LogThrottle()
        self._warnings = Warnings(masked, system, self.throttle)
        self._last: tuple[float, Problem] | None = None

    def accepted(self) -> None:
        self.worked = True
        self._last = None

    def refused(self, problem: Problem) -> None:
        """Who begins with a login that is refused hears of it by an error; later on there is only the log."""
        self._last = self._now(), problem
        self.warn(problem)

    def warn(self, problem: Problem) -> None:
        if self.worked:
            self._warnings.warn(problem.kind, f"{problem.text} (trying again)")

    @property
    def troubled(self) -> bool:
        """Whether the login was refused a moment ago: that explains what else goes wrong."""
        last = self._last
        return last is not None and 0 <= self._now() - last[0] < _RECENT

    def judged(self, error: BrokerError) -> BrokerError:
        """As others may see it: without secrets, with what explains it, and not final where the login was taken."""
        fault, text = error.fault, str(error)
        if self.worked and fault is Fault.LOGIN:
            fault = Fault.UNAVAILABLE
        last = self._last
        if fault is Fault.UNAVAILABLE and last is not None and self.troubled and last[1].text not in text:
            text = f"{text} ({last[1].text})"
        return BrokerError(self.masked(text), fault)


class ClientWarnings(Warnings):
    """One client's, which knows of its adapter's login. What the adapter's clients have in common is said once."""

    def __init__(
        self, masked: Callable[[str], str], system: System, authentication: Authentication | None = None
    ) -> None:
        self.authentication = authentication or Authentication(masked, system)
        super().__init__(masked, system, self.authentication.throttle)
        self.judged = self.authentication.judged
