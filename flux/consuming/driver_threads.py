"""What the threads of both drivers share: their loops, who makes the calls of which run, and the watcher of runs."""

from __future__ import annotations

import threading
from collections.abc import Callable

from flux.consuming.blocking.consumer_loop import ConsumerLoop
from flux.consuming.blocking.executor import complete
from flux.consuming.call_results import Call
from flux.consuming.coordinator import Coordinator, StageRuntime
from flux.consuming.side_threads import directly
from flux.core.engine.runs import Run
from flux.core.monitoring.duties import Duty
from flux.core.ports import Adapter, AdminPort
from flux.system import stack_of_thread


class CallerThreads:
    """Tracks which thread makes the calls of which run. `call`: makes the calls of a run."""

    def __init__(self, coordinator: Coordinator, call: Call) -> None:
        self._coordinator = coordinator
        self._call = call
        self._threads: dict[Run, tuple[StageRuntime, int]] = {}
        """The identifier of the thread that makes the run's calls."""
        self._replaced: set[int] = set()
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

    def replace(self, thread: int) -> bool:
        """Another thread takes the place of one that is stuck in a write. False: one did already."""
        if thread in self._replaced:
            return False
        self._replaced.add(thread)
        return True

    def is_replaced(self) -> bool:
        """Whether another thread took this one's place, so that it must end, or the threads would become more with each
        stuck write."""
        if threading.get_ident() not in self._replaced:
            return False
        self._replaced.discard(threading.get_ident())  # a later thread may get its identifier
        return True

    def _stack(self, run: Run) -> str:
        _, thread = self._threads.get(run, (None, None))
        return stack_of_thread(thread)


class Watcher:
    """A thread that checks the runs every few milliseconds while there are any. `rest`: waits for a fact.
    `found_locked`: called for each stuck run."""

    def __init__(
        self,
        coordinator: Coordinator,
        rest: Callable[[float, int | None], None],
        found_locked: Callable[[StageRuntime, Run], None] = lambda runtime, run: None,
    ) -> None:
        self._coordinator = coordinator
        self._rest = rest
        self._found_locked = found_locked
        self._duty = Duty(f"{coordinator.runtimes[0]}: the watching of its calls")

    def start(self) -> None:
        self._coordinator.system.watch(self._duty)
        self._coordinator.ending.spawn(f"flux-watch-{self._coordinator.runtimes[0]}", self._live)

    def _live(self) -> None:
        coordinator = self._coordinator
        while True:
            self._duty.step(threading.get_ident())
            waits = coordinator.next_check_in()
            if waits is None:
                self._duty.end()
                return
            pause, facts = waits
            if facts is None:
                coordinator.system.sleep(pause)
            else:
                self._rest(pause, facts)
            coordinator.check(self._found_locked)


def consumer_loops(
    coordinator: Coordinator,
    adapter: Adapter,
    admin: AdminPort,
    rest: Callable[[float, int | None], None],
    begin: Callable[[StageRuntime, Run], None],
    cancel: Callable[[StageRuntime], None],
) -> list[ConsumerLoop]:
    """A loop for each stage of a task, for threads that poll a blocking client."""
    write = coordinator.procedures.write
    return [
        ConsumerLoop(
            coordinator, runtime, adapter, admin, rest=rest, write=write, ask=directly, begin=begin, cancel=cancel
        )
        for runtime in coordinator.runtimes
    ]
