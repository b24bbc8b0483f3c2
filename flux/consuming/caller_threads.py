"""Tracks which thread makes the calls of which run."""

from __future__ import annotations

import threading

from flux.consuming.blocking.executor import complete
from flux.consuming.call_results import Call
from flux.consuming.coordinator import Coordinator, StageRuntime
from flux.core.engine.runs import Run
from flux.system import stack_of_thread


class CallerThreads:
    """`call`: makes the calls of a run."""

    def __init__(self, coordinator: Coordinator, call: Call) -> None:
        self._coordinator = coordinator
        self._call = call
        self._threads: dict[Run, tuple[StageRuntime, int]] = {}
        """The identifier of the thread that makes the run's calls."""
        coordinator.driver.stack_of = self._stack

    def work(self, runtime: StageRuntime, run: Run, *, writes: bool = True, may_lapse: bool = False) -> None:
        """This thread makes the calls of a run; see `complete`."""
        self._threads[run] = runtime, threading.get_ident()
        try:
            complete(self._coordinator, self._call, runtime, run, writes=writes, may_lapse=may_lapse)
        except BaseException as error:
            self._coordinator.broke(runtime, run, error)
        finally:
            del self._threads[run]

    def runs_of(self, thread: int) -> list[tuple[StageRuntime, Run]]:
        """The runs of a thread that is stuck in a write."""
        return [(runtime, run) for run, (runtime, caller) in list(self._threads.items()) if caller == thread]

    def _stack(self, run: Run) -> str:
        _, thread = self._threads.get(run, (None, None))
        return stack_of_thread(thread)
