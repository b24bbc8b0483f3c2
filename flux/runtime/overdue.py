"""Names calls that block for longer than their task's `timeout`: a thread cannot be cancelled, but it can be shown."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import attrs

from flux.core.message import Message
from flux.runtime.pipeline import Handler


@attrs.define(eq=False)
class Late:
    """A call that blocks. `thread`: its identifier."""

    thread: int
    began: float
    message: Message
    named: bool = False


class Overdue:
    """`timeout`: seconds. Times in seconds, by the monotonic clock."""

    def __init__(self, timeout: float, now: Callable[[], float]) -> None:
        self.timeout = timeout
        self._now = now
        self._calls: dict[int, Late] = {}

    def watching(self, handler: Handler) -> Handler:
        """`handler`, whose calls are looked after."""
        calls, now, me = self._calls, self._now, threading.get_ident

        def call(message: Any) -> Any:
            thread = me()
            calls[thread] = Late(thread, now(), message[0] if isinstance(message, list) else message)
            try:
                return handler(message)
            finally:
                calls.pop(thread, None)

        return call

    def found(self, now: float) -> list[Late]:
        """Calls that have become overdue since the last look."""
        late = [call for call in list(self._calls.values()) if not call.named and now - call.began > self.timeout]
        for call in late:
            call.named = True
        return late
