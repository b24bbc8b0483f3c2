"""What the parts of an engine share."""

from __future__ import annotations

import pytest

from flux.core.backoff import Waits
from flux.core.engine.assignment import Event
from flux.core.engine.batches import Batches, OpenBatch
from flux.core.engine.common import BATCH, Common
from flux.core.engine.key_queues import KeyQueues
from flux.core.engine.slices import Slice
from flux.core.limits.call_limits import CallLimits
from flux.core.monitoring.stats import Stats
from unit.support.engine_support import STAGES, T0, T0_MS, assignment, entry, policy, record


def common(**settings: object) -> Common:
    return Common(policy(**settings), STAGES[0], CallLimits())


def test_calls_with_many_records_take_batches_instead_of_key_queues() -> None:
    assert isinstance(common().key_queues, KeyQueues)
    assert isinstance(common(batch=OpenBatch()).key_queues, Batches)


def test_the_parts_begin_as_the_policy_says() -> None:
    settings, limits = policy(commit_interval=5.0, commit_threshold=2, waits=Waits(10.0, 60.0)), CallLimits()
    shared = Common(settings, STAGES[1], limits)
    assert (shared.policy, shared.stage, shared.call_limits) == (settings, STAGES[1], limits)
    assert (shared.stats, shared.batch, shared.stopping, shared.epoch) == (Stats(), BATCH, False, 0.0)

    shared.commits.checked(now=100.0)
    assert (shared.commits.due(104.9), shared.commits.due(105.0)) == (False, True)
    shared.commits.done = 2
    assert shared.commits.due(100.0)

    owner = assignment()
    timed, _ = shared.due_times.timed(owner, Slice([record(0, timestamp=T0_MS)], 1), T0_MS + 1)
    assert timed.due_times == [T0_MS + 10_000]
    assert shared.due_times.wait(STAGES[2], 61.0, 0) == 60.0
    [clipped] = shared.log_events.take()
    assert "clipped to 60 s" in clipped.text


@pytest.mark.parametrize(("ordering", "number"), [("partition", 1), ("key", 2), ("none", 3)])
def test_as_many_calls_run_at_once_as_the_ordering_allows(ordering: str, number: int) -> None:
    shared, owner = common(ordering=ordering), assignment()
    for offset, key in enumerate((b"a", b"b", b"a")):
        shared.key_queues.add(entry(owner, offset, key))
    assert len(shared.key_queues.take(9, T0)) == number


@pytest.mark.parametrize(("ordering", "number"), [("key", 0), ("none", 2)])
def test_batches_have_the_size_and_the_ordering_of_the_policy(ordering: str, number: int) -> None:
    shared, owner = common(batch=OpenBatch(2, 0.0), ordering=ordering), assignment()
    assert owner.offset_tracker is not None
    owner.offset_tracker.delivered(0, 4)
    for offset in range(1, 4):
        waiting = entry(owner, offset, b"a")
        waiting.since = T0
        shared.key_queues.add(waiting)
    shared.key_queues.hold(entry(owner, 0, b"a"))
    assert len(shared.key_queues.take(9, T0)) == number


def test_the_wall_clock_is_ahead_of_the_engines_by_the_epoch() -> None:
    shared = common()
    assert shared.wall_ms(T0) == T0_MS
    shared.epoch = 5.0
    assert shared.wall_ms(T0) == T0_MS + 5_000


def test_no_call_starts_for_a_partition_that_is_revoked_or_after_a_stop() -> None:
    shared, owner = common(), assignment()
    assert shared.begins(owner)
    owner.to(Event.REVOKING)
    assert not shared.begins(owner)
    shared.stopping = True
    assert not shared.begins(assignment())


def test_limits_by_name_have_a_place_for_what_they_hold_back() -> None:
    assert common().held_back is None
    settings = policy(concurrency_key=lambda message: 1 / 0)
    shared = Common(settings, STAGES[0], CallLimits.of(settings))
    assert shared.held_back is not None
    assert shared.held_back.admits(entry(assignment(), 0), T0)
    [event] = shared.log_events.take()
    assert event.text.startswith("concurrency_key failed with ZeroDivisionError")
