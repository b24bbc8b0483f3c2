"""A mistake in a call of the kit is refused in one line that says what to give."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest

import flux
from flux.testing import Kit

COMMANDS = ["pause", "resume", "set_rate", "skip", "restart"]
TAKE_A_TASK = [*COMMANDS, "dead_letters", "waiting", "replay", "reject", "provide"]
MORE = {"set_rate": (5,), "skip": (None,)}


class Bills(flux.Task):
    topic, group_id = "orders", "billing"

    def call(self, message: flux.Message) -> None:
        pass


@pytest.mark.parametrize("method", TAKE_A_TASK)
@pytest.mark.parametrize("task", ["orders", None, object, 5, flux.Message], ids=repr)
def test_what_is_no_task_is_refused(flux_kit: Kit, method: str, task: Any) -> None:
    with pytest.raises(flux.ConfigurationError, match=re.escape("the kit takes a Task class or an instance of one")):
        getattr(flux_kit, method)(task, *MORE.get(method, ()))


@pytest.mark.parametrize("method", ["topic", "produce", "assert_produced"])
@pytest.mark.parametrize("topic", [None, object, 5, b"orders"], ids=repr)
def test_what_is_no_topic_is_refused(flux_kit: Kit, method: str, topic: Any) -> None:
    with pytest.raises(flux.ConfigurationError, match="the kit takes a topic's name, a task or a producer here, not "):
        getattr(flux_kit, method)(topic)


@pytest.mark.parametrize("method", ["replay", "reject", "skip"])
def test_a_record_is_one_that_the_kit_has_returned(flux_kit: Kit, method: str) -> None:
    with pytest.raises(flux.ConfigurationError, match="the kit takes a record that it has returned here, not "):
        getattr(flux_kit, method)(Bills, (0, 1))


@pytest.mark.parametrize("value", ["0", 0.5, -1, True])
def test_a_partition_is_a_whole_number(flux_kit: Kit, value: Any) -> None:
    with pytest.raises(flux.ConfigurationError, match=r"partition = .*: give a whole number, 0 or more"):
        flux_kit.produce("orders", b"x", partition=value)


@pytest.mark.parametrize("value", ["5", None, 0, math.inf])
def test_a_run_makes_a_whole_number_of_calls_at_most(flux_kit: Kit, value: Any) -> None:
    with pytest.raises(flux.ConfigurationError, match=r"at_most = .*: give a whole number, 1 or more"):
        flux_kit.run(Bills, at_most=value)


@pytest.mark.parametrize("rate", [None, [], b"5", math.nan, "fast"], ids=repr)
def test_a_rate_is_a_number_none_or_default(flux_kit: Kit, rate: Any) -> None:
    with pytest.raises(flux.ConfigurationError, match="is no rate: give calls a second, such as 50"):
        flux_kit.set_rate(Bills, rate)
