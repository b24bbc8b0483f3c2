"""One run of the kit: runs tasks in this thread, one call at a time, with the engine and the procedures of
production."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import ExitStack, suppress
from contextvars import copy_context
from functools import partial
from typing import Any

import attrs

from flux.consuming import procedures
from flux.consuming.awaited import worker_loop as awaited_loop
from flux.consuming.blocking import worker_loop as blocking_loop
from flux.consuming.blocking.consumer_loop import ConsumerLoop
from flux.consuming.call_results import messages_of
from flux.consuming.coordinator import Coordinator, StageRuntime
from flux.consuming.side_threads import directly
from flux.consuming.task_runtime import TaskRuntime
from flux.core.engine.runs import Run
from flux.core.engine.verdicts import Move
from flux.core.error_text import brief
from flux.core.errors import BrokerError, ConfigurationError
from flux.core.message import Message
from flux.core.monitoring.stats import Stats
from flux.core.ports import NewTopic
from flux.producing.registry import PRODUCERS
from flux.producing.scope import CarryingExecutor
from flux.system.return_values import is_awaitable, own_failure, own_failures
from flux.testing.commands import CommandedRun
from flux.testing.machine import Machine, Stuck

_TICK = 0.001  # seconds: due times are whole milliseconds
_STEP = 1.0  # seconds between two attempts to write what the cluster refuses

Step = Callable[[], Any]
"""A function to call; its result is awaited, if it is awaitable."""
Life = Generator[Step, Any, "Summary"]


class ProcessVanished(BaseException):
    """Raised in a call under the kit: the process ends there as by a segfault. It commits nothing more, and `run`
    raises this; the next `run` is the next process."""


@attrs.frozen
class Summary:
    """Counts of a run. A record that failed, was retried and was then done counts in `failed`, `retried` and `done`."""

    done: int = 0
    """Calls that returned."""
    failed: int = 0
    """Calls that raised, or whose records were not delivered."""
    retried: int = 0
    """Records that were forwarded to a retry topic."""
    dead: int = 0
    """Records that were forwarded to the dead-letter topic."""
    waiting: int = 0
    """Records that wait for their due time at the end."""


def in_all(summaries: Sequence[Summary]) -> Summary:
    """Of runs one after the other."""
    added = {name: sum(getattr(each, name) for each in summaries) for name in ("done", "failed", "retried", "dead")}
    return Summary(**added, waiting=summaries[-1].waiting)


@attrs.frozen(repr=False)
class HandlerFailure:
    """A call that raised."""

    task: str
    message: Message
    error: BaseException

    def __repr__(self) -> str:
        return f"{self.task}: {self.message!r}: {brief(self.error)}"


@attrs.define(eq=False)
class Working:
    """`failures` gets the exceptions of calls. `to_the_end`: time passes until no record waits. `at_most`: the limit of
    calls, for tasks that produce for each other without end."""

    machine: Machine
    jobs: Sequence[TaskRuntime]
    commanded: CommandedRun
    partitions: int
    failures: list[HandlerFailure]
    stages: str | None
    to_the_end: bool
    at_most: int
    _loops: list[tuple[TaskRuntime, Coordinator, ConsumerLoop]] = attrs.field(factory=list)
    _calls: int = 0
    _left_out: int = 0
    """Records without a call: replaced, cancelled, or a tick that is not called."""

    def life(self) -> Life:
        self.machine.progressed()
        if self.to_the_end and any(job.ticks is not None and job.ticks.scheduled for job in self.jobs):
            raise ConfigurationError("a task with schedules has no end: move the clock, and use run")
        try:
            self._prepare()
            self.commanded.start()
            for job in self.jobs:
                yield job.setup
            yield from self._work_all()
            waiting = sum(loop.runtime.engine.waiting for _, _, loop in self._loops)
        except BaseException as error:
            if isinstance(error, ProcessVanished):
                for _, _, loop in self._loops:
                    loop.runtime.engine.lost(loop.runtime.engine.partitions)
            with suppress(BrokerError, Stuck):
                self._leave()
            raise
        else:
            self._leave()
        finally:
            self.commanded.end()
            try:
                for job in self.jobs:
                    yield job.close
            finally:
                for job in self.jobs:
                    job.end()
                PRODUCERS.deliver_all()
        return self._summary(waiting)

    def _prepare(self) -> None:
        for job in self.jobs:
            job.admin.create_topics([NewTopic(job.policy.stages.topic, self.partitions, 1)], 0)
            job.prepare(self.stages, True)
            assert job.coordinator is not None
            job.coordinator.keys.follow_here(job.adapter)
            for runtime in job.coordinator.runtimes:
                loop = ConsumerLoop(
                    job.coordinator,
                    runtime,
                    job.adapter,  # type: ignore[arg-type]
                    job.admin,
                    rest=lambda timeout, facts: self.machine.sleep(timeout),
                    write=job.coordinator.procedures.write,
                    ask=directly,
                    begin=_never_called,
                )
                self._loops.append((job, job.coordinator, loop))

    def _work_all(self) -> Generator[Step, Any, None]:
        machine = self.machine
        while True:
            self.commanded.apply()
            PRODUCERS.deliver_all()
            if (yield from self._round()):
                machine.progressed()
                continue
            if self.commanded.restarts:
                return
            now = machine.monotonic()
            engines = [loop.runtime.engine for _, _, loop in self._loops]
            deadlines = [deadline for engine in engines if (deadline := engine.deadline(now)) is not None]
            left = max(min(deadlines, default=now) - now, _TICK)
            soon = any(engine.begins_at(now, probes=False) is not None for engine in engines)
            if soon or any(engine.open_forwards or engine.ready(now) or not engine.quiet for engine in engines):
                machine.sleep(min(left, _STEP))
            elif self.to_the_end and (ends := self._ends(left)):
                machine.advance(min(ends))
            else:
                return

    def _ends(self, left: float) -> list[float]:
        """Seconds until something ends that holds records back; none: nothing will. `left`: until a stage acts."""
        ends = [at - self.machine.now() for at in self.commanded.ends_at()]
        engines = [loop.runtime.engine for _, _, loop in self._loops]
        free = [engine for engine in engines if engine.stage.number not in engine.call_limits.held]
        views = {id(engine.key_order): engine.key_order for engine in free if engine.key_order is not None}
        decided = sum(view.behind_dead for view in views.values())  # by an operator, not by time
        if any(engine.call_limits.paused for engine in free) or sum(engine.waiting for engine in free) > decided:
            ends.append(left)
        return ends

    def _round(self) -> Generator[Step, Any, bool]:
        """Every stage polls once and processes what is due. Returns whether there was progress."""
        progress = False
        for job, coordinator, loop in self._loops:
            runtime = loop.runtime
            progress |= coordinator.keys.poll()
            progress |= loop.perform(procedures.cycle(runtime.engine, self.machine.monotonic, 0.0))
            while True:
                run = coordinator.take(runtime, polling=True)
                if run is None and runtime.engine.awaits_commit():  # which takes no time here
                    loop.perform(procedures.cycle(runtime.engine, self.machine.monotonic, 0.0))
                    run = coordinator.take(runtime, polling=True)
                if run is None:
                    break
                progress = True
                failure = yield partial(self._call, job, coordinator, runtime, run)
                coordinator.finished(runtime, run, failure)
                if runtime.engine.stage.has_names:
                    called = messages_of(run)[: run.index]
                    self._left_out += sum(each.named is not None and each.named.left_out for each in called)
                if failure is not None:
                    raise failure
                self._calls += run.index
                if self._calls > self.at_most:
                    raise Stuck(
                        f"more than {self.at_most} calls in one run: do tasks produce for each other without end?"
                    )
        return progress

    def _call(self, job: TaskRuntime, coordinator: Coordinator, runtime: StageRuntime, run: Run) -> Any:
        return job.caller(job.form.noting(job.handler, partial(self._note, job)))(runtime, run)

    def _note(self, job: TaskRuntime, called: Any, error: BaseException) -> None:
        """`called`: a message, or a batch task's messages, of which some have failed."""
        failed = own_failures(called, error) if isinstance(called, list) else {called: own_failure(error)}
        verdict = job.policy.rules.verdict
        self.failures += [
            HandlerFailure(job.name, message, each)
            for message, each in failed.items()
            if verdict(each).move is not Move.STOP or issubclass(type(each), Exception)
        ]

    def _leave(self) -> None:
        self.machine.progressed()
        for job in self.jobs:
            job.stop(self.machine.monotonic())
        for _, coordinator, loop in self._loops:
            if loop.runtime.joined and not loop.runtime.left:
                loop.perform(procedures.leave(loop.runtime.engine, self.machine.monotonic, coordinator.ending.deadline))
                coordinator.ending.has_left(loop.runtime)

    def _summary(self, waiting: int) -> Summary:
        all_stats: list[Stats] = [stats for job in self.jobs for stats in job.stats().values()]
        return Summary(
            done=sum(stats.done for stats in all_stats) - self._left_out,
            failed=sum(stats.failed for stats in all_stats),
            retried=sum(stats.retried for stats in all_stats),
            dead=sum(stats.dead for stats in all_stats),
            waiting=waiting,
        )


def perform(life: Life) -> Summary:
    """Takes each step in this thread; awaitables run in an event loop that lives as long as the run."""
    with ExitStack() as stack:
        runner: asyncio.Runner | None = None

        def take(step: Step) -> Any:
            nonlocal runner
            result = step()
            if not is_awaitable(result):
                return result
            if asyncio._get_running_loop() is not None:
                if inspect.iscoroutine(result):
                    result.close()
                raise ConfigurationError("in a running event loop a run is awaited: await kit.arun(…)")
            if runner is None:
                runner = stack.enter_context(asyncio.Runner(loop_factory=asyncio.new_event_loop))
                runner.get_loop().set_default_executor(CarryingExecutor(thread_name_prefix="asyncio"))  # as a worker's
            return runner.run(_awaiting(result), context=copy_context())

        return blocking_loop.go_through(life, take)


async def perform_async(life: Life) -> Summary:
    """`perform` in the running event loop."""

    async def take(step: Step) -> Any:
        result = step()
        if not is_awaitable(result):
            return result
        return await asyncio.get_running_loop().create_task(_awaiting(result), context=copy_context())

    return await awaited_loop.go_through(life, take)


async def _awaiting(result: Awaitable[Any]) -> Any:
    return await result


def _never_called(runtime: StageRuntime, run: Run) -> None:
    raise AssertionError("the kit takes runs itself")
