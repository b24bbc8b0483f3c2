"""The wall clock is set, back or forward, under a running worker: what lasts, lasts as long as it lasts."""

from __future__ import annotations

from typing import Any, cast

import pytest

import flux
from flux.consuming.coordinator import Coordinator
from flux.core.engine.forwards import Failure
from flux.core.engine.runs import Run
from flux.core.engine.verdicts import Move
from flux.core.flux_headers import DUE
from flux.system import OperatingSystem
from unit.support.engine_support import Driver

HOUR = 3600.0


class Clocks(OperatingSystem):
    """`ahead`: seconds by which the wall clock is wrong."""

    def __init__(self) -> None:
        self.passed = 100.0
        self.ahead = 0.0

    def now(self) -> float:
        return 1_700_000_000.0 + self.passed + self.ahead

    def monotonic(self) -> float:
        return self.passed


class Bench:
    """A coordinator with one stage, by clocks that a test sets."""

    def __init__(self, stage: int = 0, **settings: Any) -> None:
        self.driver, self.clocks = Driver(stage=stage, **settings), Clocks()
        self.coordinator = Coordinator(self.driver.policy, [self.driver.engine], cast(Any, None), self.clocks)
        self.coordinator.driver.write_soon = lambda runtime: None
        [self.runtime] = self.coordinator.runtimes
        self.runtime.joined = True
        self.driver.now = self.runtime.now_locked()
        self.driver.assign(0)

    def take(self) -> Run | None:
        with self.coordinator.lock:
            return self.coordinator.take(self.runtime, polling=True)

    def fail(self, error: BaseException) -> Move:
        """The next call raises."""
        run = self.take()
        assert run is not None
        move = self.coordinator.verdicts.failed(self.runtime, run, self.driver.message(run, 0), Failure(error))
        run.index += move is not Move.PAUSE
        self.coordinator.finished(self.runtime, run, None)
        return move


@pytest.mark.parametrize("step", [-HOUR, HOUR])
def test_a_stage_has_had_no_records_for_as_long_as_it_has_had_none(step: float) -> None:
    bench = Bench()
    bench.clocks.ahead = step
    assert bench.coordinator.inspection.starved() == []
    bench.clocks.passed += 301
    assert bench.coordinator.inspection.starved() == bench.coordinator.runtimes


@pytest.mark.parametrize("step", [-HOUR, HOUR])
def test_a_pause_is_as_long_as_it_is(step: float, caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.driver.poll(0)
    assert bench.fail(flux.Pause(5)) is Move.PAUSE
    bench.clocks.ahead = step
    bench.clocks.passed += 4
    assert not bench.take()
    bench.clocks.passed += 2
    bench.fail(ValueError())
    assert "resumed after a pause of 6.0 s" in caplog.text
    assert bench.coordinator.verdicts.pauses.seconds == 6


@pytest.mark.parametrize("step", [-HOUR, HOUR])
def test_a_try_in_place_waits_for_its_seconds(step: float) -> None:
    bench = Bench(in_place_retries=1, in_place_wait=2.0)
    bench.driver.poll(0)
    assert bench.fail(ValueError()) is Move.AGAIN
    bench.clocks.ahead = step
    bench.clocks.passed += 1
    assert not bench.take()
    bench.clocks.passed += 1.1
    assert bench.take()


def test_a_record_is_due_by_the_wall_clock() -> None:
    bench = Bench(stage=1)
    due = int((bench.clocks.now() + 60) * 1000)
    bench.driver.poll(bench.driver.record(0, headers=[(DUE, b"%d" % due)]))
    bench.clocks.ahead = -HOUR
    bench.clocks.passed += 61
    assert not bench.take()
    bench.clocks.ahead = 0.0
    assert bench.take()
