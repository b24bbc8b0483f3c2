"""What happens in one run, drawn from its seed before the run begins, so that parts of it can be left out."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, Literal

import attrs

Mode = Literal["threads", "tasks", "loop", "loop-threads"]
"""Which drivers: threads, or an event loop for the handlers, the client, or both."""

MINUTE, HOUR = 60.0, 3600.0


@attrs.frozen
class Outcome:
    """How a call ends, always the same for one record in one stage."""

    kind: Literal["done", "error", "reject", "retry"] = "done"
    length: float = 0.0
    """Seconds that the call takes."""
    after: float | None = None
    products: int = 0
    deliver: bool = False
    """Whether the handler waits for what it produced."""
    crash: bool = False
    """The first call ends with a MemoryError instead."""
    stumbles: int = 0
    """Calls here that fail before one ends so: as many tries in place it takes."""


@attrs.frozen
class RecordPlan:
    number: int
    task: int
    at: float
    partition: int
    key: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    padding: int
    outcomes: tuple[Outcome, ...]
    """By stage; the last one repeats."""
    delay: float | None = None
    """Seconds: an application enqueues it, to be done then; None: it is written to the main topic."""
    kills: bool = False
    """Whether each of its calls ends the process."""

    def outcome(self, stage: int) -> Outcome:
        return self.outcomes[min(stage, len(self.outcomes) - 1)]


@attrs.frozen
class TaskPlan:
    topic: str
    group: str
    partitions: int
    retries: int
    mode: Mode
    settings: dict[str, Any]
    pause: Literal["plain", "seconds", "error", "failure"] = "plain"
    """How calls tell of an outage of what they need; failure: they do not, and simply fail."""
    batched: bool = False
    surrounded: bool = False
    """By middleware."""

    @property
    def awaited(self) -> bool:
        return self.mode in ("tasks", "loop")


@attrs.frozen
class WorkerPlan:
    at: float
    """When it starts."""
    skew: float
    """Seconds that its wall clock is ahead."""


@attrs.frozen
class Event:
    """`steps`: points of interruption between `at` and when it happens. `worker`: its number. `length`: seconds."""

    kind: str
    at: float
    steps: int
    worker: int
    length: float
    choice: float
    """From 0 to 1, for what else is to be chosen."""


@attrs.frozen
class Scenario:
    seed: int
    tasks: tuple[TaskPlan, ...]
    workers: tuple[WorkerPlan, ...]
    records: tuple[RecordPlan, ...]
    events: tuple[Event, ...]
    end: float
    """When faults stop, in seconds."""
    switching: float
    latency: float
    """Seconds that the producers' client takes for a record, and for its acknowledgement; 0: both come at once."""
    duplicates: float
    """How likely a fetch brings records once more."""
    slow_commits: float
    """How likely a commit takes effect in the next poll only."""
    max_poll_interval: float
    dead_too: bool
    """Whether workers work the dead letters once more, until faults stop."""
    constants: dict[str, int]
    """Limits of flux, made small."""
    ids_taken_over: bool = False
    """Whether a process takes the transactional id of one that has died."""
    memberships_of_polls: bool = False
    """Whether a consumer's membership is known as of its last poll or rebalance, as that of confluent-kafka is."""

    @property
    def clean(self) -> bool:
        """Whether the cluster and the workers do what they are told."""
        return not self.latency and all(event.kind in (*CLEAN, "away") for event in self.events)

    @property
    def prompt(self) -> bool:
        """Whether nothing but what its task uses is in the way of a record whose time has come."""
        return not (
            any(event.kind != "away" for event in self.events)
            or self.dead_too
            or self.latency
            or any(worker.at or worker.skew for worker in self.workers)
            or any(task.settings[name] < 1000 for name in ("max_waiting", "max_metadata") for task in self.tasks)
            or any(record.kills for record in self.records)
            or any(outcome.length or outcome.crash for record in self.records for outcome in record.outcomes)
        )


CLEAN = ("join", "stop", "grow", "gap", "topics")
FAULTS = (
    "crash",
    "crash",
    "freeze",
    "kick",
    "jump",
    "outage",
    "commits",
    "commits lost",
    "metadata",
    "writes",
    "writes lost",
    "writes refused",
    "client full",
    "client broken",
    "delete",
    "deploy",
)


def draw_retries(seed: int, focus: Sequence[str] = ()) -> Scenario:
    """Tasks that use retries and nothing else. `focus`: the kinds of events that happen; none given: some, or all."""
    rng = random.Random(f"{seed}/scenario")
    calm = rng.random() < 0.1 and not focus
    clean = rng.random() < 0.25
    quick = rng.random() < 0.4 or calm
    end = rng.choice((20.0, 2 * MINUTE, 10 * MINUTE, 2 * HOUR))
    latency = 0.0 if calm else rng.choice((0.0, 0.0, 0.005, 0.3))
    tasks = tuple(_task(rng, number, calm) for number in range(rng.choice((1, 1, 1, 2))))
    workers = tuple(
        WorkerPlan(
            0.0 if calm else rng.choice((0.0, 0.0, rng.uniform(0, end))),
            0.0 if clean or calm else rng.choice((0.0, 0.0, -2.0, 3.0)),
        )
        for _ in range(rng.choice((1, 2, 2, 3)))
    )
    records = tuple(
        _record(rng, number, tasks, end, quick, clean or calm) for number in range(rng.choice((1, 4, 12, 12, 30, 60)))
    )
    kinds: Sequence[str] = CLEAN if clean else (*CLEAN, *FAULTS)
    if rng.random() < 0.5:
        kinds = rng.sample(kinds, rng.randint(1, 3))  # often the same few find more than one of each
    events = tuple(
        _event(rng, focus or kinds, len(workers), end, records) for _ in range(0 if calm else rng.randint(1, 10))
    )
    return Scenario(
        seed=seed,
        tasks=tasks,
        workers=workers,
        records=tuple(sorted(records, key=lambda record: record.at)),
        events=tuple(sorted(events, key=lambda event: event.at)),
        end=end,
        switching=rng.choice((0.0, 0.02, 0.2, 0.5)),
        latency=latency,
        duplicates=rng.choice((0.0, 0.0, 0.1)),
        slow_commits=rng.choice((0.0, 0.3)),
        max_poll_interval=rng.choice((60.0, 300.0)),
        dead_too=len(tasks) == 1 and rng.random() < 0.25,
        constants={
            "flux.core.engine.common.BATCH": rng.choice((2, 7, 500)),
            "flux.core.limits.backpressure.FULL": rng.choice((3, 10, 1000)),
            "flux.core.limits.dispatch_mode.CHUNK": rng.choice((2, 5, 100)),
            "flux.core.engine.retries.MOST_OPEN": rng.choice((2, 10, 5000)),
            "flux.core.engine.dispatch.SMALL": rng.choice((0, 0, 5)),
        },
    )


def str_of(error: BaseException) -> str:
    """What of an error goes into headers: the name of the call is in it."""
    return str(error)


def _task(rng: random.Random, number: int, calm: bool) -> TaskPlan:
    retries = rng.choice((0, 1, 1, 2, 2, 3))
    wait: Any = rng.choice((None, 0.0, 1.0, 30.0, [2.0, 600.0], [0.5, 0.5, HOUR]))
    settings = {
        "wait": wait,
        "ordering": rng.choice(("key", "key", "key", "partition", "none")),
        "concurrency": rng.choice((1, 2, 4, 10)),
        "offset_commit_interval": rng.choice((0.0, 0.5, 5.0, 5.0, 60.0)),
        "offset_commit_threshold": rng.choice((1, 3, 10_000)),
        "drain_timeout": rng.choice((0.0, 2.0, 10.0, 10.0)),
        "shutdown_timeout": rng.choice((2.0, 25.0, 25.0)),
        "max_waiting": 100_000 if calm else rng.choice((1, 6, 100_000, 100_000)),
        "max_metadata": 4095 if calm else rng.choice((0, 22, 40, 4095, 4095, 4095)),
        "error_headers": rng.choice(("full", "full", "full", str_of)),
        "max_crashes": None,
    }
    mode: Mode = rng.choice(("threads", "threads", "threads", "tasks", "loop", "loop-threads"))
    return TaskPlan(f"T{number}", f"G{number}", rng.choice((1, 2, 3)), retries, mode, settings)


_HEADERS: tuple[tuple[str, bytes | None], ...] = (
    ("trace", b"1"),
    ("trace", b"2"),
    ("empty", b""),
    ("none", None),
    ("flux-due", b"99999999999999"),
    ("flux-attempts", b"7"),
    ("flux-origin-offset", b"0"),
)


def _record(
    rng: random.Random, number: int, tasks: tuple[TaskPlan, ...], end: float, quick: bool, clean: bool
) -> RecordPlan:
    task = rng.randrange(len(tasks))
    key = rng.choice((None, b"", b"a", b"a", b"b", b"c", b"d"))
    outcomes = tuple(_outcome(rng, quick, clean, end) for _ in range(5))
    return RecordPlan(
        number=number,
        task=task,
        at=rng.choice((0.0, rng.uniform(0, end), rng.uniform(0, end))),
        partition=rng.randrange(tasks[task].partitions),
        key=key,
        headers=tuple(rng.sample(_HEADERS, rng.choice((0, 0, 1, 4)))),
        padding=rng.choice((0, 0, 0, 200)),
        outcomes=outcomes,
    )


def _outcome(rng: random.Random, quick: bool, clean: bool, end: float) -> Outcome:
    kind: Any = rng.choices(("done", "error", "retry", "reject"), (60, 25, 10, 5))[0]
    length = 0.0 if quick else rng.choices((0.0, 0.003, 1.0, 20.0, HOUR), (70, 12, 12, 5, 1 if end > 1000 else 0))[0]
    return Outcome(
        kind=kind,
        length=length * rng.uniform(0.5, 1.5),
        after=rng.choice((None, 0.0, 5.0, 20 * MINUTE)) if kind == "retry" else None,
        products=rng.choices((0, 1, 3), (80, 15, 5))[0],
        deliver=rng.random() < 0.2,
        crash=not clean and rng.random() < 0.02,
    )


def _event(
    rng: random.Random, kinds: Sequence[str], workers: int, end: float, records: tuple[RecordPlan, ...]
) -> Event:
    return Event(
        kind=rng.choice(kinds),
        at=rng.choice((rng.uniform(0, end), rng.choice(records).at + rng.choice((0.0, 0.01, 2.0)))),
        steps=rng.choice((0, rng.randint(0, 30), rng.randint(0, 500))),
        worker=rng.randrange(workers),
        length=rng.choice((0.5, 5.0, 40.0, 400.0, end)),
        choice=rng.random(),
    )
