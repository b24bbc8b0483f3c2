"""The thread driver: blocking clients and blocking handlers.

All threads are alike. Polling a stage is a role that one thread holds at a time; that thread makes the calls itself
while they are quick. A watcher checks the runs: if the poller is stuck in a call, the role goes to another thread.
While calls are slow, the threads without a role take runs.
"""

from __future__ import annotations

import attrs

from flux.consuming.blocking.consumer_loop import ConsumerLoop
from flux.consuming.call_results import Call
from flux.consuming.coordinator import Coordinator, StageRuntime
from flux.consuming.coordinator.resting import RestingThreads
from flux.consuming.driver_threads import CallerThreads, Watcher, consumer_loops
from flux.core.engine.runs import Run
from flux.core.ports import Adapter, AdminPort

_IDLE = 1.0


@attrs.define(eq=False)
class _Role:
    """The role of polling one stage."""

    loop: ConsumerLoop
    holder: object | None = None
    """The token of the thread that has the role; None: free."""
    inline: Run | None = None
    """The run whose calls the poller makes."""


class Threads:
    """Runs a coordinator's stages. `call`: makes the calls of a run. Roles change under the coordinator's lock, as
    runs do."""

    def __init__(self, coordinator: Coordinator, call: Call, adapter: Adapter, admin: AdminPort) -> None:
        self._coordinator = coordinator
        self._callers = CallerThreads(coordinator, call)
        self._resting = RestingThreads(coordinator)
        self._watcher = Watcher(coordinator, self._resting.rest, self._stuck_locked)
        loops = consumer_loops(coordinator, adapter, admin, self._resting.rest, self._inline, lambda _: None)
        self._roles = {loop.runtime: _Role(loop) for loop in loops}
        self._most = coordinator.policy.concurrency + len(coordinator.runtimes)
        self._threads = 0
        coordinator.driver.wake_locked = self._wake_locked
        coordinator.driver.join_locked = self._join_locked
        coordinator.driver.freed = self._freed

    def start(self) -> None:
        """Joins the groups and starts polling."""
        with self._coordinator.lock:
            self._wake_locked(sum(not runtime.dormant for runtime in self._roles))
        self._watcher.start()

    def _wake_locked(self, needed: int) -> None:
        """Wakes or makes threads for `needed` jobs."""
        self._resting.notify_locked()
        if not (
            self._free_role() is not None
            or self._coordinator.ending.stop_at is not None
            or self._coordinator.ready_locked()
        ):
            return
        self._resting.wake_idle_locked(needed)
        for _ in range(min(needed - self._resting.idle, self._most - self._threads)):
            self._coordinator.ending.spawn(f"flux-{self._coordinator.runtimes[0]}-{self._threads}", self._live)
            self._threads += 1

    def _join_locked(self, runtime: StageRuntime) -> None:
        self._wake_locked(1)

    def _free_role(self) -> _Role | None:
        for runtime, role in self._roles.items():
            if role.holder is None and not (runtime.left or runtime.dormant):
                return role
        return None

    def _live(self) -> None:
        coordinator, token = self._coordinator, object()
        while True:
            with coordinator.lock:
                if self._callers.is_replaced():
                    return
                role = self._free_role()
                taken = None
                if role is not None:
                    role.holder = token
                elif coordinator.ending.ended:
                    return
                else:
                    taken = coordinator.take_any_locked()
                    if taken is None:
                        self._resting.idle_locked(_IDLE)
                        continue
            if role is not None:
                role.loop.poll(lambda role=role: role.holder is token)  # type: ignore[misc]
            elif taken is not None:
                self._callers.work(*taken)

    def _freed(self, thread: int) -> None:
        with self._coordinator.lock:
            given_up = [role for role in self._roles.values() if role.loop.gives_up(thread)]
            stuck = self._callers.runs_of(thread)
            if (given_up or stuck) and self._callers.replace(thread):
                self._threads -= 1
            for role in given_up:
                role.holder = None
                self._wake_locked(1)
            self._coordinator.excuse_locked(stuck)

    def _inline(self, runtime: StageRuntime, run: Run) -> None:
        role = self._roles[runtime]
        role.inline = run
        self._callers.work(runtime, run, writes=False)  # the procedure writes next, as it polls
        with self._coordinator.lock:
            if role.inline is run:
                role.inline = None

    def _stuck_locked(self, runtime: StageRuntime, run: Run) -> None:
        """The poller of a stage is stuck in a call: its role goes to another thread."""
        role = self._roles[runtime]
        if role.inline is run:
            role.inline = role.holder = None
            self._wake_locked(1)
