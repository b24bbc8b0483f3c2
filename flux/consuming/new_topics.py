"""Requests about topics that were just created."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from flux.core.engine.new_topic import SPREAD
from flux.core.errors import BrokerError, Fault
from flux.core.ports import System

T = TypeVar("T")

_LOOK = 0.2  # seconds between two requests


class Spreading:
    """Tolerates brokers that do not know a topic, for `seconds` in all from when it is made."""

    def __init__(self, system: System, seconds: float = SPREAD) -> None:
        self._system = system
        self._until = system.monotonic() + seconds

    def known(self, ask: Callable[[], T]) -> T:
        """The result of `ask`, repeated while it raises UNKNOWN_TOPIC. Raises BrokerError."""
        while True:
            try:
                return ask()
            except BrokerError as error:
                if error.fault is not Fault.UNKNOWN_TOPIC or not self._goes_on():
                    raise

    def until(self, there: Callable[[], bool]) -> bool:
        """Whether it becomes true in time. Requests are repeated while the cluster is unavailable; raises other
        BrokerErrors."""
        while True:
            try:
                if there():
                    return True
            except BrokerError as error:
                if error.fault not in (Fault.UNKNOWN_TOPIC, Fault.UNAVAILABLE):
                    raise
            if not self._goes_on():
                return False

    def _goes_on(self) -> bool:
        if self._system.monotonic() >= self._until:
            return False
        self._system.sleep(_LOOK)
        return True
