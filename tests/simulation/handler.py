"""A task's call, which does what the plan of its record says, and tells the truth of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import flux
from flux.core.message import Message
from simulation.machine import Process
from simulation.records import Call
from simulation.scenario import Outcome

if TYPE_CHECKING:
    from simulation.world import World


class ProcessFailure(MemoryError):
    """No fault of the record."""


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

    def _produce(self, call: Call, outcome: Outcome) -> None:
        for index in range(outcome.products):
            key = b"#%d;%d" % (call.number, index)
            call.products[key] = "flying"
            try:
                self._world.products.produce(b"product", key=key)
            except flux.DeliveryError:
                call.products[key] = "failed"
                raise

    def _end(self, call: Call, outcome: Outcome) -> None:
        world, name = self._world, (call.copy.plan.number, call.copy.stage)
        text = f"#{call.number};"  # in the name of the type too, which is left out last
        if outcome.crash and name not in world.crashed:
            world.crashed.add(name)
            world.truth.counted["process failures"] += 1
            for life in world.lives.values():
                if life.process is self._process and life.failed_at is None:
                    life.failed_at = world.machine.time
            world.truth.end(call, "stop")
            raise ProcessFailure
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
