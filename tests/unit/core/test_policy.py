"""Settings that cannot work are refused in one line that names them."""

from __future__ import annotations

from typing import Any

import pytest

from flux.core.backoff import Waits
from flux.core.engine.batches import OpenBatch
from flux.core.engine.verdicts import NEXT, REJECTED, Move, Rules, Verdict
from flux.core.errors import ConfigurationError
from flux.core.policy import Policy
from flux.core.stage import Stages
from unit.support.engine_support import STAGES, policy


async def describe_later(error: BaseException) -> str:
    return ""


def test_the_defaults_work() -> None:
    Policy(STAGES).check()
    Policy(Stages("t", "g", 25)).check()


def test_settings_within_bounds_work() -> None:
    policy(
        give_up_after=60.0,
        rate_limit=0.5,
        timeout=30,
        in_place_retries=3,
        batch=OpenBatch(10, 0.5),
        error_headers=str,
        rules=Rules((Exception,), (ValueError,), (ConnectionError,)),
    ).check()


def test_the_longest_wait_is_that_of_the_waits() -> None:
    assert policy(waits=Waits(5.0, 100)).max_delay == 100


@pytest.mark.parametrize(
    ("retries", "verdict", "holds"),
    [(1, NEXT, True), (0, NEXT, False), (1, REJECTED, False), (1, Verdict(Move.NEXT, "error", 3.0), False)],
)
def test_a_record_is_retried_in_place_unless_its_call_decided_otherwise(
    retries: int, verdict: Verdict, holds: bool
) -> None:
    assert policy(in_place_retries=retries).holds_key(verdict) is holds


def test_a_stage_waits_as_its_number_says() -> None:
    made = policy(waits=Waits([1, 2, 3], 100))
    assert [made.wait(stage, 0) for stage in STAGES] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("name", "values", "named"),
    [
        ("ordering", ["keys", None, 1, []], "ordering"),
        ("start_from", ["newest", None], "start_from"),
        ("concurrency", [0, -1, 1.5, "3", True, None], "concurrency"),
        ("commit_threshold", [0, 0.5, None], "offset_commit_threshold"),
        ("max_waiting", [0, None], "max_waiting"),
        ("max_waiting_bytes", [0, "1 MB"], "max_waiting_bytes"),
        ("max_metadata", [-1, None, 10.5], "max_metadata"),
        ("commit_interval", [-1, None, "5", True, float("nan")], "offset_commit_interval"),
        ("drain_timeout", [-1, None], "drain_timeout"),
        ("shutdown_timeout", [-1, "x"], "shutdown_timeout"),
        ("error_headers", ["none", None, 5], "error_headers"),
        ("rules", [Rules([ValueError]), Rules((ValueError("x"),)), Rules(ValueError)], "retry_on"),  # type: ignore[arg-type]
        ("rules", [Rules(reject_on=(int,)), Rules(reject_on=None)], "reject_on"),  # type: ignore[arg-type]
        ("stages", [Stages("a b", "g", 1)], "topic"),
        ("waits", [Waits(-1, 100)], "wait"),
        ("give_up_after", [0, -1, "5", float("inf")], "give_up_after"),
        ("rate_limit", [0, 1e-9, 1e10, True], "rate_limit"),
        ("timeout", [0, -1], "timeout"),
        ("in_place_wait", [-1, None], "in_place_wait"),
        ("in_place_retries", [-1, 1_001, 13], "in_place_retries"),
        ("batch", [OpenBatch(0), OpenBatch(10_001), OpenBatch(1.5)], "max_batch"),  # type: ignore[arg-type]
        ("batch", [OpenBatch(1, -1), OpenBatch(1, 301)], "max_wait"),
        ("error_headers", [describe_later], "error_headers is a coroutine function"),
        ("rules", [Rules(retry_on=(KeyboardInterrupt,))], "a failure of the process"),
    ],
)
def test_a_setting_that_cannot_work_is_named(name: str, values: list[Any], named: str) -> None:
    for value in values:
        with pytest.raises(ConfigurationError, match=named) as caught:
            policy(**{name: value}).check()
        assert "\n" not in str(caught.value)


def test_exactly_once_needs_room_in_the_metadata() -> None:
    with pytest.raises(ConfigurationError, match="exactly_once keeps what is done above the committed offset"):
        policy(exactly_once=True, max_metadata=99).check()
    policy(exactly_once=True, max_metadata=100).check()
