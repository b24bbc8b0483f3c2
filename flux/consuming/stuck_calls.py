"""The watcher: a thread that checks the runs every few milliseconds while there are any."""

from __future__ import annotations

import threading
from collections.abc import Callable

from flux.consuming.coordinator import Coordinator, StageRuntime
from flux.core.engine.runs import Run
from flux.core.monitoring.duties import Duty


class Watcher:
    """`found_locked`: called for each stuck run."""

    def __init__(
        self, coordinator: Coordinator, found_locked: Callable[[StageRuntime, Run], None] = lambda runtime, run: None
    ) -> None:
        self._coordinator = coordinator
        self._found_locked = found_locked
        self._duty = Duty(f"{coordinator.runtimes[0]}: the watching of its calls")

    def start(self) -> None:
        self._coordinator.system.watch(self._duty)
        self._coordinator.ending.spawn(f"flux-watch-{self._coordinator.runtimes[0]}", self._live)

    def _live(self) -> None:
        coordinator = self._coordinator
        while True:
            self._duty.step(threading.get_ident())
            pause = coordinator.next_check_in()
            if pause is None:
                self._duty.end()
                return
            coordinator.system.sleep(pause)
            coordinator.check(self._found_locked)
