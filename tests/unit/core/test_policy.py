"""Settings that cannot work are refused in one line that names them."""

from __future__ import annotations

from typing import Any

import pytest

from flux.core.backoff import Waits
from flux.core.engine.batches import OpenBatch
from flux.core.engine.verdicts import NEXT, REJECTED, Move, Rules, Verdict
from flux.core.errors import ConfigurationError
from flux.core.limits.failure_rate import FailureRate
from flux.core.policy import Policy
from flux.core.stage import Stages
from flux.core.validation import LONGEST, MOST
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
        rate_limit_scope="group",
        pause_when=FailureRate(0.5),
        timeout=60,
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
    assert policy(waits=Waits(None, 100)).wait(STAGES[1], 7) == 30


@pytest.mark.parametrize(
    ("name", "values", "named"),
    [
        ("ordering", ["keys", None, 1, []], "ordering"),
        ("start_from", ["newest", None], "start_from"),
        ("concurrency", [0, -1, 1.5, "3", True, None], "concurrency"),
        ("max_crashes", [0, 1, 2.5, "3", True, 101], "max_crashes"),
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


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("concurrency", 1, 1_000_000),
        ("max_crashes", 2, 100),
        ("commit_threshold", 1, MOST),
        ("max_waiting", 1, MOST),
        ("max_waiting_bytes", 1, MOST),
        ("max_metadata", 0, 2**31 - 1),
        ("in_place_retries", 0, 1_000),
    ],
)
def test_a_number_has_a_least_and_a_greatest_value(name: str, least: int, most: int) -> None:
    for good in (least, most):
        policy(in_place_wait=0, **{name: good}).check()
    for bad in (least - 1, most + 1):
        with pytest.raises(ConfigurationError, match=f"^(offset_)?{name} = {bad}: "):
            policy(in_place_wait=0, **{name: bad}).check()


@pytest.mark.parametrize("name", ["drain_timeout", "shutdown_timeout", "in_place_wait"])
def test_seconds_are_not_negative(name: str) -> None:
    policy(**{name: 0}).check()
    with pytest.raises(ConfigurationError, match=f"^{name} = -1: "):
        policy(**{name: -1}).check()


def test_a_limit_may_be_small_but_not_nothing() -> None:
    policy(give_up_after=1e-9, timeout=1e-9, rate_limit=1e-6).check()
    policy(give_up_after=LONGEST, timeout=LONGEST, rate_limit=1e9).check()


def test_the_last_wait_in_place_may_last_five_minutes() -> None:
    policy(in_place_retries=1, in_place_wait=300).check()
    policy(in_place_retries=3, in_place_wait=75).check()
    for retries, wait in ((1, 300.1), (3, 75.1)):
        with pytest.raises(ConfigurationError, match="in_place_retries"):
            policy(in_place_retries=retries, in_place_wait=wait).check()


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"ordering": "keys"}, "ordering = 'keys': give one of key, partition, none"),
        ({"start_from": "newest"}, "start_from = 'newest': give one of earliest, latest"),
        ({"concurrency": 0}, "concurrency = 0: give a whole number, 1 or more, at most 1000000"),
        ({"commit_interval": -1}, "offset_commit_interval = -1: give seconds, 0 or more, at most 3153600000"),
        ({"stalled_after": -1}, "stalled_after = -1: give seconds, 0 or more, at most 3153600000"),
        ({"pause_when": 0.5}, "pause_when = 0.5: give flux.FailureRate(…) or None"),
        ({"pause_when": FailureRate(2)}, "pause_when: share = 2: give more than 0, at most 1"),
        ({"rate_limit_scope": "group"}, "rate_limit_scope = 'group': set rate_limit, the group's calls a second"),
        (
            {"rate_limit_key": str},
            "rate_limit_key: set rate_limit, the calls a second for each name",
        ),
        (
            {"rate_limit": 5, "rate_limit_key": "tenant"},
            "rate_limit_key = 'tenant': give a plain function of the message, or None",
        ),
        (
            {"concurrency_key": str, "batch": OpenBatch()},
            "concurrency_key is for single records: a batch has those of many names; take it out",
        ),
        (
            {"pause_when": FailureRate(0.5, by=str), "batch": OpenBatch()},
            "pause_when: by is for single records: a batch has those of many names; take it out",
        ),
        (
            {"pause_when": FailureRate(0.5, by="host")},  # type: ignore[arg-type]
            "pause_when: by = 'host': give a plain function of the message, or None",
        ),
        (
            {"concurrency_per_key": 2},
            "concurrency_per_key: set concurrency_key, which gives the name for a record",
        ),
        ({"rate_limit_scope": "all"}, "rate_limit_scope = 'all': give one of process, group"),
        ({"rate_limit": 0}, "rate_limit = 0: give calls a second, more than 1e-06, at most 1000000000, or None"),
        ({"give_up_after": 0}, "give_up_after = 0: give seconds, more than 0, at most 3153600000, or None"),
        ({"timeout": 0}, "timeout = 0: give seconds, more than 0, at most 3153600000, or None"),
        (
            {"in_place_retries": 13},
            "in_place_retries = 13 with in_place_wait = 0.1: the last wait in place would be longer than 300 s, which"
            " is what retries are for",
        ),
        ({"batch": OpenBatch(0)}, "max_batch = 0: give a whole number, 1 or more, at most 10000"),
        ({"batch": OpenBatch(1, 301)}, "max_wait = 301: give seconds, 0 or more, at most 300"),
        ({"error_headers": "none"}, "error_headers = 'none': give one of full, type or a callable"),
        (
            {"error_headers": describe_later},
            "error_headers is a coroutine function, which is never awaited: make it a plain def",
        ),
        (
            {"rules": Rules(reject_on=(KeyboardInterrupt,))},
            "reject_on names KeyboardInterrupt, which is a failure of the process and never of a record: take it out",
        ),
        ({"retry_order": "keys"}, "retry_order = 'keys': give one of key or None"),
        ({"on_dead": "keep"}, "on_dead = 'keep': give one of free, hold"),
        ({"on_dead": "hold"}, 'on_dead = "hold" holds keys in order: set retry_order = "key" too'),
        (
            {"retry_order": "key", "ordering": "none"},
            'retry_order = "key" does not go with ordering = \'none\': leave ordering = "key"',
        ),
        (
            {"retry_order": "key", "stages": Stages("t", "g", 0)},
            'retry_order = "key" does not go with retries = 0: set at least 1, or take retry_order out',
        ),
        (
            {"retry_order": "key", "batch": OpenBatch(5)},
            'retry_order = "key" does not go with a BatchTask: make it a flux.Task',
        ),
        (
            {"retry_order": "key", "pause_when": FailureRate(0.5, by=str)},
            'retry_order = "key" does not go with pause_when by a name: leave its `by` out',
        ),
        (
            {"retry_order": "key", "concurrency_key": str},
            'retry_order = "key" does not go with concurrency_key: take one of them out',
        ),
        (
            {"retry_order": "key", "in_place_retries": 2},
            'retry_order = "key" does not go with in_place_retries = 2: take one of them out',
        ),
        ({"rules": Rules(pause_on=(int,))}, "pause_on = (<class 'int'>,): give a tuple of exception types"),  # type: ignore[arg-type]
    ],
)
def test_a_refused_setting_is_shown_with_what_helps(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        policy(**settings).check()
    assert str(caught.value) == text


def test_names_for_limits_are_accepted() -> None:
    policy(rate_limit=5, rate_limit_key=str, concurrency_key=str, concurrency_per_key=3).check()


def test_a_failure_is_reported_at_once_if_it_holds_back_other_records() -> None:
    assert not policy().reports_at_once(NEXT)
    for settings in ({"retry_order": "key"}, {"pause_when": FailureRate(0.5)}, {"in_place_retries": 1}):
        assert policy(**settings).reports_at_once(NEXT)
    policy(retry_order="key", on_dead="hold").check()
