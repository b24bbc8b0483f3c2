"""Membership in the groups: rebalances, and the end of a task by a stop, by a failure, or when all stages have left."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from flux.consuming.coordinator.common import Shared, StageRuntime
from flux.consuming.hook_dispatch import Event
from flux.core.hooks import StageInfo
from flux.core.ports import TopicPartition

_TOGETHER = 1.0  # seconds in which a rebalance of one stage is followed by those of others, as a rule
_JOINED = 5.0  # seconds in which all stages join at the start, as a rule


class Ending:
    """`log_rebalances`: see `Inspection`. `on_change`: called after a failure, and after each stage that has left."""

    ENTRANCES = ("fail", "has_left")

    def __init__(self, common: Shared, log_rebalances: Callable[[], None], on_change: Callable[[], None]) -> None:
        self._common = common
        self._log_rebalances = log_rebalances
        self._on_change = on_change
        self.failure: BaseException | None = None
        """The error of a failed process, or of a cluster that refuses this member: the worker ends with it."""
        self.stop_at: float | None = None
        """When calls in flight are abandoned, by the monotonic clock; None: no stop was requested."""

    def stop(self, deadline: float) -> None:
        """No new calls; those in flight are abandoned at `deadline`, which a second call may make earlier."""
        with self._common.lock:
            if self.stop_at is None or deadline < self.stop_at:
                self.stop_at = deadline
            self._common.wake_all_locked()

    def deadline(self) -> float:
        """When calls in flight are abandoned."""
        return self.stop_at if self.stop_at is not None else float("inf")

    def fail(self, error: BaseException) -> None:
        """Ends the worker with `error`."""
        with self._common.lock:
            self.failure = error if self.failure is None else self.failure
        self._on_change()

    @contextmanager
    def failing(self) -> Iterator[None]:
        """A context in which any exception ends the worker, because no caller would handle it."""
        try:
            yield
        except BaseException as error:
            self.fail(error)
            if issubclass(type(error), KeyboardInterrupt):
                raise

    def spawn(self, name: str, target: Callable[[], None]) -> None:
        """Starts a thread; an exception in it, a bug of flux, ends the worker."""

        def run() -> None:
            with self.failing():
                target()

        self._common.system.spawn(name, run)

    def has_left(self, runtime: StageRuntime) -> None:
        """A stage has left its group, or was abandoned."""
        with self._common.lock:
            runtime.left = True
            runtime.polling.end()
            if self.ended and self._common.ended_at is None:
                self._common.ended_at = self._common.system.monotonic()
            self._common.wake_all_locked()
        self._log_rebalances()
        self._on_change()

    def abandon(self, runtime: StageRuntime) -> None:
        """The poll loop failed: its partitions go to others, so its calls count for nothing."""
        with self._common.lock:
            runtime.engine.stop()
            runtime.engine.lost(runtime.engine.partitions)

    @property
    def ended(self) -> bool:
        """Whether all stages have left their groups."""
        return all(runtime.left for runtime in self._common.runtimes)


class Rebalances:
    """Logs rebalances, those of all stages in one line if they come together, and notifies hooks of them."""

    def __init__(self, common: Shared) -> None:
        self._common = common
        self._lost: dict[StageInfo, list[TopicPartition]] = {}
        """Not logged yet: if one stage loses partitions, the others usually lose theirs a moment later."""
        self._event = ""
        self._changed: dict[StageInfo, list[TopicPartition]] = {}
        """Partitions that were assigned, or revoked, as `_event` says; not logged yet."""
        self._since = 0.0

    def announce(self, runtime: StageRuntime, event: str, partitions: Sequence[TopicPartition]) -> None:
        """Logs a rebalance soon, unless nothing changed. `event`: "assigned" or "revoked"."""
        if not partitions and runtime.joined:
            return
        with self._common.lock:
            before, changed = self._event, self._changed if event != self._event else {}
            if event != before or not self._changed:
                self._event, self._changed, self._since = event, {}, self._common.system.monotonic()
            self._changed.setdefault(runtime.where, []).extend(partitions)
        self._log(before, changed)

    def notify(self, runtime: StageRuntime, event: Event, partitions: Sequence[TopicPartition]) -> None:
        """Notifies hooks."""
        if partitions:
            self._common.hook_dispatch.notify(event, runtime.where, tuple(partitions))

    def lost(self, runtime: StageRuntime, partitions: Sequence[TopicPartition]) -> None:
        """The partitions were lost: another member may own them."""
        with self._common.lock:
            runtime.engine.lost(partitions)
            if partitions:
                self._lost.setdefault(runtime.where, []).extend(partitions)

    def log(self) -> None:
        """Logs what was lost since the last call, and what was assigned or revoked, if no stage is expected to follow
        any more."""
        with self._common.lock:
            lost, self._lost = self._lost, {}
            runtimes = self._common.runtimes
            over = all(runtime.left for runtime in runtimes)
            patience = _TOGETHER if all(runtime.has_joined for runtime in runtimes) else _JOINED
            waited = self._common.system.monotonic() - self._since
            event, changed = self._event, self._changed if over or not 0 <= waited < patience else {}
            if changed:
                self._changed = {}
        if lost:
            self._common.task_log.lost(list(lost.items()))
        self._log(event, changed)

    def _log(self, event: str, changed: Mapping[StageInfo, Sequence[TopicPartition]]) -> None:
        if changed:
            self._common.task_log.rebalanced(event, list(changed.items()))
