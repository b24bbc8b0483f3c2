"""How the stages of a task take turns where calls are few: nobody rests while a call could begin."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, cast

import attrs
import pytest

from flux.consuming.callers import TaskCallers, ThreadCallers
from flux.consuming.coordinator import Coordinator, StageRuntime
from flux.consuming.pollers import LoopPollers, ThreadPollers
from flux.consuming.threads import Threads
from flux.core.backoff import Waits
from flux.core.engine import Engine
from flux.core.engine.runs import Run
from flux.core.policy import Policy
from flux.core.ports import Batch, CommittedOffset, ConsumerSettings, PollResult, TopicPartition
from flux.core.stage import Stages
from simulation.loop import Loop
from simulation.machine import EPOCH, Machine, Process
from simulation.system import System

STAGES = 6
DRIVERS = ("threads", "loop", "loop with threads", "threads with tasks")
RECORDS, PIECE = 60, 5
"""Of a stage, and of one poll."""
LIMIT = 60.0
SHORT = 0.001
"""Seconds that may pass from the end of a call to the next: what the machine takes to have another thread run, a few
times."""
QUICK, SLOW = 0.0003, 0.006
"""Seconds of a call."""


@attrs.define
class Record:
    at: int
    where: TopicPartition

    def topic(self) -> str:
        return self.where.topic

    def partition(self) -> int:
        return self.where.partition

    def offset(self) -> int:
        return self.at

    def key(self) -> bytes:
        return b"%d" % self.at

    def value(self) -> bytes:
        return b"v"

    def headers(self) -> None:
        return None

    def timestamp(self) -> tuple[int, int]:
        return 1, int(EPOCH * 1000)


class Consumer:
    """One partition, of which each poll brings a few records."""

    max_poll_interval = 300.0

    def __init__(self, bench: Bench, topic: str, listener: Any) -> None:
        self.bench = bench
        self.listener = listener
        self.where = TopicPartition(topic, 0)
        self.at = -1
        self.polls = 0

    def poll(self, most: int, timeout: float) -> PollResult:
        if self.at < 0:
            self.at = 0
            self.listener.assigned([self.where])
        found = self._next()
        if self.where.topic == self.bench.blocked and self.polls == 3:
            self.bench.machine.park(10.0)
        if not found.batches:
            self.bench.machine.park(timeout)
        return found

    def _next(self) -> PollResult:
        self.polls += 1
        last = min(self.at + PIECE, RECORDS)
        records = [Record(at, self.where) for at in range(self.at, last)]
        self.at = max(self.at, last)
        return PollResult([Batch(self.where, records)] if records else [])

    def committed(
        self, partitions: Sequence[TopicPartition], timeout: float
    ) -> Mapping[TopicPartition, CommittedOffset]:
        return {self.where: CommittedOffset(0)}

    def commit(self, positions: Any, done: Callable[[None], None]) -> None:
        done(None)

    def commit_now(self, positions: Any, timeout: float) -> None: ...
    def pause(self, partitions: Any) -> None: ...
    def resume(self, partitions: Any) -> None: ...
    def close(self) -> None: ...


class AsyncConsumer(Consumer):
    async def poll(self, most: int, timeout: float) -> PollResult:  # type: ignore[override]
        if self.at < 0:
            self.at = 0
            await self.listener.assigned([self.where])
        found = self._next()
        if self.where.topic == self.bench.blocked and self.polls == 3:
            await asyncio.sleep(10.0)
        if not found.batches:
            await asyncio.sleep(timeout)
        return found

    async def committed(self, partitions: Any, timeout: float) -> Any:  # type: ignore[override]
        return {self.where: CommittedOffset(0)}

    async def commit_now(self, positions: Any, timeout: float) -> None: ...  # type: ignore[override]
    async def close(self) -> None: ...  # type: ignore[override]


class Bench:
    """A task with one permit, whose stages all have records that are due. `seconds`: of a call, by stage; `blocked`: a
    stage whose third poll lasts long."""

    def __init__(self, driver: str, seconds: Sequence[float], seed: int, blocked: int | None = None) -> None:
        self.machine = Machine(seed, switching=0.3, longest_round=0.0)
        self.process = Process("p", self.machine)
        self.driver = driver
        self.seconds = seconds
        stages = Stages("t", "g", STAGES - 1)
        self.blocked = None if blocked is None else stages[blocked].topic
        self.left = {stages[number].topic: RECORDS for number in range(STAGES)}
        self.calls: list[tuple[int, float, float]] = []
        """(stage, begin, end) of each."""
        policy = Policy(stages=stages, waits=Waits(0.0, 3600.0), concurrency=1)
        engines = [Engine(policy, stages[number]) for number in range(STAGES)]
        self.coordinator = Coordinator(policy, engines, cast(Any, None), System(self.process))

    def call(self, runtime: StageRuntime, run: Run) -> None:
        stage = runtime.engine.stage
        while run.index < run.limit or self.coordinator.may_go_on(run):
            began = self.machine.time
            self.machine.park(self.seconds[stage.number])
            self._called(stage, began)
            run.index += 1

    async def call_async(self, runtime: StageRuntime, run: Run) -> None:
        stage = runtime.engine.stage
        while run.index < run.limit or self.coordinator.may_go_on(run):
            began = self.machine.time
            await asyncio.sleep(self.seconds[stage.number])
            self._called(stage, began)
            run.index += 1

    def _called(self, stage: Any, began: float) -> None:
        self.calls.append((stage.number, began, self.machine.time))
        self.left[stage.topic] -= 1

    def run(self) -> None:
        coordinator = self.coordinator
        clients = SimpleNamespace(consumer=lambda settings, listener: Consumer(self, settings.topic, listener))

        async def async_consumer(settings: ConsumerSettings, listener: Any) -> AsyncConsumer:
            return AsyncConsumer(self, settings.topic, listener)

        clients.async_consumer = async_consumer
        adapter, admin = cast(Any, clients), cast(Any, None)

        async def in_loop() -> None:
            callers: Any
            if self.driver in ("loop", "threads with tasks"):
                callers = TaskCallers(coordinator, self.call_async, asyncio.get_running_loop())
            else:
                callers = ThreadCallers(coordinator, self.call)
            pollers: Any = ThreadPollers if self.driver == "threads with tasks" else LoopPollers
            pollers(coordinator, callers, adapter, admin).start()
            while not coordinator.ending.ended:
                await asyncio.sleep(0.1)

        def main() -> None:
            if self.driver == "threads":
                Threads(coordinator, self.call, adapter, admin).start()
            else:
                loop = Loop(self.machine)
                loop.run_until_complete(in_loop())
                loop.close()

        self.machine.spawn("main", main, self.process)
        self.machine.run(
            lambda: not any(self.left.values()) or coordinator.ending.failure is not None or self.machine.time > LIMIT
        )
        self.machine.spawn("stop", lambda: coordinator.ending.stop(self.machine.time + 1.0), self.process)
        self.machine.run(lambda: coordinator.ending.ended)
        failure = coordinator.ending.failure
        self.machine.end()
        assert failure is None
        assert not any(self.left.values())

    @property
    def longest_gap(self) -> float:
        """Seconds from the end of a call to the begin of the next, since all stages have their first records."""
        calls = self.calls[3 * PIECE :]
        return max(after[1] - before[2] for before, after in itertools.pairwise(calls))

    def most_between(self, number: int) -> int:
        """Calls of other stages between two of one stage."""
        at = [index for index, (stage, _, _) in enumerate(self.calls) if stage == number]
        return max(after - before - 1 for before, after in itertools.pairwise(at))


@pytest.mark.parametrize("slow", [(), range(STAGES), (0,), (5,)], ids=["quick", "slow", "main is slow", "last is slow"])
@pytest.mark.parametrize("driver", DRIVERS)
def test_with_one_permit_nobody_rests_while_a_call_could_begin_and_all_have_their_turns(
    driver: str, slow: Sequence[int]
) -> None:
    for seed in range(3):
        bench = Bench(driver, [SLOW if number in slow else QUICK for number in range(STAGES)], seed)
        bench.run()
        assert bench.longest_gap <= SHORT
        for number in range(STAGES):
            assert bench.most_between(number) <= 2 * PIECE * (STAGES - 1)


@pytest.mark.parametrize("seconds", [QUICK, SLOW])
@pytest.mark.parametrize("driver", DRIVERS)
def test_no_permit_is_kept_for_a_stage_whose_client_stands_still(driver: str, seconds: float) -> None:
    bench = Bench(driver, [seconds] * STAGES, seed=1, blocked=3)
    bench.run()
    others = [call for call in bench.calls if call[0] != 3]
    assert max(after[1] - before[2] for before, after in itertools.pairwise(others[3 * PIECE :])) < 4 * SLOW
