"""`Worker`: runs tasks in this process, until it is stopped."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import attrs

from flux import config
from flux.config import AdapterChoice, resolve_adapter
from flux.consuming.call_chain import check_middleware, check_task
from flux.consuming.cluster_clients import ClusterClients
from flux.consuming.exclusion import Exclusion
from flux.consuming.life_driver import LifeDriver
from flux.consuming.supervision import Supervision
from flux.consuming.task_resources import check_resources
from flux.consuming.task_runtime import TaskRuntime
from flux.consuming.transaction_thread import TransactionThreads
from flux.consuming.worker_block import WorkerBlock
from flux.core.error_text import brief
from flux.core.errors import ConfigurationError
from flux.core.hooks import check_hooks
from flux.core.monitoring.health import Health, judge
from flux.core.monitoring.stats import Stats
from flux.core.policy import Policy
from flux.core.ports import Cluster, System
from flux.core.stage import check_apart, parse_stages, shared_groups
from flux.core.validation import Seconds, check_seconds, check_switch, check_whole, plain, seconds, shown
from flux.processes.control import WorkerControl
from flux.processes.heartbeat import Reporter, report_topic
from flux.producing.produced import Scopes
from flux.schedules import Ticks
from flux.serde.parameters import serializer_of
from flux.system import SYSTEM
from flux.system.return_values import is_async
from flux.task import Task, check_spelling

logger = logging.getLogger("flux.worker")


class Worker:
    """`tasks`: Task classes, or instances. `stages`: such as "0-5" or "3", of every task; None: all, and records left
    in retry topics beyond `retries`. `adapter`: for tasks that have none of their own. `exit_when_idle`: seconds
    without a record in flight, unread or waiting in the stages of this process, after which it stops; with exit code 1
    when there are records that the next topic refuses, which the log names. `metrics_port`: the port for `/metrics`,
    `/live` and `/ready` on `metrics_host`, or the path of a Unix socket; None: they are not served. `report`: publish
    this worker's status every 5 s, in a topic of the task's cluster that `flux status` reads; a text is the topic's
    name. `control`: obey commands such as `flux pause` and `flux restart`, which come through a topic of the task's
    cluster; it reports too, so that they know whom to wait for. `process`: the number of this process among several.

    `run` is for a program of its own. In another program, `async with flux.Worker(MyTask):`, or `with` for threads,
    starts it, works beside the block and stops it at the block's end, however that ends. It raises at once what keeps
    it from starting, such as a missing topic or a refused login (ConfigurationError, BrokerError). If the cluster is
    unavailable, the block begins, and the worker starts when it can; until then it is not `ready`. If it fails inside
    the block, the block goes on: `failure` and `health` show it, `wait` and the end of the block raise WorkerFailed.
    It installs no signal handlers.

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
        control: bool = False,
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
        check_switch("control", control)
        # a follower of commands answers through its reports
        self._report_topic = report_topic(report) or report_topic(control)
        self._process = process
        self._system = system
        self._jobs: list[TaskRuntime] = []
        transactions, clients = TransactionThreads(system), ClusterClients(system)
        exclusion = Exclusion()
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
            check_resources(name, task.resources, awaited)
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
                ticks=_ticks(name, task, policy, client, system),
                middleware=check_middleware(name, task.middleware, awaited),
                scopes=_scopes(task, client.cluster),
                hooks=[*config.current.hooks, *check_hooks(task.hooks, f"{name}.hooks")],
                instance_suffix=instance_suffix,
                on_change=lambda: self._driver.notify(),
                transactions=transactions,
                clients=clients,
                exclusion=exclusion,
            )
            self._jobs.append(job)
        for cluster in {job.adapter.cluster for job in self._jobs}:
            stages_of = [(job.name, job.policy.stages) for job in self._jobs if job.adapter.cluster == cluster]
            check_apart(stages_of)
            for warning in shared_groups(stages_of) if process is None else ():  # else the first process has logged it
                logger.warning("%s", warning)
        self._control = WorkerControl(self._jobs, process, self._restart, system) if control else None
        self._supervision = Supervision(
            self._jobs,
            system,
            stages,
            create_topics,
            idle_for,
            self._observe,
            lambda: self._block.settled(),
            self._control,
        )
        self._driver = LifeDriver(self._supervision, system, any(job.needs_loop for job in self._jobs))
        self._block = WorkerBlock(self._driver, system, self._failed)

    def run(self) -> int:
        """Runs until `stop`, SIGINT, SIGTERM or SIGHUP (in the main thread; a second one stops at once). Returns the
        exit code: 0 stopped, 1 failed (also when a cluster refuses the login), 3 calls had to be abandoned, 4 to be
        started again (`flux restart`)."""
        return self._driver.run()

    async def run_async(self) -> int:
        """`run` in the running event loop, without blocking it: handlers that are coroutine functions run in it.
        Installs no signal handlers. When it is cancelled, it stops as by `stop`, then raises CancelledError."""
        return await self._driver.run_async()

    def __enter__(self) -> Self:
        self._block.enter(held=config.current.substitute is not None)
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self._block.leave()
        if error is None:
            self._block.raise_failure()

    async def __aenter__(self) -> Self:
        await self._block.aenter(held=config.current.substitute is not None)
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        await self._block.aleave()
        if error is None:
            self._block.raise_failure()

    def wait(self, timeout: Seconds | None = None) -> bool:
        """In a `with` block: waits up to `timeout` seconds (None: for as long as it takes) until the worker has ended
        by `stop`, `exit_when_idle` or a failure. Returns whether it has. Raises WorkerFailed."""
        return self._block.wait(seconds(timeout))

    async def wait_async(self) -> None:
        """`wait` in an `async with` block."""
        await self._block.wait_async()

    @property
    def failure(self) -> BaseException | None:
        """Why the worker ends, or has ended, although nobody stopped it; None while all is well."""
        return self._block.failure

    def stop(self) -> None:
        """Starts the shutdown and returns at once: no new calls, calls in flight may end (`shutdown_timeout`), offsets
        are committed, the groups are left."""
        self._driver.stop()

    def _restart(self) -> None:
        self._supervision.restarting = True
        self.stop()

    @property
    def jobs(self) -> Sequence[TaskRuntime]:
        """One for each task, for drivers other than `run`."""
        return self._jobs

    @property
    def ready(self) -> bool:
        """Whether every task has started."""
        return self._block.held or all(job.started for job in self._jobs)

    def health(self) -> Health:
        """The answer to probes."""
        pulses = [pulse for job in self._jobs for pulse in job.pulses()]
        failure = self.failure if self._block.ended else None
        text = None if failure is None else brief(failure)
        starting = None if self.ready else self._supervision.waits_for
        return judge(pulses, starting, stopping=self._supervision.stopping, failure=text)

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

    def _failed(self) -> BaseException | None:
        return next((job.failure for job in self._jobs if job.failure is not None), None)

    def _observe(self, observed: ExitStack) -> None:
        """Serves metrics and probes, and publishes reports, until `observed` is closed."""
        if self._metrics_port is not None:
            from flux.observe.server import observing

            observed.enter_context(observing(self, self._metrics_port, self._metrics_host))
        if self._report_topic is not None:
            reporter = Reporter(self._jobs, self._report_topic, self._process, self._system, self._control)
            reporter.start()
            observed.callback(reporter.stop)


def _ticks(name: str, task: Task, policy: Policy, client: Cluster, system: System) -> Ticks | None:
    """None: without a retry topic there is no place for ticks."""
    if policy.stages.retries < 1:
        return None
    return Ticks(name, task._schedules, policy, client, serializer_of(task, Task, policy.stages.topic), system)


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
