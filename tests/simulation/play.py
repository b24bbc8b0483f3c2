"""Plays one scenario from its beginning to its end."""

from __future__ import annotations

import contextlib
import contextvars
import hashlib
import importlib
import logging
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import attrs

import flux.consuming.call_results
import flux.consuming.handlers
import flux.worker
from flux.consuming import call_chain as pipeline
from flux.consuming.transaction_thread import TransactionThreads
from flux.core.engine.outages import Outages
from flux.core.engine.retries import Retries
from flux.core.engine.verdicts import Expired
from flux.core.message import Message
from flux.producing import flusher, pending_acks
from flux.producing.delivery import Delivery
from flux.producing.produced import Produced
from flux.producing.registry import PRODUCERS
from simulation.gates import by_share
from simulation.limited import judging, relieving
from simulation.machine import Process
from simulation.records import Violation
from simulation.scenario import HOUR, Scenario
from simulation.scheduled import ScheduledScenario, ScheduledWorld
from simulation.system import Local, RLock
from simulation.world import World


@attrs.define
class Result:
    """`history`: a line for each thing that happened; `digest`: of all of it; `faults`: how many of each kind;
    `steps`: points at which a thread could be interrupted."""

    history: list[str]
    digest: str
    hours: float
    faults: dict[str, int]
    steps: int
    calls: int
    violation: Violation | None


def _telling(world: World) -> Callable[[float, Callable[[], float]], pipeline.Step]:
    """What looks at a record's age, and tells whom it refuses."""

    def expiring(give_up_after: float, now: Callable[[], float]) -> pipeline.Step:
        check = pipeline.expiring(give_up_after, now)

        def told(message: Message) -> None:
            try:
                check(message)
            except Expired:
                name = f"#{world.refuse(message)};"
                raise type(name, (Expired,), {})(name) from None

        return told

    return expiring


def _failing(world: World) -> Callable[[Produced, Exception], None]:
    fail = Produced.fail

    def told(self: Produced, error: Exception) -> None:
        world.truth.forwards.without_room([each.record for each in self.held])
        fail(self, error)

    return told


class _ClaimedId:
    """`flux.system.transactional_ids.TransactionalId`."""

    def __init__(self, world: World, process: Process, prefix: str) -> None:
        self._claim = partial(world.claim, process=process)
        self._prefix = prefix
        self.id = self._claim(prefix)

    def another(self) -> str:
        self.id = self._claim(f"{self._prefix}-other")
        return self.id

    def release(self) -> None:
        pass


def _claiming(world: World) -> Callable[[Any], TransactionThreads]:
    def threads(system: Any) -> TransactionThreads:
        return TransactionThreads(system, partial(_ClaimedId, world, system.process))  # type: ignore[arg-type]

    return threads


def _waiting_here(world: World, result: Any) -> Any:
    """Waits in the running thread of the machine."""

    def wait(self: Delivery, timeout: float | None = None) -> Any:
        deadline = world.machine.time + (math.inf if timeout is None else timeout)
        while not self.done() and world.machine.time < deadline:
            world.machine.park(0.01, rounds=True)
        return result(self, 0)

    return wait


@contextlib.contextmanager
def _patched(world: World) -> Iterator[None]:
    """What of flux does not go through its System, and its limits, for one run."""
    changes: list[tuple[Any, str, Any]] = [
        (flusher, "Lock", lambda: RLock(world.machine)),
        (pending_acks, "_acknowledging", Local()),
        (flux.consuming.call_results, "trace_of", lambda error: "trace"),
        (flux.consuming.handlers, "expiring", _telling(world)),
        (Produced, "fail", _failing(world)),
        (flux.worker, "TransactionThreads", _claiming(world)),
        (Delivery, "result", _waiting_here(world, Delivery.result)),
    ]
    if any(by_share(task.settings) for task in world.scenario.tasks):
        relieve, move_on = relieving(world)
        changes += [(Outages, "found", judging(world)), (Outages, "relieve", relieve), (Retries, "move_on", move_on)]
    for name, value in world.scenario.constants.items():
        module, _, attribute = name.rpartition(".")
        changes.append((importlib.import_module(module), attribute, value))
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in changes]
    registry = vars(PRODUCERS)
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    for owner, name, value in changes:
        setattr(owner, name, value)
    try:
        yield
    finally:
        logging.disable(disabled)
        PRODUCERS.__dict__ = registry
        for owner, name, value in before:
            setattr(owner, name, value)


def play(scenario: Scenario) -> Result:
    """Plays a scenario. What broke is in the result; any other error is one of the simulation."""
    world = ScheduledWorld(scenario) if isinstance(scenario, ScheduledScenario) else World(scenario)
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
            # what is let go of may still set context variables
            contextvars.copy_context().run(world.end)
    history = world.truth.history
    return Result(
        history=history,
        digest=hashlib.sha256("\n".join(history).encode()).hexdigest(),
        hours=world.machine.time / HOUR,
        faults=dict(world.truth.counted),
        steps=world.machine.steps,
        calls=len(world.truth.calls),
        violation=violation,
    )
