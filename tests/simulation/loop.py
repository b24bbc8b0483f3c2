"""An event loop in a thread of the machine: it waits in a condition, and its executor spawns threads."""

from __future__ import annotations

import asyncio
from asyncio import base_events
from collections.abc import Callable
from typing import Any

from simulation.machine import Machine
from simulation.system import Condition


class _Selector:
    def __init__(self, machine: Machine) -> None:
        self._told = Condition(machine)
        self._woken = False

    def select(self, timeout: float | None) -> list[Any]:
        with self._told:
            if not self._woken and (timeout is None or timeout > 0):
                self._told.wait(timeout)
            self._woken = False
        return []

    def wake(self) -> None:
        with self._told:
            self._woken = True
            self._told.notify()


class Loop(base_events.BaseEventLoop):
    def __init__(self, machine: Machine) -> None:
        super().__init__()
        self._machine = machine
        self._selector = _Selector(machine)
        self.set_exception_handler(lambda loop, context: None)  # what a crash leaves behind

    def time(self) -> float:
        return self._machine.time

    def _process_events(self, events: list[Any]) -> None:
        """There are none but wake-ups."""

    def _write_to_self(self) -> None:
        self._selector.wake()

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        future = self.create_future()

        def end(result: Any, error: BaseException | None) -> None:
            if future.cancelled():
                return
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        def run() -> None:
            result, error = None, None
            try:
                result = func(*args)
            except Exception as raised:
                error = raised
            if not self.is_closed():
                self.call_soon_threadsafe(end, result, error)

        self._machine.spawn("executor", run)
        return future

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Its threads end by themselves."""
