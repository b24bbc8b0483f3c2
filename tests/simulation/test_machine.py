"""The simulated machine itself."""

from __future__ import annotations

import contextvars
from collections.abc import Callable

import pytest

from simulation.loop import Loop
from simulation.machine import Machine, Process
from simulation.system import Condition, System


class Bench:
    """One process on a machine."""

    def __init__(self, switching: float = 0.5, seed: int = 1) -> None:
        self.machine = Machine(seed, switching, longest_round=10.0)
        self.process = Process("p", self.machine)
        self.system = System(self.process)
        self.ended = 0
        self.started = 0

    def spawn(self, target: Callable[[], None], process: Process | None = None) -> None:
        def run() -> None:
            target()
            self.ended += 1

        self.started += 1
        self.machine.spawn(target.__name__, run, process or self.process)

    def run(self) -> None:
        self.machine.run(lambda: self.ended == self.started)
        self.machine.end()


def test_a_lock_keeps_others_out_although_its_owner_is_interrupted() -> None:
    bench = Bench()
    lock = bench.system.condition()
    inside: list[int] = []

    def work() -> None:
        for _ in range(50):
            with lock:
                inside.append(1)
                bench.machine.point()
                assert inside == [1]
                inside.pop()

    for _ in range(4):
        bench.spawn(work)
    bench.run()


def test_a_wait_ends_when_told_or_when_its_time_is_over() -> None:
    bench = Bench()
    lock = bench.system.condition()
    ends: list[tuple[bool, int]] = []

    def wait() -> None:
        for timeout in (5.0, 100.0):
            bench.machine.touch()
            with lock:
                ends.append((lock.wait(timeout), round(bench.machine.time)))

    def tell() -> None:
        bench.machine.park(50.0)
        with lock:
            lock.notify()

    bench.spawn(wait)
    bench.spawn(tell)
    bench.run()
    assert ends == [(False, 5), (True, 50)]


def test_nothing_of_a_killed_process_runs_any_more() -> None:
    bench = Bench()
    other = Process("q", bench.machine)
    seen: list[str] = []

    def victim() -> None:
        try:
            while True:
                seen.append("works")
                bench.machine.park(1.0)
        finally:
            seen.append("cleans up")

    def killer() -> None:
        bench.machine.park(3.5)
        bench.machine.kill(other)
        seen.append("killed")
        bench.machine.park(10.0)
        assert seen[-1] == "killed"

    bench.machine.spawn("victim", victim, other)
    bench.spawn(killer)
    bench.run()
    assert seen.count("works") == 4


def test_a_frozen_process_goes_on_where_it_was() -> None:
    bench = Bench()
    other = Process("q", bench.machine)
    at: list[int] = []

    def sleeper() -> None:
        for _ in range(3):
            bench.machine.park(1.0)
            at.append(round(bench.machine.time))

    def freezer() -> None:
        bench.machine.park(1.5)
        bench.machine.freeze(other)
        bench.machine.park(10.0)
        bench.machine.thaw(other)

    bench.spawn(sleeper, other)
    bench.spawn(freezer)
    bench.run()
    assert at == [1, 12, 13]


def test_rounds_become_rare_while_nothing_happens_and_are_in_time_again_when_something_does() -> None:
    bench = Bench(switching=0.0)
    rounds: list[float] = []

    def poll() -> None:
        while bench.machine.time < 1000.0:
            bench.system.sleep(0.01)
            rounds.append(bench.machine.time)

    bench.spawn(poll)
    bench.machine.at(500.0, bench.machine.touch)
    bench.run()
    assert len(rounds) < 200
    assert min(abs(at - 500.0) for at in rounds) < 0.02


def test_each_thread_has_a_context_of_its_own_in_event_loops_too() -> None:
    bench = Bench(switching=1.0)
    variable = contextvars.ContextVar("variable", default="none")

    async def task(name: str) -> None:
        variable.set(name)
        for _ in range(20):
            bench.machine.point()
            assert variable.get() == name

    def loop() -> None:
        made = Loop(bench.machine)
        made.run_until_complete(task(f"loop {id(made)}"))
        made.close()

    def thread() -> None:
        token = variable.set("thread")
        for _ in range(20):
            bench.machine.point()
            assert variable.get() == "thread"
        variable.reset(token)

    for target in (loop, loop, thread, thread):
        bench.spawn(target)
    bench.run()


def test_an_executor_of_an_event_loop_is_a_thread_of_the_machine() -> None:
    bench = Bench()
    results: list[str] = []

    def blocking() -> str:
        bench.machine.park(5.0)
        return f"after {bench.machine.time:.0f} s"

    async def main(loop: Loop) -> None:
        results.append(await loop.run_in_executor(None, blocking))

    def loop() -> None:
        made = Loop(bench.machine)
        made.run_until_complete(main(made))
        made.close()

    bench.spawn(loop)
    bench.run()
    assert results == ["after 5 s"]


def test_nobody_is_interrupted_within_the_broker() -> None:
    bench = Bench(switching=1.0)
    lock = Condition(bench.machine, broker=True)
    order: list[int] = []

    def work(number: int) -> None:
        with lock:
            order.append(number)
            bench.machine.point()
            order.append(number)

    for number in range(5):
        bench.spawn(lambda number=number: work(number))  # type: ignore[misc]
    bench.run()
    assert order[::2] == order[1::2]


def test_the_same_seed_gives_the_same_schedule() -> None:
    def schedule(seed: int) -> list[int]:
        bench = Bench(seed=seed)
        order: list[int] = []

        def work(number: int) -> None:
            for _ in range(20):
                bench.machine.point()
                order.append(number)

        for number in range(3):
            bench.spawn(lambda number=number: work(number))  # type: ignore[misc]
        bench.run()
        return order

    assert schedule(1) == schedule(1)
    assert schedule(1) != schedule(2)


def test_what_waits_for_ever_is_an_error() -> None:
    bench = Bench()
    lock = bench.system.condition()

    def wait() -> None:
        with lock:
            lock.wait()

    bench.spawn(wait)
    with pytest.raises(RuntimeError, match="for ever"):
        bench.run()
    bench.machine.end()
