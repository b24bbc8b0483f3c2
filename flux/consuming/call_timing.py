"""How long calls take: measured for hooks that only count, and found where they exceed their task's `timeout`. And how
long functions take that give names for limits."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from operator import sub
from typing import Any

import attrs

from flux.consuming.call_chain import Handler
from flux.core.engine.commands import Level, LogEvent
from flux.core.engine.runs import Run
from flux.core.engine.verdicts import Move, Rules
from flux.core.error_text import error_name
from flux.core.hooks import CallsReport
from flux.core.limits.name_limits import NameLimit
from flux.core.message import Message
from flux.system.return_values import own_failure, own_failures

clock = time.perf_counter
SLOW_NAME = 0.002
"""Seconds for a name from which on the function is slow."""
_NAMES = 100
"""Names that are looked at together. If nearly all of them were slow, so is the function: some wait for a thread."""
_MOST_SLOW = 90


class Meter:
    """Of one run: one clock reading per call, and everything else once per run."""

    __slots__ = ("_batch", "_failures", "_rules", "_run", "_unmeant", "_wall", "ends")

    def __init__(self, run: Run, rules: Rules, wall: float) -> None:
        """`wall`: seconds since the epoch, now."""
        self._run = run
        self._rules = rules
        self._wall = wall
        self._batch = run.batched
        self.ends = [clock()]
        """The start of the first call, then the end of each."""
        self._failures: Counter[str] = Counter()
        self._unmeant: set[int] = set()
        """Indices of calls that found an outage, or in which the process failed."""

    def failed(self, message: Any, error: BaseException) -> None:
        """The call of a message, or of a batch, has raised."""
        failures: Sequence[BaseException]
        if self._batch:
            failures = list(own_failures(message, error).values())
        else:
            failures = [own_failure(error)]
        meant = [each for each in failures if self._rules.verdict(each).move in (Move.NEXT, Move.DEAD)]
        self._failures.update(error_name(type(each)) for each in meant)
        if not meant:
            self._unmeant.add(len(self.ends) - 1)
        self.ends.append(clock())

    def report(self) -> CallsReport:
        """The report; call it when the run's calls have ended."""
        ends, run = self.ends, self._run
        seconds = list(map(sub, ends[1:], ends))
        base = self._wall - ends[0]
        if self._batch:
            due_times = run.due_times(run.calls) if seconds else []
            starts: Sequence[float] = [ends[0]] * len(due_times)
        else:
            due_times, starts = run.due_times(len(seconds)), ends
        late = [start + base - due * 0.001 for start, due in zip(starts, due_times, strict=False) if due > 0]
        if late and min(late) < 0.0:
            late = [max(0.0, each) for each in late]
        if self._unmeant:
            seconds = [took for index, took in enumerate(seconds) if index not in self._unmeant]
        return CallsReport(len(due_times), seconds, late, self._failures, self._batch)


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


class TimedNames:
    """A function that gives names for a limit, timed: while it runs, no call of the task can start. `log`: says so."""

    __slots__ = ("_count", "_log", "_name_of", "_seconds", "_setting", "_slow")

    def __init__(self, limit: NameLimit, log: Callable[[LogEvent], None]) -> None:
        self._name_of = limit.name_of
        self._setting = limit.setting
        self._log = log
        self._count = 0
        self._seconds = 0.0
        self._slow = 0

    def __call__(self, message: Message) -> str | bytes | None:
        began = clock()
        try:
            return self._name_of(message)
        finally:
            took = clock() - began
            self._count += 1
            self._seconds += took
            self._slow += took > SLOW_NAME
            if self._count == _NAMES:
                self._report(self._seconds / _NAMES)
                self._count, self._seconds, self._slow = 0, 0.0, 0

    def _report(self, mean: float) -> None:
        if self._slow >= _MOST_SLOW:
            took = f"{self._setting} took {mean * 1000:.1f} ms a record for the last {_NAMES}"
            text = f"{took}, in which no other call could start: let it read a header or the key alone"
            self._log(LogEvent(Level.WARNING, text, kind=("slow names", self._setting)))


def time_names(limits: Iterable[NameLimit], log: Callable[[LogEvent], None]) -> None:
    """Times the functions of these limits from now on."""
    for limit in limits:
        limit.name_of = TimedNames(limit, log)
