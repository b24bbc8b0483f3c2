"""One task in one process: prepares it, starts the driver for its handler and client, and ends it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol, cast

import attrs

from flux.consuming.awaited import calls as awaited_calls
from flux.consuming.blocking import calls as blocking_calls
from flux.consuming.call_chain import Handler, Middleware
from flux.consuming.call_timing import time_names
from flux.consuming.callers import Callers, TaskCallers, ThreadCallers
from flux.consuming.cluster_clients import ClusterClients
from flux.consuming.coordinator import Coordinator, StageRuntime
from flux.consuming.exclusion import Exclusion
from flux.consuming.forwarder import settings_for
from flux.consuming.handlers import handler_of
from flux.consuming.hook_dispatch import HookDispatch
from flux.consuming.pollers import LoopPollers, ThreadPollers
from flux.consuming.task_log import log_end
from flux.consuming.task_resources import TaskResources
from flux.consuming.threads import Threads
from flux.consuming.topic_setup import Spreading, choose_stages, max_message_bytes, require_topics
from flux.consuming.transaction_thread import TransactionThreads
from flux.core.engine import Engine
from flux.core.engine.key_order import KeyOrder
from flux.core.engine.runs import Run
from flux.core.hooks import Hooks
from flux.core.limits.call_limits import CallLimits
from flux.core.monitoring.health import Pulse
from flux.core.monitoring.stats import Stats
from flux.core.policy import Policy
from flux.core.ports import Adapter, AdminPort, AsyncAdapter, Cluster, System
from flux.producing.produced import Scopes
from flux.system.return_values import is_async

logger = logging.getLogger("flux.worker")


class RunnableTask(Protocol):
    """A task, as far as it is run here: see `flux.Task`."""

    def resources(self) -> Any: ...
    def setup(self) -> Any: ...
    @property
    def call(self) -> Handler: ...
    def close(self) -> Any: ...


@attrs.define(eq=False)
class TaskRuntime:
    """`decoder`: decodes values. `scopes`: what happens to records that calls produce; None: they are no
    part of the calls. `on_change` is
    called, on any thread, when the task has ended or must end."""

    name: str
    task: RunnableTask
    policy: Policy
    adapter: Cluster
    system: System
    decoder: Callable[[bytes | None], Any] | None = None
    middleware: Sequence[Middleware] = ()
    scopes: Scopes | None = attrs.field(factory=Scopes)
    hooks: Sequence[Hooks] = ()
    instance_suffix: str = ""
    on_change: Callable[[], None] = lambda: None
    transactions: TransactionThreads = attrs.Factory(lambda self: TransactionThreads(self.system), takes_self=True)
    clients: ClusterClients = attrs.Factory(lambda self: ClusterClients(self.system), takes_self=True)
    exclusion: Exclusion = attrs.field(factory=Exclusion)
    coordinator: Coordinator | None = None
    started: bool = False
    ticks: Any = None
    """The ticks of the task's schedules: a `Ticks` of `named_calls`. None: records of the first retry topic are never
    ticks."""
    skips: Mapping[tuple[int, int, int], str] | None = None
    """Records that are not called: see `skipping`. None: nobody can ask for that."""
    resources: TaskResources = attrs.Factory(
        lambda self: TaskResources(self.name, self.task, self.awaited, self._fail), takes_self=True
    )

    @property
    def needs_loop(self) -> bool:
        """Whether it needs an event loop, for its handler or its client."""
        return self.awaited or lives_in_loop(self.adapter)

    @property
    def handler(self) -> Handler:
        """The task's `call` with everything around it; it returns awaitables if `call` is a coroutine function."""
        return handler_of(self)

    @property
    def awaited(self) -> bool:
        return is_async(self.task.call)

    @property
    def work(self) -> Any:
        """The function that makes the calls of a run."""
        batched = self.policy.batch is not None
        return self.form.leaving_out(self.form.work_batch if batched else self.form.work, batched, self.ticks)

    @property
    def form(self) -> Any:
        """The module that makes calls: awaited or blocking."""
        return awaited_calls if self.awaited else blocking_calls

    @property
    def admin(self) -> AdminPort:
        return self.clients.admin(self, self.adapter)

    # ---- start; each method blocks, except `start`

    def prepare(self, stages: str | None, create_topics: bool) -> bool:
        """Checks the topics and makes the engines. Returns True. Raises ConfigurationError, BrokerError."""
        policy, admin = self.policy, self.admin
        require_topics(self.name, policy, admin, create_topics, self.system)
        chosen = choose_stages(self.name, policy.stages, stages, admin)
        if self.ticks is not None and any(stage.has_names for stage in chosen):
            self.ticks.start()  # before all that joins something: a start that fails is repeated
        spreading = Spreading(self.system)
        found = {
            stage.topic: spreading.known(partial(max_message_bytes, admin, stage.topic))
            for stage in list(policy.stages)[1:]
        }
        limits = {topic: limit for topic, limit in found.items() if limit is not None}
        settings = settings_for(limits.values())
        writer = self.clients.writer(self, self.adapter, settings)
        if not policy.exactly_once:
            writer.warm_up(policy.stages.written_topics(policy.retry_order is not None))
        else:
            self.transactions.prepare(self.name, self.adapter, policy.stages.group, settings)
        call_limits = CallLimits.of(policy)
        key_order = None if policy.retry_order is None else KeyOrder()
        self.coordinator = Coordinator(
            policy,
            [Engine(policy, stage, limits, call_limits, key_order) for stage in chosen],
            writer,
            self.system,
            hook_dispatch=HookDispatch(self.name, self.hooks, [*policy.stages, *chosen], policy.rules),
            instance_suffix=f"-{self.name}{self.instance_suffix}",
            on_change=self.on_change,
            exclusion=self.exclusion,
        )
        for runtime in self.coordinator.runtimes[:1]:
            time_names(call_limits.by_name, runtime.engine.log)
        if self.adapter.shares_processes:
            self.coordinator.late_joins.choose(admin)
        if policy.exactly_once:
            self.transactions.join(self.adapter.cluster, self.coordinator, limits.get)
        return True

    def setup(self) -> Any:
        """Enters the task's `resources` and calls its `setup`; may return an awaitable. Raises ConfigurationError."""
        return self.resources.open()

    def _fail(self, error: BaseException) -> None:
        if self.coordinator is not None:
            self.coordinator.ending.fail(error)

    def caller(self, handler: Handler) -> Callable[[StageRuntime, Run], Any]:
        """A function that makes the calls of a run, each by `handler`."""
        assert self.coordinator is not None
        coordinator, work, scopes = self.coordinator, self.work, self.scopes
        if coordinator.hook_dispatch.wants("on_calls"):
            return self.form.measured(work, coordinator, handler, scopes)  # type: ignore[no-any-return]
        return lambda runtime, run: work(coordinator, runtime, run, handler, scopes)

    def start(self) -> None:
        """Starts the task, in the running event loop if it needs one."""
        assert self.coordinator is not None
        coordinator, call = self.coordinator, self.caller(self.handler)
        self.started = True
        coordinator.keys.follow(self.adapter, self.admin, self.system)
        for runtime in coordinator.runtimes:
            self.system.watch(runtime.polling)
            self.system.watch(runtime.forwarding.duty)
        self._start_driver(coordinator, call)
        coordinator.late_joins.start(self.admin)

    def _start_driver(self, coordinator: Coordinator, call: Callable[[StageRuntime, Run], Any]) -> None:
        if not self.needs_loop:
            Threads(coordinator, call, cast(Adapter, self.adapter), self.admin).start()
            return
        callers: Callers
        if self.awaited:
            callers = TaskCallers(coordinator, call, asyncio.get_running_loop())
        else:
            callers = ThreadCallers(coordinator, call)
        if lives_in_loop(self.adapter):
            LoopPollers(coordinator, callers, cast(AsyncAdapter, self.adapter), self.admin).start()
        else:
            ThreadPollers(coordinator, callers, cast(Adapter, self.adapter), self.admin).start()

    # ---- while it runs

    @property
    def ended(self) -> bool:
        """Whether nothing runs any more, or was ever started."""
        return not self.started or (self.coordinator is not None and self.coordinator.ending.ended)

    @property
    def failure(self) -> BaseException | None:
        return None if self.coordinator is None else self.coordinator.ending.failure

    @property
    def idle(self) -> bool:
        """Whether no record is in flight or waiting here, except those that their next topic refuses; see `unread`."""
        return self.coordinator is not None and self.coordinator.inspection.idle()

    def log_refused(self) -> bool:
        """Names in the log the records that their next topic refuses. Returns whether there are any."""
        return self.coordinator is not None and self.coordinator.inspection.log_refused(self.name)

    def unread(self) -> bool:
        """Whether any assigned partition holds more than was delivered, or may. Blocks."""
        assert self.coordinator is not None
        return self.coordinator.inspection.has_unread(self.admin)

    def starved(self) -> list[StageRuntime]:
        """Stages that have had no records for long: see `log_starved`."""
        return [] if self.coordinator is None else self.coordinator.inspection.starved()

    def log_starved(self, runtimes: Sequence[StageRuntime]) -> None:
        """Names in the log those for which the cluster has records that do not arrive. Blocks."""
        assert self.coordinator is not None
        self.coordinator.inspection.log_starved(runtimes, self.admin, self.adapter.cluster)

    def pulses(self) -> list[Pulse]:
        """The state of each stage for probes; none before the topics were found."""
        return [] if self.coordinator is None else self.coordinator.inspection.stage_health()

    def stats(self) -> dict[int, Stats]:
        """Counts by stage number."""
        runtimes = () if self.coordinator is None else self.coordinator.runtimes
        return {runtime.engine.stage.number: runtime.engine.stats for runtime in runtimes}

    def stop(self, now: float, at_once: bool = False) -> None:
        """Starts no new calls; calls in flight may end within the task's `shutdown_timeout`."""
        if self.coordinator is not None:
            self.coordinator.ending.stop(now if at_once else now + self.policy.shutdown_timeout)
            self.coordinator.late_joins.stop()

    @property
    def deadline(self) -> float:
        """When calls in flight are abandoned, by the monotonic clock; now, if the task does not stop."""
        stop_at = None if self.coordinator is None else self.coordinator.ending.stop_at
        return self.system.monotonic() if stop_at is None else stop_at

    # ---- end; each method blocks, except `close`

    def close(self) -> Any:
        """Calls the task's `close` and leaves its `resources`, unless calls are still running; may return an awaitable.
        Raises ConfigurationError."""
        return None if self.abandoned else self.resources.close()

    @property
    def abandoned(self) -> int:
        """The number of calls that have not ended."""
        return 0 if self.coordinator is None else self.coordinator.inspection.calls()

    def end(self) -> int:
        """Leaves the clients and returns the exit code."""
        if self.coordinator is not None:
            self.coordinator.keys.close()
        self.transactions.leave(self.coordinator)
        self.clients.leave(self)
        code = 0
        if self.coordinator is not None:
            self.coordinator.inspection.log_counts(self.system.monotonic(), at_end=True)
        for runtime in self.coordinator.runtimes if self.coordinator is not None else ():
            runtime.polling.end()
            runtime.forwarding.duty.end()
        if self.failure is not None:
            code = 1
            log_end(self.name, self.failure)
        if self.coordinator is not None and any(runtime.engine.left_open for runtime in self.coordinator.runtimes):
            code = code or 3  # the log names the partitions
        if self.abandoned:
            code = code or 3
            logger.error("%s: %d call(s) did not end in time and were abandoned", self.name, self.abandoned)
        return code


def lives_in_loop(adapter: object) -> bool:
    """Whether a cluster's consumers need an event loop."""
    return hasattr(adapter, "async_consumer")
