"""Order kept through retries: scenarios of tasks with `retry_order`, and what must hold of them.

The other properties of copies and calls are those of plain tasks, which `Truth` checks; here a copy may be written for
a record that was not called. What must hold: the calls of a key are in order through all stages and owners, one at a
time; a record that is repeated is not repeated alone, after later ones are done for good; and nothing is lost.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import attrs

from flux.core.engine.key_order import OrderEntry
from flux.core.engine.offset_tracker import read_metadata
from flux.core.errors import BrokerError
from flux.core.ports import CommittedOffset, TopicPartition
from simulation.forwards import Forwards
from simulation.machine import Process
from simulation.ordered_visible import OrderedVisible
from simulation.records import DEAD, Call, Copy, Epoch
from simulation.scenario import MINUTE, Event, RecordPlan, Scenario, TaskPlan, draw_retries
from simulation.truth import Truth
from simulation.visible import Added

ORDERED = "ordered"
_KINDS = (
    "join",
    "stop",
    "stop",
    "gap",
    "crash",
    "crash",
    "crash",
    "outage",
    "commits",
    "commits lost",
    "writes",
    "writes lost",
    "client full",
    "client broken",
)
_Key = tuple[str, int, bytes]
"""Main topic, partition, key."""


def draw_ordered(seed: int, focus: Sequence[str] = ()) -> Scenario:
    """Few keys that fail often, several workers, and crashes. `focus`: the kinds of events that happen."""
    scenario = draw_retries(seed, focus)
    rng = random.Random(f"{seed}/ordered")

    def task(plan: TaskPlan) -> TaskPlan:
        settings = {
            "ordering": "key",
            "retry_order": "key",
            "wait": rng.choice((0.0, 1.0, 30.0, [2.0, 600.0])),
            "drain_timeout": 10.0,
        }
        return attrs.evolve(plan, retries=max(1, plan.retries), settings={**plan.settings, **settings})

    def record(plan: RecordPlan) -> RecordPlan:
        outcomes = tuple(
            attrs.evolve(each, length=min(each.length, 1.0), kind=rng.choice(("done", "done", each.kind, "error")))
            for each in plan.outcomes
        )
        return attrs.evolve(plan, key=rng.choice((None, b"a", b"a", b"a", b"b", b"c")), outcomes=outcomes)

    tasks = tuple(map(task, scenario.tasks))
    records = tuple(map(record, scenario.records))
    end = min(scenario.end, 10 * MINUTE)
    events = tuple(
        Event(
            rng.choice(focus or _KINDS),
            rng.choice((rng.uniform(0, end), rng.choice(records).at + rng.choice((0.0, 0.01, 2.0, 35.0)))),
            rng.choice((0, rng.randint(0, 30), rng.randint(0, 500))),
            rng.randrange(len(scenario.workers)),
            rng.choice((0.5, 5.0, 40.0)),
            rng.random(),
        )
        for _ in range(rng.choice((0, 1, 3, 6, 12)))
    )
    return attrs.evolve(
        scenario,
        tasks=tasks,
        records=records,
        events=tuple(sorted(events, key=lambda event: event.at)),
        dead_too=False,
        constants={
            **scenario.constants,
            "flux.core.engine.ordered_retries.MOST_PARKED": rng.choice((1, 3, 1000)),
        },
    )


class OrderedForwards(Forwards):
    """Any copy of a record may be written, by whoever."""

    def check(self, copy: Copy, headers: dict[str, bytes | None]) -> None:
        pass

    def handed(self, process: Process, topic: str, records: Sequence[Any]) -> None:
        if "-" not in topic:
            super().handed(process, topic, records)

    def not_taken(self, topic: str, records: Sequence[Any]) -> None:
        pass

    def answered(self, error: BrokerError | None, record: Any) -> None:
        if "-" not in record.topic():
            super().answered(error, record)

    def any_flying(self, process: Process) -> bool:
        return True


class OrderedTruth(Truth):
    once = True
    """Whether a record has outputs or a dead letter once, with `exactly_once`: nobody replays any."""

    def __init__(self, scenario: Scenario, machine: Any, cluster: Any) -> None:
        super().__init__(scenario, machine, cluster)
        self.forwards = OrderedForwards(self)
        self.visible = OrderedVisible(self)
        self.by_key: defaultdict[_Key, dict[int, Copy]] = defaultdict(dict)
        """The records of each key in the main topic, by offset."""
        self.calls_of: defaultdict[tuple[str, int, int], list[Call]] = defaultdict(list)
        """By main topic, partition and offset."""
        self.dead: set[tuple[str, int, int]] = set()
        self.most_put_back = scenario.constants["flux.core.engine.ordered_retries.MOST_PARKED"]
        self.overtaken: set[str] = set()
        """Main topics of tasks whose partitions were lost, or given up during calls: nothing can keep two owners
        apart there."""

    def stage_of(self, topic: str) -> tuple[TaskPlan, int] | None:
        return None if topic.endswith("-keys") else super().stage_of(topic)

    def visible_copy(self, record: Any) -> Copy:
        copy = super().visible_copy(record)
        if copy.stage == 0 and record.key() is not None:
            self.by_key[copy.at.topic, copy.at.partition, record.key()][copy.offset] = copy
        if copy.stage == DEAD:
            self.dead.add(self.origin(copy))
        return copy

    def origin(self, copy: Copy) -> tuple[str, int, int]:
        if copy.stage == 0:
            return copy.at.topic, copy.at.partition, copy.offset
        headers = dict(copy.record._headers or ())
        topic, partition, offset = (headers[f"flux-origin-{name}"] for name in ("topic", "partition", "offset"))
        assert topic is not None
        assert partition is not None
        assert offset is not None
        return topic.decode(), int(partition), int(offset)

    def is_settled(self, origin: tuple[str, int, int]) -> bool:
        return origin in self.dead or any(call.verdict == "done" for call in self.calls_of[origin])

    # ---- calls

    def begin(
        self, process: Process, message: Any, retries: int, batch: list[Call] | None = None, refused: bool = False
    ) -> Call:
        self.machine.touch()
        at, offset = TopicPartition(message.topic, message.partition), message.offset
        copy, epoch = self.copies[at, offset], self.epochs.get((process, at))
        if epoch is None:
            raise self.broken(f"{copy} is called without an assignment")
        call = Call(len(self.calls), copy, process, epoch, retries, message.attempt)
        call.began, call.began_at = self.machine.steps, self.machine.time
        self.note(f"call {call.number} of {copy}, origin {self.origin(copy)[1:]}", process)
        self.calls.append(call)
        early = copy.stage not in (0, DEAD) and copy.due > (process.now() + 0.01) * 1000
        if early and process not in self.jumped and not self.may_be_early(copy):
            raise self.broken(f"{call} is called before it is due, {copy.due}")
        if message.attempt > retries + 1:
            raise self.broken(f"{call} is attempt {message.attempt} of {retries + 1}")
        self._check_order(call)
        self.gates.begin(call)
        self.counted["repeats"] += any(other.verdict == "done" for other in self.calls_of[self.origin(copy)])
        self.counted["calls in retry stages"] += copy.stage > 0
        self.calls_of[self.origin(copy)].append(call)
        epoch.called[offset] = call
        epoch.calls.append(call)
        copy.calls.append(call)
        return call

    def may_be_early(self, copy: Copy) -> bool:
        """A follower may, once what it follows is done."""
        task, _ = self.stage_of(copy.at.topic) or (None, 0)
        assert task is not None
        version = int(dict(copy.record._headers or ())["flux-order"])
        [log] = self.cluster.topics[f"{task.topic}-{task.group}-keys"].logs
        entry = next(OrderEntry.read(each.value(), version) for each in log.records if each.at == version)
        return entry is not None and entry.follows

    def may_run_beside(self, origin: tuple[str, int, int]) -> bool:
        """Whether a later record of its key may be called during a call of this one."""
        return False

    def _check_order(self, call: Call) -> None:
        topic, partition, offset = self.origin(call.copy)
        key = call.copy.record.key()
        if key is None or topic in self.overtaken:
            return
        records = self.by_key[topic, partition, key]
        task = self.tasks[topic]
        position = self.positions.get((task.group, TopicPartition(topic, partition)))
        for other in records:
            origin = topic, partition, other
            its = self.calls_of[origin]
            if any(each.running and each is not call for each in its) and not self.may_run_beside(origin):
                raise self.broken(f"{call} runs beside a call of {other} of the same key")
            if other < offset and not self.is_settled(origin) and not records[other].deleted:
                raise self.broken(f"{call} is called before {other}, which is not done")
            done = other > offset and self.is_settled((topic, partition, other)) and is_committed(position, other)
            if done and not self._is_outstanding(task, partition, other):
                raise self.broken(f"{call} is repeated after {other} is done for good")

    def _is_outstanding(self, task: TaskPlan, partition: int, offset: int) -> bool:
        """Whether a record has an entry in the topic of keys, and so is called again, or its copy dropped."""
        [log] = self.cluster.topics[f"{task.topic}-{task.group}-keys"].logs
        values = [each.value() for each in log.settled() if each.key() == b"%d:%d" % (partition, offset)]
        return bool(values) and values[-1] is not None

    # ---- the rest of what plain tasks promise is not looked at here

    def stored(self, who: Any, at: TopicPartition, position: CommittedOffset, added: Added | None = None) -> None:
        self.note(f"{at} committed {position.offset} {position.metadata}", who.process)
        self.positions[who.group_id, at] = position

    def _check_complete(self, *_: Any) -> None:
        pass

    def _check_moved(self, epoch: Epoch) -> None:
        pass

    def revoked(self, consumer: Any, partitions: Sequence[TopicPartition], stopping: float | None) -> None:
        super().revoked(consumer, partitions, stopping)
        for at in partitions:
            if self.epochs[consumer.process, at].late:
                self._overtaken(at)

    def lost(self, consumer: Any, partitions: Sequence[TopicPartition]) -> None:
        super().lost(consumer, partitions)
        for at in partitions:
            self._overtaken(at)

    def most_uncalled(self, most: int) -> int:
        """All followers in memory may move at once."""
        return most

    def _overtaken(self, at: TopicPartition) -> None:
        task, _ = self.stage_of(at.topic) or (None, 0)
        assert task is not None
        self.overtaken.add(task.topic)

    def undone(self) -> list[Copy]:
        return [
            copy
            for copy in self.copies.values()
            if copy.stage == 0 and not copy.deleted and not self.is_settled(self.origin(copy))
        ]


def is_committed(position: CommittedOffset | None, offset: int) -> bool:
    if position is None:
        return False
    ranges = read_metadata(*position) or [] if position.metadata else []
    return offset < position.offset or any(start <= offset < end for start, end in ranges)
