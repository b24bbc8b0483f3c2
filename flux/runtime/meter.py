"""Measures the calls of a run, for hooks that only count: one reading of the clock for each call, and the rest once for
all of them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from operator import sub
from typing import Any

from flux.core.described import error_name
from flux.core.hooks import CallsReport
from flux.core.outcome import Move, Rules
from flux.core.runs import Run
from flux.runtime.calls import AsyncCall, Call
from flux.runtime.desk import Desk, Post
from flux.runtime.pipeline import Handler
from flux.runtime.returned import check_returned, own_failure, own_failures

_clock = time.perf_counter
Work = Callable[[Desk, Post, Run, Handler, bool], Any]
"""See `flux.runtime.calls`."""


class Meter:
    """Of one run."""

    __slots__ = ("_batch", "_ends", "_failures", "_rules", "_run", "_unmeant", "_wall")

    def __init__(self, run: Run, rules: Rules, wall: float) -> None:
        """`wall`: seconds since the epoch, now."""
        self._run = run
        self._rules = rules
        self._wall = wall
        self._batch = run.batched
        self._ends = [_clock()]
        self._failures: Counter[str] = Counter()
        self._unmeant: set[int] = set()
        """Calls that found an outage, or whose process failed."""

    def around(self, handler: Handler) -> Handler:
        """`handler`, measured."""
        ended, failed = self._ends.append, self._failed

        def call(message: Any) -> Any:
            try:
                returned = handler(message)
                if returned is not None:
                    check_returned("call", returned)
            except BaseException as error:
                failed(message, error)
                raise
            ended(_clock())
            return returned

        return call

    def around_async(self, handler: Callable[[Any], Awaitable[Any]]) -> Handler:
        """The same, awaited."""
        ended, failed = self._ends.append, self._failed

        async def call(message: Any) -> Any:
            try:
                returned = await handler(message)
                if returned is not None:
                    check_returned("call", returned)
            except BaseException as error:
                failed(message, error)
                raise
            ended(_clock())
            return returned

        return call

    def report(self) -> CallsReport:
        """What was measured; to be asked for when the run's calls have ended."""
        ends, run = self._ends, self._run
        seconds = list(map(sub, ends[1:], ends))
        base = self._wall - ends[0]
        if self._batch:
            dues = run.dues(run.calls) if seconds else []
            starts: Sequence[float] = [ends[0]] * len(dues)
        else:
            dues, starts = run.dues(len(seconds)), ends
        late = [start + base - due * 0.001 for start, due in zip(starts, dues, strict=False) if due > 0]
        if late and min(late) < 0.0:
            late = [max(0.0, each) for each in late]
        if self._unmeant:
            seconds = [took for index, took in enumerate(seconds) if index not in self._unmeant]
        return CallsReport(len(dues), seconds, late, self._failures, self._batch)

    def _failed(self, message: Any, error: BaseException) -> None:
        failures: Sequence[BaseException]
        if self._batch:
            failures = list(own_failures(message, error).values())
        else:
            failures = [own_failure(error)]
        meant = [each for each in failures if self._rules.verdict(each).move in (Move.NEXT, Move.DEAD)]
        self._failures.update(error_name(type(each)) for each in meant)
        if not meant:
            self._unmeant.add(len(self._ends) - 1)
        self._ends.append(_clock())


def measured(work: Work, desk: Desk, handler: Handler, track: bool) -> Call:
    """Makes the calls of runs as `work` does, and tells `Hooks.on_calls` of those of each."""

    def call(post: Post, run: Run) -> BaseException | None:
        meter = Meter(run, desk.policy.rules, desk.system.now())
        try:
            return work(desk, post, run, meter.around(handler), track)  # type: ignore[no-any-return]
        finally:
            desk.heard.tell("on_calls", post.where, meter.report())

    return call


def measured_async(work: Work, desk: Desk, handler: Handler, track: bool) -> AsyncCall:
    """The same, awaited."""

    async def call(post: Post, run: Run) -> BaseException | None:
        meter = Meter(run, desk.policy.rules, desk.system.now())
        try:
            return await work(desk, post, run, meter.around_async(handler), track)  # type: ignore[no-any-return]
        finally:
            desk.heard.tell("on_calls", post.where, meter.report())

    return call
