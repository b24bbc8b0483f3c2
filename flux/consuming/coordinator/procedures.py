"""Performs the steps of procedures between effects, and the effects of a coordinator: writes and commits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from threading import get_ident
from typing import Generic, TypeVar

import attrs

from flux.consuming.coordinator.common import Shared, StageRuntime
from flux.consuming.coordinator.verdicts import Verdicts
from flux.consuming.effects import Effect, Procedure
from flux.core.engine.forwarding import Forward
from flux.core.errors import BrokerError
from flux.core.ports import CommittedOffset, TopicPartition
from flux.core.stage import Role

T = TypeVar("T")
StartCommit = Callable[[Mapping[TopicPartition, CommittedOffset], Callable[[BrokerError | None], None]], None]


@attrs.frozen
class Done(Generic[T]):
    """A procedure has ended."""

    value: T


class Procedures:
    ENTRANCES = ("start_commit", "step", "write")

    def __init__(
        self, common: Shared, verdicts: Verdicts, forwarded_locked: Callable[[Iterable[Forward]], None]
    ) -> None:
        """`forwarded_locked`: called with forwarded copies that are acknowledged."""
        self._common = common
        self._verdicts = verdicts
        self.forwarded_locked = forwarded_locked

    def step(
        self, runtime: StageRuntime, procedure: Procedure[T], result: object, error: BrokerError | None
    ) -> Effect | Done[T]:
        """Continues a procedure with the result of its last effect. Returns the next effect, or Done."""
        with self._common.lock:
            runtime.stepped_at = runtime.now_locked()
            runtime.polling.step(get_ident())
            self.take_in_locked(runtime)
            effect: Effect | Done[T]
            try:
                effect = procedure.send(result) if error is None else procedure.throw(error)
            except StopIteration as stop:
                effect = Done(stop.value)
            self._common.release_locked(runtime)
        if runtime.moved:
            self.report_forwarded(runtime)
        return effect

    # ---- copies

    def write(self, runtime: StageRuntime) -> None:
        """Writes the engine's log events and its forwarded copies, unless another thread writes copies."""
        with self._common.lock:
            now = self._common.system.monotonic()
            log_events, news = self._verdicts.news_locked(runtime, now)
        for log_event in log_events:
            self._common.task_log.noticed(runtime.where, log_event, now)
            if log_event.news is not None:
                self._verdicts.report_name(log_event.news, now)
        for message, failure, move in news:
            self._verdicts.report(runtime, message, failure, move)
        if not self._common.policy.exactly_once:  # otherwise they are written in transactions
            runtime.forwarding.write()
        if runtime.moved:
            self.report_forwarded(runtime)

    def take_in_locked(self, runtime: StageRuntime) -> None:
        """Reports ended forwards to the engine."""
        ends, engine = runtime.forwarding.ends, runtime.engine
        if ends:
            now = runtime.now_locked()
            written: list[Forward] = []
            for _ in range(len(ends)):
                forward, error = ends.popleft()
                if error is not None:
                    engine.unwritten(forward, error, now)
                else:
                    written.append(forward)
            counted = engine.all_written(written, now)
            self.forwarded_locked(written)
            if self._common.hook_dispatch.moves:
                runtime.moved += counted

    def report_forwarded(self, runtime: StageRuntime) -> None:
        """Notifies hooks of the forwards that were acknowledged since the last call."""
        tell, where = self._common.hook_dispatch.notify, runtime.where
        with self._common.lock:
            moved, runtime.moved = runtime.moved, []
        for forward in moved:
            forwarded_copy = forward.forwarded_copy
            target = forwarded_copy.target
            if target.role is Role.DEAD:
                error = (
                    f"{forwarded_copy.error_type}: {forwarded_copy.error_text}"
                    if forwarded_copy.error_text
                    else forwarded_copy.error_type
                )
                tell("on_dead_letter", where, forwarded_copy.message, forwarded_copy.reason, error)
            else:
                tell("on_retry", where, forwarded_copy.message, target.number, forwarded_copy.wait)

    # ---- commits

    def start_commit(
        self, runtime: StageRuntime, commit: StartCommit, offsets: Mapping[TopicPartition, CommittedOffset]
    ) -> None:
        """Has a consumer start a commit, and reports its end to the engine."""

        def done(error: BrokerError | None) -> None:
            with self._common.lock:
                runtime.engine.committed(offsets, error, runtime.now_locked())
            self.report_commit(runtime, offsets, error)

        try:
            commit(offsets, done)
        except BrokerError as error:
            done(error)

    def report_commit(
        self, runtime: StageRuntime, offsets: Mapping[TopicPartition, CommittedOffset], error: BrokerError | None
    ) -> None:
        hook_dispatch = self._common.hook_dispatch
        if hook_dispatch.wants("on_commit"):
            hook_dispatch.notify(
                "on_commit", runtime.where, {partition: each.offset for partition, each in offsets.items()}, error
            )
