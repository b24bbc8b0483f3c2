"""How calls end: failures, which forward, retry or pause; and records that wait for what their call produced."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from functools import lru_cache, partial

from flux.consuming.coordinator.common import Shared, StageRuntime
from flux.core.engine.commands import LogEvent
from flux.core.engine.forwards import Failure, describe
from flux.core.engine.runs import Run
from flux.core.engine.slices import Entry
from flux.core.engine.transactions import CallOutputs
from flux.core.engine.verdicts import Move, Undecodable
from flux.core.error_text import cause_of, error_name
from flux.core.hooks import CallsReport
from flux.core.limits.call_limits import CallLimits
from flux.core.limits.name_limits import NamePaused, NameResumed
from flux.core.message import Message
from flux.core.monitoring.stats import Pauses
from flux.producing.produced import Produced


class Verdicts:
    """`call_limits`: shared by all engines."""

    ENTRANCES = ("failed",)

    def __init__(self, common: Shared, call_limits: CallLimits) -> None:
        self._common = common
        self._call_limits = call_limits
        self._breaker = call_limits.breaker
        self.pauses = Pauses()

    def noted(self, run: Run, message: Message, failure: Failure) -> bool:
        """The current call of `run` raised. Notes that in the run, unless it must be handled now. Takes no lock."""
        policy = self._common.policy
        verdict = failure.verdict = policy.rules.verdict(failure.error)
        if verdict.move not in (Move.NEXT, Move.DEAD) or policy.reports_at_once(verdict):
            return False
        failure.at = self._common.system.monotonic()
        failure.description = describe(failure, policy.error_headers)
        run.note(failure, message)
        return True

    def failed(self, runtime: StageRuntime, run: Run, message: Message, failure: Failure) -> Move:
        """The current call of `run` raised."""
        common = self._common
        with common.lock:
            if run in common.aborted:
                return Move.STOP
            now = runtime.now_locked()
            move = runtime.engine.failed(run, run.index, message, failure, now)
            news = self.judged_locked(runtime, run, failure, move, now)
        if news:
            self.report(runtime, message, failure, move)
        common.driver.write_soon(runtime)
        return move

    def judged_locked(self, runtime: StageRuntime, run: Run | None, failure: Failure, move: Move, now: float) -> bool:
        """Records a failure. Returns whether it is to be logged."""
        if move is Move.STOP or move is Move.HOLD:  # the engine logs an outage of one name
            return False
        if move is not Move.PAUSE:
            return runtime.failures.add(_kind(failure, move), now)
        system = self._common.system
        verdict = self._common.policy.rules.verdict(failure.error)
        seconds = verdict.after if verdict.move is Move.PAUSE else None
        drawn = 0.0 if seconds is not None else system.randint(0, 1000) / 1000
        self.pauses.number += not self._breaker.paused
        news = self._breaker.pause(run, self._call_limits.pause_reason(failure.error), seconds, drawn, now)
        if news:  # otherwise no call was started since
            for each in self._common.runtimes:
                each.engine.paused()
        return news

    def news_locked(
        self, runtime: StageRuntime, now: float
    ) -> tuple[list[LogEvent], list[tuple[Message, Failure, Move]]]:
        """The engine's new log events, and the failures to log."""
        log_events, failures = runtime.engine.log_events(), runtime.engine.failures()
        return log_events, [each for each in failures if runtime.failures.add(_kind(each[1], each[2]), now)]

    def report(self, runtime: StageRuntime, message: Message, failure: Failure, move: Move) -> None:
        """Logs a failure, or a pause."""
        if move is Move.PAUSE:
            self._report_pause()
        else:
            self._common.task_log.failed(runtime.where, runtime.engine.stage, message, failure, move)

    def _report_pause(self) -> None:
        """An outage was found, or found again."""
        common = self._common
        with common.lock:
            now = common.system.monotonic()
            since, opens, error = self._breaker.since, self._breaker.opens_at(now), self._breaker.error
        if since is None or opens is None or error is None:
            return
        common.task_log.paused(error, since, opens - now)
        common.hook_dispatch.notify_task("on_pause", opens - now, error)

    def report_name(self, news: NamePaused | NameResumed, now: float) -> None:
        """The calls for a name were paused, or go on."""
        notify = self._common.hook_dispatch.notify_task
        if isinstance(news, NamePaused):
            notify("on_pause_name", news.name, news.seconds, news.error)
        else:
            notify("on_resume_name", news.name, max(0.0, now - news.since))

    def paused(self) -> tuple[bool, Pauses]:
        """Whether calls are paused now, and the number and duration of all pauses, this one included: it lasts until
        the task ends."""
        common = self._common
        with common.lock:
            since, pauses, ended_at = self._breaker.since, self.pauses, common.ended_at
            until = common.system.monotonic() if ended_at is None else ended_at
            lasts = 0.0 if since is None else max(0.0, until - since)
            return since is not None and ended_at is None, Pauses(pauses.number, pauses.seconds + lasts)

    def report_resume(self, seconds: float) -> None:
        """A pause of `seconds` is over."""
        self._common.task_log.resumed(seconds)
        self._common.hook_dispatch.notify_task("on_resume", seconds)


def _kind(failure: Failure, move: Move) -> tuple[str, str, bool]:
    error = failure.error
    # the deserializer's exception is the kind, not `Undecodable`
    cause = cause_of(error) if issubclass(type(error), Undecodable) else None
    # by name, because types may define `__eq__`
    return error_name(type(error if cause is None else cause)), _place(failure.trace), move is Move.DEAD


@lru_cache(500)
def _place(trace: str) -> str:
    """The line that raised."""
    lines = [line.strip() for line in trace.splitlines()]
    return next((f" at {line}" for line in reversed(lines) if line.startswith("File ")), "")


class Products:
    """A record is done when everything that its call produced is acknowledged. `failing`: a context in which
    any exception ends the worker."""

    ENTRANCES = ("parted", "settle", "wait_for_room", "await_room")

    def __init__(self, common: Shared, verdicts: Verdicts, failing: Callable[[], AbstractContextManager[None]]) -> None:
        self._common = common
        self._verdicts = verdicts
        self._failing = failing

    def wait_for_room(self, products: Produced) -> None:
        """The call returned: waits until producers have room for what it holds. If they get none in time, the call has
        failed like one whose records are not delivered."""
        try:
            for target, record in products.without_room():
                target.wait_for_room(record)
        except Exception as error:
            products.fail(error)

    async def await_room(self, products: Produced) -> None:
        """`wait_for_room` for an event loop."""
        try:
            for target, record in products.without_room():
                await target.await_room(record)
        except Exception as error:
            products.fail(error)

    def produced(self, runtime: StageRuntime, run: Run, message: Message, products: Produced) -> None:
        """The current call of `run` returned, and has produced records."""
        entry = self.parted(runtime, run, message)
        if entry is not None:
            self.settle(runtime, [(entry, message)], products)

    def parted(self, runtime: StageRuntime, run: Run, message: Message) -> Entry | None:
        """The current call of `run` returned, and its record is open until `settle`. Returns None if no report is
        needed."""
        with self._common.lock:
            return None if run in self._common.aborted else runtime.engine.produced(run, run.index, message)

    def settle(self, runtime: StageRuntime, parted: Sequence[tuple[Entry, Message]], products: Produced) -> None:
        """Completes the records, or lets them fail, when what their call produced is acknowledged or not delivered; or
        lets it wait for a transaction, in which all of it becomes visible."""
        if products.transaction is not None:
            self._hand_over(runtime, parted, products)
            return

        # Many thousands may wait: not a closure, which is more objects for the garbage collector to visit.
        products.when_done(partial(self._all_settled, runtime, parted))

    def _all_settled(
        self, runtime: StageRuntime, parted: Sequence[tuple[Entry, Message]], error: Exception | None
    ) -> None:
        with self._failing():
            for entry, message in parted:
                self._settled(runtime, entry, message, error)

    def _hand_over(self, runtime: StageRuntime, parted: Sequence[tuple[Entry, Message]], products: Produced) -> None:
        taken = products.take()
        records = [(held.target.topic, held.record) for held in taken]
        outputs = CallOutputs([entry for entry, _ in parted], records, sum(held.size for held in taken))
        with self._common.lock:
            runtime.engine.transactions.produced(outputs)

    def settled(self, runtime: StageRuntime, entries: Iterable[Entry], error: Exception) -> None:
        """What the call of these records produced is refused: the call fails."""
        with self._failing():
            for entry in entries:
                self._settled(runtime, entry, entry.message, error)

    def _settled(self, runtime: StageRuntime, entry: Entry, message: Message, error: Exception | None) -> None:
        common, verdicts = self._common, self._verdicts
        failure = None if error is None else Failure(error)
        with common.lock:
            now, engine = runtime.now_locked(), runtime.engine
            blocked = engine.unacknowledged.blocked
            move = engine.settled(entry, failure, now)
            if blocked and not engine.unacknowledged.blocked:
                common.wake_locked(max(1, engine.ready(now)))
            if failure is None or move is None:
                return
            news = verdicts.judged_locked(runtime, None, failure, move, now)
        if news:
            verdicts.report(runtime, message, failure, move)
        if move is not Move.PAUSE:
            common.hook_dispatch.notify("on_failure", runtime.where, message, error, None)
            common.hook_dispatch.notify(
                "on_calls", runtime.where, CallsReport(0, (), (), {error_name(type(failure.error)): 1})
            )
