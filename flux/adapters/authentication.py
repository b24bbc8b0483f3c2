"""An adapter's login and the warnings of its clients: rate-limited, without secrets, and shared by all its clients."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import NamedTuple

from flux.core.errors import BrokerError, Fault
from flux.core.monitoring.log_throttle import LogThrottle, and_more
from flux.core.ports import System

logger = logging.getLogger("flux.kafka")

_BROKER = re.compile(r"(?:[\w.-]+|\[[0-9A-Fa-f:]+\]):[0-9]{1,5}(?=/[0-9a-z])")
_RECENT = 30.0  # seconds for which a refused login explains other failures


class Warnings:
    """For all clients of an adapter together. Nothing here raises."""

    def __init__(self, masked: Callable[[str], str], system: System, throttle: LogThrottle | None = None) -> None:
        self.masked = masked
        self._now = system.monotonic
        self._throttle = throttle or LogThrottle()

    def warn(self, kind: object, text: str) -> None:
        """At most one line per kind and minute; the next one has the number left out."""
        left_out = self._throttle.admit(kind, self._now())
        if left_out is not None:
            logger.warning("%s%s", self.masked(text), and_more(left_out))

    def silent(self, broker: str, seconds: float) -> None:
        """A broker has not answered a request for so long."""
        self.warn(("broker", broker), f"{broker} has not answered for {seconds:.0f} s")


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


def broker_in(text: str) -> str | None:
    """HOST:PORT of the broker in librdkafka's text, as in "host:9092/1: Connect to …"; None: it names none."""
    found = _BROKER.search(text)
    return found[0] if found is not None else None
