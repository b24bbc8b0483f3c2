"""Partitions are paused when too many records are in memory, and a full stage stops polling for a moment first."""

from __future__ import annotations

import attrs
import pytest

from flux.core.engine.assignment import Assignment
from flux.core.engine.batches import OpenBatch
from flux.core.limits.backpressure import FULL, PATIENCE, Backpressure
from flux.core.ports import TopicPartition
from flux.core.stage import Role
from unit.support.engine_support import T0, assignment, policy


@attrs.define
class Stage:
    """Backpressure with the turns that an engine makes."""

    backpressure: Backpressure
    partitions: list[Assignment]
    now: float = T0

    def turn(self, after: float = 0.0, stopping: bool = False) -> tuple[list[int], list[int], bool]:
        self.now += after
        patient = self.backpressure.patient(self.partitions, self.now)
        pause, resume = self.backpressure.changes(self.partitions, patient, stopping)
        return [each.partition for each in pause], [each.partition for each in resume], patient


def stage(role: Role = Role.MAIN, partitions: int = 2, **settings: object) -> Stage:
    owned = [assignment(partition=TopicPartition("t", number)) for number in range(partitions)]
    return Stage(Backpressure(policy(**settings), role), owned)


def test_a_partition_of_the_main_topic_is_paused_at_twice_full_and_resumed_at_half() -> None:
    made = stage()
    full = made.partitions[0]
    full.backlogged = 2 * FULL - 1
    assert made.turn() == ([], [], False)
    full.in_key_queues = 1
    assert made.turn() == ([0], [], False)
    assert made.backpressure.paused
    full.backlogged = FULL // 2
    assert made.turn() == ([], [], False)
    full.in_key_queues = 0
    full.backlogged = FULL // 2 - 1
    assert made.turn() == ([], [0], False)
    assert not made.backpressure.paused


@pytest.mark.parametrize("loads", [(FULL, FULL), (20 * FULL, 0)])
def test_a_full_stage_does_not_poll_and_then_pauses(loads: tuple[int, int]) -> None:
    made = stage()
    for each, load in zip(made.partitions, loads, strict=True):
        each.backlogged = load
    assert made.turn()[2]
    assert made.turn(PATIENCE / 2)[2]
    assert not made.turn(PATIENCE / 2)[2]
    assert all(each.paused for each in made.partitions)
    for each in made.partitions:
        each.backlogged = 0
    assert made.turn() == ([], [0, 1], False)


def test_a_clock_set_back_begins_the_patience_again() -> None:
    made = stage(partitions=1)
    made.partitions[0].backlogged = FULL
    assert made.turn()[2]
    assert made.turn(-3600)[2]
    assert made.turn(PATIENCE / 2)[2]
    assert not made.turn(PATIENCE)[2]


def test_a_stop_pauses_all() -> None:
    assert stage().turn(stopping=True) == ([0, 1], [], False)
    assert stage(Role.RETRY).turn(stopping=True) == ([0, 1], [], False)


def test_retry_partitions_share_the_room_for_records_and_for_bytes() -> None:
    made = stage(Role.RETRY, max_waiting=20, max_waiting_bytes=1_000)
    first, second = made.partitions
    first.waiting, second.waiting_bytes = 10, 499
    assert made.turn() == ([0], [], False)
    first.waiting, second.waiting_bytes = 5, 500
    assert made.turn() == ([1], [], False)
    first.waiting, second.waiting_bytes = 4, 249
    assert made.turn() == ([], [0, 1], False)


def test_a_stage_without_partitions_is_not_full() -> None:
    assert stage(partitions=0).turn() == ([], [], False)


def test_a_batch_has_room_to_fill() -> None:
    assert stage().backpressure.full == FULL
    assert stage(batch=OpenBatch(5 * FULL)).backpressure.full == 10 * FULL


def test_nothing_is_to_decide_while_all_records_together_are_few() -> None:
    made = stage()
    assert made.backpressure.idle([])
    made.partitions[0].backlogged = FULL - 1
    assert made.backpressure.idle(made.partitions)
    made.partitions[1].backlogged = 1
    assert not made.backpressure.idle(made.partitions)
    assert not stage(Role.RETRY).backpressure.idle([])


def test_a_paused_partition_or_a_full_stage_is_always_looked_at() -> None:
    made = stage()
    made.partitions[0].backlogged = 2 * FULL
    made.turn()
    assert not made.backpressure.idle([])
    made = stage(partitions=1)
    made.partitions[0].backlogged = FULL
    made.turn()
    assert not made.backpressure.idle([])


def test_records_in_key_queues_make_a_stage_full_too() -> None:
    made = stage(partitions=1)
    made.partitions[0].backlogged = FULL - 1
    assert not made.turn()[2]
    made.partitions[0].in_key_queues = 1
    assert made.turn()[2]


def test_records_in_key_queues_take_room_of_a_retry_partition() -> None:
    made = stage(Role.RETRY, max_waiting=20)
    made.partitions[0].waiting, made.partitions[0].in_key_queues = 9, 1
    assert made.turn() == ([0], [], False)


def test_more_retry_partitions_than_room_get_one_record_each() -> None:
    made = stage(Role.RETRY, partitions=3, max_waiting=2)
    made.partitions[1].waiting = 1
    assert made.turn() == ([1], [], False)


def test_a_share_of_the_room_is_whole() -> None:
    made = stage(Role.RETRY, max_waiting=21, max_waiting_bytes=1_001)
    first, second = made.partitions
    first.waiting, second.waiting_bytes = 10, 500
    assert made.turn() == ([0, 1], [], False)
    first.waiting, second.waiting_bytes = 5, 250
    assert made.turn() == ([], [], False)


def test_a_stage_that_starts_no_calls_does_not_poll_for_a_moment_and_pauses_then() -> None:
    made = stage()
    assert made.backpressure.patient(made.partitions, T0, blocked=True)
    assert not made.backpressure.patient(made.partitions, T0 + PATIENCE, blocked=True)
    assert not made.backpressure.patient(made.partitions, T0 + PATIENCE)
    assert not stage(Role.RETRY).backpressure.patient(stage(Role.RETRY).partitions, T0, blocked=True)
