"""Settings that cannot work are refused in one line that names them."""

from __future__ import annotations

from typing import Any

import pytest

from flux.core.backoff import Waits
from flux.core.engine.verdicts import Rules
from flux.core.errors import ConfigurationError
from flux.core.policy import Policy
from flux.core.stage import Stages
from unit.support.engine_support import STAGES, policy


def test_the_defaults_work() -> None:
    Policy(STAGES).check()
    Policy(Stages("t", "g", 25)).check()


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
    ],
)
def test_a_setting_that_cannot_work_is_named(name: str, values: list[Any], named: str) -> None:
    for value in values:
        with pytest.raises(ConfigurationError, match=named) as caught:
            policy(**{name: value}).check()
        assert "\n" not in str(caught.value)
