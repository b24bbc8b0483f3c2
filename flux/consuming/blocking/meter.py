# Generated from flux/consuming/awaited/meter.py by `make generate`: change that, not this.
"""Measures the calls of runs, for hooks that only count: see `flux.consuming.call_timing`."""

from __future__ import annotations

from typing import Any

from flux.consuming.call_chain import Handler
from flux.consuming.call_results import Call, Work
from flux.consuming.call_timing import Meter, clock
from flux.consuming.coordinator import Coordinator, StageRuntime
from flux.core.engine.runs import Run
from flux.system.return_values import check_returned


def around(meter: Meter, handler: Handler) -> Handler:
    """`handler`, measured by `meter`."""
    ended, failed = meter.ends.append, meter.failed

    def call(message: Any) -> Any:
        try:
            returned = handler(message)
            if returned is not None:
                check_returned("call", returned)
        except BaseException as error:
            failed(message, error)
            raise
        ended(clock())
        return returned

    return call


def measured(work: Work, coordinator: Coordinator, handler: Handler, track: bool) -> Call:
    """Makes the calls of runs as `work` does, and calls `Hooks.on_calls` for each run."""

    def call(runtime: StageRuntime, run: Run) -> BaseException | None:
        meter = Meter(run, coordinator.policy.rules, coordinator.system.now())
        try:
            return work(coordinator, runtime, run, around(meter, handler), track)  # type: ignore[no-any-return]
        finally:
            coordinator.hook_dispatch.notify("on_calls", runtime.where, meter.report())

    return call
