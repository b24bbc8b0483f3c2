"""What handlers of a test note down themselves, against which the figures of flux are held. Nothing here is flux's."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left, bisect_right, insort
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html.parser import HTMLParser
from typing import Any

import attrs

Record = tuple[str, int, int]
"""(topic, partition, offset)"""


class Ledger:
    """Of one task: the times of all calls' starts and ends, in seconds since the epoch."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._times: dict[tuple[str, int], list[float]] = defaultdict(list)
        self.calls: dict[Record, list[list[float]]] = defaultdict(list)
        """[start, end] of each call of a record; [start] while it runs."""
        self.running = 0

    def note(self, what: str, stage: int, number: int = 1) -> None:
        with self._lock:
            for _ in range(number):
                insort(self._times[what, stage], time.time())

    def count(self, what: str, stage: int, until: float = float("inf"), since: float = 0.0) -> int:
        """How often `what` was noted from `since` to `until`."""
        with self._lock:
            times = self._times[what, stage]
            return max(0, bisect_right(times, until) - bisect_left(times, since))

    @contextmanager
    def call(self, messages: Sequence[Any]) -> Iterator[None]:
        """The block is a call with these messages."""
        spans = [[time.time()] for _ in messages]
        with self._lock:
            self.running += 1
            for message, span in zip(messages, spans, strict=True):
                self.calls[message.topic, message.partition, message.offset].append(span)
        try:
            yield
        finally:
            with self._lock:
                self.running -= 1
                for span in spans:
                    span.append(time.time())

    def ran(self, record: Record, at: float, slack: float) -> float | None:
        """The start of the call of a record that ran at that time, give or take `slack` seconds."""
        with self._lock:
            for span in self.calls.get(record, ()):
                if span[0] <= at + slack and (len(span) == 1 or span[1] >= at - slack):
                    return span[0]
        return None


@attrs.define
class _Table:
    rows: list[list[str]] = attrs.field(factory=list)


class _Tables(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tables: list[_Table] = []
        self._cell = False

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        if tag == "table":
            self.tables.append(_Table())
        elif tag == "tr":
            self.tables[-1].rows.append([])
        elif tag in ("td", "th"):
            self.tables[-1].rows[-1].append("")
            self._cell = True
        elif self._cell:
            self.tables[-1].rows[-1][-1] += " "

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._cell = False

    def handle_data(self, data: str) -> None:
        if self._cell:
            self.tables[-1].rows[-1][-1] += data


def tables_of(page: str) -> list[list[dict[str, str]]]:
    """The tables of a page, each as rows by column heading."""
    parser = _Tables()
    parser.feed(page)
    return [
        [dict(zip(table.rows[0], (" ".join(cell.split()) for cell in row), strict=False)) for row in table.rows[1:]]
        for table in parser.tables
    ]
