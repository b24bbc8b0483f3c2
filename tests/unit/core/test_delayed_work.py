"""The headers of work that waits without having failed."""

from __future__ import annotations

from typing import Any

import pytest

from flux.core import flux_headers
from flux.core.delayed_work import checked_name, delayed_headers
from flux.core.errors import ConfigurationError
from flux.core.policy import Policy
from flux.core.stage import Stages

POLICY = Policy(Stages("orders", "billing", 2))


def read(pairs: list[tuple[str, Any]]) -> flux_headers.FluxHeaders:
    return flux_headers.read([(name, text.encode()) for name, text in pairs], 1, 1_000, 60_000)


def test_it_has_had_no_attempt_and_keeps_the_users_headers() -> None:
    pairs = delayed_headers(POLICY, [("own", "1")], 5_000, None)
    found = read(pairs)
    assert (found.stage, found.attempts, found.due, found.origin_timestamp) == (1, 0, 5_000, 5_000)
    assert (pairs[0], found.named, dict(pairs)["flux-group"]) == (("own", "1"), None, "billing")


def test_a_tick_counts_its_age_from_its_time_and_not_from_when_its_record_is_due() -> None:
    found = read(delayed_headers(POLICY, [], 5_000, (flux_headers.SCHEDULE, "nightly"), 9_000))
    assert (found.due, found.origin_timestamp) == (5_000, 9_000)
    assert found.named is not None
    assert (found.named.kind, found.named.name, found.named.tick) == ("schedule", "nightly", 9_000)


def test_the_name_is_the_last_header_where_it_is_looked_for() -> None:
    assert delayed_headers(POLICY, [("own", "1")], 5_000, (flux_headers.ID, "42"))[-1] == (flux_headers.ID, "42")


@pytest.mark.parametrize("name", ["42", "größer", "x" * 250])
def test_a_name_is_any_text_that_can_be_printed(name: str) -> None:
    assert checked_name(name, "id") == name


@pytest.mark.parametrize("name", ["", "x" * 251, "a\nb", "\ud800", 42, None, b"x"])
def test_what_is_no_name_is_refused(name: object) -> None:
    with pytest.raises(ConfigurationError, match=r"id = .*: give a text of 1 to 250 characters"):
        checked_name(name, "id")
