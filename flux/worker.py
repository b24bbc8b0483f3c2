"""`Worker`: works tasks in this process, until it is stopped."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any

import attrs

from flux.config import AdapterChoice, resolve_adapter
from flux.core.engine import Engine
from flux.core.errors import BrokerError, ConfigurationError, Fault
from flux.core.policy import Policy
from flux.core.ports import Adapter, AdminPort, ProducerSettings, System
from flux.core.stage import Stage, check_apart, parse_stages
from flux.core.stats import Stats
from flux.runtime.calls import decoding
from flux.runtime.crew import Crew
from flux.runtime.outboxes import OUTBOXES
from flux.runtime.preparation import ASK, insist, max_message_bytes, require_topics
from flux.runtime.writer import Writer
from flux.system import SYSTEM
from flux.task import Task

logger = logging.getLogger("flux.worker")

_HOP_DELIVERY = 30.0
_TICK = 0.2


@attrs.define(eq=False)
class _Job:
    """One task of this worker."""

    cls: type[Task]
    policy: Policy
    adapter: Adapter
    task: Task | None = None
    admin: AdminPort | None = None
    writer: Writer | None = None
    crew: Crew | None = None

    @property
    def name(self) -> str:
        return self.cls.__name__


class Worker:
    """`tasks`: Task classes. `stages`: such as "0-5" or "3", of every task; None: all, and what is left in retry
    topics beyond `retries`. `adapter`: for tasks that have none of their own. `exit_when_idle`: seconds without
    anything in flight, unread or waiting in the stages of this process, after which it stops by itself.

    Raises ConfigurationError, in one line, for what cannot work.
    """

    def __init__(
        self,
        *tasks: type[Task],
        stages: str | None = None,
        adapter: AdapterChoice = None,
        concurrency: int | None = None,
        create_topics: bool = False,
        exit_when_idle: float | None = None,
        instance_suffix: str = "",
        system: System = SYSTEM,
    ) -> None:
        if not tasks:
            raise ConfigurationError("a worker needs a task: flux.Worker(MyTask)")
        self._stages = stages
        self._create = create_topics
        self._exit_when_idle = exit_when_idle
        self._suffix = instance_suffix
        self._system = system
        self._cond = system.condition()
        self._stopping = False
        self._stop_at: float | None = None
        self._hurry = False
        """A second signal came: calls in flight are not waited for."""
        self._changed = False
        self._jobs = []
        for cls in tasks:
            policy = cls.policy()
            if concurrency is not None:
                policy = attrs.evolve(policy, concurrency=concurrency)
                policy.check()
            self._jobs.append(_Job(cls, policy, resolve_adapter(cls.adapter, adapter)))
            if stages is not None:
                parse_stages(stages, policy.stages.retries)
        for cluster in {job.adapter.cluster for job in self._jobs}:
            check_apart([(j.name, j.policy.stages) for j in self._jobs if j.adapter.cluster == cluster])

    # ---- life

    def run(self) -> int:
        """Works until `stop`, SIGINT or SIGTERM (handled in the main thread; a second one stops at once). Returns the
        exit code: 0 stopped, 1 a process failure or a cluster that refused, 3 calls had to be abandoned."""
        with self._signals():
            try:
                self._start()
                self._supervise()
            finally:
                code = self._end()
        return code

    def stop(self) -> None:
        """Ends feeding, lets calls in flight end (`shutdown_timeout`), commits, and leaves. Returns at once."""
        with self._cond:
            self._stopping = True
            self._changed = True
            self._cond.notify_all()

    @property
    def ready(self) -> bool:
        """Whether every task has begun to work."""
        return all(job.crew is not None for job in self._jobs)

    def stats(self) -> dict[tuple[str, int], Stats]:
        """What was done since the start, by task name and stage number."""
        return {
            (job.name, post.engine.stage.number): post.engine.stats
            for job in self._jobs
            if job.crew is not None
            for post in job.crew.posts
        }

    def _start(self) -> None:
        for job in self._jobs:
            job.admin = job.adapter.admin()
            job.crew = insist(partial(self._prepare, job), self._system, lambda: self._stopping, job.adapter.cluster)
            if job.crew is None:
                return
        for job in self._jobs:
            if job.crew is not None:
                job.crew.start()

    def _prepare(self, job: _Job) -> Crew:
        assert job.admin is not None
        policy, admin = job.policy, job.admin
        require_topics(job.name, policy, admin, self._create)
        chosen = self._chosen(job, admin)
        targets = {stage.topic: max_message_bytes(admin, stage.topic) for stage in list(policy.stages)[1:]}
        limits = {topic: limit for topic, limit in targets.items() if limit is not None}
        settings = ProducerSettings(
            acks="all", delivery_timeout=_HOP_DELIVERY, max_batch_bytes=min([*limits.values(), 1_000_000])
        )
        task = job.task or job.cls()
        if job.task is None:
            job.task = task
            task.setup()
        handler: Callable[[Any], Any] = task.call
        decoder = job.cls.decoder()
        if decoder is not None:
            handler = decoding(handler, decoder)
        job.writer = Writer(job.adapter, settings, self._system)
        return Crew(
            policy,
            [Engine(policy, stage, limits) for stage in chosen],
            handler,
            job.adapter,
            admin,
            job.writer,
            self._system,
            track=job.cls.acknowledge_produced,
            instance_suffix=f"-{job.name}{self._suffix}",
            on_end=self._notify,
        )

    def _chosen(self, job: _Job, admin: AdminPort) -> list[Stage]:
        stages = job.policy.stages
        if self._stages is not None:
            return [stages[number] for number in parse_stages(self._stages, stages.retries)]
        chosen = [stages[number] for number in range(stages.retries + 1)]
        leftovers = stages.leftovers(admin.topic_names(ASK))
        if leftovers:
            logger.warning(
                "%s has retries = %d, but there is %s: what is left there is worked too, failures become dead letters",
                job.name,
                stages.retries,
                ", ".join(stage.topic for stage in leftovers),
            )
        return chosen + leftovers

    def _supervise(self) -> None:
        """Waits for the end: asked for, by a failure, or idle."""
        idle_since: float | None = None
        while not self._over():
            with self._cond:
                if not self._changed:
                    self._cond.wait(_TICK)
                self._changed = False
            now = self._system.now()
            if self._exit_when_idle is not None and not self._stopping:
                if self._busy():
                    idle_since = None
                elif idle_since is None:
                    idle_since = now
                elif now - idle_since >= self._exit_when_idle:
                    if self._unread():
                        idle_since = None
                    else:
                        self.stop()
            if any(job.crew is not None and job.crew.failure is not None for job in self._jobs):
                self._stopping = True
            if self._stopping and self._stop_at is None:
                logger.info("stopping: calls in flight may end")
                self._stop_at = now
                self._stop_crews(now)
            if self._hurry:
                self._hurry = False
                logger.warning("stopping at once")
                self._stop_crews(now, at_once=True)

    def _over(self) -> bool:
        crews = [job.crew for job in self._jobs if job.crew is not None]
        return all(crew.ended for crew in crews) and (self._stopping or bool(crews))

    def _stop_crews(self, now: float, at_once: bool = False) -> None:
        for job in self._jobs:
            if job.crew is not None:
                job.crew.stop(now if at_once else now + job.policy.shutdown_timeout)

    def _end(self) -> int:
        code = 0
        for job in self._jobs:
            crew = job.crew
            if crew is not None:
                if crew.failure is not None:
                    code = code or 1
                    self._tell(job, crew.failure)
                abandoned = crew.abandoned()
                if abandoned:
                    logger.error("%s: %d call(s) did not end in time and were abandoned", job.name, abandoned)
                    code = code or 3
                if job.task is not None and not abandoned:
                    try:
                        job.task.close()
                    except Exception:
                        logger.exception("%s.close failed", job.name)
            if job.writer is not None:
                job.writer.close(5.0)
            if job.admin is not None:
                job.admin.close()
        OUTBOXES.deliver_all()
        return code

    @staticmethod
    def _tell(job: _Job, failure: BaseException) -> None:
        if isinstance(failure, BrokerError) and failure.fault in (Fault.LOGIN, Fault.DENIED, Fault.UNKNOWN_TOPIC):
            logger.error("%s: %s", job.name, failure)
        else:
            logger.error("%s: the process failed: %r", job.name, failure, exc_info=failure)

    def _busy(self) -> bool:
        return not all(job.crew is not None and job.crew.idle() for job in self._jobs)

    def _unread(self) -> bool:
        """Whether any partition of this process holds more than was delivered."""
        try:
            for job in self._jobs:
                assert job.crew is not None
                assert job.admin is not None
                for topic, ends in job.crew.ends():
                    marks = job.admin.watermarks(topic, ASK)
                    for partition, end in ends.items():
                        mark = marks.get(partition.partition)
                        if mark is not None and mark.high > (end if end is not None else mark.low):
                            return True
        except BrokerError:
            return True
        return False

    def _notify(self) -> None:
        with self._cond:
            self._changed = True
            self._cond.notify_all()

    @contextmanager
    def _signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def handle(number: int, _: FrameType | None) -> None:
            # no lock here: the handler runs between two instructions of a thread that may hold it
            self._hurry = self._stopping
            self._stopping = True

        before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, previous in before.items():
                signal.signal(number, previous)

    @property
    def tasks(self) -> Sequence[type[Task]]:
        return [job.cls for job in self._jobs]
