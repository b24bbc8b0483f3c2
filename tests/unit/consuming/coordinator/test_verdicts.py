"""How the ends of calls reach the threads that wait."""

from __future__ import annotations

from typing import Any, cast

import pytest

from flux.consuming.coordinator import Coordinator
from flux.core.limits import unacknowledged
from flux.producing.produced import Produced
from flux.system import OperatingSystem
from unit.support.engine_support import Driver


def test_callers_are_woken_when_most_acknowledgements_have_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unacknowledged, "MOST_UNACKNOWLEDGED", 4)
    driver = Driver()
    driver.assign(0)
    coordinator = Coordinator(driver.policy, [driver.engine], cast(Any, None), OperatingSystem())
    [runtime] = coordinator.runtimes
    scopes = []
    for offset in range(4):
        driver.poll(offset)
        run = driver.take()
        scope = Produced()
        assert scope.started(lambda: None)
        coordinator.products.produced(runtime, run, driver.message(run, 0), scope)
        scopes.append(scope)
        run.index = 1
        driver.engine.finished(run, driver.now)
    driver.poll(4)
    woken: list[int] = []
    coordinator._common.driver.wake_locked = woken.append
    for scope in scopes[:2]:
        scope.ended(None)
    assert woken == []
    scopes[2].ended(None)
    assert woken == [1]
