"""One run: a scenario played on a machine of its own, with the real workers over the simulated cluster."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import attrs

import flux
from flux.adapters.memory.broker import Broker
from flux.adapters.memory.cluster import MemoryCluster
from flux.core.message import Message
from flux.core.ports import ProducerRecord
from flux.producing.registry import PRODUCERS, ProducerRegistry
from simulation.async_clients import AsyncAdapter
from simulation.clients import Adapter, Consumer
from simulation.events import Events
from simulation.faults import Faults
from simulation.handler import Away, Handler
from simulation.holding import HoldingTruth, Operator
from simulation.loop import Loop
from simulation.machine import Killed, Machine, Process
from simulation.ordered import OrderedTruth
from simulation.records import PRODUCTS
from simulation.scenario import HOUR, RecordPlan, Scenario, TaskPlan
from simulation.system import System
from simulation.truth import Truth
from simulation.visible import Coordinator

DRAIN = 30 * HOUR
"""Simulated time after the last fault in which all must have ended."""
STANDSTILL = 3 * HOUR
"""Simulated time after the last fault in which something must happen."""
_LOOK = 20.0
_RESTART = 3.0
_AT_ONCE = 2.0
"""Seconds that a worker takes to stop which has nothing to wait for."""


@attrs.define(eq=False)
class Life:
    """A worker from its start to its end."""

    process: Process
    worker: flux.Worker
    stop_at: float | None = None
    at_rest: bool = False
    """Whether all was paused when it was stopped, and nothing under way."""
    code: int | None = None
    failed_at: float | None = None


def truth_of(scenario: Scenario) -> type[Truth]:
    if any(task.settings.get("on_dead") == "hold" for task in scenario.tasks):
        return HoldingTruth
    return OrderedTruth if any(task.settings.get("retry_order") for task in scenario.tasks) else Truth


class World:
    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.machine = Machine(scenario.seed, scenario.switching, min(20.0, scenario.max_poll_interval / 6))
        self.random = random.Random(f"{scenario.seed}/chance")
        self.broker_process = Process("", self.machine)
        self.cluster = MemoryCluster("simulation", System(self.broker_process, broker=True), 1, True)
        self.broker = Broker(self.cluster)
        self.truth = self._truth()
        cluster = self.cluster
        transactions = Coordinator(cluster.system, cluster._store_offset, cluster._transaction_ended)
        cluster.transactions = transactions
        transactions.visible = self.truth.visible
        self.ids: dict[str, Process] = {}
        """Transactional ids, by who has claimed them last."""
        self.adapter = Adapter(self)
        self.async_adapter = AsyncAdapter(self)
        self.consumers: list[Consumer] = []
        self.lives: dict[int, Life] = {}
        """By the worker's number: those that run now."""
        self.born = 0
        self.wanted: set[int] = set()
        """Workers that are started again when they end by themselves."""
        self.retries = [task.retries for task in scenario.tasks]
        self.retries_of: dict[tuple[Process, int], int] = {}
        """By process and number of the task."""
        self.faulty = True
        self.crashed: set[tuple[int, int]] = set()
        self.waiting_records: list[RecordPlan] = []
        self.enqueuing = 0
        """Records that an application is about to give to a task."""
        self._away: dict[str, float] = {}
        self._inside: dict[int, list[str]] = {}
        self.over = False
        self.left_behind: list[Any] = []
        self.loops: list[Loop] = []
        adapter = self.adapter

        class Products(flux.Producer):
            topic = PRODUCTS
            options = flux.ProducerOptions(flush_interval=0.5, max_buffer_size=3, delivery_timeout=20.0)

        Products.adapter = adapter
        self.products = Products
        self.broker.create_topic(PRODUCTS, 2)
        for task in scenario.tasks:
            self.broker.create_topic(task.topic, task.partitions)
        self.failures = Faults(self, self.broker)
        self.truth.stopping = self.stopping
        self.app = Process("app", self.machine)
        self._enter(self.app)
        self.events = Events(self)
        self.operator = Operator(self)

    def _truth(self) -> Truth:
        return truth_of(self.scenario)(self.scenario, self.machine, self.cluster)

    def chance(self, probability: float) -> bool:
        return probability > 0 and self.faulty and self.random.random() < probability

    def stopping(self, process: Process) -> float | None:
        life = next((life for life in self.lives.values() if life.process is process), None)
        since = [] if life is None else [at for at in (life.stop_at, life.failed_at) if at is not None]
        return min(since, default=None)

    def may_fail(self) -> None:
        """The running process is told what it cannot go on with."""
        for life in self.lives.values():
            if life.process is self.machine.current.process and life.failed_at is None:  # type: ignore[union-attr]
                life.failed_at = self.machine.time

    def claim(self, prefix: str, process: Process) -> str:
        """A transactional id: that of a process that has died, or one of its own."""
        number = 0
        while (owner := self.ids.get(f"{prefix}-{number}")) is not None:
            if self.scenario.ids_taken_over and owner.dead:
                break
            number += 1
        self.ids[f"{prefix}-{number}"] = process
        return f"{prefix}-{number}"

    @staticmethod
    def _enter(process: Process) -> None:
        """Producers of its own."""
        registry = vars(ProducerRegistry(System(process)))

        def enter() -> None:
            PRODUCERS.__dict__ = registry

        process.on_enter = enter

    def is_away(self, task: TaskPlan) -> bool:
        """Whether what a task's calls need is away."""
        return self.faulty and self.machine.time < self._away.get(task.topic, 0.0)

    def go_away(self, task: TaskPlan, seconds: float) -> None:
        self._away[task.topic] = max(self._away.get(task.topic, 0.0), self.machine.time + seconds)

    def passed(self, what: Any) -> None:
        """A message, or a batch, has come to a task's call."""
        task, _ = self.truth.stage_of((what[0] if isinstance(what, list) else what).topic) or (None, 0)
        assert task is not None
        names = self._inside.pop(id(what), [])
        if names != (["outer", "inner"] if task.surrounded else []):
            raise self.truth.broken(f"a call has passed {names}")

    def refuse(self, message: Message) -> int:
        """The running thread is about to leave a message out, as its work is too old; gives the number of the call."""
        assert self.machine.current is not None
        process = self.machine.current.process
        task, _ = self.truth.stage_of(message.topic) or (self.scenario.tasks[0], 0)
        index = self.scenario.tasks.index(task)
        return self.truth.refuse(process, message, self.retries_of[process, index]).number

    def relieve(self, message: Message) -> int:
        """The running thread is about to move a record on that it has not called; gives the number of the call."""
        assert self.machine.current is not None
        process = self.machine.current.process
        task, _ = self.truth.stage_of(message.topic) or (self.scenario.tasks[0], 0)
        index = self.scenario.tasks.index(task)
        return self.truth.relieve(process, message, self.retries_of[process, index]).number

    # ---- workers

    def start(self, number: int) -> None:
        if number in self.lives:
            return
        self.born += 1
        skew = self.scenario.workers[number].skew if number < len(self.scenario.workers) else 0.0
        process = Process(f"w{number}.{self.born}", self.machine, skew)
        system = System(process)
        self._enter(process)
        self.truth.note("starts", process)
        self.machine.touch()
        self.wanted.add(number)
        tasks = [self._task(plan, self.retries[index], process) for index, plan in enumerate(self.scenario.tasks)]
        self.retries_of.update({(process, index): retries for index, retries in enumerate(self.retries)})
        stages = f"0-{self.retries[0] + 1}" if self.scenario.dead_too and self.faulty else None

        def main() -> None:
            worker = flux.Worker(*tasks, stages=stages, system=system, create_topics=True)
            steps = worker._driver.life()
            worker._driver.life = lambda: steps
            self.left_behind.append(steps)
            life = self.lives[number] = Life(process, worker)
            if any(job.needs_loop for job in worker.jobs):
                loop = Loop(self.machine)
                self.loops.append(loop)
                life.code = loop.run_until_complete(worker.run_async())
            else:
                life.code = worker._driver.perform(steps)
            self._ended(number, life)

        # until it is there, nobody may stop it
        self.lives[number] = Life(process, None)  # type: ignore[arg-type]
        self.machine.spawn("main", main, process)

    def _ended(self, number: int, life: Life) -> None:
        """The process exits: what still runs in it runs no more."""
        self.machine.touch()
        self.truth.note(f"exits with {life.code}", life.process)
        expected = {0, 3} if life.stop_at is not None else set()
        if life.failed_at is not None:
            expected = {0, 1, 3}
        if life.code not in expected:
            failures = [
                job.coordinator.ending.failure
                for job in life.worker.jobs
                if job.coordinator is not None and job.coordinator.ending.failure
            ]
            violation = self.truth.broken(f"{life.process.name} ended with {life.code}: {failures!r}")
            violation.__cause__ = failures[0] if failures else None
            raise violation
        if life.at_rest and life.stop_at is not None and self.scenario.clean:
            self.truth.counted["stops while paused"] += 1
            if self.machine.time - life.stop_at > _AT_ONCE:
                raise self.truth.broken(f"a stop of what is paused takes {self.machine.time - life.stop_at:.3f} s")
        self.gone(number)
        if number in self.wanted and life.stop_at is None:
            self.machine.at(self.machine.time + _RESTART, lambda: self.start(number) if number in self.wanted else None)

    def gone(self, number: int) -> None:
        life = self.lives.pop(number)
        self.machine.kill(life.process)

    def stop(self, number: int) -> None:
        life = self.lives.get(number)
        self.wanted.discard(number)
        if life is None or life.stop_at is not None:
            return
        if life.worker is None:
            self.machine.at(self.machine.time + 0.01, lambda: self.stop(number))
            return
        life.stop_at = self.machine.time
        life.at_rest = self.truth.gates.all_paused(life.process) and not self.truth.forwards.any_flying(life.process)
        self.truth.note("is stopped", life.process)
        self.machine.touch()
        self.machine.spawn("stop", life.worker.stop, life.process)

    def crash(self, number: int) -> None:
        if number in self.lives:
            self.truth.note("crashes", self.lives[number].process)
            self.machine.touch()
            self.gone(number)

    def kill(self, process: Process) -> None:
        """The running thread's process ends here, and is started again."""
        [number] = [number for number, life in self.lives.items() if life.process is process]
        self.crash(number)
        self.machine.at(self.machine.time + _RESTART, lambda: self.start(number) if number in self.wanted else None)
        self.machine.park(1.0)
        raise AssertionError("a dead process goes on")

    def _task(self, plan: TaskPlan, retries: int, process: Process) -> Any:
        handle = Handler(self, retries, process)
        attributes: dict[str, Any] = {"topic": plan.topic, "group_id": plan.group, "retries": retries}
        in_loop = plan.mode.startswith("loop") and process is not self.app
        attributes["adapter"] = self.async_adapter if in_loop else self.adapter
        attributes["call"] = self._call(plan, handle)
        if plan.pause == "error":
            attributes["pause_on"] = (Away,)
        if plan.surrounded:
            attributes["middleware"] = [self._middleware(plan, name) for name in ("outer", "inner")]
        base = flux.BatchTask if plan.batched else flux.Task
        return type(f"Task{plan.topic}", (base,), {**plan.settings, **attributes})

    @staticmethod
    def _call(plan: TaskPlan, handle: Handler) -> Callable[..., Any]:
        make_async = handle.call_batch_async if plan.batched else handle.call_async
        make = handle.call_batch if plan.batched else handle.call

        async def call_async(self: Any, message: Any) -> None:
            await make_async(message)

        def call(self: Any, message: Any) -> None:
            make(message)

        return call_async if plan.awaited else call

    def _middleware(self, plan: TaskPlan, name: str) -> Callable[..., Any]:
        def enter(message: Any) -> None:
            self._inside.setdefault(id(message), []).append(name)

        async def around_async(message: Any, call_next: Any) -> None:
            enter(message)
            await call_next(message)

        def around(message: Any, call_next: Any) -> None:
            enter(message)
            call_next(message)

        return around_async if plan.awaited else around

    # ---- the play

    def play(self) -> None:
        scenario, machine = self.scenario, self.machine
        for number, worker in enumerate(scenario.workers):
            machine.at(worker.at, lambda number=number: self.start(number))  # type: ignore[misc]
        for record in scenario.records:
            machine.at(record.at, lambda record=record: self.write(record))  # type: ignore[misc]
        for event in scenario.events:
            machine.at(
                event.at,
                lambda event=event: machine.after_steps(event.steps, lambda: self.events.happen(event)),  # type: ignore[misc]
            )
        machine.at(scenario.end, self.recover)
        machine.run(lambda: self.over or self.truth.first is not None)
        if self.truth.first is not None:
            raise self.truth.first
        self.truth.check_end()

    def write(self, plan: RecordPlan) -> None:
        if not self.cluster.available:
            self.waiting_records.append(plan)
            return
        if plan.delay is not None:
            self.enqueuing += 1
            self.machine.spawn("enqueue", lambda: self._enqueue(plan, plan.delay or 0.0), self.app)
            return
        task = self.scenario.tasks[plan.task]
        value = b"r%d " % plan.number + b"x" * plan.padding
        with self.cluster.lock:
            self.cluster.append(
                task.topic, [ProducerRecord(value, plan.key, plan.headers, plan.partition % len(self.logs(task.topic)))]
            )

    def _enqueue(self, plan: RecordPlan, delay: float) -> None:
        task = self.scenario.tasks[plan.task]
        cls = self._task(task, task.retries, self.app)
        now = self.truth.enqueued_at[plan.number] = self.app.now()
        name = f"work {plan.number}" if plan.number % 3 == 0 else None
        value = b"r%d " % plan.number + b"x" * plan.padding
        left = 2 if plan.number % 6 == 0 else 1  # with an id, the second record replaces the first
        while left:
            when: dict[str, Any] = {"delay": now + delay - self.app.now()}
            if plan.number % 2 or when["delay"] < 0:
                when = {"at": datetime.fromtimestamp(now + delay, UTC)}
            delivery = None
            with contextlib.suppress(flux.DeliveryError, flux.FluxError):
                delivery = cls.enqueue(value, key=plan.key, headers=plan.headers, id=name, **when)
            while delivery is not None and not delivery.done():
                self.machine.park(0.05, rounds=True)
            if delivery is not None and delivery.exception() is None:
                left -= 1
            self.machine.park(1.0)
        self.enqueuing -= 1

    def logs(self, topic: str) -> list[Any]:
        return self.cluster.topics[topic].logs

    def recover(self) -> None:
        """Faults stop, and all must drain."""
        self.truth.note("faults stop")
        self.faulty = False
        self.end_outage()
        for life in self.lives.values():
            self.machine.thaw(life.process)
        self.machine.touch()
        for number in list(self.lives) if self.scenario.dead_too else ():
            self.stop(number)  # those that come after them work what is left of more retries, too
        for number in range(max(1, len(self.scenario.workers))):
            if number in self.wanted or number == 0:
                self.start(number)
        # what stood still may have a forwarded copy on its way to the client
        self.machine.at(self.machine.time + _RESTART, lambda: self._look(self.machine.time + DRAIN))

    def _look(self, deadline: float) -> None:
        self.operator.finish()
        if self._drained() and not self.operator.is_at_work:
            self.truth.note("drained")
            self.wanted.clear()
            for number in list(self.lives):
                self.stop(number)
            self._wait_for_stops(self.machine.time + 200.0)
            return
        if self.machine.time > deadline or self.machine.quiet > STANDSTILL:
            held = ", ".join(map(str, self.truth.undone()[:5]))
            raise self.truth.broken(f"held, and there is no fault any more: {held or 'positions'}")
        if 0 not in self.lives and 0 not in self.wanted:
            self.start(0)
        self.machine.at(self.machine.time + _LOOK, lambda: self._look(deadline))

    def _wait_for_stops(self, deadline: float) -> None:
        if not self.lives:
            self.over = True
            return
        if self.machine.time > deadline:
            raise self.truth.broken("a worker does not stop")
        self.machine.at(self.machine.time + 1.0, lambda: self._wait_for_stops(deadline))

    def _drained(self) -> bool:
        if self.enqueuing or self.truth.undone():
            return False
        for task, retries in zip(self.scenario.tasks, self.retries, strict=True):
            for topic, logs in [(name, topic.logs) for name, topic in self.cluster.topics.items()]:
                known = self.truth.stage_of(topic)
                if known is None or known[0] is not task:
                    continue
                stage = known[1]
                if stage > retries and topic.endswith("-dlq"):
                    continue
                group = task.group if stage == 0 else f"{task.group}-{stage}"
                for partition, log in enumerate(logs):
                    position = self.cluster.group(group, topic).committed.get(partition)
                    if log.records and (position is None or position.offset <= log.records[-1].at):
                        return False
        return True

    def end_outage(self) -> None:
        if not self.cluster.available:
            self.truth.note("the broker is back")
            self.machine.touch()
            self.broker.available = True
            waiting, self.waiting_records = self.waiting_records, []
            for plan in waiting:
                self.write(plan)

    def end(self) -> None:
        """Lets go of everything, also of what killed processes have left."""
        self.machine.end()
        for steps in self.left_behind:
            with contextlib.suppress(BaseException):
                while True:
                    steps.throw(Killed())
        for task in [task for loop in self.loops for task in asyncio.all_tasks(loop)]:
            with contextlib.suppress(BaseException):
                while True:
                    task.get_coro().throw(Killed())
        for loop in self.loops:
            loop.call_soon_threadsafe = lambda *_, **__: None  # type: ignore[method-assign, assignment]
            with contextlib.suppress(RuntimeError):
                loop.close()
