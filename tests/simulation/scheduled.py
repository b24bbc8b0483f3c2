"""Schedules, and delayed work with ids: scenarios of tasks that have them, and what must hold of them.

What must hold of a schedule: each tick has one call, repeated only as all work is; a tick without a call was missed,
since an earlier one was late, or too late itself; and when faults have stopped each tick is called. Of an id: its last
record is called unless it cancels, and no earlier one once its owner has read a later one. Copies and calls of retries
are those of plain tasks, which `Truth` checks.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import random
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import Any

import attrs

import flux
from flux.core.engine.queued_work import LONGEST_WITHHELD
from flux.core.ports import CommittedOffset, TopicPartition
from simulation.machine import EPOCH, Process
from simulation.ordered import OrderedForwards, is_committed
from simulation.records import Copy, Epoch
from simulation.scenario import HOUR, MINUTE, Event, RecordPlan, Scenario, TaskPlan, WorkerPlan, draw_retries
from simulation.truth import Truth
from simulation.visible import Added
from simulation.world import World

SCHEDULED = "scheduled"
SETTLING = 420.0
"""Seconds after the last fault until pauses, sessions and restarts have ended."""
CALM_TICKS = 3
"""Of each schedule, after that."""
_SLACK = 0.5
"""Seconds between what the engine was told, or a look at the clock, and the call that follows."""
_LATER = 250.0
"""Seconds that a call may begin after its tick was found to be in time: until the next one is stored."""
_KINDS = (
    "join",
    "stop",
    "stop",
    "gap",
    "crash",
    "crash",
    "crash",
    "freeze",
    "kick",
    "outage",
    "commits",
    "commits lost",
    "writes",
    "writes lost",
    "client full",
    "client broken",
)
_NOBODY = RecordPlan(0, 0, 0.0, 0, None, (), 0, ())


@attrs.frozen
class SchedulePlan:
    """`lengths`: seconds that calls take, by turns. `fails`: each tick of so many fails in its first stage; 0: none."""

    task: int
    seconds: int
    max_late: float | None
    lengths: tuple[float, ...]
    fails: int

    @property
    def title(self) -> str:
        return f"s: every {self.seconds:g} s"


@attrs.frozen
class IdStep:
    """What an application does with an id. `delay`: of the work; None: it cancels."""

    number: int
    at: float
    delay: float | None


@attrs.frozen
class ScheduledScenario(Scenario):
    schedules: tuple[SchedulePlan, ...] = ()
    ids: tuple[tuple[IdStep, ...], ...] = ()
    """By id, in the order in which they are done. All are of the first task."""

    @property
    def one_clock(self) -> bool:
        return not any(worker.skew for worker in self.workers) and all(event.kind != "jump" for event in self.events)


def draw_scheduled(seed: int, focus: Sequence[str] = ()) -> ScheduledScenario:
    """`focus`: the kinds of events that happen; none given: some of all."""
    plain = draw_retries(seed, focus)
    rng = random.Random(f"{seed}/scheduled")
    end = rng.choice((2 * MINUTE, 10 * MINUTE, 2 * HOUR))

    def task(plan: TaskPlan) -> TaskPlan:
        batched = rng.random() < 0.2
        more = {"max_batch": rng.choice((1, 3)), "max_wait": rng.choice((0.0, 1.0))} if batched else {}
        settings = {**plan.settings, "wait": rng.choice((0.0, 1.0, 30.0)), "max_waiting": 100_000, "max_metadata": 4095}
        return attrs.evolve(plan, retries=max(1, plan.retries), batched=batched, settings={**settings, **more})

    tasks = tuple(map(task, plain.tasks))
    seconds = max(1, int(end / rng.choice((3, 8, 15))))
    schedules = tuple(
        SchedulePlan(
            number,
            seconds,
            rng.choice((None, None, max(2.0, seconds / 2))),
            rng.choice(((0.0,), (0.0, 0.0, seconds / 3), (0.0, 2.5 * seconds))),
            rng.choice((0, 0, 3)),
        )
        for number in range(len(tasks))
        if number or rng.random() < 0.8
    )
    workers = tuple(
        WorkerPlan(rng.choice((0.0, 0.0, rng.uniform(0, end))), rng.choice((0.0, 0.0, 0.0, -2.0, 3.0)))
        for _ in range(rng.choice((1, 2, 3)))
    )
    if rng.random() < 0.6:
        workers = tuple(attrs.evolve(each, skew=0.0) for each in workers)
    kinds: Sequence[str] = focus or (_KINDS if rng.random() < 0.9 else (*_KINDS, "jump"))
    ticks = list(range(0, int(end), seconds))
    events = tuple(
        Event(
            rng.choice(kinds),
            rng.choice((rng.uniform(0, end), rng.choice(ticks) + rng.choice((-0.01, 0.0, 0.01, 2.0)))),
            rng.choice((0, rng.randint(0, 30), rng.randint(0, 300))),
            rng.randrange(len(workers)),
            rng.choice((0.5, 5.0, 40.0, 3.0 * seconds)),
            rng.random(),
        )
        for _ in range(rng.choice((0, 1, 3, 6, 12)))
    )
    numbers = iter(range(1, 1000))
    ids = tuple(
        tuple(
            IdStep(next(numbers), at, rng.choice((None, None, 0.0, 1.0, end / 10, end / 2)))
            for at in sorted(rng.uniform(0, end) for _ in range(rng.choice((1, 3, 6))))
        )
        for _ in range(rng.choice((0, 4, 12)))
    )
    drawn = attrs.asdict(plain, recurse=False)
    constants = {name: each for name, each in plain.constants.items() if not name.endswith("backpressure.FULL")}
    more = {"tasks": tasks, "workers": workers, "records": (), "end": end, "dead_too": False, "constants": constants}
    more["events"] = tuple(sorted(events, key=lambda event: event.at))
    return ScheduledScenario(**{**drawn, **more, "schedules": schedules, "ids": ids})


@attrs.define(eq=False)
class NamedCall:
    """A call of a tick, or of work with an id. `tick`: milliseconds since the epoch; `read`: the clock of its process
    when it began."""

    copy: Copy
    process: Process
    began: float
    read: float
    tick: int = 0
    ended: bool = False


class ScheduledTruth(Truth):
    scenario: ScheduledScenario

    def __init__(self, scenario: ScheduledScenario, machine: Any, cluster: Any) -> None:
        super().__init__(scenario, machine, cluster)
        self.forwards = OrderedForwards(self)
        self.by_id: defaultdict[str, list[Copy]] = defaultdict(list)
        """In the order of the log, cancellations too."""
        self.ticks: defaultdict[tuple[str, str], dict[int, list[NamedCall]]] = defaultdict(lambda: defaultdict(list))
        """Calls in the first retry stage, by main topic, schedule and tick."""
        self.worked: defaultdict[tuple[TopicPartition, int], list[NamedCall]] = defaultdict(list)
        self.assigned_at: dict[tuple[Process, TopicPartition], float] = {}
        self.starts: list[float] = []
        self.calm_from = 0.0
        self.calm_to = 0.0

    # ---- the broker

    def visible_copy(self, record: Any) -> Copy:
        _, stage = self.stage_of(record.topic()) or (None, 0)
        headers = dict(record._headers or ())
        at = TopicPartition(record.topic(), record.partition())
        due = int(headers.get("flux-due") or 0)
        copy = Copy(at, record.at, _NOBODY, stage, record, 0, due, self.machine.time, 0)
        self.copies[at, record.at] = copy
        self.by_partition[at].append(copy)
        name = headers.get("flux-id") or headers.get("flux-cancelled")
        what = f"tick {headers.get('flux-tick')!r}" if "flux-schedule" in headers else f"{name!r}"
        self.note(f"{at}@{record.at} stored: {what}, due {due}, value {record.value()!r}")
        if name is not None:
            self.by_id[name.decode()].append(copy)
        for each in (0.0, 5.0):
            self.machine.at(due / 1000 - EPOCH + each, self.machine.touch)
        return copy

    def stored(self, who: Any, at: TopicPartition, position: CommittedOffset, added: Added | None = None) -> None:
        self.note(f"{at} committed {position.offset} {position.metadata}", who.process)
        self.positions[who.group_id, at] = position

    def _check_complete(self, *_: Any) -> None:
        pass

    def _check_moved(self, epoch: Epoch) -> None:
        pass

    def assigned(self, consumer: Any, partitions: Sequence[TopicPartition]) -> None:
        super().assigned(consumer, partitions)
        for at in partitions:
            self.assigned_at[consumer.process, at] = self.machine.time

    def is_done(self, copy: Copy) -> bool:
        """Whether it was committed as done."""
        task, stage = self.stage_of(copy.at.topic) or (None, 0)
        assert task is not None
        position = self.positions.get((f"{task.group}-{stage}", copy.at))
        return is_committed(position, copy.offset)

    # ---- calls

    def begins(self, process: Process, message: Any) -> NamedCall:
        self.machine.touch()
        at = TopicPartition(message.topic, message.partition)
        copy = self.copies[at, message.offset]
        call = NamedCall(copy, process, self.machine.time, process.now())
        headers = dict(copy.record._headers or ())
        self.note(
            f"call of {copy.at}@{copy.offset}, {copy.record.value()!r}, tick {headers.get('flux-tick')!r}", process
        )
        self.counted["calls of ticks"] += "flux-schedule" in headers
        if "flux-schedule" in headers:
            call.tick = int(headers["flux-tick"] or 0)
            self._check_tick(call, str(message.topic).partition("-")[0], (headers["flux-schedule"] or b"").decode())
        elif "flux-id" in headers:
            self._check_replaced(call, (headers["flux-id"] or b"").decode())
        elif "flux-cancelled" in headers:
            raise self.broken(f"a cancellation is called: {at}@{copy.offset}")
        self.worked[at, copy.offset].append(call)
        return call

    def ends(self, call: NamedCall, outcome: str) -> None:
        self.machine.touch()
        self.note(f"call of {call.copy.at}@{call.copy.offset}: {outcome}", call.process)
        call.ended = True

    def _check_tick(self, call: NamedCall, topic: str, title: str) -> None:
        calls = self.ticks[topic, title][call.tick]
        self.counted["ticks repeated"] += bool(calls)
        plan = next(each for each in self.scenario.schedules if self.scenario.tasks[each.task].topic == topic)
        if call.process not in self.jumped:
            if call.tick > (call.read + 0.01) * 1000:
                raise self.broken(f"tick {call.tick} is called before its time, at {call.read:.3f}")
            late = call.read - call.tick / 1000
            if plan.max_late is not None and late > plan.max_late + _LATER and call.process not in self.stalled:
                raise self.broken(f"tick {call.tick} is called {late:.0f} s late")
        for other in calls if self.scenario.one_clock else ():
            if other.copy is not call.copy:
                raise self.broken(f"tick {call.tick} has calls of offsets {other.copy.offset} and {call.copy.offset}")
            if self.is_done(call.copy) and call.process not in self.excused:
                raise self.broken(f"tick {call.tick} is called again, and done")
        calls.append(call)

    def _check_replaced(self, call: NamedCall, name: str) -> None:
        copy, process = call.copy, call.process
        epoch, since = self.epochs.get((process, copy.at)), self.assigned_at.get((process, copy.at), 0.0)
        if epoch is None or process in self.stalled:
            return
        for later in self.by_id[name]:
            if later.offset <= copy.offset or later.at != copy.at:
                continue
            came = epoch.came_at.get(later.offset)
            if came is not None and came < call.began - _SLACK:
                raise self.broken(f"{copy.at}@{copy.offset} is called, and its owner has read {later.offset}")
            if came is None and later.stored_at < since and call.began < since + LONGEST_WITHHELD:
                raise self.broken(f"{copy.at}@{copy.offset} is called, and {later.offset} was there before")

    # ---- the end

    def undone(self) -> list[Copy]:
        """The last works of ids, where they were not called to the end."""
        last = (copies[-1] for copies in self.by_id.values())
        return [copy for copy in last if copy.record.value() is not None and not self._is_worked(copy)]

    def _is_worked(self, copy: Copy) -> bool:
        return any(call.ended for call in self.worked[copy.at, copy.offset])

    def check_end(self) -> None:
        if self.undone():
            raise self.broken(f"lost: {', '.join(f'{copy.at}@{copy.offset}' for copy in self.undone())}")
        for plan in self.scenario.schedules:
            self._check_schedule(plan, self.ticks[self.scenario.tasks[plan.task].topic, plan.title])

    def _check_schedule(self, plan: SchedulePlan, calls: dict[int, list[NamedCall]]) -> None:
        step = plan.seconds * 1000
        called = sorted(calls)
        if not any((self.calm_from + EPOCH) * 1000 < each for each in called):
            raise self.broken(f"{plan.title} has ended: its last tick is {called[-1:]}")
        if self.scenario.one_clock:
            first = int((self.calm_from + EPOCH) * 1000 // step + 1) * step
            for tick in range(first, int((self.calm_to + EPOCH - 2) * 1000), step):
                if len(calls.get(tick, ())) != 1:
                    raise self.broken(
                        f"tick {tick} has {len(calls.get(tick, ()))} calls, and there is no fault any more"
                    )
        for before, after in itertools.pairwise(called) if not self.jumped else ():
            began_ms = min(call.read for call in calls[before]) * 1000
            started = any(before <= (each + EPOCH) * 1000 <= began_ms for each in self.starts)  # each writes a tick
            alike = self.scenario.one_clock and not self.stalled and not started
            if alike and after < began_ms - _LATER * 1000:
                raise self.broken(f"{plan.title}: tick {after} was missed when {before} was called, and is called too")
            passed = before + step  # ticks up to when a call began were missed
            began = max(call.read for call in calls[before]) * 1000
            while passed < after and passed <= began + 5_000:
                passed += step
            late: float = math.inf if plan.max_late is None else plan.max_late * 1000
            if passed < after and after - passed <= late:
                raise self.broken(f"{plan.title}: tick {passed} is lost, between {before} and {after}")


class ScheduledHandler:
    """The call of a task with schedules and ids."""

    def __init__(self, world: ScheduledWorld, process: Process) -> None:
        self._world = world
        self._process = process

    def call(self, message: Any) -> None:
        truth, machine = self._world.truth, self._world.machine
        call = truth.begins(self._process, message)
        machine.point()
        if length := self._length(message):
            machine.park(length)
        self._end(call, message)

    async def call_async(self, message: Any) -> None:
        call = self._world.truth.begins(self._process, message)
        await asyncio.sleep(0)
        if length := self._length(message):
            self._world.machine.at(self._world.machine.time + length, self._world.machine.touch)
            await asyncio.sleep(length)
        self._end(call, message)

    def _end(self, call: NamedCall, message: Any) -> None:
        plan = self._plan(message)
        fails = (
            plan is not None
            and plan.fails
            and message.stage == 1
            and call.tick // 1000 // plan.seconds % plan.fails == 0
        )
        self._world.truth.ends(call, "fails" if fails else "done")
        if fails:
            raise ValueError("a tick that fails")

    def _length(self, message: Any) -> float:
        plan, tick = self._plan(message), int(message.headers.get("flux-tick") or 0)
        if plan is None or message.stage > 1 or not self._world.faulty:
            return 0.0
        return plan.lengths[tick // 1000 // plan.seconds % len(plan.lengths)]

    def _plan(self, message: Any) -> SchedulePlan | None:
        if message.headers.get("flux-schedule") is None:
            return None
        scenario = self._world.scenario
        return next(
            each for each in scenario.schedules if message.topic.startswith(f"{scenario.tasks[each.task].topic}-")
        )


class ScheduledWorld(World):
    scenario: ScheduledScenario
    truth: ScheduledTruth

    def _truth(self) -> ScheduledTruth:
        return ScheduledTruth(self.scenario, self.machine, self.cluster)

    def _task(self, plan: TaskPlan, retries: int, process: Process) -> Any:
        cls = super()._task(plan, retries, process)
        handle = ScheduledHandler(self, process)

        async def call_async(task: Any, message: Any) -> None:
            for each in message if plan.batched else [message]:
                await handle.call_async(each)

        def call(task: Any, message: Any) -> None:
            for each in message if plan.batched else [message]:
                handle.call(each)

        cls.call = call_async if plan.awaited else call
        for each in self.scenario.schedules:
            if self.scenario.tasks[each.task] is plan:
                cls.every(seconds=each.seconds, name="s", value=b"tick", max_late=each.max_late)
        return cls

    def start(self, number: int) -> None:
        self.truth.starts.append(self.machine.time)
        super().start(number)

    def play(self) -> None:
        for number, steps in enumerate(self.scenario.ids):
            self.enqueuing += 1
            self.machine.at(steps[0].at, partial(self._begin_id, f"id {number}", steps))
        super().play()

    def _begin_id(self, name: str, steps: Sequence[IdStep]) -> None:
        self.machine.spawn("enqueue", partial(self._use_id, name, steps), self.app)

    def _use_id(self, name: str, steps: Sequence[IdStep]) -> None:
        cls = self._task(self.scenario.tasks[0], self.retries[0], self.app)
        for each in steps:
            self.machine.park(max(0.0, each.at - self.machine.time))
            written = False
            while not written:
                delivery = None
                with contextlib.suppress(flux.DeliveryError, flux.FluxError):
                    if each.delay is None:
                        delivery = cls.cancel(name)
                    else:
                        delivery = cls.enqueue(b"w%d" % each.number, delay=each.delay, id=name)
                while delivery is not None and not delivery.done():
                    self.machine.park(0.05, rounds=True)
                written = delivery is not None and delivery.exception() is None
                if not written:
                    self.machine.park(1.0)
        self.enqueuing -= 1

    def recover(self) -> None:
        super().recover()
        longest = max((each.seconds for each in self.scenario.schedules), default=0)
        self.truth.calm_from = self.machine.time + SETTLING + 3 * longest
        self.truth.calm_to = self.truth.calm_from + CALM_TICKS * longest

    def _drained(self) -> bool:
        truth = self.truth
        if truth.undone() and self.machine.time > truth.calm_to + self.scenario.end:  # no work waits for longer
            raise truth.broken(f"held, and there is no fault any more: {truth.undone()[0]}")
        return not self.enqueuing and not truth.undone() and self.machine.time > truth.calm_to
