"""A run that is alone in its process: nothing runs beside it, of any task."""

from __future__ import annotations

from typing import Any, cast

from flux.consuming import effects as do
from flux.consuming.coordinator import Coordinator
from flux.consuming.effects import Procedure
from flux.consuming.exclusion import Exclusion
from flux.core.engine.crashes import Mark
from flux.core.engine.offset_tracker import OffsetTracker
from flux.core.ports import CommittedOffset
from flux.system import OperatingSystem
from unit.support.engine_support import Driver


def test_runs_start_beside_others_until_somebody_claims_the_process() -> None:
    exclusion, one, other = Exclusion(), object(), object()
    assert exclusion.enter()
    assert exclusion.enter()
    assert not exclusion.claim(one)
    assert not exclusion.enter()
    exclusion.leave()
    assert not exclusion.claim(one)
    exclusion.leave()
    assert not exclusion.claim(other)
    assert exclusion.claim(one)
    assert not exclusion.claim(one)
    exclusion.leave()
    assert not exclusion.enter()
    exclusion.release(other)
    assert not exclusion.enter()
    exclusion.release(one)
    assert exclusion.enter()


def _commit(driver: Driver, coordinator: Coordinator) -> None:
    with coordinator.lock:
        offsets = driver.engine.commit(driver.now, at_once=True)
        assert offsets
        driver.engine.committed(offsets, None, driver.now)


def _step(coordinator: Coordinator) -> None:
    def once() -> Procedure[None]:
        yield do.Rest(0.0)

    coordinator.procedures.step(coordinator.runtimes[0], once(), None, None)


def test_a_suspect_waits_for_the_calls_of_other_tasks_and_they_wait_for_it() -> None:
    exclusion = Exclusion()
    suspecting, other = Driver(max_crashes=2, concurrency=1), Driver()
    one, two = (
        Coordinator(driver.policy, [driver.engine], cast(Any, None), OperatingSystem(), exclusion=exclusion)
        for driver in (suspecting, other)
    )
    first, second = one.runtimes[0], two.runtimes[0]
    suspecting.now = first.now_locked()
    suspecting.assign(CommittedOffset(1, OffsetTracker(1).metadata(Mark(1))))
    suspecting.poll(1)
    other.assign(0)
    other.poll(0)
    running = two.take(second, polling=True)
    assert running is not None
    other.poll(1)
    _step(one)
    assert two.take(second, polling=True) is None  # a commit of the first one has to be cleared
    _commit(suspecting, one)
    _step(one)
    assert one.take(first, polling=True) is None
    assert two.take(second, polling=True) is None
    two.finished(second, running, None)
    assert one.take(first, polling=True) is None  # its record is named, and that is not committed yet
    _step(one)
    _commit(suspecting, one)
    alone = one.take(first, polling=True)
    assert alone is not None
    assert two.take(second, polling=True) is None
    alone.index = 1
    one.finished(first, alone, None)
    _step(one)
    assert two.take(second, polling=True) is None  # the last commit still names it
    _commit(suspecting, one)
    _step(one)
    assert two.take(second, polling=True) is not None
