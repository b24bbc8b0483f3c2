"""The writes of each move."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from flux.core.backoff import Waits
from flux.core.engine.common import Common
from flux.core.engine.forwarding import Forwards
from flux.core.engine.forwards import ForwardedCopy
from flux.core.engine.key_order import OrderEntry
from flux.core.engine.order_moves import Moves
from flux.core.engine.order_steps import OrderSteps
from flux.core.engine.order_writes import EntryWrite
from flux.core.limits.call_limits import CallLimits
from unit.support.engine_support import DAY, STAGES, T0, T0_MS, assignment, entry, policy

PLACE = (0, b"k"), (0, 3), 5
NAME, ORIGIN, _ = PLACE


@attrs.define
class Steps:
    moves: Moves
    steps: OrderSteps
    one: Any

    def made(self) -> list[str]:
        """The topics of the writes of the only move; a removal is "-"."""
        [queue] = self.moves._queues.values()
        [move] = queue
        removals = [isinstance(step, EntryWrite) and step.entry is None for step in move.steps]
        return ["-" if gone else step.target.topic for gone, step in zip(removals, move.steps, strict=True)]

    def entered(self) -> OrderEntry:
        [queue] = self.moves._queues.values()
        assert queue[0].entered is not None
        return queue[0].entered


def steps(stage: int = 0, **settings: Any) -> Steps:
    made = policy(retry_order="key", **settings)
    moves = Moves(Forwards(), lambda closed: None)
    return Steps(moves, OrderSteps(Common(made, made.stages[stage], CallLimits()), moves), entry(assignment(), 3))


def failed(each: Steps, target: int, known: OrderEntry | None = None, reason: str = "error") -> None:
    copy = ForwardedCopy(each.one.message, STAGES[target], reason, 2.0, "g", 0, "", "", "")
    each.steps.failed(each.one, PLACE, copy, known, T0)


def test_a_failed_record_is_entered_and_then_copied() -> None:
    each = steps()
    failed(each, 1)
    assert each.made() == ["t-g-keys", "t-g-try-1"]
    assert each.entered() == OrderEntry(b"k", 1, T0_MS + 2000, 1)


def test_a_dead_letter_is_written_before_its_entry_is_removed() -> None:
    each = steps(1)
    failed(each, 3, OrderEntry(b"k", 1, 0, 0))
    assert each.made() == ["t-g-dlq", "-"]


def test_a_dead_letter_without_an_entry_is_only_written() -> None:
    each = steps()
    failed(each, 3)
    assert each.made() == ["t-g-dlq"]


def test_a_dead_letter_that_holds_its_key_is_entered() -> None:
    each = steps(on_dead="hold")
    failed(each, 3)
    assert each.made() == ["t-g-keys", "t-g-dlq"]
    assert each.entered().dead


def test_what_is_done_is_removed() -> None:
    each = steps(1)
    each.steps.done(each.one, PLACE)
    assert each.made() == ["-"]


@pytest.mark.parametrize(
    ("leader", "stage", "wait"),
    [
        (OrderEntry(b"k", 2, T0_MS + 7000, 1), 2, 7.0),
        (OrderEntry(b"k", 2, 5, 1), 2, 0.0),  # another stage's, and due
        (OrderEntry(b"k", 3, 5, 3, True), 2, 30.0),  # a dead letter
        (OrderEntry(b"k", 9, T0_MS + 7000, 1), 2, 7.0),  # retries were lowered
        (OrderEntry(b"k", 2, T0_MS + 7000, 1, follows=True), 2, 0.0),  # another stage's, and due when it is read
    ],
)
def test_a_follower_is_due_with_its_leader_in_the_same_stage(leader: OrderEntry, stage: int, wait: float) -> None:
    each = steps(1)
    each.steps.behind(each.one, NAME, ORIGIN, leader, T0)
    assert each.made() == ["t-g-keys", STAGES[stage].topic]
    assert each.entered() == OrderEntry(b"k", stage, T0_MS + round(wait * 1000), 0, follows=True)


@pytest.mark.parametrize(("setting", "wait"), [(0.1, 1), (10, 10), (86400, 60)])
@pytest.mark.parametrize("leader", [OrderEntry(b"k", 1, 5, 1), OrderEntry(b"k", 1, T0_MS + 7000, 1, follows=True)])
def test_a_follower_of_one_that_is_due_here_waits_for_itself(leader: OrderEntry, setting: float, wait: int) -> None:
    each = steps(1, waits=Waits(setting, DAY))
    each.steps.behind(each.one, NAME, ORIGIN, leader, T0)
    assert each.entered() == OrderEntry(b"k", 1, T0_MS + wait * 1000, 0)


def test_a_missing_copy_is_written_as_its_entry_says() -> None:
    for known, topic in ((OrderEntry(b"k", 2, 5, 1), "t-g-try-2"), (OrderEntry(b"k", 3, 5, 1, True), "t-g-dlq")):
        each = steps(1)
        each.steps.rewrite(each.one, NAME, ORIGIN, attrs.evolve(known, version=8))
        assert each.made() == [topic]
        [queue] = each.moves._queues.values()
        assert queue[0].steps[0].order == 8


def test_a_record_that_an_operator_skips_frees_its_key_all_the_same() -> None:
    each = steps(1, on_dead="hold")
    failed(each, 3, OrderEntry(b"k", 1, 0, 0), "skipped")
    assert each.made() == ["t-g-dlq", "-"]


def test_in_a_transaction_a_dead_letter_takes_its_entry_along() -> None:
    each = steps(1, exactly_once=True)
    failed(each, 3, OrderEntry(b"k", 1, 0, 1, version=5))
    assert each.made() == ["t-g-dlq"]
    [[move]] = each.moves._queues.values()
    companion = move.steps[0].companion
    assert isinstance(companion, EntryWrite)
    assert (companion.entry, companion.target.topic) == (None, "t-g-keys")


def test_a_removal_may_be_written_with_what_a_call_has_produced() -> None:
    each = steps(1)
    topic, removal = each.steps.removal(each.one, ORIGIN)
    assert (topic, removal.key, removal.value, removal.partition) == ("t-g-keys", b"0:3", None, 0)
