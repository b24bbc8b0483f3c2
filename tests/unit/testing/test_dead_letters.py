"""Dead letters of a task in the kit: replayed and rejected as an operator does it."""

from __future__ import annotations

from typing import Literal

import pytest

import flux
from flux.core.engine import ordered_retries
from flux.testing import Kit


class Writes(flux.Task):
    topic = "states"
    group_id = "copy"
    retries = 2
    written: list[bytes | None]
    refused: set[bytes | None]

    def call(self, message: flux.Message) -> None:
        if message.raw_value in type(self).refused:
            raise flux.Reject("refused")
        type(self).written.append(message.raw_value)


@pytest.fixture
def task() -> type[Writes]:
    class Made(Writes):
        written = []
        refused = {b"1"}

    return Made


@pytest.fixture
def held(task: type[Writes]) -> type[Writes]:
    class Held(task):  # type: ignore[misc,valid-type]
        retry_order: Literal["key"] | None = "key"
        on_dead: Literal["free", "hold"] = "hold"

    return Held


def test_a_replayed_dead_letter_is_called_again(flux_kit: Kit, task: type[Writes]) -> None:
    flux_kit.produce("states", "1", key="k")
    flux_kit.run(task)
    task.refused.clear()
    assert flux_kit.replay(task) == 1
    assert flux_kit.run(task).done == 1
    assert task.written == [b"1"]
    assert flux_kit.replay(task) == 0


def test_chosen_dead_letters_are_replayed_or_rejected(flux_kit: Kit, task: type[Writes]) -> None:
    task.refused.update({b"2", b"3"})
    for value in "123":
        flux_kit.produce("states", value)
    flux_kit.run(task)
    task.refused.clear()
    first, second, _ = flux_kit.dead_letters(task)
    assert flux_kit.reject(task, first) == 1
    assert flux_kit.replay(task, second) == 1
    flux_kit.run(task)
    assert task.written == [b"2"]
    assert flux_kit.replay(task) == 1  # the third


def test_a_run_to_the_end_leaves_what_a_dead_letter_holds(flux_kit: Kit, held: type[Writes]) -> None:
    for value in "123":
        flux_kit.produce("states", value, key="k")
    flux_kit.produce("states", "4", key="other")
    assert flux_kit.run_to_the_end(held).waiting == 2
    assert held.written == [b"4"]


def test_what_a_replayed_dead_letter_held_is_called_after_it_at_once(flux_kit: Kit, held: type[Writes]) -> None:
    for value in "123":
        flux_kit.produce("states", value, key="k")
    flux_kit.run_to_the_end(held)
    held.refused.clear()
    flux_kit.replay(held)
    began = flux_kit.clock.now()
    flux_kit.run(held)
    assert held.written == [b"1", b"2", b"3"]
    assert flux_kit.clock.now() - began < 1


def test_what_a_rejected_dead_letter_held_is_called_at_once(flux_kit: Kit, held: type[Writes]) -> None:
    for value in "123":
        flux_kit.produce("states", value, key="k")
    flux_kit.run_to_the_end(held)
    flux_kit.reject(held)
    flux_kit.run(held)
    assert held.written == [b"2", b"3"]


def test_a_dead_letter_that_was_rejected_can_be_replayed_after_all(flux_kit: Kit, held: type[Writes]) -> None:
    for value in "12":
        flux_kit.produce("states", value, key="k")
    flux_kit.run_to_the_end(held)
    flux_kit.reject(held)
    flux_kit.run(held)
    held.refused.clear()
    assert flux_kit.replay(held, *flux_kit.dead_letters(held)) == 1
    flux_kit.run(held)
    assert held.written == [b"2", b"1"]


def test_a_dead_letter_is_replayed_twice_if_that_is_wanted(flux_kit: Kit, held: type[Writes]) -> None:
    flux_kit.produce("states", "1", key="k")
    flux_kit.run_to_the_end(held)
    held.refused.clear()
    for _ in range(2):
        assert flux_kit.replay(held, *flux_kit.dead_letters(held)) == 1
        flux_kit.run(held)
    assert held.written == [b"1", b"1"]


def test_many_that_a_dead_letter_held_are_called_without_many_copies(
    flux_kit: Kit, held: type[Writes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ordered_retries, "MOST_PARKED", 5)
    values = [str(number) for number in range(1, 41)]
    for value in values:
        flux_kit.produce("states", value, key="k")
    flux_kit.run_to_the_end(held)
    flux_kit.reject(held)
    before, began = len(flux_kit.topic("states-copy-keys")), flux_kit.clock.now()
    flux_kit.run_to_the_end(held)
    assert held.written == [value.encode() for value in values[1:]]
    assert len(flux_kit.topic("states-copy-keys")) - before < 10 * len(values)
    assert flux_kit.clock.now() - began < 600
