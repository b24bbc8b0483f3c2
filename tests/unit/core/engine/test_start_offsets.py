"""Where a partition starts for which the group has committed no offset."""

from __future__ import annotations

from typing import Any

import pytest

from flux.consuming import effects as do
from flux.consuming.coordinator import Coordinator
from flux.consuming.effects import Procedure
from flux.consuming.forwarder import ForwardWriter
from flux.consuming.procedures import assign, poll_stage
from flux.core.engine.start_offsets import StartOffsets
from flux.core.ports import BEGINNING, CommittedOffset, ProducerSettings, TopicPartition, Watermarks
from flux.system import SYSTEM
from unit.support.engine_support import P0, P1, Driver, policy

LATER = TopicPartition("t", 2)
MARKS = {0: Watermarks(3, 10), 1: Watermarks(0, 0)}


def starts(start_from: str = "latest", stage: int = 0) -> StartOffsets:
    chosen = policy(start_from=start_from)
    return StartOffsets(chosen, chosen.stages[stage])


def test_a_group_without_offsets_starts_at_the_ends_that_were_found_before_it_joined() -> None:
    new = starts()
    assert new.must_check
    new.found((), MARKS)
    assert not new.must_check
    assert [new.of(P0), new.of(P1)] == [10, 0]


def test_a_partition_that_came_later_starts_with_its_oldest_record() -> None:
    new = starts()
    new.found((), MARKS)
    assert new.of(LATER) == BEGINNING


def test_in_a_group_with_offsets_a_partition_without_one_starts_with_its_oldest_record() -> None:
    old = starts()
    old.found({0}, MARKS)
    assert old.of(P1) == BEGINNING


def test_once_it_is_committed_only_a_topic_made_anew_has_no_offset() -> None:
    new = starts()
    new.found((), MARKS)
    new.committed([P0, LATER])
    assert [new.of(P0), new.of(P1)] == [BEGINNING, 0]


@pytest.mark.parametrize(("start_from", "stage"), [("earliest", 0), ("latest", 1), ("latest", 3)])
def test_only_the_main_stage_of_a_group_that_starts_at_latest_looks(start_from: str, stage: int) -> None:
    assert not starts(start_from, stage).must_check
    assert starts(start_from, stage).of(P0) == BEGINNING


class Cluster:
    """What a group has committed and where the topic ends, for the procedures of its members."""

    def __init__(self, ends: dict[int, int]) -> None:
        self.ends = ends
        self.positions: dict[int, CommittedOffset] = {}

    def answer(self, effect: Any) -> Any:
        match effect:
            case do.GroupOffsets():
                return dict(self.positions)
            case do.Marks():
                return {number: Watermarks(0, end) for number, end in self.ends.items()}
            case do.Committed(partitions):
                return {at: self.positions.get(at.partition) for at in partitions}
            case do.Draw():
                return 0
        return None

    def commit(self, driver: Driver) -> None:
        self.positions |= driver.commit()


def performed(cluster: Cluster, procedure: Procedure[Any]) -> Any:
    result = None
    while True:
        try:
            effect = procedure.send(result)
        except StopIteration as stop:
            return stop.value
        result = cluster.answer(effect)


def joined(cluster: Cluster) -> tuple[Driver, list[Any]]:
    """A new member with what it did before it was first in the group."""
    driver = Driver(start_from="latest")
    coordinator = Coordinator(driver.policy, [driver.engine], ForwardWriter(None, ProducerSettings(), SYSTEM), SYSTEM)  # type: ignore[arg-type]
    procedure, effects, result = poll_stage(coordinator, coordinator.runtimes[0], lambda: True), list[Any](), None
    while not (effects and isinstance(effects[-1], do.Poll)):
        effects.append(procedure.send(result))
        result = cluster.answer(effects[-1])
    return driver, effects


def assigned(cluster: Cluster, driver: Driver, *numbers: int) -> dict[int, int]:
    partitions = [TopicPartition("t", number) for number in numbers]
    starts = performed(cluster, assign(driver.engine, partitions, lambda: driver.now))
    return {at.partition: offset for at, offset in starts.items()}


def test_a_member_looks_before_it_joins() -> None:
    driver, effects = joined(Cluster({0: 5}))
    assert [type(effect) for effect in effects] == [do.GroupOffsets, do.Marks, do.Write, do.Poll]
    assert not driver.engine.start_offsets.must_check


def test_members_that_begin_a_group_together_agree_although_one_commits_before_the_other_has_asked() -> None:
    cluster = Cluster({0: 5, 1: 7})
    (first, _), (second, _) = joined(cluster), joined(cluster)
    cluster.ends = {0: 50, 1: 70, 2: 3}
    assert assigned(cluster, first, 0) == {0: 5}
    cluster.commit(first)
    assert cluster.positions == {0: CommittedOffset(5)}
    assert assigned(cluster, second, 1) == {1: 7}, "what was written since they came is theirs"
    assert assigned(cluster, second, 2) == {2: BEGINNING}


def test_a_partition_whose_first_owner_died_before_it_committed_starts_where_the_group_began() -> None:
    cluster = Cluster({0: 5, 1: 7})
    (first, _), (second, _) = joined(cluster), joined(cluster)
    assigned(cluster, first, 0)
    cluster.commit(first)
    assigned(cluster, second, 1)
    cluster.ends = {0: 50, 1: 70}
    assert assigned(cluster, first, 1) == {1: 7}


def test_a_member_that_comes_later_starts_what_nobody_had_with_its_oldest_record() -> None:
    cluster = Cluster({0: 5})
    first, _ = joined(cluster)
    assigned(cluster, first, 0)
    cluster.commit(first)
    cluster.ends = {0: 5, 1: 9}
    later, _ = joined(cluster)
    assert assigned(cluster, later, 0, 1) == {0: 5, 1: BEGINNING}
