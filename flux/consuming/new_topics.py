"""Asking about topics that were made just now."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from flux.core.engine.new_topic import SPREAD
from flux.core.errors import BrokerError, Fault
from flux.core.ports import System

T = TypeVar("T")

_LOOK = 0.2  # seconds between two questions


class Spreading:
    """Bears with brokers that do not know a topic, from when it is made for `seconds` in all."""

    def __init__(self, system: System, seconds: float = SPREAD) -> None:
        self._system = system
        self._until = system.monotonic() + seconds

    def known(self, ask: Callable[[], T]) -> T:
        """What `ask` gives once it does not raise UNKNOWN_TOPIC. Raises BrokerError."""
        while True:
            try:
                return ask()
            except BrokerError as error:
                if error.fault is not Fault.UNKNOWN_TOPIC or not self._goes_on():
                    raise

    def until(self, there: Callable[[], bool]) -> bool:
        """Whether it is by the end. A cluster that does not answer is asked again too; raises BrokerError else."""
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
