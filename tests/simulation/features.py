"""What a task may use beyond retries: drawn apart from the rest of a scenario, so that each can be left out."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import attrs

import flux
from flux.core.engine.crashes import MOST_CRASHES
from flux.core.policy import LEAST_METADATA
from simulation.holding import HOLDING, draw_holding
from simulation.limited import LIMITED, draw_limited
from simulation.ordered import ORDERED, draw_ordered
from simulation.records import name_of
from simulation.scenario import Event, Outcome, RecordPlan, Scenario, TaskPlan, draw_retries
from simulation.scheduled import SCHEDULED, draw_scheduled

EXACTLY_ONCE = "exactly-once"
NAMES = "names"
KILLS = "kills"
FEATURES = ("pauses", "quick", "expiry", "rate", "timeouts", "middleware", "batches", "enqueued")


def draw(seed: int, focus: Sequence[str] = (), wanted: Sequence[str] | None = None) -> Scenario:
    """`focus`: the kinds of events that happen; none given: some, or all. `wanted`: the features; None: none, some or
    many."""
    if HOLDING in (wanted or ()):
        scenario = draw_holding(seed, focus)
        if EXACTLY_ONCE not in (wanted or ()):
            return scenario
        return _exactly_once(scenario, random.Random(f"{seed}/holding, exactly-once"), True)
    if ORDERED in (wanted or ()):
        return _ordered(draw_ordered(seed, focus), random.Random(f"{seed}/ordered, crashes"), wanted or ())
    if LIMITED in (wanted or ()):
        return draw_limited(seed, focus)
    if SCHEDULED in (wanted or ()):
        return draw_scheduled(seed, focus)
    scenario = draw_retries(seed, focus)
    rng = random.Random(f"{seed}/features")
    drawn = [] if rng.random() < 0.4 else rng.sample(FEATURES, rng.choice((1, 1, 2, 3, 5)))
    chosen = [name for name in FEATURES if name in (drawn if wanted is None else wanted)]
    for name in chosen:
        scenario = _ADDING[name](scenario, rng)
    # apart from the rest, whose seeds are known by number
    rng = random.Random(f"{seed}/exactly-once")
    if EXACTLY_ONCE in (wanted or ()) or (wanted is None and rng.random() < 0.4):
        scenario = _exactly_once(scenario, rng, wanted is not None)
    rng = random.Random(f"{seed}/rejoins")
    if wanted is None and not focus and rng.random() < 0.3:
        scenario = _rejoins(scenario, rng)
    rng = random.Random(f"{seed}/kills")
    if KILLS in (wanted or ()) or (wanted is None and not focus and rng.random() < 0.15):
        return _kills(scenario, rng)
    if wanted is None and not focus and rng.random() < 0.8:  # what processes note does no harm
        scenario = _with_settings(scenario, max_crashes=MOST_CRASHES)
    # as above
    rng = random.Random(f"{seed}/names")
    if NAMES in (wanted or ()) or (wanted is None and rng.random() < 0.15):
        scenario = _names(scenario, rng)
    return scenario


def _with_settings(scenario: Scenario, **settings: Any) -> Scenario:
    return _tasks(scenario, lambda task: attrs.evolve(task, settings={**task.settings, **settings}))


def _tasks(scenario: Scenario, change: Any) -> Scenario:
    return attrs.evolve(scenario, tasks=tuple(map(change, scenario.tasks)))


def _records(scenario: Scenario, change: Any) -> Scenario:
    return attrs.evolve(scenario, records=tuple(map(change, scenario.records)))


def _pauses(scenario: Scenario, rng: random.Random) -> Scenario:
    def outage() -> Event:
        near = rng.choice(scenario.records).at if scenario.records and rng.random() < 0.7 else rng.uniform(0, end)
        length = rng.choice((0.5, 5.0, 40.0, 400.0))
        return Event("away", near, rng.choice((0, 20)), 0, min(length, end), rng.random())

    end = scenario.end
    events = (*scenario.events, *(outage() for _ in range(rng.choice((1, 2, 4)))))
    scenario = attrs.evolve(scenario, events=tuple(sorted(events, key=lambda event: event.at)))
    return _tasks(scenario, lambda task: attrs.evolve(task, pause=rng.choice(("plain", "seconds", "error"))))


def _in_place(scenario: Scenario, rng: random.Random) -> Scenario:
    def stumbling(outcome: Outcome) -> Outcome:
        return attrs.evolve(outcome, stumbles=rng.choice((0, 0, 0, 1, 2, 4)))

    def change(record: RecordPlan) -> RecordPlan:
        return attrs.evolve(record, outcomes=tuple(map(stumbling, record.outcomes)))

    settings = {"in_place_retries": rng.choice((1, 2, 3)), "in_place_wait": rng.choice((0.0, 0.01, 0.5, 5.0, 30.0))}
    return _with_settings(_records(scenario, change), **settings)


def _names(scenario: Scenario, rng: random.Random) -> Scenario:
    """Limits by name, and outages of one name, for tasks without batches."""

    def change(task: TaskPlan) -> TaskPlan:
        if task.batched or any(record.kills for record in scenario.records):
            return task  # records that are called alone, after a crash, have no limit by name
        kinds = rng.sample(("calls", "outages"), rng.choice((1, 1, 2)))
        settings: dict[str, Any] = {}
        if "calls" in kinds:
            settings = {"concurrency_key": name_of, "concurrency_per_key": rng.choice((1, 2))}
        if "outages" in kinds:
            settings["pause_when"] = flux.FailureRate(1, of=100_000, by=name_of)
        return attrs.evolve(task, settings={**task.settings, **settings})

    # what fills the memory would move, uncalled
    constants = {name: each for name, each in scenario.constants.items() if not name.endswith("backpressure.FULL")}
    return _tasks(_pauses(attrs.evolve(scenario, constants=constants), rng), change)


def _expiry(scenario: Scenario, rng: random.Random) -> Scenario:
    return _with_settings(scenario, give_up_after=rng.choice((0.5, 10.0, 120.0, 3600.0)))


def _rate(scenario: Scenario, rng: random.Random) -> Scenario:
    return _with_settings(scenario, rate_limit=rng.choice((0.5, 2, 20, 200)))


def _timeouts(scenario: Scenario, rng: random.Random) -> Scenario:
    return _with_settings(scenario, timeout=rng.choice((0.5, 5.0, 60.0)))


def _middleware(scenario: Scenario, rng: random.Random) -> Scenario:
    return _tasks(scenario, lambda task: attrs.evolve(task, surrounded=True))


def _batches(scenario: Scenario, rng: random.Random) -> Scenario:
    def change(task: TaskPlan) -> TaskPlan:
        batch = {"max_batch": rng.choice((1, 2, 5, 100)), "max_wait": rng.choice((0.0, 0.1, 1.0, 20.0))}
        return attrs.evolve(task, batched=True, settings={**task.settings, **batch})

    return _tasks(scenario, change)


def _enqueued(scenario: Scenario, rng: random.Random) -> Scenario:
    def change(record: RecordPlan) -> RecordPlan:
        if not scenario.tasks[record.task].retries or rng.random() < 0.5:
            return record
        own = tuple(pair for pair in record.headers if not pair[0].startswith("flux-"))
        return attrs.evolve(record, delay=rng.choice((0.0, 0.5, 5.0, 600.0)), headers=own)

    return _records(scenario, change)


def _exactly_once(scenario: Scenario, rng: random.Random, all_tasks: bool) -> Scenario:
    """Of tasks whose client has transactions. `all_tasks`: of the others too, with such a client."""

    def change(task: TaskPlan) -> TaskPlan:
        if task.mode.startswith("loop"):
            if not all_tasks:
                return task
            task = attrs.evolve(task, mode="tasks" if task.awaited else "threads")
        elif not all_tasks and rng.random() < 0.15:
            return task
        most = max(LEAST_METADATA, task.settings["max_metadata"])
        interval = rng.choice((0.0, 0.02, 0.2, 0.2, task.settings["offset_commit_interval"]))
        exact = {"exactly_once": True, "max_metadata": most, "offset_commit_interval": interval}
        return attrs.evolve(task, settings={**task.settings, **exact})

    def unsent(record: RecordPlan) -> RecordPlan:
        if "exactly_once" not in scenario.tasks[record.task].settings:
            return record
        more = rng.random() < 0.5

        def change(outcome: Outcome) -> Outcome:
            return attrs.evolve(outcome, deliver=False, products=outcome.products or rng.choice((0, 1, 2)) * more)

        return attrs.evolve(record, outcomes=tuple(map(change, record.outcomes)))

    scenario = _tasks(scenario, change)
    scenario = _records(scenario, unsent)
    if not scenario.clean:
        events = [_trouble(scenario, rng) for _ in range(rng.choice((0, 1, 2, 4)))]
        scenario = attrs.evolve(scenario, events=tuple(sorted((*scenario.events, *events), key=lambda event: event.at)))
    most = {
        "flux.core.engine.transactions.MOST_OUTPUTS": rng.choice((2, 10, 50_000)),
        "flux.core.engine.retries.MOST_IN_TRANSACTION": scenario.constants["flux.core.engine.retries.MOST_OPEN"],
    }
    return attrs.evolve(
        scenario,
        ids_taken_over=rng.random() < 0.6,
        memberships_of_polls=rng.random() < 0.5,
        constants={**scenario.constants, **most},
    )


def _ordered(scenario: Scenario, rng: random.Random, wanted: Sequence[str]) -> Scenario:
    if EXACTLY_ONCE in wanted:
        scenario = _exactly_once(scenario, rng, True)
    if KILLS in wanted:
        return _kills(scenario, rng)
    return _with_settings(scenario, max_crashes=MOST_CRASHES) if rng.random() < 0.5 else scenario


def _kills(scenario: Scenario, rng: random.Random) -> Scenario:
    """No process vanishes for another reason, nor fails, as its last commit may fail too: otherwise a record that one
    was calling might be blamed."""

    def survived(outcome: Outcome) -> Outcome:
        return attrs.evolve(outcome, crash=False)

    def change(record: RecordPlan) -> RecordPlan:
        outcomes = tuple(map(survived, record.outcomes))
        return attrs.evolve(record, kills=record.number in numbers, outcomes=outcomes)

    numbers = {record.number for record in scenario.records if rng.random() < 0.1}
    numbers |= {rng.choice(scenario.records).number}
    scenario = _records(scenario, change)
    events = tuple(event for event in scenario.events if event.kind not in VANISHING)
    settings = {"max_crashes": rng.choice((2, 2, 3, 4)), "max_metadata": 4095}
    return attrs.evolve(_with_settings(scenario, **settings), events=events, dead_too=False)


def _rejoins(scenario: Scenario, rng: random.Random) -> Scenario:
    """Members that take their partitions for lost and get them again, while their groups notice nothing."""
    kinds = ["rejoin"]
    if any("exactly_once" in task.settings for task in scenario.tasks):
        kinds += ["rejoin in a transaction"] * 3

    def event() -> Event:
        at = rng.choice(scenario.records).at + rng.choice((0.0, 0.01, 0.2, 2.0))
        return Event(rng.choice(kinds), at, 0, rng.randrange(len(scenario.workers)), 0.0, rng.random())

    events = (*scenario.events, *(event() for _ in range(rng.choice((1, 2, 4)))))
    return attrs.evolve(scenario, events=tuple(sorted(events, key=lambda each: each.at)))


VANISHING = (
    "crash",
    "freeze",
    "deploy",
    "crash in a transaction",
    "freeze in a transaction",
    # to lose partitions counts as a crash
    "rejoin",
    "rejoin in a transaction",
)


def _trouble(scenario: Scenario, rng: random.Random) -> Event:
    kind = rng.choice((*IN_TRANSACTIONS, "transactions", "kick", "crash", "freeze"))
    near = rng.choice(scenario.records).at + rng.choice((0.0, 0.01, 0.2, 2.0))
    at = near if rng.random() < 0.7 else rng.uniform(0, scenario.end)
    length = rng.choice((0.5, 5.0, 20.0, 40.0, 400.0))
    return Event(
        kind, at, rng.choice((0, 20, rng.randint(0, 300))), rng.randrange(len(scenario.workers)), length, rng.random()
    )


IN_TRANSACTIONS = (
    "transactions",
    "crash in a transaction",
    "freeze in a transaction",
    "kick in a transaction",
    "superseded",
)
"""Kinds of events."""

_ADDING = {
    "pauses": _pauses,
    "quick": _in_place,
    "expiry": _expiry,
    "rate": _rate,
    "timeouts": _timeouts,
    "middleware": _middleware,
    "batches": _batches,
    "enqueued": _enqueued,
}


def _without_settings(scenario: Scenario, *names: str) -> Scenario:
    def change(task: TaskPlan) -> TaskPlan:
        return attrs.evolve(task, settings={name: each for name, each in task.settings.items() if name not in names})

    return _tasks(scenario, change)


def _at_once(scenario: Scenario) -> Scenario:
    return _records(scenario, lambda record: attrs.evolve(record, delay=None))


def _one_by_one(scenario: Scenario) -> Scenario:
    plain = _without_settings(scenario, "max_batch", "max_wait")
    return _tasks(plain, lambda task: attrs.evolve(task, batched=False))


WITHOUT = {
    "pauses": lambda s: attrs.evolve(s, events=tuple(event for event in s.events if event.kind != "away")),
    "quick": lambda s: _without_settings(s, "in_place_retries", "in_place_wait"),
    "expiry": lambda s: _without_settings(s, "give_up_after"),
    "rate": lambda s: _without_settings(s, "rate_limit"),
    "timeouts": lambda s: _without_settings(s, "timeout"),
    "middleware": lambda s: _tasks(s, lambda task: attrs.evolve(task, surrounded=False)),
    "batches": _one_by_one,
    "enqueued": _at_once,
    NAMES: lambda s: _without_settings(s, "concurrency_key", "concurrency_per_key", "pause_when"),
    EXACTLY_ONCE: lambda s: _without_settings(s, "exactly_once"),
    KILLS: lambda s: _records(s, lambda record: attrs.evolve(record, kills=False)),
}
"""The same scenario without one of them."""
