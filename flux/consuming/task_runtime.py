"""One task in one process: prepares it, picks the driver that its handler and its client need, and ends it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol, cast

import attrs

from flux.consuming.awaited import calls as awaited_calls
from flux.consuming.blocking import calls as blocking_calls
from flux.consuming.call_chain import (
    Handler,
    Middleware,
    decoding,
    expiring,
    limited,
    prepared,
    surrounded,
)
from flux.consuming.callers import Callers, TaskCallers, ThreadCallers
from flux.consuming.coordinator import Coordinator, StageRuntime
from flux.consuming.forward_writer import ForwardWriter
from flux.consuming.hook_dispatch import HookDispatch
from flux.consuming.new_topics import Spreading
from flux.consuming.pollers import LoopPollers, ThreadPollers
from flux.consuming.slow_calls import SlowCalls
from flux.consuming.threads import Threads
from flux.consuming.topic_setup import ASK, max_message_bytes, require_topics
from flux.core.engine import Engine
from flux.core.engine.runs import Run
from flux.core.error_text import brief, error_name
from flux.core.errors import BrokerError, FluxError
from flux.core.hooks import Hooks
from flux.core.limits.call_limits import CallLimits
from flux.core.monitoring.health import Pulse
from flux.core.monitoring.stats import Stats
from flux.core.policy import Policy
from flux.core.ports import (
    Adapter,
    AdminPort,
    AsyncAdapter,
    Cluster,
    ProducerSettings,
    System,
    TopicPartition,
)
from flux.core.stage import Stage, parse_stages
from flux.system.return_values import check_settled, is_async, is_awaitable, settled
from flux.system.tracebacks import text_of

logger = logging.getLogger("flux.worker")

_COPY_DELIVERY = 30.0
_COPY_BATCH = 1_000_000
_CLOSE = 5.0
_NAMED = 5


class Worked(Protocol):
    """What a job needs of a task: see `flux.Task`."""

    def setup(self) -> Any: ...
    @property
    def call(self) -> Handler: ...
    def close(self) -> Any: ...


@attrs.define(eq=False)
class TaskRuntime:
    """`decoder`: makes values of bytes. `track`: what calls produce is part of them. `on_change` is called, on any
    thread, when the job has ended or is to end."""

    name: str
    task: Worked
    policy: Policy
    adapter: Cluster
    system: System
    decoder: Callable[[bytes | None], Any] | None = None
    middleware: Sequence[Middleware] = ()
    track: bool = True
    hooks: Sequence[Hooks] = ()
    instance_suffix: str = ""
    on_change: Callable[[], None] = lambda: None
    coordinator: Coordinator | None = None
    started: bool = False
    _admin: AdminPort | None = None
    _writer: ForwardWriter | None = None
    _set_up: bool = False

    @property
    def needs_loop(self) -> bool:
        """Whether it runs in an event loop: its handler or its client does."""
        return self.awaited or lives_in_loop(self.adapter)

    @property
    def handler(self) -> Handler:
        """The task's call, as drivers make it; a coroutine function's gives awaitables."""
        policy, awaited, batched = self.policy, self.awaited, self.policy.batch is not None
        handler = surrounded(self.task.call, self.middleware, awaited)
        if policy.timeout is not None and awaited:
            handler = limited(handler, policy.timeout)
        steps = [] if policy.give_up_after is None else [expiring(policy.give_up_after, self.system.now)]
        if self.decoder is not None:
            steps.append(decoding(self.decoder))
        if batched:
            handler = self.form.prepared_batch(handler, steps)
        else:
            handler = prepared(handler, steps)
        coordinator = self.coordinator
        if coordinator is None:
            return handler
        if policy.timeout is not None and not awaited:
            coordinator.inspection.slow_calls = SlowCalls(policy.timeout, self.system.monotonic)
            handler = coordinator.inspection.slow_calls.watching(handler)
        return self.form.telling(coordinator.heard, handler, batched)  # type: ignore[no-any-return]

    @property
    def awaited(self) -> bool:
        return is_async(self.task.call)

    @property
    def work(self) -> Any:
        """What makes the calls of a run."""
        return self.form.work if self.policy.batch is None else self.form.work_batch

    @property
    def form(self) -> Any:
        """How calls are made: awaited, or by who blocks meanwhile."""
        return awaited_calls if self.awaited else blocking_calls

    @property
    def admin(self) -> AdminPort:
        if self._admin is None:
            self._admin = self.adapter.admin()
        return self._admin

    # ---- the beginning; each blocks, but `start`

    def prepare(self, stages: str | None, create_topics: bool) -> bool:
        """Checks the topics and makes the engines; True. Raises ConfigurationError, BrokerError."""
        policy, admin = self.policy, self.admin
        require_topics(self.name, policy, admin, create_topics, self.system)
        chosen = self._chosen(stages)
        spreading = Spreading(self.system)
        found = {
            stage.topic: spreading.known(partial(max_message_bytes, admin, stage.topic))
            for stage in list(policy.stages)[1:]
        }
        limits = {topic: limit for topic, limit in found.items() if limit is not None}
        settings = ProducerSettings(
            acks="all",
            compression="best",  # a record that came compressed may be larger than its topic takes as it is
            delivery_timeout=_COPY_DELIVERY,
            max_batch_bytes=min([*limits.values(), _COPY_BATCH]),
        )
        if self._writer is None:
            self._writer = ForwardWriter(self.adapter, settings, self.system)
        self._writer.warm_up(stage.topic for stage in list(policy.stages)[1:])
        call_limits = CallLimits(policy.rate_limit)
        self.coordinator = Coordinator(
            policy,
            [Engine(policy, stage, limits, call_limits) for stage in chosen],
            self._writer,
            self.system,
            heard=HookDispatch(self.name, self.hooks, [*policy.stages, *chosen], policy.rules),
            instance_suffix=f"-{self.name}{self.instance_suffix}",
            on_change=self.on_change,
        )
        return True

    def setup(self) -> Any:
        """The task's own; may give an awaitable. Raises ConfigurationError."""
        self._set_up = True
        return self._looked_at("setup", self.task.setup())

    def _looked_at(self, name: str, returned: Any) -> Any:
        if returned is None:
            return None
        what = f"{self.name}.{name}"
        if self.awaited and is_awaitable(returned):
            return settled(what, returned)
        check_settled(what, returned)
        return None

    def caller(self, handler: Handler) -> Callable[[StageRuntime, Run], Any]:
        """What makes the calls of a run, each by `handler`."""
        assert self.coordinator is not None
        coordinator, work, track = self.coordinator, self.work, self.track
        if coordinator.heard.hears("on_calls"):
            return self.form.measured(work, coordinator, handler, track)  # type: ignore[no-any-return]
        return lambda runtime, run: work(coordinator, runtime, run, handler, track)

    def start(self) -> None:
        """Begins to work: in the running event loop if it needs one."""
        assert self.coordinator is not None
        coordinator, call = self.coordinator, self.caller(self.handler)
        self.started = True
        for runtime in coordinator.runtimes:
            self.system.watch(runtime.polling)
            self.system.watch(runtime.forwarding.duty)
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

    def _chosen(self, stages: str | None) -> Sequence[Stage]:
        all_stages = self.policy.stages
        if stages is not None:
            return [all_stages[number] for number in parse_stages(stages, all_stages.retries)]
        chosen = [all_stages[number] for number in range(all_stages.retries + 1)]
        leftovers = all_stages.leftovers(self.admin.topic_names(ASK))
        if leftovers:
            logger.warning(
                "%s has retries = %d, but there is %s: what is left there is worked too, failures become dead letters",
                self.name,
                all_stages.retries,
                ", ".join(stage.topic for stage in leftovers),
            )
        return chosen + leftovers

    # ---- the middle

    @property
    def ended(self) -> bool:
        """Nothing runs any more, or ever did."""
        return not self.started or (self.coordinator is not None and self.coordinator.ending.ended)

    @property
    def failed(self) -> bool:
        return self.coordinator is not None and self.coordinator.ending.failure is not None

    @property
    def idle(self) -> bool:
        """Nothing is in flight or waiting here but what cannot move on; the cluster may have more: see `unread`."""
        return self.coordinator is not None and self.coordinator.inspection.idle()

    def name_refused(self) -> bool:
        """Names in the log the records that cannot move on; whether there are any."""
        refused = [] if self.coordinator is None else self.coordinator.inspection.refused()
        if refused:
            more = f" and {len(refused) - _NAMED:,} more" if len(refused) > _NAMED else ""
            logger.error("%s: not moved on, and still to be worked: %s%s", self.name, "; ".join(refused[:_NAMED]), more)
        return bool(refused)

    def unread(self) -> bool:
        """Whether any partition of this process holds more than was delivered, as far as can be told. Blocks."""
        assert self.coordinator is not None
        try:
            return any(self._more(topic, ends) for topic, ends in self.coordinator.inspection.ends())
        except BrokerError:
            return True

    def _more(self, topic: str, ends: Mapping[TopicPartition, int]) -> list[TopicPartition]:
        """The partitions that hold more than was read of them."""
        marks = self.admin.watermarks(topic, ASK)
        found = ((partition, end, marks.get(partition.partition)) for partition, end in ends.items())
        return [partition for partition, end, mark in found if mark is not None and mark.high > max(end, mark.low)]

    def hungry(self) -> list[StageRuntime]:
        """Stages that have had no records for long: see `name_starved`."""
        return [] if self.coordinator is None else self.coordinator.inspection.hungry()

    def name_starved(self, runtimes: Sequence[StageRuntime]) -> None:
        """Names in the log those that have records on the cluster, which do not come. Blocks."""
        assert self.coordinator is not None
        ends = dict(self.coordinator.inspection.ends())
        for runtime in runtimes:
            try:
                more = self._more(str(runtime), ends[str(runtime)])
            except BrokerError as error:
                logger.warning("%s has had no records for long, and the cluster does not answer: %s", runtime, error)
                continue
            if more:
                logger.warning(
                    "%s has had no records for %.0f s, but there are some: it waits for a fetch",
                    ", ".join(map(str, more)),
                    self.policy.stalled_after,
                )

    def pulses(self) -> list[Pulse]:
        """Each stage, as a probe finds it; none before the topics were found."""
        return [] if self.coordinator is None else self.coordinator.inspection.pulses()

    def stats(self) -> dict[int, Stats]:
        """By stage number."""
        return (
            {}
            if self.coordinator is None
            else {runtime.engine.stage.number: runtime.engine.stats for runtime in self.coordinator.runtimes}
        )

    def stop(self, now: float, at_once: bool = False) -> None:
        """Nothing new is begun; calls in flight end within the task's `shutdown_timeout`."""
        if self.coordinator is not None:
            self.coordinator.ending.stop(now if at_once else now + self.policy.shutdown_timeout)

    @property
    def deadline(self) -> float:
        """When calls in flight are given up, by the monotonic clock; that of now when they cannot be."""
        return (
            self.system.monotonic()
            if self.coordinator is None or self.coordinator.ending.stop_at is None
            else self.coordinator.ending.stop_at
        )

    # ---- the end; each blocks, but `close`

    def close(self) -> Any:
        """The task's own, unless calls are still running; may give an awaitable. Raises ConfigurationError."""
        return self._looked_at("close", self.task.close()) if self._set_up and not self.abandoned else None

    @property
    def abandoned(self) -> int:
        """Calls that have not ended."""
        return 0 if self.coordinator is None else self.coordinator.inspection.calls()

    def end(self) -> int:
        """Frees the clients; returns the exit code."""
        if self._writer is not None:
            self._writer.close(_CLOSE)
        if self._admin is not None:
            self._admin.close()
        code = 0
        for runtime in self.coordinator.runtimes if self.coordinator is not None else ():
            runtime.polling.end()
            runtime.forwarding.duty.end()
        if self.coordinator is not None and self.coordinator.ending.failure is not None:
            code = 1
            self._tell(self.coordinator.ending.failure)
        if self.coordinator is not None and any(runtime.engine.left_open for runtime in self.coordinator.runtimes):
            code = code or 3  # the log names what
        if self.abandoned:
            code = code or 3
            logger.error("%s: %d call(s) did not end in time and were abandoned", self.name, self.abandoned)
        return code

    def _tell(self, failure: BaseException) -> None:
        if issubclass(type(failure), FluxError):  # the cluster's doing, or the user's
            logger.error("%s: %s", self.name, failure)
        else:
            trace = text_of(failure)
            extra = {"task": self.name, "error": error_name(type(failure)), "exception": trace}
            logger.error("%s: the process failed: %s\n%s", self.name, brief(failure), trace, extra=extra)


def lives_in_loop(adapter: object) -> bool:
    """Whether a cluster's consumers live in an event loop."""
    return hasattr(adapter, "async_consumer")
