"""What the parts of an engine share."""

from __future__ import annotations

from flux.core.engine.assignment import Event
from flux.core.engine.batches import Batches, OpenBatch
from flux.core.engine.common import Common
from flux.core.engine.key_queues import KeyQueues
from flux.core.limits.call_limits import CallLimits
from unit.support.engine_support import STAGES, T0, T0_MS, assignment, policy


def common(**settings: object) -> Common:
    return Common(policy(**settings), STAGES[0], CallLimits())


def test_calls_with_many_records_take_batches_instead_of_key_queues() -> None:
    assert isinstance(common().key_queues, KeyQueues)
    assert isinstance(common(batch=OpenBatch()).key_queues, Batches)


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
