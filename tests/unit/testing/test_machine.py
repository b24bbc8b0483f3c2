"""The machine without threads: who waits makes time pass, and what runs beside runs then."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from flux.testing.machine import WAIT_LIMIT, Machine, Stuck


@pytest.fixture
def machine() -> Machine:
    return Machine(1000.0, seed=0)


def test_time_stands_still_until_it_is_told_to_move(machine: Machine) -> None:
    assert machine.now() == machine.now() == 1000.0
    machine.advance(5)
    assert machine.now() == 1005.0


def test_sleeping_and_waiting_take_the_machine_s_time_alone(machine: Machine) -> None:
    machine.sleep(60)
    assert machine.now() == 1060.0
    condition = machine.condition()
    with condition:
        assert condition.wait(60) is False
    assert machine.now() == 1120.0


def test_what_runs_beside_runs_when_time_passes_and_ends_what_is_waited_for(machine: Machine) -> None:
    condition = machine.condition()

    def notify() -> None:
        with condition:
            condition.notify_all()

    thread = machine.spawn("beside", notify)
    assert not thread.is_alive()
    with condition:
        assert condition.wait(60) is True
    assert machine.now() == 1000.0, "it was notified before any time passed"
    with condition:
        assert condition.wait(60) is False, "it ran once"


def test_what_runs_beside_makes_no_time_pass(machine: Machine) -> None:
    seen: list[float] = []

    def every_ten_seconds(sleep: Callable[[], None]) -> None:
        while True:
            seen.append(machine.now())
            sleep()

    condition = machine.condition()

    def wait() -> None:
        with condition:
            condition.wait(10)

    machine.spawn("sleeps", lambda: every_ten_seconds(lambda: machine.sleep(10)))
    machine.spawn("waits", lambda: every_ten_seconds(wait))
    machine.advance(3)
    machine.advance(4)
    assert seen == [1003.0, 1003.0, 1007.0, 1007.0]
    assert machine.now() == 1007.0


def test_waiting_for_ever_is_told(machine: Machine) -> None:
    condition = machine.condition()
    with condition, pytest.raises(Stuck, match="for ever"):
        condition.wait()


def test_waiting_without_anything_going_on_is_told(machine: Machine) -> None:
    machine.sleep(WAIT_LIMIT)
    with pytest.raises(Stuck, match="no progress for"):
        machine.sleep(1)
    machine.progressed()
    machine.sleep(WAIT_LIMIT)


def test_moving_the_clock_is_no_waiting(machine: Machine) -> None:
    machine.advance(100 * WAIT_LIMIT)
    machine.sleep(1)


def test_a_thread_of_the_program_is_waited_for(machine: Machine) -> None:
    condition, waits = machine.condition(), threading.Event()

    def notify() -> None:
        waits.wait(10)
        with condition:
            condition.notify()

    thread = threading.Thread(target=notify)
    thread.start()
    told = False
    with condition:
        waits.set()
        for _ in range(10_000):
            if told := condition.wait(0.1):
                break
    thread.join(10)
    assert told


def test_chance_is_the_seed_s() -> None:
    def drawn(seed: int) -> list[int]:
        machine = Machine(0.0, seed)
        return [machine.randint(0, 1000) for _ in range(5)]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
