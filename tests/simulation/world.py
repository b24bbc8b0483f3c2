"""One run: a scenario played on a machine of its own, with the real workers over the simulated cluster."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib
import logging
import random
from collections.abc import Callable, Iterator
from typing import Any

import attrs

import flux
import flux.runtime.calls
import flux.runtime.delivery
import flux.runtime.outbox
from flux.adapters.memory.broker import Broker
from flux.adapters.memory.cluster import Cluster
from flux.core.errors import BrokerError, Fault
from flux.core.message import Message
from flux.core.ports import Outgoing, Position, TopicPartition
from flux.runtime.outboxes import OUTBOXES, Outboxes
from simulation import machine as machines
from simulation.async_clients import AsyncAdapter
from simulation.clients import Adapter, Consumer
from simulation.loop import Loop
from simulation.machine import Machine, Process, System
from simulation.scenario import HOUR, Event, Outcome, Scenario, TaskPlan
from simulation.truth import PRODUCTS, Truth, Violation

DRAIN = 30 * HOUR
"""Simulated time after the last fault in which all must have ended."""
STANDSTILL = 3 * HOUR
"""Simulated time after the last fault in which something must happen."""
_LOOK = 20.0
_RESTART = 3.0


class CrashedProcess(MemoryError):
    """A failure of the process, in a call."""


@attrs.define(eq=False)
class Life:
    """A worker from its start to its end."""

    process: Process
    worker: flux.Worker
    stop_at: float | None = None
    code: int | None = None
    failed_at: float | None = None


@attrs.define
class Result:
    history: list[str]
    digest: str
    hours: float
    faults: dict[str, int]
    steps: int
    calls: int
    violation: Violation | None


class World:
    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.machine = Machine(scenario.seed, scenario.switching, min(20.0, scenario.max_poll_interval / 6))
        self.random = random.Random(f"{scenario.seed}/chance")
        self.broker_process = Process("", self.machine)
        self.cluster = Cluster("simulation", System(self.broker_process, broker=True), 1, True)
        self.broker = Broker(self.cluster)
        self.truth = Truth(scenario, self.machine, self.cluster)
        self.adapter = Adapter(self)
        self.async_adapter = AsyncAdapter(self)
        self.consumers: list[Consumer] = []
        self.lives: dict[int, Life] = {}
        """By the worker's number: those that run now."""
        self.born = 0
        self.wanted: set[int] = set()
        """Workers that are started again when they end by themselves."""
        self.retries = [task.retries for task in scenario.tasks]
        self.faults = True
        self.crashed: set[tuple[int, int]] = set()
        self.refusals: dict[str, list[tuple[str, float]]] = {}
        self.client_faults: dict[str, float] = {}
        self.waiting_records: list[Any] = []
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
        self.broker.fail_writes(self._refuse_write)
        self.broker.fail_writes(self._stored_write, stored=True)
        self.broker.fail_commits(self._refuse_commit)
        self.broker.fail_commits(self._stored_commit, stored=True)

    def chance(self, probability: float) -> bool:
        return probability > 0 and self.faults and self.random.random() < probability

    def stopping(self, process: Process) -> float | None:
        life = next((life for life in self.lives.values() if life.process is process), None)
        return None if life is None else life.stop_at if life.stop_at is not None else life.failed_at

    # ---- faults of the broker, asked with its lock held

    def _active(self, kind: str) -> str | None:
        for what, until in self.refusals.get(kind, ()):
            if self.faults and self.machine.time < until and self.random.random() < 0.7:
                return what
        return None

    def _refuse_write(self, topic: str, partition: int, outgoing: Outgoing) -> BrokerError | None:
        what = None if topic in self.truth.tasks else self._active("writes")
        if what is None:
            return None
        if what == "long" and not any(name == "flux-error-message" for name, _ in outgoing.headers):
            return None
        fault = Fault.TOO_LARGE if what == "long" else Fault(what)
        self.truth.counted[f"writes refused: {fault.value}"] += 1
        return BrokerError("refused", fault)

    def _stored_write(self, topic: str, partition: int, outgoing: Outgoing) -> BrokerError | None:
        self.truth.appended(topic, partition)
        if topic in self.truth.tasks or self._active("writes lost") is None:
            return None
        self.truth.counted["acknowledgements lost"] += 1
        return BrokerError("timed out, and written", Fault.UNAVAILABLE)

    def _refuse_commit(self, group: str, at: TopicPartition, position: Position) -> BrokerError | None:
        what = self._active("commits")
        if what is None or (what == "metadata too large" and not position.metadata):
            return None
        self.truth.counted[f"commits refused: {what}"] += 1
        return BrokerError("refused", Fault(what))

    def _stored_commit(self, group: str, at: TopicPartition, position: Position) -> BrokerError | None:
        thread = self.machine.current
        assert thread is not None
        who = next(
            each
            for each in reversed(self.consumers)
            if each.process is thread.process and each.group_id == group and each.topic == at.topic
        )
        self.truth.stored(who, at, position)
        if self._active("commits lost") is None:
            return None
        self.truth.counted["commits stored, and told to have failed"] += 1
        return BrokerError("timed out, and stored", Fault.UNAVAILABLE)

    def client_fault(self) -> str | None:
        for what, until in self.client_faults.items():
            if self.faults and self.machine.time < until and self.random.random() < 0.3:
                self.truth.counted[f"clients {what}"] += 1
                return what
        return None

    # ---- workers

    def start(self, number: int) -> None:
        if number in self.lives:
            return
        self.born += 1
        skew = self.scenario.workers[number].skew if number < len(self.scenario.workers) else 0.0
        process = Process(f"w{number}.{self.born}", self.machine, skew)
        system = System(process)
        outboxes = vars(Outboxes(system))

        def enter() -> None:
            OUTBOXES.__dict__ = outboxes

        process.on_enter = enter
        self.truth.note("starts", process)
        self.machine.touch()
        self.wanted.add(number)
        tasks = [self._task(plan, self.retries[index], process) for index, plan in enumerate(self.scenario.tasks)]

        def main() -> None:
            worker = flux.Worker(*tasks, system=system, create_topics=True)
            steps = worker._life()
            worker._life = lambda: steps  # type: ignore[method-assign]
            self.left_behind.append(steps)
            life = self.lives[number] = Life(process, worker)
            if any(job.needs_loop for job in worker.jobs):
                loop = Loop(self.machine)
                self.loops.append(loop)
                life.code = loop.run_until_complete(worker.run_async())
            else:
                life.code = worker._perform(steps)
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
            failures = [job.desk.failure for job in life.worker.jobs if job.desk is not None and job.desk.failure]
            violation = self.truth.broken(f"{life.process.name} ended with {life.code}: {failures!r}")
            violation.__cause__ = failures[0] if failures else None
            raise violation
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
        self.truth.note("is stopped", life.process)
        self.machine.touch()
        self.machine.spawn("stop", life.worker.stop, life.process)

    def crash(self, number: int) -> None:
        if number in self.lives:
            self.truth.note("crashes", self.lives[number].process)
            self.machine.touch()
            self.gone(number)

    def _task(self, plan: TaskPlan, retries: int, process: Process) -> Any:
        world = self
        handle = Handler(self, retries, process)
        call: Callable[..., Any]
        if plan.mode in ("tasks", "loop"):

            async def call_async(self: Any, message: Message) -> None:
                await handle.call_async(message)

            call = call_async
        else:

            def call_blocking(self: Any, message: Message) -> None:
                handle.call(message)

            call = call_blocking
        adapter = world.async_adapter if plan.mode.startswith("loop") else world.adapter
        attributes = {"topic": plan.topic, "group_id": plan.group, "retries": retries, "adapter": adapter, "call": call}
        return type(f"Task{plan.topic}", (flux.Task,), {**plan.settings, **attributes})

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
                lambda event=event: machine.after_steps(event.steps, lambda: self.happen(event)),  # type: ignore[misc]
            )
        machine.at(scenario.end, self.recover)
        machine.run(lambda: self.over or self.truth.first is not None)
        if self.truth.first is not None:
            raise self.truth.first
        self.truth.check_end()

    def write(self, plan: Any) -> None:
        if not self.cluster.available:
            self.waiting_records.append(plan)
            return
        task = self.scenario.tasks[plan.task]
        value = b"r%d " % plan.number + b"x" * plan.padding
        with self.cluster.lock:
            self.cluster.append(
                task.topic, [Outgoing(value, plan.key, plan.headers, plan.partition % len(self._logs(task.topic)))]
            )

    def _logs(self, topic: str) -> list[Any]:
        return self.cluster.topics[topic].logs

    def recover(self) -> None:
        """Faults stop, and all must drain."""
        self.truth.note("faults stop")
        self.faults = False
        self._available()
        for life in self.lives.values():
            self.machine.thaw(life.process)
        self.machine.touch()
        for number in range(max(1, len(self.scenario.workers))):
            if number in self.wanted or number == 0:
                self.start(number)
        self._look(self.machine.time + DRAIN)

    def _look(self, deadline: float) -> None:
        if self._drained():
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
        if self.truth.undone():
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
                    position = self.cluster.group(group, topic).positions.get(partition)
                    if log.records and (position is None or position.offset <= log.records[-1].at):
                        return False
        return True

    def happen(self, event: Event) -> None:
        if not self.faults:
            return
        kind = event.kind.replace(" ", "_")
        self.truth.note(f"event: {event.kind}, w{event.worker}, {event.length:g} s")
        self.machine.touch()
        getattr(self, f"_on_{kind}")(event)

    # ---- events

    def _on_join(self, event: Event) -> None:
        self.start(event.worker)

    def _on_stop(self, event: Event) -> None:
        self.stop(event.worker)

    def _on_grow(self, event: Event) -> None:
        task = self.scenario.tasks[int(event.choice * len(self.scenario.tasks))]
        self.broker.grow_topic(task.topic, len(self._logs(task.topic)) + 1)

    def _on_topics(self, event: Event) -> None:
        """A retry topic, or the one of dead letters, gets another partition."""
        names = [name for name in self.cluster.topics if "-" in name]
        if names:
            topic = names[int(event.choice * len(names))]
            self.broker.grow_topic(topic, len(self._logs(topic)) + 1)

    def _on_gap(self, event: Event) -> None:
        names = [name for name in self.cluster.topics if name != PRODUCTS]
        topic = names[int(event.choice * len(names))]
        for partition in range(len(self._logs(topic))):
            self.broker.skip_offsets(TopicPartition(topic, partition), 1 + int(event.choice * 50) % 7)

    def _on_crash(self, event: Event) -> None:
        if event.worker in self.lives:
            self.truth.counted["crashes"] += 1
            self.crash(event.worker)
            if event.choice < 0.8:
                number = event.worker
                self.machine.at(
                    self.machine.time + event.length / 5, lambda: self.start(number) if self.faults else None
                )
            else:
                self.wanted.discard(event.worker)

    def _on_freeze(self, event: Event) -> None:
        life = self.lives.get(event.worker)
        if life is not None:
            self.truth.counted["freezes"] += 1
            self.truth.excused.add(life.process)
            self.machine.freeze(life.process)
            self.machine.at(self.machine.time + event.length, lambda: self._thaw(life.process))

    def _thaw(self, process: Process) -> None:
        if not process.dead:
            self.truth.note("goes on", process)
            self.machine.touch()
            self.machine.thaw(process)

    def _on_kick(self, event: Event) -> None:
        """A member misses its session: its partitions are given away."""
        here = [each for each in self.consumers if not each.process.dead and each._member is not None]
        if here:
            consumer = here[int(event.choice * len(here))]
            self.truth.counted["evictions"] += 1
            self.truth.excused.add(consumer.process)
            self.truth.note(f"is evicted from {consumer.group_id}", consumer.process)
            with self.cluster.lock:
                self.cluster.group(consumer.group_id, consumer.topic).leave(consumer._member)  # type: ignore[arg-type]

    def _on_jump(self, event: Event) -> None:
        life = self.lives.get(event.worker)
        if life is not None:
            self.truth.counted["clock jumps"] += 1
            self.truth.excused.add(life.process)
            before = self.truth.jumped.get(life.process, life.process.offset)
            life.process.offset += (event.choice - 0.5) * 2 * min(event.length, 1000.0)
            self.truth.jumped[life.process] = max(before, life.process.offset)
            self.truth.note(f"has its clock at {life.process.offset:+.1f} s", life.process)

    def _on_outage(self, event: Event) -> None:
        self.truth.counted["outages"] += 1
        self.broker.available = False
        for life in self.lives.values():
            self.truth.excused.add(life.process)
        self.machine.at(self.machine.time + event.length, self._available)

    def _available(self) -> None:
        if not self.cluster.available:
            self.truth.note("the broker is back")
            self.machine.touch()
            self.broker.available = True
            waiting, self.waiting_records = self.waiting_records, []
            for plan in waiting:
                self.write(plan)

    def _window(self, kind: str, what: str, event: Event) -> None:
        self.refusals.setdefault(kind, []).append((what, self.machine.time + event.length))

    def _on_commits(self, event: Event) -> None:
        self._window("commits", ("unavailable", "fenced", "other")[int(event.choice * 3)], event)

    def _on_commits_lost(self, event: Event) -> None:
        self._window("commits lost", "unavailable", event)

    def _on_metadata(self, event: Event) -> None:
        self._window("commits", "metadata too large", event)

    def _on_writes(self, event: Event) -> None:
        self._window("writes", "unavailable" if event.choice < 0.8 else "fatal", event)

    def _on_writes_lost(self, event: Event) -> None:
        self._window("writes lost", "unavailable", event)

    def _on_writes_refused(self, event: Event) -> None:
        kinds = ("too large", "long", "long", "unknown topic", "denied", "other")
        self._window("writes", kinds[int(event.choice * len(kinds))], event)

    def _on_client_full(self, event: Event) -> None:
        self.client_faults["full"] = self.machine.time + event.length

    def _on_client_broken(self, event: Event) -> None:
        self.client_faults["broken"] = self.machine.time + event.length

    def _on_delete(self, event: Event) -> None:
        """Retention overtakes the readers of a topic."""
        names = [name for name in self.cluster.topics if self.truth.stage_of(name) is not None]
        topic = names[int(event.choice * len(names))]
        for partition, log in enumerate(self._logs(topic)):
            if log.high > log.low:
                self.truth.counted["deletions"] += 1
                at = TopicPartition(topic, partition)
                before = log.low + 1 + int(event.choice * 1000) % (log.high - log.low)
                self.truth.deleted(at, before)
                self.broker.delete_records(at, before)

    def _on_deploy(self, event: Event) -> None:
        """All workers stop, or crash; then they start with another number of retries."""
        self.truth.counted["deployments"] += 1
        numbers = list(self.lives)
        for number in numbers:
            if event.choice < 0.3:
                self.crash(number)
            else:
                self.stop(number)
            self.wanted.discard(number)
        self._deploy(event, numbers)

    def _deploy(self, event: Event, numbers: list[int]) -> None:
        if not self.faults:
            return  # whoever is needed is started then
        if any(number in self.lives for number in numbers):
            self.machine.at(self.machine.time + 1.0, lambda: self._deploy(event, numbers))
            return
        index = int(event.choice * 100) % len(self.retries)
        self.retries[index] = int(event.choice * 1000) % 4
        self.truth.note(f"{self.scenario.tasks[index].topic} has {self.retries[index]} retries from now on")
        for number in numbers:
            self.start(number)

    def end(self) -> None:
        """Lets go of everything, also of what killed processes have left."""
        self.machine.end()
        for steps in self.left_behind:
            with contextlib.suppress(BaseException):
                steps.throw(machines.Killed())
                while True:
                    steps.send(None)
        for task in [task for loop in self.loops for task in asyncio.all_tasks(loop)]:
            with contextlib.suppress(BaseException):
                while True:
                    task.get_coro().throw(machines.Killed())  # type: ignore[union-attr]
        for loop in self.loops:
            loop.call_soon_threadsafe = lambda *_, **__: None  # type: ignore[method-assign, assignment, return-value]
            with contextlib.suppress(RuntimeError):
                loop.close()

    # ---- results

    def digest(self) -> str:
        return hashlib.sha256("\n".join(self.truth.history).encode()).hexdigest()


class Handler:
    """A task's call, which does what the record's plan says."""

    def __init__(self, world: World, retries: int, process: Process) -> None:
        self._world = world
        self._retries = retries
        self._process = process

    def call(self, message: Message) -> None:
        world = self._world
        call = world.truth.begin(self._process, message, self._retries)
        outcome = call.copy.plan.outcome(call.copy.stage)
        try:
            world.machine.point()
            self._produce(call, outcome)
            if outcome.length:
                world.machine.park(outcome.length)
                world.machine.touch()
            if outcome.deliver and outcome.products:
                world.products.deliver()
            world.machine.point()
            self._end(call, outcome)
        except flux.DeliveryError as error:
            world.truth.end(call, "next")
            raise type(f"#{call.number};", (ValueError,), {})(str(error)) from None

    async def call_async(self, message: Message) -> None:
        world = self._world
        call = world.truth.begin(self._process, message, self._retries)
        outcome = call.copy.plan.outcome(call.copy.stage)
        try:
            await asyncio.sleep(0)
            self._produce(call, outcome)
            if outcome.length:
                world.machine.at(world.machine.time + outcome.length, world.machine.touch)
                await asyncio.sleep(outcome.length)
            if outcome.deliver and outcome.products:
                await world.products.adeliver()
            self._end(call, outcome)
        except flux.DeliveryError as error:
            world.truth.end(call, "next")
            raise type(f"#{call.number};", (ValueError,), {})(str(error)) from None
        except asyncio.CancelledError:
            world.truth.end(call, "stop")
            raise

    def _produce(self, call: Any, outcome: Outcome) -> None:
        for index in range(outcome.products):
            key = b"#%d;%d" % (call.number, index)
            call.products[key] = "flying"
            try:
                self._world.products.produce(b"product", key=key)
            except flux.DeliveryError:
                call.products[key] = "failed"
                raise

    def _end(self, call: Any, outcome: Outcome) -> None:
        world, name = self._world, (call.copy.plan.number, call.copy.stage)
        text = f"#{call.number};"  # in the name of the type too, which is left out last
        if outcome.crash and name not in world.crashed:
            world.crashed.add(name)
            world.truth.counted["process failures"] += 1
            for life in world.lives.values():
                if life.process is self._process and life.failed_at is None:
                    life.failed_at = world.machine.time
            world.truth.end(call, "stop")
            raise CrashedProcess
        if outcome.kind == "done":
            world.truth.end(call, "done")
        elif outcome.kind == "error":
            world.truth.end(call, "next")
            raise type(text, (ValueError,), {})(text)
        elif outcome.kind == "retry":
            world.truth.end(call, "next", outcome.after)
            raise type(text, (flux.Retry,), {})(text, after=outcome.after)
        else:
            world.truth.end(call, "dead")
            raise type(text, (flux.Reject,), {})(text)


class _Threading:
    """The standard library's, as far as the producers use it."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def RLock(self) -> machines.RLock:  # noqa: N802
        return machines.RLock(self._machine)


@contextlib.contextmanager
def _patched(world: World) -> Iterator[None]:
    """What of flux does not go through its System, and its limits, for one run."""
    changes: list[tuple[Any, str, Any]] = [
        (flux.runtime.outbox, "threading", _Threading(world.machine)),
        (flux.runtime.delivery, "_acknowledging", machines.Local()),
        (flux.runtime.calls, "trace_of", lambda error: "trace"),
    ]
    for name, value in world.scenario.constants.items():
        module, _, attribute = name.rpartition(".")
        changes.append((importlib.import_module(module), attribute, value))
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in changes]
    outboxes = vars(OUTBOXES)
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    for owner, name, value in changes:
        setattr(owner, name, value)
    try:
        yield
    finally:
        logging.disable(disabled)
        OUTBOXES.__dict__ = outboxes
        for owner, name, value in before:
            setattr(owner, name, value)


def play(scenario: Scenario) -> Result:
    """Plays a scenario. What broke is in the result; any other error is one of the simulation."""
    world = World(scenario)
    violation: Violation | None = None
    with _patched(world):
        try:
            world.play()
        except Violation as error:
            violation = error
        except Exception as error:
            violation = Violation(f"{type(error).__name__}: {error}")
            violation.__cause__ = error
        finally:
            world.end()
    counted = dict(world.truth.counted)
    return Result(
        history=world.truth.history,
        digest=world.digest(),
        hours=world.machine.time / HOUR,
        faults=counted,
        steps=world.machine.steps,
        calls=len(world.truth.calls),
        violation=violation,
    )
