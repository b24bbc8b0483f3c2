"""Commands in the kit: what an operator's command does to the runs of a test."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta

import pytest

import flux
from flux.core.errors import ConfigurationError
from flux.testing import Kit, Stuck


class Orders(flux.Producer):
    topic = "orders"


class Billing(flux.Task):
    topic, group_id, retries, wait = "orders", "billing", 2, [10, 60]

    def __init__(self) -> None:
        self.seen: list[tuple[bytes, int]] = []
        self.lives: list[str] = []
        self.on_call: Callable[[bytes], object] = lambda value: None

    def setup(self) -> None:
        self.lives.append("setup")

    def call(self, message: flux.Message) -> None:
        self.seen.append((message.value, message.stage))
        self.on_call(message.value)
        if message.value == b"broken":
            raise TimeoutError

    def close(self) -> None:
        self.lives.append("close")


def produce(*values: bytes) -> None:
    for value in values:
        Orders.produce(value)


def test_a_paused_task_makes_no_call_in_any_run_until_it_is_resumed(flux_kit: Kit) -> None:
    task = Billing()
    produce(b"1", b"2")
    flux_kit.pause(task, why="database upgrade")
    assert flux_kit.run(task).done == 0
    assert flux_kit.run_to_the_end(task).done == 0
    flux_kit.resume(task)
    assert flux_kit.run(task).done == 2


def test_a_pause_for_some_time_ends_when_the_clock_moves(flux_kit: Kit) -> None:
    task = Billing()
    produce(b"1")
    flux_kit.pause(task, seconds=timedelta(minutes=10))
    flux_kit.clock.advance(599)
    assert flux_kit.run(task).done == 0
    flux_kit.clock.advance(1)
    assert flux_kit.run(task).done == 1


def test_a_run_to_the_end_waits_for_the_end_of_a_pause_that_has_one(flux_kit: Kit) -> None:
    task = Billing()
    began = flux_kit.clock.now()
    flux_kit.pause(task, seconds=600)
    assert flux_kit.run_to_the_end(task).done == 0
    assert flux_kit.clock.now() < began + 1  # there was nothing to wait for
    produce(b"1")
    assert flux_kit.run_to_the_end(task).done == 1
    assert 600 <= flux_kit.clock.now() - began < 601


def test_a_paused_stage_leaves_the_others(flux_kit: Kit) -> None:
    task = Billing()
    produce(b"broken", b"1")
    flux_kit.pause(task, stage=1)
    summary = flux_kit.run_to_the_end(task)
    assert (summary.done, summary.failed, summary.waiting) == (1, 1, 1)
    flux_kit.clock.advance(100)
    assert flux_kit.run_to_the_end(task).waiting == 1
    flux_kit.resume(task, stage=1)
    flux_kit.run_to_the_end(task)
    assert task.seen == [(b"broken", 0), (b"1", 0), (b"broken", 1), (b"broken", 2)]
    assert len(flux_kit.dead_letters(task)) == 1


def test_a_pause_in_a_call_takes_effect_at_once(flux_kit: Kit) -> None:
    task = Billing()
    task.on_call = lambda value: flux_kit.pause(task)
    produce(b"1", b"2", b"3")
    assert flux_kit.run(task).done == 1
    flux_kit.resume(task)
    task.on_call = lambda value: None
    assert flux_kit.run(task).done == 2
    assert [value for value, _ in task.seen] == [b"1", b"2", b"3"]


def test_the_rate_is_that_of_the_last_command(flux_kit: Kit) -> None:
    def seconds_of_a_run() -> float:
        produce(*[b"1"] * 20)
        began = flux_kit.clock.now()
        assert flux_kit.run(task).done == 20
        return flux_kit.clock.now() - began

    task = Billing()
    flux_kit.set_rate(task, 2)
    assert 9 <= seconds_of_a_run() <= 11
    flux_kit.set_rate(task, 4, seconds=3600)
    assert 4 <= seconds_of_a_run() <= 6
    flux_kit.clock.advance(3600)
    assert seconds_of_a_run() < 1
    flux_kit.set_rate(task, "none")
    assert seconds_of_a_run() < 1
    with pytest.raises(ConfigurationError, match="give calls a second"):
        flux_kit.set_rate(task, 0)


def test_a_skipped_record_is_a_dead_letter_without_a_call(flux_kit: Kit) -> None:
    task = Billing()
    bad = flux_kit.produce("orders", b"bad")
    produce(b"broken")
    flux_kit.skip(task, bad, why="kills the parser")
    flux_kit.run(task)
    [waiting] = flux_kit.waiting(task)
    flux_kit.skip(task, waiting.record)
    flux_kit.run_to_the_end(task)
    assert task.seen == [(b"broken", 0)]
    first, second = flux_kit.dead_letters(task)
    assert (first.value, first.reason) == (b"bad", "skipped")
    assert "kills the parser (skipped by the test)" in str(first.error_message)
    assert second.value == b"broken"
    with pytest.raises(ConfigurationError, match="no stage of the task consumes topic bills"):
        flux_kit.skip(task, flux_kit.produce("bills", b""))


def test_a_restart_ends_the_run_s_tasks_gracefully_and_starts_them_anew(flux_kit: Kit) -> None:
    task = Billing()
    task.on_call = lambda value: flux_kit.restart(task) if value == b"2" else None
    produce(b"1", b"2", b"3")
    assert flux_kit.run(task).done == 3
    assert task.lives == ["setup", "close"] * 2
    assert [value for value, _ in task.seen] == [b"1", b"2", b"3"]
    flux_kit.restart(task)  # no run is going on, so there is nothing to restart
    produce(b"4")
    assert flux_kit.run(task).done == 1
    assert len(task.lives) == 6


def test_restarts_without_end_are_found(flux_kit: Kit) -> None:
    class Restarting(Billing):
        def setup(self) -> None:
            flux_kit.restart(self)

    with pytest.raises(Stuck, match="more than 3 restarts"):
        flux_kit.run(Restarting(), at_most=3)


def test_a_task_of_another_group_or_cluster_is_not_meant(flux_kit: Kit) -> None:
    class Other(Billing):
        group_id = "other"

    class Elsewhere(Billing):
        adapter = "confluent://elsewhere:9092"

    produce(b"1")
    flux_kit.produce(Elsewhere, b"1")
    flux_kit.pause(Billing)
    assert flux_kit.run(Billing, Other, Elsewhere).done == 2


def test_a_stage_that_does_not_exist_is_refused(flux_kit: Kit) -> None:
    with pytest.raises(ConfigurationError, match="there is no stage 7: 0 is the main topic, 1 to 2 are the retries"):
        flux_kit.pause(Billing, stage=7)
    with pytest.raises(ConfigurationError, match="pause"):
        flux_kit.pause(Billing, seconds=-1)


def test_a_command_in_a_coroutine_takes_effect_at_once(flux_kit: Kit) -> None:
    class Async(flux.Task):
        topic, group_id = "orders", "async"

        async def call(self, message: flux.Message) -> None:
            flux_kit.pause(self)

    produce(b"1", b"2")
    assert asyncio.run(flux_kit.arun(Async)).done == 1
