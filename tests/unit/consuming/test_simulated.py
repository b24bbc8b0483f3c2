"""What the simulation has found, held at the cheapest level: see docs/reliability.md."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from threading import Thread, get_ident
from types import SimpleNamespace
from typing import Any, cast

from flux.consuming.awaited import executor
from flux.consuming.callers import TaskCallers, ThreadCallers
from flux.consuming.coordinator import Coordinator, StageRuntime
from flux.consuming.forwarder import ForwardWriter
from flux.consuming.pollers import LoopPollers
from flux.core.engine import BUSY_REST
from flux.core.engine.runs import Run
from flux.core.flux_headers import DUE
from flux.core.message import Message
from flux.core.ports import Acknowledged, CommittedOffset, PollResult, ProducerRecord, ProducerSettings, Watermarks
from flux.system import OperatingSystem
from unit.support.engine_support import AWAY, Driver, record


def due(driver: Driver, offset: int, after: float) -> Any:
    return record(
        offset, str(offset).encode(), driver.p0, headers=[(DUE, str(int((driver.now + after) * 1000)).encode())]
    )


def test_a_stage_rests_while_what_is_due_waits_for_the_cluster() -> None:
    driver = Driver(stage=1)
    driver.assign(0)
    driver.poll(due(driver, 0, 1.0), due(driver, 1, 1.2))
    driver.now += 1.1
    driver.work(driver.take(), 0)
    driver.write(AWAY)
    assert driver.nothing_to_take()
    assert driver.turn(after=0.5).timeout > 0


def test_a_stage_rests_while_what_is_due_waits_for_a_caller() -> None:
    driver = Driver(stage=1)
    driver.assign(0)
    driver.poll(due(driver, 0, 1.0))
    assert driver.turn(after=5.0).timeout > 0


def test_a_stage_rests_while_another_thread_is_to_write_a_forward_whose_time_is_past() -> None:
    driver = Driver()
    driver.assign(0)
    driver.poll(0)
    driver.work_all(0)
    driver.write(AWAY)
    assert driver.turn(after=60.0).timeout == BUSY_REST


def test_a_commit_that_failed_is_not_tried_again_at_once_however_small_the_threshold() -> None:
    driver = Driver(commit_threshold=1, commit_interval=0.0)
    driver.assign(0)
    driver.poll(0)
    driver.work_all()
    positions = driver.turn().commit
    assert positions == {driver.p0: CommittedOffset(1)}
    driver.engine.committed(positions, AWAY, driver.now)
    turn = driver.turn()
    assert turn.commit is None
    assert turn.timeout > 0
    assert driver.turn(after=1.0).commit == positions


def test_what_has_failed_is_moved_although_retention_overtakes_its_partition() -> None:
    driver = Driver()
    driver.assign(0)
    driver.poll(0, 1)
    driver.work_all(1)
    driver.engine.polled(PollResult([], [driver.p0]), driver.now)
    assert driver.engine.reset(driver.p0, Watermarks(10, 12), driver.now) == 10
    driver.poll(10)
    driver.work_all()
    tracker = driver.engine._partitions.assignments[driver.p0].offset_tracker
    assert tracker is not None
    assert driver.commit() == {0: CommittedOffset(1, tracker.metadata())}
    assert driver.write() == [1]
    assert driver.commit() == {0: CommittedOffset(11)}


def test_what_another_owner_has_done_is_not_repeated_although_retention_overtakes_its_partition() -> None:
    driver = Driver()
    driver.assign(0)
    driver.poll(*range(6))
    run = driver.take()
    for _ in range(2):
        driver.fail(run)
        run.index += 1
    position = next(iter(driver.commit().values()), CommittedOffset(0))
    while run.index < run.limit:
        run.index += 1
    driver.engine.finished(run, driver.now)
    position = driver.commit()[0]
    other = Driver()
    other.assign(position)
    other.engine.polled(PollResult([], [other.p0]), other.now)
    assert other.engine.reset(other.p0, Watermarks(1, 7), other.now) == 1
    other.poll(1, 2, 3, 4, 5, 6)
    assert other.work_all() == [1, 6]


def _coordinator(driver: Driver) -> tuple[Coordinator, StageRuntime]:
    coordinator = Coordinator(driver.policy, [driver.engine], cast(Any, None), OperatingSystem())
    return coordinator, coordinator.runtimes[0]


def test_after_a_failure_of_the_process_nothing_overtakes_what_its_run_leaves_behind() -> None:
    driver = Driver()
    driver.assign(0)
    driver.poll(0, 1)
    coordinator, runtime = _coordinator(driver)
    run = coordinator.take(runtime, polling=True)
    assert run is not None
    driver.poll(2, 3)
    coordinator.finished(runtime, run, MemoryError())
    assert coordinator.take(runtime, polling=True) is None


def test_a_call_that_a_stop_cancels_is_no_failure_of_the_process() -> None:
    driver = Driver()
    driver.assign(0)
    driver.poll(0)
    coordinator, runtime = _coordinator(driver)
    run = coordinator.take(runtime, polling=True)
    assert run is not None
    coordinator.abort(runtime, run)
    coordinator.finished(runtime, run, asyncio.CancelledError())
    assert coordinator.ending.failure is None
    driver.engine.stop()
    assert driver.engine.calls == 0


def test_a_poller_of_an_event_loop_rests_although_it_has_just_woken_others() -> None:
    async def rest() -> bool:
        driver = Driver()
        coordinator, _ = _coordinator(driver)
        callers = SimpleNamespace(begin=None, cancel=None, freed=None, more_locked=lambda: None)
        pollers = LoopPollers(coordinator, cast(Any, callers), cast(Any, None), cast(Any, None))

        async def poll() -> None:
            with coordinator.lock:
                coordinator.driver.wake_locked(1)
            await pollers._rest(60.0)

        resting = asyncio.ensure_future(poll())
        for _ in range(5):
            await asyncio.sleep(0)
        rested = not resting.done()
        with coordinator.lock:
            coordinator.driver.wake_locked(1)
        for _ in range(5):
            await asyncio.sleep(0)
        return rested and resting.done()

    assert asyncio.run(rest())


def test_runs_that_are_handed_on_at_once_get_a_thread_each_although_one_is_idle() -> None:
    driver = Driver(concurrency=2)
    coordinator, runtime = _coordinator(driver)
    spawned: list[str] = []
    coordinator.ending.spawn = lambda name, target: spawned.append(name)  # type: ignore[method-assign]
    callers = ThreadCallers(coordinator, lambda runtime, run: None)
    callers._threads = callers._idle = 1  # it has been woken for the first, and has not taken it yet
    driver.assign(0, 0)
    driver.poll(driver.record(0, partition=0), driver.record(0, partition=1))
    for _ in range(2):
        run = coordinator.take(runtime, polling=True)
        assert run is not None
        callers.begin(runtime, run)
    assert len(spawned) == 1


def test_where_a_thread_stands_still_in_a_write_another_one_is_made_for_its_permit() -> None:
    driver = Driver(concurrency=1)
    coordinator, runtime = _coordinator(driver)
    spawned: list[str] = []
    coordinator.ending.spawn = lambda name, target: spawned.append(name)  # type: ignore[method-assign]

    def stuck(runtime: StageRuntime, run: Run) -> None:
        callers.freed(get_ident())
        assert coordinator.concurrency_limit.used == 0
        assert len(spawned) == 1

    callers = ThreadCallers(coordinator, stuck)
    coordinator.driver.wake_locked = lambda needed: callers.more_locked()
    callers._threads = 1
    driver.assign(0, 0)
    driver.poll(driver.record(0, partition=0), driver.record(0, partition=1))
    driver.engine.dispatch_mode.slow = True
    run = coordinator.take(runtime, polling=True)
    assert run is not None
    callers._runs.work(runtime, run)
    assert coordinator.ending.failure is None
    assert len(spawned) == 1


def test_a_thread_whose_place_another_one_took_ends_when_it_comes_back() -> None:
    driver = Driver(concurrency=1)
    coordinator, runtime = _coordinator(driver)
    spawned: list[str] = []
    coordinator.ending.spawn = lambda name, target: spawned.append(name)  # type: ignore[method-assign]
    callers = ThreadCallers(coordinator, lambda runtime, run: callers.freed(get_ident()))
    driver.assign(0, 0)
    driver.poll(driver.record(0, partition=0))
    run = coordinator.take(runtime, polling=True)
    assert run is not None
    callers.begin(runtime, run)
    thread = Thread(target=callers._live, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    callers.begin(runtime, run)
    assert len(spawned) == 2


def test_a_run_that_was_handed_on_is_not_begun_after_its_partition_has_gone() -> None:
    calls: list[int] = []
    driver = Driver()
    driver.assign(0)
    driver.poll(0)
    coordinator, runtime = _coordinator(driver)
    run = coordinator.take(runtime, polling=True)
    assert run is not None

    async def handle(message: Message) -> None:
        calls.append(message.offset)

    async def work() -> None:
        def call(runtime: StageRuntime, run: Run) -> Any:
            return executor.work(coordinator, runtime, run, handle, scopes=None)

        callers = TaskCallers(coordinator, call, loop=asyncio.get_running_loop())
        callers.begin(runtime, run)
        driver.engine.revoking([driver.p0])
        driver.engine.revoked([driver.p0])
        for _ in range(5):
            await asyncio.sleep(0)

    asyncio.run(work())
    assert calls == []
    assert coordinator.concurrency_limit.used == 0


def test_no_forward_is_written_whose_partition_has_gone_while_those_before_it_were_written() -> None:
    driver = Driver()
    driver.assign(0)
    driver.poll(0, 1)
    written: list[int] = []

    class Slow:
        """Adapter and producer, which takes one record at a time."""

        def producer(self, settings: ProducerSettings) -> Slow:
            return self

        def partitions(self, topic: str, timeout: float) -> int:
            return 1

        def write(self, topic: str, records: Sequence[ProducerRecord], acknowledged: Sequence[Acknowledged]) -> int:
            written.append(int(dict(records[0].headers)["flux-origin-offset"] or b""))
            driver.engine.lost([driver.p0])
            acknowledged[0](None, cast(Any, None))
            return 1

    writer = ForwardWriter(cast(Any, Slow()), ProducerSettings(), OperatingSystem())
    coordinator = Coordinator(driver.policy, [driver.engine], writer, OperatingSystem())
    driver.work_all(0, 1)
    coordinator.procedures.write(coordinator.runtimes[0])
    assert written == [0]
    assert not driver.engine.open_forwards
    assert driver.turn().timeout > BUSY_REST
