"""How the work on a task ends: asked to, by a failure, or stage by stage."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from flux.consuming.coordinator.common import Shared
from flux.consuming.coordinator.stage_runtime import StageRuntime


class Ending:
    """`name_lost`: see `Inspection`. `on_change` is told of a failure, and of each stage that has left."""

    ENTRANCES = ("fail", "has_left")

    def __init__(self, common: Shared, name_lost: Callable[[], None], on_change: Callable[[], None]) -> None:
        self._common = common
        self._name_lost = name_lost
        self._on_change = on_change
        self.failure: BaseException | None = None
        """The error of a failed process or of a cluster that refuses this member; the worker ends with it."""
        self.stop_at: float | None = None
        """Set once calls in flight are to end, to when they are abandoned; by the monotonic clock."""

    def stop(self, deadline: float) -> None:
        """No new calls; those in flight end by `deadline`, which a second request may bring forward."""
        with self._common.lock:
            if self.stop_at is None or deadline < self.stop_at:
                self.stop_at = deadline
            self._common.wake_all_locked()

    def deadline(self) -> float:
        """When calls in flight are abandoned."""
        return self.stop_at if self.stop_at is not None else float("inf")

    def fail(self, error: BaseException) -> None:
        """The worker is to end with `error`."""
        with self._common.lock:
            self.failure = error if self.failure is None else self.failure
        self._on_change()

    @contextmanager
    def failing(self) -> Iterator[None]:
        """What is raised in it, where nobody is left to hear, ends the worker."""
        try:
            yield
        except BaseException as error:
            self.fail(error)
            if issubclass(type(error), KeyboardInterrupt):
                raise

    def spawn(self, name: str, target: Callable[[], None]) -> None:
        """A thread whose failure, a bug of flux, ends the worker: nothing must stand still in silence."""

        def run() -> None:
            with self.failing():
                target()

        self._common.system.spawn(name, run)

    def has_left(self, runtime: StageRuntime) -> None:
        """A stage has left its group, or was abandoned."""
        with self._common.lock:
            runtime.left = True
            runtime.polling.end()
            self._common.wake_all_locked()
        self._name_lost()
        self._on_change()

    def abandon(self, runtime: StageRuntime) -> None:
        """The poller broke: what its calls do counts for nothing, as its partitions go to others."""
        with self._common.lock:
            runtime.engine.stop()
            runtime.engine.lost(runtime.engine.partitions)

    @property
    def ended(self) -> bool:
        """All stages have left their groups."""
        return all(runtime.left for runtime in self._common.runtimes)
