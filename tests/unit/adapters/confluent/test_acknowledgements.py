"""Writers wait for the thread that serves acknowledgements, and never for longer than they said."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator

import pytest

pytest.importorskip("confluent_kafka")

from flux.adapters.confluent.acknowledgements import Turns

WAIT = 0.02


@pytest.fixture
def greedy() -> Iterator[None]:
    """Whoever has the interpreter keeps it."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(10)
    yield
    sys.setswitchinterval(before)


def compute(seconds: float) -> None:
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


def begun(turns: Turns, number: int) -> list[threading.Thread]:
    threads = [threading.Thread(target=turns.wait, args=(WAIT,), daemon=True) for _ in range(number)]
    for thread in threads:
        thread.start()
    while len(turns._waiting) < number:
        time.sleep(0)
    return threads


def test_who_waits_goes_on_when_a_round_that_began_after_has_ended() -> None:
    turns = Turns()
    gone: list[bool] = []
    thread = threading.Thread(target=lambda: gone.append(turns.wait(60)), daemon=True)
    thread.start()
    while not (waiting := turns.begin(0)):
        pass
    assert gone == []
    turns.end(waiting)
    thread.join(60)
    assert gone == [True]


def test_a_round_begins_as_soon_as_somebody_waits() -> None:
    turns = Turns()
    thread = threading.Thread(target=turns.wait, args=(100,), daemon=True)
    began = time.monotonic()
    thread.start()
    waiting = turns.begin(100)
    assert len(waiting) == 1
    assert time.monotonic() - began < 50
    turns.end(waiting)
    thread.join(60)


def test_nobody_waits_for_a_serving_thread_that_is_gone() -> None:
    assert Turns().wait(0.001) is False


def test_a_round_without_anybody_ends_too() -> None:
    turns = Turns()
    turns.wait(0)
    turns.end(turns.begin(0))
    assert turns.begin(0.001) == []


@pytest.mark.usefixtures("greedy")
@pytest.mark.parametrize("writers", [1, 2, 5])
def test_who_is_woken_late_and_finds_its_answer_taken_does_not_wait_for_ever(writers: int) -> None:
    turns = Turns()
    for _ in range(3):
        threads = begun(turns, writers)
        first = turns.begin(0)
        turns.end(first[:1])
        turns.begin(0)  # what else there was to take is taken, while the woken one waits for the interpreter
        compute(2 * WAIT)
        for thread in threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in threads)
