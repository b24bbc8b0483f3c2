"""Limits by name and of the group, outages found by the share of calls that fail, and little memory for what waits."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import attrs

import flux
from flux.core.engine.outages import Outages
from flux.core.engine.retries import Retries
from flux.core.engine.verdicts import Move
from flux.core.limits import backpressure
from simulation.records import name_of
from simulation.scenario import Event, RecordPlan, Scenario, TaskPlan, draw_retries
from simulation.world import World

LIMITED = "limited"
_WITHIN = 86_400.0
_KINDS = ("join", "stop", "stop", "crash", "crash", "kick", "freeze", "grow", "topics", "gap", "commits lost", "writes")


def draw_limited(seed: int, focus: Sequence[str] = ()) -> Scenario:
    """Many records at once, a few outages, workers that come and go. `focus`: the kinds of events that happen."""
    scenario = draw_retries(seed, focus)
    rng = random.Random(f"{seed}/limited")

    def task(plan: TaskPlan) -> TaskPlan:
        kinds = rng.sample(("rate", "rate", "group", "group", "calls", "share", "share", "host", "host"), 3)
        settings: dict[str, Any] = {}
        if {"rate", "group"} & set(kinds):
            settings["rate_limit"] = rng.choice((0.5, 2, 2, 20, 200))
        if "rate" in kinds:
            settings["rate_limit_key"] = name_of
        if "group" in kinds:
            settings["rate_limit_scope"] = "group"
        if "calls" in kinds:
            settings |= {"concurrency_key": name_of, "concurrency_per_key": rng.choice((1, 2))}
        by = name_of if "host" in kinds else None
        if {"share", "host"} & set(kinds):
            settings["pause_when"] = flux.FailureRate(
                rng.choice((0.5, 1)), of=rng.choice((1, 2, 6)), within=_WITHIN, by=by
            )
        return attrs.evolve(plan, pause="failure", settings={**plan.settings, **settings})

    def record(plan: RecordPlan) -> RecordPlan:
        if flood:
            plan = attrs.evolve(plan, at=0.0, partition=0, key=None)
        at = rng.choice((0.0, 0.0, plan.at))
        return attrs.evolve(plan, at=at, key=rng.choice((None, plan.key)))

    flood = rng.random() < 0.3
    records = tuple(sorted(map(record, scenario.records), key=lambda each: each.at))
    calm = rng.random() < 0.4

    def event(kind: str) -> Event:
        near = rng.choice(records).at + rng.choice((0.0, 0.01, 2.0, 10.0))
        at = near if rng.random() < 0.7 else rng.uniform(0, scenario.end)
        steps = rng.choice((0, rng.randint(0, 30), rng.randint(0, 500)))
        return Event(kind, at, steps, rng.randrange(len(scenario.workers)), rng.choice((0.5, 5.0, 40.0)), rng.random())

    kinds = ["away"] * rng.choice((0, 1, 3))
    kinds += [] if calm else [rng.choice(focus or _KINDS) for _ in range(rng.choice((1, 3, 6)))]
    return attrs.evolve(
        scenario,
        tasks=tuple(map(task, scenario.tasks)),
        records=records,
        events=tuple(sorted(map(event, kinds), key=lambda each: each.at)),
        dead_too=False,
        constants={**scenario.constants, "flux.core.limits.backpressure.FULL": rng.choice((3, 3, 10, 1000))},
    )


def judging(world: World) -> Callable[..., Move | None]:
    """`Outages.found`, with what it finds of a call by the share of those that fail."""
    found = Outages.found

    def judged(self: Outages, run: Any, index: int, message: Any, failure: Any, now: float) -> Move | None:
        move = found(self, run, index, message, failure, now)
        assert world.machine.current is not None
        world.truth.judged(world.machine.current.process, message, move in (Move.PAUSE, Move.HOLD))
        return move

    return judged


def _paused(outages: Outages) -> set[str]:
    breakers = outages._common.call_limits.breakers
    return set() if breakers is None else set(breakers.paused)


def relieving(world: World) -> tuple[Callable[..., None], Callable[..., None]]:
    """`Outages.relieve` and `Retries.move_on`, with the records that move without a call."""
    relieve, move_on, inside = Outages.relieve, Retries.move_on, set[Any]()
    counts: dict[Any, int] = {}

    def relieved(self: Outages, assignments: Any, now: float) -> None:
        assert world.machine.current is not None
        process = world.machine.current.process
        inside.add(process)
        before = _paused(self)
        counts.update((assignment, assignment.in_key_queues) for assignment in assignments)
        relieve(self, assignments, now)
        topic = self._common.stage.topic.partition("-")[0]
        for name in before - _paused(self):
            world.truth.gates.forgotten(process, topic, name)
        inside.discard(process)

    def moved(self: Retries, entry: Any, verdict: Any, failure: Any, now: float) -> None:
        assert world.machine.current is not None
        if world.machine.current.process in inside:
            if counts[entry.assignment] < backpressure.FULL:
                raise world.truth.broken(f"{entry} moves on without a call, and there is room")
            name = f"#{world.relieve(entry.message)};"
            failure = attrs.evolve(failure, error=type(name, (ValueError,), {})(name))
        move_on(self, entry, verdict, failure, now)

    return relieved, moved
