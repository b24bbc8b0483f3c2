"""Dead letters that hold their key (`on_dead = "hold"`), and an operator who replays and rejects them meanwhile.

What must hold beyond order: a dead letter frees its key only when a call of it succeeds, or when the operator rejects
it; and what the operator replays is called, also what was rejected before.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import attrs

from flux.consuming.topic_setup import REQUEST_TIMEOUT
from flux.core.errors import FluxError
from flux.core.ports import TopicPartition
from flux.operate.dlq.filters import Filter
from flux.operate.dlq.reject import reject
from flux.operate.dlq.replay import Replay
from flux.operate.dlq.replay_plan import ReplayOptions, plan_replay
from flux.task_settings import policy_of
from simulation.machine import Process
from simulation.ordered import OrderedTruth, draw_ordered
from simulation.records import DEAD, Call, Copy
from simulation.scenario import MINUTE, Event, RecordPlan, Scenario, TaskPlan
from simulation.system import System

if TYPE_CHECKING:
    from simulation.world import World

HOLDING = "holding"
KINDS = ("replay", "replay rejected", "reject", "reject")
"""What the operator does."""
MOST_RECORDS = 30  # behind a dead letter each of them moves, twice a minute
_MOST_DECISIONS = 5 * MOST_RECORDS


def draw_holding(seed: int, focus: Sequence[str] = ()) -> Scenario:
    """As `draw_ordered`, with many dead letters."""
    scenario = draw_ordered(seed, focus)
    rng = random.Random(f"{seed}/holding")
    end = min(scenario.end, 5 * MINUTE)
    records = (attrs.evolve(each, at=each.at * end / scenario.end) for each in scenario.records[:MOST_RECORDS])
    scenario = attrs.evolve(scenario, end=end, records=tuple(records))

    def task(plan: TaskPlan) -> TaskPlan:
        settings = {**plan.settings, "on_dead": "hold", "wait": rng.choice((0.0, 1.0, 5.0))}
        return attrs.evolve(plan, retries=rng.choice((1, 1, 2)), settings=settings)

    def record(plan: RecordPlan) -> RecordPlan:
        if rng.random() < 0.6:
            return plan
        kinds: Any = rng.choice((("error",) * 3, ("reject",), ("error", "reject")))
        outcomes = (*(attrs.evolve(plan.outcomes[0], kind=kind) for kind in kinds), *plan.outcomes)
        return attrs.evolve(plan, outcomes=outcomes)

    def operator() -> Event:
        at = rng.choice((rng.uniform(0, scenario.end), rng.choice(scenario.records).at + rng.choice((1.0, 6.0, 20.0))))
        return Event(rng.choice(KINDS), at, rng.choice((0, rng.randint(0, 300))), 0, 0.0, rng.random())

    events = (*scenario.events, *(operator() for _ in range(rng.choice((0, 2, 4, 8)))))
    return attrs.evolve(
        scenario,
        tasks=tuple(map(task, scenario.tasks)),
        records=tuple(map(record, scenario.records)),
        events=tuple(sorted((event for event in events if event.at <= scenario.end), key=lambda event: event.at)),
    )


class HoldingTruth(OrderedTruth):
    once = False

    def __init__(self, scenario: Scenario, machine: Any, cluster: Any) -> None:
        super().__init__(scenario, machine, cluster)
        self.operators: set[Process] = set()
        self.freed: set[tuple[str, int, int]] = set()
        """Rejected, so that later records of their keys may be called."""
        self.owed: dict[tuple[str, int, int], Copy] = {}
        """What the operator has replayed and nobody has called since."""

    def is_settled(self, origin: tuple[str, int, int]) -> bool:
        topic, partition, offset = origin
        if self.copies[TopicPartition(topic, partition), offset].record.key() is None:
            return super().is_settled(origin)  # it holds nothing
        return origin in self.freed or self.is_done(origin)

    def may_run_beside(self, origin: tuple[str, int, int]) -> bool:
        """A rejected record may be in a call: the operator's former replay of it has died before it was noted."""
        return origin in self.freed

    def visible_copy(self, record: Any) -> Copy:
        copy = super().visible_copy(record)
        copy.replays = int(dict(record._headers or ()).get("flux-replays") or 0) if copy.stage else 0
        origin = self.origin(copy)
        if self._by_operator() and copy.stage != DEAD and not self.is_done(origin):
            self.owed[origin] = copy
        elif copy.stage == DEAD:
            self.owed.pop(origin, None)
        return copy

    def appended(self, topic: str, partition: int) -> None:
        super().appended(topic, partition)
        if self._by_operator() and topic.endswith("-keys"):
            record = self.cluster.topics[topic].logs[partition].records[-1]
            number, offset = map(int, record.key().split(b":"))
            origin = topic.partition("-")[0], number, offset
            if record.value() is not None or origin not in self.dead:
                raise self.broken(f"the operator enters {record.key()}: {record.value()}")
            self.freed.add(origin)
            self.owed.pop(origin, None)
            self.counted["keys freed by the operator"] += 1

    def is_done(self, origin: tuple[str, int, int]) -> bool:
        return any(call.verdict == "done" for call in self.calls_of[origin])

    def _by_operator(self) -> bool:
        thread = self.machine.current
        return thread is not None and thread.process in self.operators

    def begin(self, *args: Any, **named: Any) -> Call:
        call = super().begin(*args, **named)
        self.owed.pop(self.origin(call.copy), None)
        return call

    def _check_order(self, call: Call) -> None:
        if self.origin(call.copy) not in self.freed:
            super()._check_order(call)

    def undone(self) -> list[Copy]:
        return [*super().undone(), *(copy for origin, copy in self.owed.items() if not self.is_done(origin))]


class Operator:
    """Replays and rejects all dead letters that are open. Each time it is a process of its own, which may be killed."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._at_work: list[Process] = []
        self._finishes = 0

    def happen(self, event: Event) -> None:
        process = self._begin(event.kind)
        if event.choice < 0.5:
            self._world.machine.after_steps(int(event.choice * 600), lambda: self._kill(process))

    def finish(self) -> None:
        """There is no fault any more, and no dead letter may stay open: begins to decide on them, if need be."""
        if isinstance(self._world.truth, HoldingTruth) and self._world.truth.undone() and not self.is_at_work:
            if self._finishes > _MOST_DECISIONS:
                held = ", ".join(map(str, self._world.truth.undone()[:5]))
                raise self._world.truth.broken(f"held, and the operator has decided on all dead letters: {held}")
            self._begin("reject" if self._finishes else "replay")
            self._finishes += 1

    @property
    def is_at_work(self) -> bool:
        return any(not process.dead for process in self._at_work)

    def _kill(self, process: Process) -> None:
        if not process.dead:
            self._world.truth.note("is killed", process)
            self._world.truth.counted["operators killed"] += 1
            self._world.machine.kill(process)

    def _begin(self, what: str) -> Process:
        world = self._world
        process = Process("op", world.machine)
        world.truth.operators.add(process)  # type: ignore[attr-defined]
        self._at_work.append(process)

        def main() -> None:
            for index, task in enumerate(world.scenario.tasks):
                cls = world._task(task, world.retries[index], process)
                try:
                    # what workers have room for is not enough to mark dead letters one by one
                    policy = attrs.evolve(policy_of(cls, cls, None), max_metadata=4095)
                    self._work(what, policy, System(process))
                except FluxError as error:
                    world.truth.note(f"fails: {error}", process)
            process.dead = True

        world.truth.counted[f"operators: {what}"] += 1
        world.truth.note(what, process)
        world.machine.spawn("operator", main, process)
        return process

    def _work(self, what: str, policy: Any, system: Any) -> None:
        world = self._world
        admin = world.adapter.admin()
        topic = policy.stages[policy.stages.dead].topic
        if admin.topics([topic], REQUEST_TIMEOUT)[topic] is None:
            return
        if what == "reject":
            result: Any = reject(world.adapter, admin, policy, Filter(), system=system)
        else:
            options = ReplayOptions(rejected=what == "replay rejected")
            result = Replay(plan_replay(admin, policy, options), world.adapter, admin, system=system).run()
        world.truth.note(f"{what}: {result}", system.process)
