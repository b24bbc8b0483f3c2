"""Waits for what calls have produced: a record is done when everything that its call produced is acknowledged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from flux.consuming.coordinator.common import Shared, StageRuntime
from flux.consuming.coordinator.verdicts import Verdicts
from flux.core.engine.forwards import Failure
from flux.core.engine.runs import Run
from flux.core.engine.slices import Entry
from flux.core.engine.verdicts import Move
from flux.core.error_text import error_name
from flux.core.hooks import CallsReport
from flux.core.message import Message
from flux.producing.scope import Produced


class Products:
    """`failing`: a context in which any exception ends the worker."""

    ENTRANCES = ("parted", "settle")

    def __init__(self, common: Shared, verdicts: Verdicts, failing: Callable[[], AbstractContextManager[None]]) -> None:
        self._common = common
        self._verdicts = verdicts
        self._failing = failing

    def produced(self, runtime: StageRuntime, run: Run, message: Message, products: Produced) -> None:
        """The current call of `run` returned, and has produced records."""
        entry = self.parted(runtime, run, message)
        if entry is not None:
            self.settle(runtime, [(entry, message)], products)

    def parted(self, runtime: StageRuntime, run: Run, message: Message) -> Entry | None:
        """The current call of `run` returned, and its record is open until `settle`. Returns None if no report is
        needed."""
        with self._common.lock:
            return None if run in self._common.aborted else runtime.engine.produced(run, run.index, message)

    def settle(self, runtime: StageRuntime, parted: Sequence[tuple[Entry, Message]], products: Produced) -> None:
        """Completes the records, or lets them fail, when what their call produced is acknowledged or not delivered."""

        def settled(error: Exception | None) -> None:
            with self._failing():
                for entry, message in parted:
                    self._settled(runtime, entry, message, error)

        products.when_done(settled)

    def _settled(self, runtime: StageRuntime, entry: Entry, message: Message, error: Exception | None) -> None:
        common, verdicts = self._common, self._verdicts
        failure = None if error is None else Failure(error)
        with common.lock:
            now = runtime.now_locked()
            move = runtime.engine.settled(entry, failure, now)
            if failure is None or move is None:
                return
            news = verdicts.judged_locked(runtime, None, failure, move, now)
        if news:
            verdicts.report(runtime, message, failure, move)
        if move is not Move.PAUSE:
            common.hook_dispatch.notify("on_failure", runtime.where, message, error, None)
            common.hook_dispatch.notify(
                "on_calls", runtime.where, CallsReport(0, (), (), {error_name(type(failure.error)): 1})
            )
