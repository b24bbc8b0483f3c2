"""Runs a step that may wait for a cluster on its own thread, so that the caller can stop waiting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from flux.core.ports import System

T = TypeVar("T")


class Aside(Generic[T]):
    """Starts at once. The thread is a daemon, so the process can end without it."""

    def __init__(self, system: System, name: str, step: Callable[[], T]) -> None:
        self._system = system
        self._step = step
        self._results: list[T] = []
        self._error: BaseException | None = None
        self._changed = system.condition()
        self.ended = False
        system.spawn(name, self._run)

    def _run(self) -> None:
        try:
            self._results.append(self._step())
        except BaseException as error:
            self._error = error
        with self._changed:
            self.ended = True
            self._changed.notify_all()

    def result(self, timeout: float) -> T:
        """Waits up to `timeout` seconds. Raises TimeoutError, or the exception of the step."""
        deadline = self._system.monotonic() + timeout
        with self._changed:
            while not self.ended and (left := deadline - self._system.monotonic()) > 0:
                self._changed.wait(left)
        if self._error is not None:
            raise self._error
        if not self._results:
            raise TimeoutError
        return self._results[0]
