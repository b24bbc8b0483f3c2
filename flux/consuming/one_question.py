"""What may wait for a cluster, on a thread of its own, so that nobody has to wait for it longer than he wants to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from flux.core.ports import System

T = TypeVar("T")


class Aside(Generic[T]):
    """Begins at once. The thread is a daemon: the process ends without it."""

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
        """Waits up to `timeout` seconds. Raises TimeoutError, or what the step has raised."""
        deadline = self._system.monotonic() + timeout
        with self._changed:
            while not self.ended and (left := deadline - self._system.monotonic()) > 0:
                self._changed.wait(left)
        if self._error is not None:
            raise self._error
        if not self._results:
            raise TimeoutError
        return self._results[0]
