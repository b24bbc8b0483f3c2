"""`Worker`: works tasks in this process, until it is stopped."""

from __future__ import annotations

import asyncio
import inspect
import logging
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import attrs

from flux import config
from flux.config import AdapterChoice, resolve_adapter
from flux.consuming import forks
from flux.consuming.awaited import worker_loop as awaited_loop
from flux.consuming.blocking import worker_loop as blocking_loop
from flux.consuming.call_chain import check_middleware, check_task
from flux.consuming.one_question import Aside
from flux.consuming.side_threads import SideThreads, directly
from flux.consuming.task_runtime import TaskRuntime
from flux.consuming.topic_setup import insist
from flux.consuming.worker_lifecycle import Blocking, Here, Life, Step, Tick
from flux.core.error_text import brief
from flux.core.errors import ConfigurationError
from flux.core.hooks import check_hooks
from flux.core.monitoring.duties import Duty
from flux.core.monitoring.health import Health, judge
from flux.core.monitoring.stats import Stats
from flux.core.ports import System
from flux.core.stage import check_apart, parse_stages
from flux.core.validation import check_seconds, check_switch, check_whole, plain, shown
from flux.processes.heartbeat import Reporter, report_topic
from flux.producing.registry import PRODUCERS
from flux.producing.scope import CarryingExecutor
from flux.system import SYSTEM
from flux.system.interpreter_end import ending
from flux.system.return_values import is_async
from flux.system.tracebacks import text_of
from flux.task import Task

logger = logging.getLogger("flux.worker")

T = TypeVar("T")

_TICK = 0.2
_BEYOND = 4.0  # seconds that an end may take when calls have been given up
_LEAST = 0.5
_LONGEST = 60.0  # seconds, of a worker that nobody has stopped


class Worker:
    """`tasks`: Task classes, or instances. `stages`: such as "0-5" or "3", of every task; None: all, and what is left
    in retry topics beyond `retries`. `adapter`: for tasks that have none of their own. `exit_when_idle`: seconds
    without anything in flight, unread or waiting in the stages of this process, after which it stops by itself; with
    exit code 1 when there are records that the next topic refuses, which the log names.
    `metrics_port`: where `/metrics`, `/live` and `/ready` are served while it runs, on `metrics_host`; or a Unix
    socket's path; None: nowhere. `report`: whether it tells every 5 s, in a topic of the cluster that it works, how it
    is, for `flux status`; a name is that of the topic. `process`: which one it is of several.

    Raises ConfigurationError, in one line, for what cannot work.
    """

    def __init__(
        self,
        *tasks: type[Task] | Task,
        stages: str | None = None,
        adapter: AdapterChoice = None,
        concurrency: int | None = None,
        create_topics: bool = False,
        exit_when_idle: float | None = None,
        metrics_port: int | Path | None = None,
        metrics_host: str = "0.0.0.0",
        report: bool | str = False,
        process: int | None = None,
        instance_suffix: str = "",
        system: System = SYSTEM,
    ) -> None:
        if not tasks:
            raise ConfigurationError("a worker needs a task: flux.Worker(MyTask)")
        stages = plain(stages)
        check_switch("create_topics", create_topics)
        _check(exit_when_idle, metrics_port, metrics_host, process, instance_suffix)
        self._stages = stages
        self._create = create_topics
        self._exit_when_idle = exit_when_idle
        self._metrics_port = metrics_port
        self._metrics_host = metrics_host
        self._report_topic = report_topic(report)
        self._process = process
        self._system = system
        self._cond = system.condition()
        self._stopping = False
        self._stop_at: float | None = None
        self._hurry = False
        """A second signal came: calls in flight are not waited for."""
        self._left_some = False
        """It was idle, and ends with records that cannot move on."""
        self._changed = False
        self._tell_loop: Callable[[], None] = lambda: None
        self._loop: tuple[asyncio.AbstractEventLoop, int] | None = None
        """Which it runs in, and the thread of that."""
        self._before: dict[int, Any] = {}
        """The handlers of signals that were there before it ran."""
        self._forked = False
        self._supervising = Duty("the supervision of the worker")
        self._jobs: list[TaskRuntime] = []
        for given in tasks:
            if not issubclass(given if isinstance(given, type) else type(given), Task):
                raise ConfigurationError(f"a worker takes Task classes or instances, not {shown(given)}")
            task = given() if isinstance(given, type) else given
            policy = task.policy()
            if concurrency is not None:
                policy = attrs.evolve(policy, concurrency=concurrency)
                policy.check()
            if stages is not None:
                parse_stages(stages, policy.stages.retries)
            name = type(task).__name__
            awaited = is_async(task.call)
            check_task(name, task, awaited, policy.batch is not None)
            same = sum(isinstance(job.task, type(task)) for job in self._jobs)
            job = TaskRuntime(
                f"{name}#{same + 1}" if same else name,  # several instances, each on a cluster of its own
                task,
                policy,
                resolve_adapter(task.adapter, adapter),
                system,
                decoder=task.decoder(),
                middleware=check_middleware(name, task.middleware, awaited),
                track=task.acknowledge_produced,
                hooks=[*config.current.hooks, *check_hooks(task.hooks, f"{name}.hooks")],
                instance_suffix=instance_suffix,
                on_change=self._notify,
            )
            self._jobs.append(job)
        for cluster in {job.adapter.cluster for job in self._jobs}:
            check_apart([(j.name, j.policy.stages) for j in self._jobs if j.adapter.cluster == cluster])
        forks.watch(self)

    def run(self) -> int:
        """Works until `stop`, SIGINT or SIGTERM (handled in the main thread; a second one stops at once). Returns the
        exit code: 0 stopped, 1 a process failure or a cluster that refused, 3 calls had to be abandoned."""
        with self._signals():
            if any(job.needs_loop for job in self._jobs):
                return asyncio.run(self._run_own_loop())
            return self._perform(self._life())

    async def _run_own_loop(self) -> int:
        asyncio.get_running_loop().set_default_executor(CarryingExecutor(thread_name_prefix="asyncio"))
        return await self.run_async()

    async def run_async(self) -> int:
        """`run` in the running event loop, which goes on meanwhile: handlers that are coroutine functions run in it.
        Installs no signal handlers. When it is cancelled it stops as `stop` does, and is cancelled then."""
        changed = asyncio.Event()
        loop = asyncio.get_running_loop()

        def tell() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(changed.set)

        self._tell_loop, self._loop = tell, (loop, threading.get_ident())
        looping = Duty(
            "the event loop of the worker",
            ask=lambda: loop.call_soon_threadsafe(looping.rest),
            thread=threading.get_ident(),
        )
        self._system.watch(looping)
        work = loop.create_task(self._perform_async(self._life(), changed))
        cancelled = False
        try:
            while True:
                try:
                    code = await asyncio.shield(work)
                    break
                except asyncio.CancelledError:
                    if work.done():
                        raise
                    cancelled = True
                    self.stop()
        finally:
            looping.end()
        self._loop = None
        if cancelled:
            raise asyncio.CancelledError
        return code

    def stop(self) -> None:
        """Ends feeding, lets calls in flight end (`shutdown_timeout`), commits, and leaves. Returns at once."""
        self._stopping = True
        if not ending():  # else nobody is left to hear it, and the lock may be held for ever
            self._notify()

    @property
    def jobs(self) -> Sequence[TaskRuntime]:
        """One for each task, for who drives them otherwise than `run` does."""
        return self._jobs

    @property
    def ready(self) -> bool:
        """Whether every task has begun to work."""
        return all(job.started for job in self._jobs)

    def health(self) -> Health:
        """What probes are told."""
        pulses = [pulse for job in self._jobs for pulse in job.pulses()]
        return judge(pulses, starting=not self.ready, stopping=self._stopping)

    @property
    def ended(self) -> bool:
        """Whether every task has left its groups, or none had begun."""
        return all(job.ended for job in self._jobs)

    @property
    def tasks(self) -> Sequence[type[Task]]:
        return [type(job.task) for job in self._jobs]  # type: ignore[misc]

    def stats(self) -> dict[tuple[str, int], Stats]:
        """What was done since the start, by task name and stage number."""
        return {(job.name, number): stats for job in self._jobs for number, stats in job.stats().items()}

    # ---- the life of a worker, written once

    def _life(self) -> Life:
        observed = ExitStack()
        try:
            # first: probes are answered while the cluster is away, and handlers are wrapped at the start
            yield Here(lambda: self._observe(observed))
            yield from self._begin()
            yield from self._supervise()
        finally:
            self._supervising.end()
            code = 0
            for job in self._jobs:
                try:
                    yield Here(job.close)
                except Exception as error:
                    logger.error("%s.close failed: %s\n%s", job.name, brief(error), text_of(error))
                ended = yield Blocking(partial(self._in_time, job.end, f"the end of {job.name}"))
                code = code or (3 if ended is None else ended)
            code = code or int(self._left_some)
            yield Blocking(partial(self._in_time, PRODUCERS.deliver_all, "the delivery of what was produced"))
            yield Blocking(partial(self._in_time, observed.close, "the end of metrics and reports"))
        return code

    def _in_time(self, step: Callable[[], T], what: str) -> T | None:
        """None: it takes too long, and goes on beside until the process ends."""
        left = _LONGEST
        if self._stop_at is not None:
            deadline = max((job.deadline for job in self._jobs), default=self._stop_at)
            left = deadline + _BEYOND - self._system.monotonic()
        try:
            return Aside(self._system, "flux-end", step).result(max(left, _LEAST))
        except TimeoutError:
            logger.error("%s takes too long, and is left", what)
            return None

    def _observe(self, observed: ExitStack) -> None:
        """Serves metrics and probes, and reports, until `observed` is closed."""
        if self._metrics_port is not None:
            from flux.observe.serving import observing

            observed.enter_context(observing(self, self._metrics_port, self._metrics_host))
        if self._report_topic is not None:
            reporter = Reporter(self._jobs, self._report_topic, self._process, self._system)
            reporter.start()
            observed.callback(reporter.stop)

    def _begin(self) -> Generator[Step, Any, None]:
        for job in self._jobs:
            prepare = partial(job.prepare, self._stages, self._create)
            cluster = job.adapter.cluster
            if not (yield Blocking(partial(insist, prepare, self._system, lambda: self._stopping, cluster))):
                return
        for job in self._jobs:
            yield Here(job.setup)
        for job in self._jobs:
            yield Here(job.start)

    def _supervise(self) -> Generator[Step, Any, None]:
        """Waits for the end: asked for, by a failure, or idle."""
        idle_since: float | None = None
        looking: Aside[bool] | None = None
        naming: Aside[None] | None = None
        self._system.watch(self._supervising)
        while not self.ended:
            self._supervising.step(threading.get_ident())
            yield Tick()
            now = self._system.monotonic()
            if self._exit_when_idle is not None and not self._stopping:
                if not all(job.idle for job in self._jobs):
                    idle_since = looking = None
                elif idle_since is None:
                    idle_since = now
                elif looking is not None and looking.ended:
                    if not looking.result(0):
                        self._stopping = True
                        for job in self._jobs:
                            self._left_some |= job.name_refused()
                    idle_since = looking = None
                elif looking is None and now - idle_since >= self._exit_when_idle:
                    looking = Aside(self._system, "flux-unread", lambda: any(job.unread() for job in self._jobs))
            if naming is None or naming.ended:  # a stop does not wait for a cluster that is silent
                naming = self._name_starved()
            self._stopping = self._stopping or any(job.failed for job in self._jobs)
            if self._stopping and self._stop_at is None:
                logger.info("shutting down: waiting for running calls")
                self._stop_at = now
                for job in self._jobs:
                    job.stop(now)
            if self._hurry:
                self._hurry = False
                logger.warning("stopping at once")
                for job in self._jobs:
                    job.stop(now, at_once=True)

    def _name_starved(self) -> Aside[None] | None:
        hungry = [(job, runtimes) for job in self._jobs if (runtimes := job.hungry())]
        if not hungry or self._stopping:
            return None

        def name() -> None:
            for job, runtimes in hungry:
                job.name_starved(runtimes)

        return Aside(self._system, "flux-starved", name)

    def _perform(self, life: Life) -> int:
        return blocking_loop.live(life, wait=self._wait, here=directly, beside=directly, went_on=self._went_on)

    def _wait(self) -> None:
        with self._cond:
            if not self._changed:
                self._cond.wait(_TICK)
            self._changed = False

    async def _perform_async(self, life: Life, changed: asyncio.Event) -> int:
        async def wait() -> None:
            try:
                async with asyncio.timeout(_TICK):
                    await changed.wait()
            except TimeoutError:
                pass
            changed.clear()

        async def here(step: Callable[[], Any]) -> Any:
            result = step()
            return await result if inspect.isawaitable(result) else result

        beside = SideThreads(self._system).run
        return await awaited_loop.live(life, wait=wait, here=here, beside=beside, went_on=self._went_on)

    def _went_on(self) -> None:
        if self._forked:
            forks.end_of_child()

    # ---- stops

    def _notify(self) -> None:
        with self._cond:
            self._changed = True
            self._cond.notify_all()
        self._tell_loop()

    @contextmanager
    def _signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def handle(number: int, _: FrameType | None) -> None:
            # no lock here: the handler runs between two instructions of a thread that may hold it
            self._hurry = self._stopping
            self._stopping = True

        self._before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            self._restore_signals()

    def _restore_signals(self) -> None:
        before, self._before = self._before, {}
        for number, previous in before.items():
            if previous is not None:  # else it was none of Python's
                signal.signal(number, previous)

    # ---- a child that was forked in one of its calls

    def forked(self) -> None:
        """It is no worker: signals mean to it what they did before, and who comes back here goes no further."""
        self._forked = True
        self._restore_signals()
        if self._loop is not None and self._loop[1] == threading.get_ident():
            forks.end_loop(self._loop[0])


def _check(
    exit_when_idle: object, metrics_port: object, metrics_host: object, process: object, instance_suffix: object
) -> None:
    """Raises ConfigurationError for what a worker could only fail at later."""
    if exit_when_idle is not None:
        check_seconds("exit_when_idle", plain(exit_when_idle))
    if metrics_port is not None and not isinstance(metrics_port, Path):
        check_whole("metrics_port", plain(metrics_port), 0, 65535)
    if process is not None:
        check_whole("process", plain(process), 0)
    for name, text in (("metrics_host", metrics_host), ("instance_suffix", instance_suffix)):
        if not isinstance(text, str):
            raise ConfigurationError(f"{name} = {shown(text)}: give a text")
