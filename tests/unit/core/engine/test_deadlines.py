"""A record that becomes due while its poller looks around is not waited for: the next look works it."""

from __future__ import annotations

from typing import Any, cast

from flux.consuming import effects as do
from flux.consuming import procedures as scripts
from flux.consuming.coordinator import Coordinator
from flux.core.flux_headers import DUE
from flux.core.ports import PollResult
from flux.system import OperatingSystem
from unit.support.engine_support import Driver, record


class Clock(OperatingSystem):
    """A millisecond passes between two readings."""

    def __init__(self, began: float) -> None:
        self.time = began

    def now(self) -> float:
        self.time += 0.001
        return self.time

    def monotonic(self) -> float:
        return self.now()


def due_in(driver: Driver, offset: int, seconds: float) -> Any:
    at = b"%d" % round((driver.now + seconds) * 1000)
    return record(offset, b"%d" % offset, driver.p0, headers=[(DUE, at)])


def test_a_turn_with_a_record_that_is_due_by_now_polls_for_a_moment_only() -> None:
    driver = Driver(stage=1)
    driver.assign(0)
    driver.poll(due_in(driver, 0, 1.0))
    assert 0 < driver.turn(after=2.0).timeout <= 0.001


def test_no_poll_is_shorter_than_what_clients_count() -> None:
    driver = Driver(stage=1)
    driver.assign(0)
    driver.poll(due_in(driver, 0, 1.0))
    assert driver.turn(after=0.9997).timeout == 0.001


def test_a_poller_does_not_rest_for_what_became_due_since_it_looked() -> None:
    driver = Driver(stage=1)
    driver.assign(0)
    driver.poll(*(due_in(driver, offset, 0.0037 * offset) for offset in range(1, 100)))
    clock = Clock(driver.now)
    coordinator = Coordinator(driver.policy, [driver.engine], cast(Any, None), clock)
    [runtime] = coordinator.runtimes
    script = scripts.shift(coordinator, runtime, lambda: clock.time < driver.now + 0.4)
    answer: Any = None
    worked = 0
    try:
        while True:
            effect = script.send(answer)
            assert not isinstance(effect, do.Rest), f"after {worked} calls"
            answer = PollResult() if isinstance(effect, do.Poll) else None
            if isinstance(effect, do.Begin):
                effect.run.index = effect.run.limit
                worked += effect.run.index
                coordinator.finished(runtime, effect.run, None)
    except StopIteration:
        pass
    assert worked > 50
