"""Finds blocking calls that run longer than their task's `timeout`, to be logged: a thread cannot be cancelled."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import attrs

from flux.consuming.call_chain import Handler
from flux.core.message import Message


@attrs.frozen
class Late:
    """A blocking call. `thread`: its identifier. `message`: of a batch, the first."""

    thread: int
    began: float
    message: Message


Begun = tuple[float, Any]
"""(start, argument) of a call."""


class SlowCalls:
    """`timeout`: seconds. Times in seconds, by the monotonic clock."""

    def __init__(self, timeout: float, now: Callable[[], float]) -> None:
        self.timeout = timeout
        self._now = now
        self._calls: dict[int, Begun] = {}
        """The running calls by thread. Plain tuples, because one is made for each call."""
        self._named: dict[int, Begun] = {}

    def watching(self, handler: Handler) -> Handler:
        """`handler`, with its calls watched."""
        calls, now, me = self._calls, self._now, threading.get_ident

        def call(message: Any) -> Any:
            thread = me()
            calls[thread] = now(), message
            try:
                return handler(message)
            finally:
                calls.pop(thread, None)

        return call

    def found(self, now: float) -> list[Late]:
        """Calls that exceeded the timeout since the last check."""
        named = self._named
        self._named = late = {
            thread: begun for thread, begun in list(self._calls.items()) if now - begun[0] > self.timeout
        }
        return [
            Late(thread, begun[0], _first(begun[1])) for thread, begun in late.items() if named.get(thread) is not begun
        ]


def _first(message: Any) -> Message:
    return message[0] if isinstance(message, list) else message  # type: ignore[no-any-return]
