"""What may wait for a cluster, on a thread of its own, so that nobody has to wait for it longer than he wants to."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Aside(Generic[T]):
    """Begins at once. The thread is a daemon: the process ends without it."""

    def __init__(self, name: str, step: Callable[[], T]) -> None:
        self._step = step
        self._results: list[T] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._results.append(self._step())
        except BaseException as error:
            self._error = error

    @property
    def ended(self) -> bool:
        return not self._thread.is_alive()

    def result(self, timeout: float) -> T:
        """Waits up to `timeout` seconds. Raises TimeoutError, or what the step has raised."""
        self._thread.join(max(timeout, 0.0))
        if self._error is not None:
            raise self._error
        if not self._results:
            raise TimeoutError
        return self._results[0]
