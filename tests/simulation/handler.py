"""A task's call, which does what the plan of its record says, and tells the truth of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import flux
from flux.core.message import Message
from simulation.gates import has_names
from simulation.machine import Process
from simulation.records import DEAD, OWN, SENT, Call, is_own, name_of_number
from simulation.scenario import Outcome

if TYPE_CHECKING:
    from simulation.world import World

PAUSE = 5.0
"""Seconds that a call asks for which knows how long an outage lasts."""


class ProcessFailure(MemoryError):
    """No fault of the record."""


AWAY = name_of_number(1)
"""The one name whose calls find an outage, where outages are of one name."""


class Away(Exception):
    """What the task needs is away: it is in `pause_on`."""


class Handler:
    """A task's call, which does what the record's plan says."""

    def __init__(self, world: World, retries: int, process: Process) -> None:
        self._world = world
        self._retries = retries
        self._process = process

    def _kill(self, calls: Sequence[Call]) -> None:
        """Ends the process, if a record of these calls does that."""
        killers = [call for call in calls if call.copy.plan.kills and call.copy.stage != DEAD]
        if killers:
            for call in killers:
                self._world.truth.kills(call)
            self._world.kill(self._process)

    # ---- one record

    def call(self, message: Message) -> None:
        self._world.passed(message)
        call = self._world.truth.begin(self._process, message, self._retries)
        try:
            self._work([call], [message])
        except flux.DeliveryError as error:
            self._world.truth.end(call, "next")
            raise type(f"#{call.number};", (ValueError,), {})(str(error)) from None
        self._end(call)

    async def call_async(self, message: Message) -> None:
        self._world.passed(message)
        call = self._world.truth.begin(self._process, message, self._retries)
        try:
            await self._work_async([call], [message])
        except flux.DeliveryError as error:
            self._world.truth.end(call, "next")
            raise type(f"#{call.number};", (ValueError,), {})(str(error)) from None
        except asyncio.CancelledError:
            self._world.truth.end(call, "next" if self._is_overdue(call) else "stop")
            raise
        self._end(call)

    def _end(self, call: Call) -> None:
        truth = self._world.truth
        error = self._error(call)
        if isinstance(error, flux.Pause | Away):
            truth.end(call, "pause", pause=getattr(error, "seconds", None))
        else:
            truth.end(call, *_told(error))
        if error is not None:
            raise error

    # ---- many

    def call_batch(self, messages: Sequence[Message]) -> None:
        self._world.passed(messages)
        calls = self._world.truth.begin_batch(self._process, messages, self._retries)
        try:
            self._work(calls, messages)
        except flux.DeliveryError as error:
            self._fail_batch(calls, str(error))
        self._end_batch(calls, messages)

    async def call_batch_async(self, messages: Sequence[Message]) -> None:
        self._world.passed(messages)
        calls = self._world.truth.begin_batch(self._process, messages, self._retries)
        try:
            await self._work_async(calls, messages)
        except flux.DeliveryError as error:
            self._fail_batch(calls, str(error))
        except asyncio.CancelledError:
            outcome = "next" if self._is_overdue(calls[0]) else "stop"
            self._world.truth.end_batch(calls, [(outcome, None)] * len(calls), None)
            raise
        self._end_batch(calls, messages)

    def _end_batch(self, calls: list[Call], messages: Sequence[Message]) -> None:
        truth = self._world.truth
        errors = [self._error(call) for call in calls]
        crash = next((error for error in errors if isinstance(error, ProcessFailure)), None)
        if crash is not None:
            truth.end_batch(calls, [("stop", None)] * len(calls), None)
            raise crash
        pauses = [error for error in errors if isinstance(error, flux.Pause | Away)]
        seconds = getattr(pauses[0], "seconds", None) if pauses else None
        if pauses and calls[0].copy.plan.number % 2:
            truth.end_batch(calls, [("pause", None)] * len(calls), seconds)
            raise pauses[0]
        failed = {message: error for message, error in zip(messages, errors, strict=True) if error is not None}
        dropped = [call for call, error in zip(calls, errors, strict=True) if error is not None]
        if failed and not pauses and calls[0].copy.plan.number % 3 == 0:
            self._fail_batch(calls, "all of them")
        for call in calls:
            for key in [key for each in dropped for key in call.products if is_own(key, each)]:
                del call.products[key]
        truth.end_batch(calls, [_told(error) for error in errors], seconds)
        if failed:
            raise flux.BatchFailure(failed)

    def _fail_batch(self, calls: list[Call], text: str) -> None:
        """As one."""
        self._world.truth.end_batch(calls, [("next", None)] * len(calls), None)
        name = f"%{calls[0].number};"
        raise type(name, (ValueError,), {})(f"{name} {text}") from None

    # ---- both

    def _work(self, calls: list[Call], messages: Sequence[Message]) -> None:
        world, outcome = self._world, self._outcome(calls[0])
        world.machine.point()
        self._kill(calls)
        self._produce(calls, messages)
        if outcome.length:
            world.machine.park(outcome.length)
            world.machine.touch()
        if outcome.deliver and calls[0].products:
            world.products.flush()
        world.machine.point()

    async def _work_async(self, calls: list[Call], messages: Sequence[Message]) -> None:
        world, outcome = self._world, self._outcome(calls[0])
        await asyncio.sleep(0)
        self._kill(calls)
        self._produce(calls, messages)
        if outcome.length:
            limit = calls[0].epoch.task.settings.get("timeout") or outcome.length
            world.machine.at(world.machine.time + min(outcome.length, limit), world.machine.touch)
            await asyncio.sleep(outcome.length)
        if outcome.deliver and calls[0].products:
            await world.products.aflush()

    def _outcome(self, call: Call) -> Outcome:
        return call.copy.plan.outcome(call.copy.stage + 3 * call.copy.replays)

    def _is_overdue(self, call: Call) -> bool:
        limit = call.epoch.task.settings.get("timeout")
        return limit is not None and self._world.machine.time - call.began_at >= limit - 0.001

    def _produce(self, calls: list[Call], messages: Sequence[Message]) -> None:
        producer, sends = self._world.products, self._outcome(calls[0]).deliver
        for call, message in zip(calls, messages, strict=True):
            for index in range(self._outcome(call).products):
                kind = SENT if sends and not index else OWN if index % 2 else b""
                key = b"#%d;%d%s" % (call.number, index, kind)
                for each in calls:
                    each.products[key] = "flying"
                try:
                    if kind == SENT:
                        producer.send(b"product", key=key)._retrieved = True  # `flush` raises its error
                    else:
                        with flux.producing(message) if kind == OWN else nullcontext():
                            producer.produce(b"product", key=key)
                except flux.DeliveryError:
                    for each in calls:
                        each.products[key] = "failed"
                    raise

    def _error(self, call: Call) -> BaseException | None:
        """With which a call ends."""
        world, plan, outcome = self._world, call.copy.plan, self._outcome(call)
        name = (plan.number, call.copy.stage)
        text = f"#{call.number};"  # in the name of the type too, which is left out last
        if outcome.crash and name not in world.crashed:
            world.crashed.add(name)
            world.truth.counted["process failures"] += 1
            for life in world.lives.values():
                if life.process is self._process and life.failed_at is None:
                    life.failed_at = world.machine.time
            return ProcessFailure()
        task = call.epoch.task
        made: Any = None
        if world.is_away(task) and (
            name_of_number(plan.number) == AWAY if has_names(task.settings) else plan.number % 4
        ):
            if task.pause == "failure":
                made = type(text, (ValueError,), {})(text)
            elif task.pause == "error":
                made = type(text, (Away,), {})(text)
            else:
                made = type(text, (flux.Pause,), {})(PAUSE if task.pause == "seconds" else None, text)
        elif outcome.kind == "error" or call.tries < outcome.stumbles:
            made = type(text, (ValueError,), {})(text)
        elif outcome.kind == "retry":
            made = type(text, (flux.Retry,), {})(text, after=outcome.after)
        elif outcome.kind == "reject":
            made = type(text, (flux.Reject,), {})(text)
        return made  # type: ignore[no-any-return]


def _told(error: BaseException | None) -> tuple[str, float | None]:
    """What a call's end means, with the seconds after which it is to be tried again, where it says."""
    match error:
        case None:
            return "done", None
        case ProcessFailure():
            return "stop", None
        case flux.Pause() | Away():
            return "pause", None
        case flux.Reject():
            return "dead", None
        case _:
            return "next", getattr(error, "after", None)
