"""A timedelta is taken wherever seconds are."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

import flux
from flux.adapters.memory import MemoryAdapter
from flux.core.errors import ConfigurationError
from flux.core.policy import Policy
from flux.core.validation import seconds
from flux.testing import Kit

MINUTE = timedelta(minutes=1)


class Bills(flux.BatchTask):
    topic, group_id, retries = "orders", "billing", 2

    def call(self, messages: Any) -> None: ...


@pytest.mark.parametrize(
    ("setting", "read"),
    [
        ("max_delay", lambda policy: policy.max_delay),
        ("in_place_wait", lambda policy: policy.in_place_wait),
        ("give_up_after", lambda policy: policy.give_up_after),
        ("timeout", lambda policy: policy.timeout),
        ("offset_commit_interval", lambda policy: policy.commit_interval),
        ("drain_timeout", lambda policy: policy.drain_timeout),
        ("shutdown_timeout", lambda policy: policy.shutdown_timeout),
        ("stalled_after", lambda policy: policy.stalled_after),
        ("max_wait", lambda policy: policy.batch.wait),
    ],
)
def test_a_setting_takes_a_timedelta(setting: str, read: Any) -> None:
    policy: Policy = type("Timed", (Bills,), {"wait": 1, setting: MINUTE}).policy()  # type: ignore[attr-defined]
    assert read(policy) == 60.0
    with pytest.raises(ConfigurationError, match=rf"Timed.*{setting} = -60\.0: give seconds"):
        type("Timed", (Bills,), {"wait": 1, setting: -MINUTE}).policy()  # type: ignore[attr-defined]


def _minutes(stage: int) -> timedelta:
    return timedelta(minutes=stage)


@pytest.mark.parametrize("wait", [[MINUTE, 2 * MINUTE], _minutes])
def test_the_wait_of_each_stage_may_be_a_timedelta(wait: Any) -> None:
    policy = type("Timed", (Bills,), {"wait": staticmethod(wait) if callable(wait) else wait}).policy()  # type: ignore[attr-defined]
    assert [policy.waits.seconds(stage, 0) for stage in (1, 2)] == [60.0, 120.0]


def test_one_wait_may_be_a_timedelta() -> None:
    assert type("Timed", (Bills,), {"wait": MINUTE}).policy().waits.seconds(1, 0) == 60.0  # type: ignore[attr-defined]


def test_what_is_no_duration_takes_no_timedelta() -> None:
    with pytest.raises(ConfigurationError, match="rate_limit"):
        type("Timed", (Bills,), {"rate_limit": MINUTE}).policy()  # type: ignore[attr-defined]


def test_exceptions_of_calls_take_a_timedelta() -> None:
    assert flux.Retry(after=MINUTE).after == flux.Pause(MINUTE).seconds == 60.0
    for wrong in (lambda: flux.Retry(after=-MINUTE), lambda: flux.Pause(-MINUTE)):
        with pytest.raises(ValueError, match="give seconds, 0 or more"):
            wrong()


def test_a_worker_and_producers_take_a_timedelta(flux_kit: Kit) -> None:
    flux.Worker(Bills, adapter=MemoryAdapter("timed"), exit_when_idle=MINUTE)
    options = flux.ProducerOptions(flush_interval=MINUTE, delivery_timeout=2 * MINUTE)
    assert (options.flush_interval, options.delivery_timeout) == (60.0, 120.0)

    class Orders(flux.Producer):
        topic = "orders"

    assert Orders.send(b"1").result(MINUTE).topic == "orders"
    Orders.flush(MINUTE)
    Orders.close(MINUTE)


def test_enqueue_takes_a_timedelta(flux_kit: Kit) -> None:
    Bills.enqueue(b"1", delay=MINUTE)
    [waiting] = flux_kit.waiting(Bills)
    assert waiting.seconds == pytest.approx(60.0, abs=0.001)


def test_seconds_of_other_values_are_plain() -> None:
    assert [seconds(each) for each in (1, 1.5, None, "x")] == [1, 1.5, None, "x"]
