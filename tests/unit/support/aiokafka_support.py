"""An event loop whose time passes at once."""

from __future__ import annotations

import asyncio
from asyncio import base_events
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Loop(base_events.BaseEventLoop):
    """Waits for nothing but time, and needs none for it."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._selector = self

    def select(self, timeout: float | None) -> list[Any]:
        assert timeout is not None, "everybody waits for something that never comes"
        self._now += timeout
        return []

    def time(self) -> float:
        return self._now

    def _process_events(self, events: list[Any]) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Nobody else has a thread."""


def run(main: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=Loop) as runner:
        return runner.run(main)
