"""When the watcher of calls looks."""

from __future__ import annotations

from typing import Any, cast

from flux.consuming.coordinator import Coordinator
from flux.consuming.coordinator import coordinator as module
from flux.core.limits.dispatch_mode import CHECK_INTERVAL
from flux.system import OperatingSystem
from unit.support.engine_support import Driver


def test_without_calls_the_watcher_waits_for_a_fact_and_the_first_call_is_one() -> None:
    driver = Driver()
    driver.assign(0)
    coordinator = Coordinator(driver.policy, [driver.engine], cast(Any, None), OperatingSystem())
    [runtime] = coordinator.runtimes
    checks = [coordinator.next_check_in() for _ in range(module._CALM)]
    assert set(checks) == {(module._PAUSE, None)}
    waits = coordinator.next_check_in()
    assert waits == (module._LONGEST_PAUSE, coordinator.facts)
    assert not coordinator.has_missed(coordinator.facts)
    driver.poll(0)
    run = coordinator.take(runtime, polling=True)
    assert run is not None
    assert coordinator.has_missed(waits[1])
    assert coordinator.next_check_in() == (CHECK_INTERVAL, None)
    run.index = 1
    coordinator.finished(runtime, run, None, writes=False)
    assert coordinator.next_check_in() == (module._PAUSE, None)


def test_calls_between_two_checks_keep_the_watcher_at_work_without_a_wake_up_each() -> None:
    driver = Driver()
    driver.assign(0)
    coordinator = Coordinator(driver.policy, [driver.engine], cast(Any, None), OperatingSystem())
    woken: list[int] = []
    for offset in range(2 * module._CALM):
        driver.poll(offset)
        coordinator._common.driver.wake_locked = woken.append
        run = coordinator.take(coordinator.runtimes[0], polling=True)
        coordinator._common.driver.wake_locked = lambda _: None
        assert run is not None
        run.index = 1
        coordinator.finished(coordinator.runtimes[0], run, None, writes=False)
        assert coordinator.next_check_in() == (module._PAUSE, None)
    assert woken == []


def test_while_the_task_stops_its_watcher_notices_the_end_soon() -> None:
    driver = Driver()
    coordinator = Coordinator(driver.policy, [driver.engine], cast(Any, None), OperatingSystem())
    for _ in range(2 * module._CALM):
        coordinator.next_check_in()
    coordinator.ending.stop(coordinator.system.monotonic() + 10)
    assert coordinator.next_check_in() == (module._PAUSE, None)
