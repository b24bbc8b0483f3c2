"""`Worker`: runs tasks in this process, until it is stopped."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import attrs

from flux import config
from flux.config import AdapterChoice, resolve_adapter
from flux.consuming.awaited import worker_loop as awaited_loop
from flux.consuming.blocking import worker_loop as blocking_loop
from flux.consuming.call_chain import check_middleware, check_task
from flux.consuming.side_threads import SideThreads, directly
from flux.consuming.supervision import Life, Supervision
from flux.consuming.task_runtime import TaskRuntime
from flux.consuming.transaction_thread import TransactionThreads
from flux.core.errors import ConfigurationError
from flux.core.hooks import check_hooks
from flux.core.monitoring.duties import Duty
from flux.core.monitoring.health import Health, judge
from flux.core.monitoring.stats import Stats
from flux.core.ports import System
from flux.core.stage import check_apart, parse_stages
from flux.core.validation import Seconds, check_seconds, check_switch, check_whole, plain, seconds, shown
from flux.processes.heartbeat import Reporter, report_topic
from flux.producing.produced import Scopes
from flux.producing.scope import CarryingExecutor
from flux.system import SYSTEM, forks
from flux.system.process_end import ending, install_stop_handler
from flux.system.return_values import is_async
from flux.task import Task, check_spelling

_TICK = 0.2  # seconds


class Worker:
    """`tasks`: Task classes, or instances. `stages`: such as "0-5" or "3", of every task; None: all, and records left
    in retry topics beyond `retries`. `adapter`: for tasks that have none of their own. `exit_when_idle`: seconds
    without a record in flight, unread or waiting in the stages of this process, after which it stops; with exit code 1
    when there are records that the next topic refuses, which the log names. `metrics_port`: the port for `/metrics`,
    `/live` and `/ready` on `metrics_host`, or the path of a Unix socket; None: they are not served. `report`: publish
    this worker's status every 5 s, in a topic of the task's cluster that `flux status` reads; a text is the topic's
    name. `process`: the number of this process among several.

    Raises ConfigurationError, in one line, for invalid settings.
    """

    def __init__(
        self,
        *tasks: type[Task] | Task,
        stages: str | None = None,
        adapter: AdapterChoice = None,
        concurrency: int | None = None,
        create_topics: bool = False,
        exit_when_idle: Seconds | None = None,
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
        idle_for: float | None = seconds(exit_when_idle)
        _check(idle_for, metrics_port, metrics_host, process, instance_suffix)
        self._metrics_port = metrics_port
        self._metrics_host = metrics_host
        self._report_topic = report_topic(report)
        self._process = process
        self._system = system
        self._cond = system.condition()
        self._changed = False
        self._notify_loop: Callable[[], None] = lambda: None
        self._loop: tuple[asyncio.AbstractEventLoop, int] | None = None
        """The event loop in which it runs, and that loop's thread."""
        self._restore_signals: Callable[[], None] = lambda: None
        self._forked = False
        self._jobs: list[TaskRuntime] = []
        transactions = TransactionThreads(system)
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
            check_spelling(type(task))
            check_spelling(task)
            same = sum(isinstance(job.task, type(task)) for job in self._jobs)
            client = resolve_adapter(task.adapter, adapter)
            job = TaskRuntime(
                f"{name}#{same + 1}" if same else name,  # several instances, each on a cluster of its own
                task,
                policy,
                client,
                system,
                decoder=task.decoder(),
                middleware=check_middleware(name, task.middleware, awaited),
                scopes=_scopes(task, client.cluster),
                hooks=[*config.current.hooks, *check_hooks(task.hooks, f"{name}.hooks")],
                instance_suffix=instance_suffix,
                on_change=self._notify,
                transactions=transactions,
            )
            self._jobs.append(job)
        for cluster in {job.adapter.cluster for job in self._jobs}:
            check_apart([(j.name, j.policy.stages) for j in self._jobs if j.adapter.cluster == cluster])
        self._supervision = Supervision(self._jobs, system, stages, create_topics, idle_for, self._observe)
        self._life: Callable[[], Life] = self._supervision.life
        forks.watch(self)

    def run(self) -> int:
        """Runs until `stop`, SIGINT, SIGTERM or SIGHUP (in the main thread; a second one stops at once). Returns the
        exit code: 0 stopped, 1 failed (also when a cluster refuses the login), 3 calls had to be abandoned."""
        with self._signals():
            if any(job.needs_loop for job in self._jobs):
                return asyncio.run(self._run_own_loop())
            return self._perform(self._life())

    async def _run_own_loop(self) -> int:
        asyncio.get_running_loop().set_default_executor(CarryingExecutor(thread_name_prefix="asyncio"))
        return await self.run_async()

    async def run_async(self) -> int:
        """`run` in the running event loop, without blocking it: handlers that are coroutine functions run in it.
        Installs no signal handlers. When it is cancelled, it stops as by `stop`, then raises CancelledError."""
        changed = asyncio.Event()
        loop = asyncio.get_running_loop()

        def notify_loop() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(changed.set)

        self._notify_loop, self._loop = notify_loop, (loop, threading.get_ident())
        duty = Duty(
            "the event loop of the worker",
            probe=lambda: loop.call_soon_threadsafe(duty.rest),
            thread=threading.get_ident(),
        )
        self._system.watch(duty)
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
            duty.end()
        self._loop = None
        if cancelled:
            raise asyncio.CancelledError
        return code

    def stop(self) -> None:
        """Starts the shutdown and returns at once: no new calls, calls in flight may end (`shutdown_timeout`), offsets
        are committed, the groups are left."""
        self._supervision.stopping = True
        if not ending():  # else no thread is left to notify, and the lock may be held for ever
            self._notify()

    @property
    def jobs(self) -> Sequence[TaskRuntime]:
        """One for each task, for drivers other than `run`."""
        return self._jobs

    @property
    def ready(self) -> bool:
        """Whether every task has started."""
        return all(job.started for job in self._jobs)

    def health(self) -> Health:
        """The answer to probes."""
        pulses = [pulse for job in self._jobs for pulse in job.pulses()]
        return judge(pulses, starting=not self.ready, stopping=self._supervision.stopping)

    @property
    def ended(self) -> bool:
        """Whether every task has left its groups, or none had started."""
        return self._supervision.ended

    @property
    def tasks(self) -> Sequence[type[Task]]:
        return [type(job.task) for job in self._jobs]  # type: ignore[misc]

    def stats(self) -> dict[tuple[str, int], Stats]:
        """Counts since the start, by task name and stage number."""
        return {(job.name, number): stats for job in self._jobs for number, stats in job.stats().items()}

    def _observe(self, observed: ExitStack) -> None:
        """Serves metrics and probes, and publishes reports, until `observed` is closed."""
        if self._metrics_port is not None:
            from flux.observe.server import observing

            observed.enter_context(observing(self, self._metrics_port, self._metrics_host))
        if self._report_topic is not None:
            reporter = Reporter(self._jobs, self._report_topic, self._process, self._system)
            reporter.start()
            observed.callback(reporter.stop)

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

    def _notify(self) -> None:
        with self._cond:
            self._changed = True
            self._cond.notify_all()
        self._notify_loop()

    @contextmanager
    def _signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def handle(number: int, _: FrameType | None) -> None:
            # No lock: the handler runs between two instructions of a thread that may hold it.
            self._supervision.at_once = self._supervision.stopping
            self._supervision.stopping = True

        self._restore_signals = install_stop_handler(handle)
        try:
            yield
        finally:
            self._restore_signals()

    # ---- a child process forked in a call

    def forked(self) -> None:
        """Called in the child, which is no worker: restores its signal handlers, and ends it when the call returns."""
        self._forked = True
        self._restore_signals()
        if self._loop is not None and self._loop[1] == threading.get_ident():
            forks.end_loop(self._loop[0])


def _scopes(task: Task, cluster: str) -> Scopes | None:
    transaction = cluster if task.exactly_once else None
    return Scopes(task.hold_produced, transaction) if task.acknowledge_produced else None


def _check(
    exit_when_idle: object, metrics_port: object, metrics_host: object, process: object, instance_suffix: object
) -> None:
    """Raises ConfigurationError for settings at which a worker would fail later."""
    if exit_when_idle is not None:
        check_seconds("exit_when_idle", exit_when_idle)
    if metrics_port is not None and not isinstance(metrics_port, Path):
        check_whole("metrics_port", plain(metrics_port), 0, 65535)
    if process is not None:
        check_whole("process", plain(process), 0)
    for name, text in (("metrics_host", metrics_host), ("instance_suffix", instance_suffix)):
        if not isinstance(text, str):
            raise ConfigurationError(f"{name} = {shown(text)}: give a text")
