"""What happens to the workers, the topics and the cluster while a scenario is played."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flux.core.ports import TopicPartition
from simulation.holding import KINDS as OPERATED
from simulation.machine import Process
from simulation.records import PRODUCTS
from simulation.scenario import Event

if TYPE_CHECKING:
    from simulation.clients import Consumer
    from simulation.world import World


TRANSACTION_FAULTS = (
    ("coordinator", "unavailable"),
    ("start", "unavailable"),
    ("start", "fatal"),
    ("begin", "fatal"),
    ("write", "unavailable"),
    ("write", "fatal"),
    ("write", "other"),
    ("flush", "unavailable"),
    ("add_offsets", "unavailable"),
    ("add_offsets", "fenced"),
    ("add_offsets", "other"),
    ("commit", "unavailable"),
    ("commit", "fenced"),
    ("commit", "fatal"),
    ("commit", "in doubt, unavailable"),
    ("commit", "in doubt, fatal"),
    ("commit", "in doubt, fatal"),
    ("stored", "unavailable"),
    ("stored", "fatal"),
    ("stored", "fatal"),
)
"""At which step, and what its client is told; "coordinator": at each that needs it."""
_OF_THE_COORDINATOR = ("start", "add_offsets", "commit")


class Events:
    """Called in the hub: nothing here waits."""

    def __init__(self, world: World) -> None:
        self._world = world

    def happen(self, event: Event) -> None:
        world = self._world
        if not world.faulty:
            return
        world.truth.note(f"event: {event.kind}, w{event.worker}, {event.length:g} s")
        world.machine.touch()
        if event.kind in OPERATED:
            world.operator.happen(event)
        else:
            getattr(self, f"on_{event.kind.replace(' ', '_')}")(event)

    def on_join(self, event: Event) -> None:
        self._world.start(event.worker)

    def on_stop(self, event: Event) -> None:
        self._world.stop(event.worker)

    def on_grow(self, event: Event) -> None:
        task = self._world.scenario.tasks[int(event.choice * len(self._world.scenario.tasks))]
        self._world.broker.grow_topic(task.topic, len(self._world.logs(task.topic)) + 1)

    def on_topics(self, event: Event) -> None:
        """A retry topic, or the one of dead letters, gets another partition."""
        names = [name for name in self._world.cluster.topics if "-" in name]
        if names:
            topic = names[int(event.choice * len(names))]
            self._world.broker.grow_topic(topic, len(self._world.logs(topic)) + 1)

    def on_gap(self, event: Event) -> None:
        names = [name for name in self._world.cluster.topics if name != PRODUCTS]
        topic = names[int(event.choice * len(names))]
        for partition in range(len(self._world.logs(topic))):
            self._world.broker.skip_offsets(TopicPartition(topic, partition), 1 + int(event.choice * 50) % 7)

    def on_crash(self, event: Event) -> None:
        if event.worker in self._world.lives:
            self._world.truth.counted["crashes"] += 1
            self._world.crash(event.worker)
            if event.choice < 0.8:
                number = event.worker
                self._world.machine.at(self._world.machine.time + event.length / 5, lambda: self._restart(number))
            else:
                self._world.wanted.discard(event.worker)

    def _restart(self, number: int) -> None:
        if self._world.faulty:
            self._world.start(number)

    def on_freeze(self, event: Event) -> None:
        life = self._world.lives.get(event.worker)
        if life is not None:
            self._world.truth.counted["freezes"] += 1
            self._freeze(life.process, event.length)

    def _freeze(self, process: Process, seconds: float) -> None:
        self._world.truth.note("freezes", process)
        self._world.truth.excused.add(process)
        self._world.truth.stalled.add(process)
        self._world.machine.freeze(process)
        self._world.machine.at(self._world.machine.time + seconds, lambda: self._thaw(process))

    def on_crash_in_a_transaction(self, event: Event) -> None:
        self._end_at(event, "crashes")

    def on_freeze_in_a_transaction(self, event: Event) -> None:
        self._end_at(event, "freezes")

    def on_kick_in_a_transaction(self, event: Event) -> None:
        self._end_at(event, "is evicted")

    def on_rejoin_in_a_transaction(self, event: Event) -> None:
        self._end_at(event, "rejoins")

    def _end_at(self, event: Event, how: str) -> None:
        life = self._world.lives.get(event.worker)
        if life is not None:
            steps = ("start", "begin", "write", "add_offsets", "add_offsets", "commit", "commit")
            number = int(event.choice * 2 * len(steps))
            self._world.failures.end_at(life.process, how, steps[number // 2], bool(number % 2), event.length)

    def end(self, process: Process, how: str, seconds: float) -> None:
        """A process crashes, freezes, is evicted, or rejoins its groups, in a step of a transaction."""
        if how in ("is evicted", "rejoins"):
            for consumer in [each for each in self._world.consumers if each.process is process]:
                if how == "rejoins":
                    self._rejoin(consumer)
                elif consumer._member is not None:
                    self._evict(consumer)
            return
        if how == "freezes":
            self._freeze(process, seconds)
            return
        [number] = [number for number, life in self._world.lives.items() if life.process is process]
        self._world.crash(number)
        self._world.machine.at(self._world.machine.time + seconds / 5, lambda: self._restart(number))

    def on_superseded(self, event: Event) -> None:
        """Somebody else uses a transactional id."""
        names = [name for name, process in self._world.ids.items() if not process.dead]
        if names:
            self._world.truth.counted["transactional ids taken"] += 1
            name = names[int(event.choice * len(names))]
            self._world.truth.note(f"another client starts with {name}")
            with self._world.cluster.lock:
                self._world.cluster.transactions.start(name)

    def on_transactions(self, event: Event) -> None:
        step, what = TRANSACTION_FAULTS[int(event.choice * len(TRANSACTION_FAULTS))]
        for each in _OF_THE_COORDINATOR if step == "coordinator" else (step,):
            doubt = "in doubt, " if step == "coordinator" and each == "commit" else ""
            self._world.failures.begin(f"transactions {each}", doubt + what, event.length)

    def _thaw(self, process: Process) -> None:
        if not process.dead:
            self._world.truth.note("goes on", process)
            self._world.machine.touch()
            self._world.machine.thaw(process)

    def on_kick(self, event: Event) -> None:
        """A member misses its session: its partitions are given away."""
        for consumer in self._member(event):
            self._evict(consumer)

    def _member(self, event: Event) -> list[Consumer]:
        """One of all, if there is any."""
        here = [each for each in self._world.consumers if not each.process.dead and each._member is not None]
        return [here[int(event.choice * len(here))]] if here else []

    def _evict(self, consumer: Consumer) -> None:
        self._world.truth.counted["evictions"] += 1
        self._world.truth.excused.add(consumer.process)
        self._world.truth.note(f"is evicted from {consumer.group_id}", consumer.process)
        with self._world.cluster.lock:
            self._world.cluster.group(consumer.group_id, consumer.topic).leave(consumer._member)  # type: ignore[arg-type]

    def on_rejoin(self, event: Event) -> None:
        """A member's client takes its partitions for lost, and gets them again: its group did not notice."""
        for consumer in self._member(event):
            self._rejoin(consumer)

    def _rejoin(self, consumer: Consumer) -> None:
        self._world.truth.counted["rejoins"] += 1
        self._world.truth.excused.add(consumer.process)
        self._world.truth.note(f"rejoins {consumer.group_id}", consumer.process)
        consumer.rejoins = True

    def on_jump(self, event: Event) -> None:
        life = self._world.lives.get(event.worker)
        if life is not None:
            self._world.truth.counted["clock jumps"] += 1
            self._world.truth.excused.add(life.process)
            before = self._world.truth.jumped.get(life.process, life.process.offset)
            life.process.offset += (event.choice - 0.5) * 2 * min(event.length, 1000.0)
            self._world.truth.jumped[life.process] = max(before, life.process.offset)
            self._world.truth.note(f"has its clock at {life.process.offset:+.1f} s", life.process)

    def on_away(self, event: Event) -> None:
        """What a task's calls need."""
        self._world.truth.counted["outages of what calls need"] += 1
        tasks = self._world.scenario.tasks
        self._world.go_away(tasks[int(event.choice * len(tasks))], event.length)

    def on_outage(self, event: Event) -> None:
        self._world.truth.counted["outages"] += 1
        self._world.broker.available = False
        self._world.truth.visible.outage_at = self._world.machine.time + event.length
        for life in self._world.lives.values():
            self._world.truth.excused.add(life.process)
        self._world.machine.at(self._world.machine.time + event.length, self._world.end_outage)

    def on_commits(self, event: Event) -> None:
        self._world.failures.begin("commits", ("unavailable", "fenced", "other")[int(event.choice * 3)], event.length)

    def on_commits_lost(self, event: Event) -> None:
        self._world.failures.begin("commits lost", "unavailable", event.length)

    def on_metadata(self, event: Event) -> None:
        self._world.failures.begin("commits", "metadata too large", event.length)

    def on_writes(self, event: Event) -> None:
        self._world.failures.begin("writes", "unavailable" if event.choice < 0.8 else "fatal", event.length)

    def on_writes_lost(self, event: Event) -> None:
        self._world.failures.begin("writes lost", "unavailable", event.length)

    def on_writes_refused(self, event: Event) -> None:
        kinds = ("too large", "long", "long", "unknown topic", "denied", "other")
        self._world.failures.begin("writes", kinds[int(event.choice * len(kinds))], event.length)

    def on_client_full(self, event: Event) -> None:
        self._world.failures.begin_client("full", event.length)

    def on_client_broken(self, event: Event) -> None:
        self._world.failures.begin_client("broken", event.length)

    def on_delete(self, event: Event) -> None:
        """Retention overtakes the readers of a topic."""
        names = [name for name in self._world.cluster.topics if self._world.truth.stage_of(name) is not None]
        topic = names[int(event.choice * len(names))]
        for partition, log in enumerate(self._world.logs(topic)):
            if log.high > log.low:
                self._world.truth.counted["deletions"] += 1
                at = TopicPartition(topic, partition)
                before = min(log.stable, log.low + 1 + int(event.choice * 1000) % (log.high - log.low))
                self._world.truth.deleted(at, before)
                self._world.broker.delete_records(at, before)

    def on_deploy(self, event: Event) -> None:
        """All workers stop, or crash; then they start with another number of retries."""
        self._world.truth.counted["deployments"] += 1
        numbers = list(self._world.lives)
        for number in numbers:
            if event.choice < 0.3:
                self._world.crash(number)
            else:
                self._world.stop(number)
            self._world.wanted.discard(number)
        self._deploy(event, numbers)

    def _deploy(self, event: Event, numbers: list[int]) -> None:
        if not self._world.faulty:
            return  # whoever is needed is started then
        if any(number in self._world.lives for number in numbers):
            self._world.machine.at(self._world.machine.time + 1.0, lambda: self._deploy(event, numbers))
            return
        index = int(event.choice * 100) % len(self._world.retries)
        enqueues = any(plan.delay is not None and plan.task == index for plan in self._world.scenario.records)
        # an application that enqueues relies on there being a first retry stage
        self._world.retries[index] = max(int(event.choice * 1000) % 4, int(enqueues))
        topic = self._world.scenario.tasks[index].topic
        self._world.truth.note(f"{topic} has {self._world.retries[index]} retries from now on")
        for number in numbers:
            self._world.start(number)
