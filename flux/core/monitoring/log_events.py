"""Collects log lines until a driver takes them."""

from __future__ import annotations

from collections.abc import Hashable

from flux.core.engine.commands import Level, LogEvent
from flux.core.message import Message
from flux.core.ports import TopicPartition


class LogEvents:
    __slots__ = ("_lines", "_logged")

    def __init__(self) -> None:
        self._lines: list[LogEvent] = []
        self._logged: set[str] = set()

    def add(
        self,
        level: Level,
        text: str,
        once: str | None = None,
        about: Message | TopicPartition | None = None,
        kind: Hashable = None,
    ) -> None:
        """`once`: only the first line with the same value is logged. `kind`: see `LogEvent`."""
        if once is not None:
            if once in self._logged:
                return
            self._logged.add(once)
        self.append(LogEvent(level, text, about, kind))

    def append(self, log_event: LogEvent) -> None:
        """Adds a line."""
        self._lines.append(log_event)

    def take(self) -> list[LogEvent]:
        lines, self._lines = self._lines, []
        return lines
