"""Whether brokers accept an adapter's login, and what is reported if not. All clients of an adapter share it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from flux.adapters.warnings import Warnings
from flux.core.errors import BrokerError, Fault
from flux.core.monitoring.log_throttle import LogThrottle
from flux.core.ports import System

_RECENT = 30.0  # seconds for which a refused login explains other failures


class Problem(NamedTuple):
    """Why a login does not work. `kind`: one or two words, for grouping; `text`: one line, with its remedy."""

    kind: str
    text: str
    fault: Fault = Fault.LOGIN


class Authentication:
    """Thread-safe."""

    def __init__(self, masked: Callable[[str], str], system: System) -> None:
        self.masked = masked
        self.worked = False
        """Whether any broker has accepted the login: if it is refused afterwards, it may be accepted again."""
        self._now = system.monotonic
        self.throttle = LogThrottle()
        self._warnings = Warnings(masked, system, self.throttle)
        self._last: tuple[float, Problem] | None = None

    def accepted(self) -> None:
        self.worked = True
        self._last = None

    def refused(self, problem: Problem) -> None:
        """A login that is refused at the start also raises an error; later refusals are only logged."""
        self._last = self._now(), problem
        self.warn(problem)

    def warn(self, problem: Problem) -> None:
        if self.worked:
            self._warnings.warn(problem.kind, f"{problem.text} (trying again)")

    @property
    def troubled(self) -> bool:
        """Whether the login was refused a moment ago, which explains other failures."""
        last = self._last
        return last is not None and 0 <= self._now() - last[0] < _RECENT

    def judged(self, error: BrokerError) -> BrokerError:
        """The error without secrets, with its likely cause, and not final where the login was accepted before."""
        fault, text = error.fault, str(error)
        if self.worked and fault is Fault.LOGIN:
            fault = Fault.UNAVAILABLE
        last = self._last
        if fault is Fault.UNAVAILABLE and last is not None and self.troubled and last[1].text not in text:
            text = f"{text} ({last[1].text})"
        return BrokerError(self.masked(text), fault)


class ClientWarnings(Warnings):
    """One client's warnings, with the adapter's login. What all clients of the adapter report is logged once."""

    def __init__(
        self, masked: Callable[[str], str], system: System, authentication: Authentication | None = None
    ) -> None:
        self.authentication = authentication or Authentication(masked, system)
        super().__init__(masked, system, self.authentication.throttle)
        self.judged = self.authentication.judged
