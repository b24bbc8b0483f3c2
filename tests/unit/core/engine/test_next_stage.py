"""Where a failed record goes."""

from __future__ import annotations

from typing import Any

import pytest

from flux.core.engine.common import Common
from flux.core.engine.forwards import Failure, ForwardedCopy
from flux.core.engine.next_stage import NextStage
from flux.core.engine.slices import Entry
from flux.core.engine.verdicts import EXPIRED, NEXT, REJECTED, Verdict
from flux.core.limits.call_limits import CallLimits
from flux.core.stage import Role
from unit.support.engine_support import STAGES, T0, assignment, message, policy, record


def next_stage(stage: int = 0, **settings: Any) -> NextStage:
    made = policy(**settings)
    return NextStage(Common(made, made.stages[stage], CallLimits()))


def copy(verdict: Verdict, stage: int = 0, attempts: int = 0, ordered: bool = False, **settings: Any) -> ForwardedCopy:
    one = record(3, headers=[("flux-attempts", b"%d" % attempts)])
    entry = Entry(assignment(), message(one, stage), 3, 4)
    chosen = next_stage(stage, **settings)
    assert chosen.following is not None
    return chosen.copy(entry, chosen.following, verdict, Failure(ValueError("bad")), T0, True, ordered)


def test_a_failure_goes_to_the_next_stage_and_after_the_last_one_to_the_dead_letters() -> None:
    first, last = copy(NEXT), copy(NEXT, 2, 2)
    assert (first.target.number, first.reason, first.wait, first.called) == (1, "error", 10.0, True)
    assert (last.target.role, last.reason, last.wait) == (Role.DEAD, "exhausted", 0.0)


def test_a_rejected_record_is_dead_at_once() -> None:
    assert (copy(REJECTED).target.role, copy(REJECTED).reason) == (Role.DEAD, "rejected")


def test_a_record_without_a_call_counts_none() -> None:
    assert not copy(EXPIRED).called


def test_a_record_that_would_wait_too_long_has_expired() -> None:
    expired = copy(NEXT, give_up_after=5.0)
    assert (expired.target.role, expired.reason) == (Role.DEAD, "expired")


def test_in_an_order_the_next_stage_follows_from_the_records_own_attempts() -> None:
    assert copy(NEXT, 2, 0, ordered=True).target.number == 1
    assert copy(NEXT, 1, 2, ordered=True).target.role is Role.DEAD
    assert copy(NEXT, 1, 9, ordered=True).target.role is Role.DEAD


def test_dead_letters_stay() -> None:
    assert next_stage(3).following is None


@pytest.mark.parametrize(("error", "why"), [(ValueError("bad"), "ValueError: bad"), (ValueError(), "ValueError")])
def test_a_dead_letter_that_fails_once_more_is_named(error: Exception, why: str) -> None:
    entry = Entry(assignment(), message(record(3), 3), 3, 4)
    line = next_stage(3).stays(entry, Failure(error))
    assert f"failed once more ({why}) and stays a dead letter" in line.text
    assert STAGES[3].role is Role.DEAD
