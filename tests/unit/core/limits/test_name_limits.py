"""What counts as a name."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from flux.core.errors import ConfigurationError
from flux.core.limits.name_limits import LONGEST_NAME, NamePaused, NameResumed, check_name_of, plain_name


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (None, None),
        ("acme", "acme"),
        (b"acme", "acme"),
        (b"\xff", "\ufffd"),
        ("x" * 999, "x" * LONGEST_NAME),
        (b"x" * 999, "x" * LONGEST_NAME),
    ],
)
def test_a_name_is_text_of_a_bounded_length(given: str | bytes | None, name: str | None) -> None:
    assert plain_name(given) == name


@pytest.mark.parametrize("given", [7, ["acme"], object()])
def test_what_is_no_name_is_refused(given: Any) -> None:
    with pytest.raises(TypeError, match="make it return str, bytes or None"):
        plain_name(given)


async def awaited(message: object) -> str:
    return "a"


class Awaited:
    async def __call__(self, message: object) -> str:
        return "a"


@pytest.mark.parametrize("given", ["tenant", awaited, Awaited(), lambda: "x", lambda self, message: "x"])
def test_what_gives_no_names_is_refused(given: Any) -> None:
    for good in (str, lambda message: "x", lambda message, more=1: "x"):
        check_name_of("rate_limit_key", good)
    with pytest.raises(ConfigurationError, match=r"rate_limit_key = .*: give a plain function of the message, or None"):
        check_name_of("rate_limit_key", given)


def test_a_pause_of_a_name_and_its_end_are_lines_of_their_own_until_there_are_many() -> None:
    paused, resumed = NamePaused("acme", 1.25, ValueError("503")), NameResumed("acme", 5.0)
    assert paused.text == "calls for 'acme' are paused, others go on; the next one in 1.2 s: ValueError: 503"
    assert resumed.text == "calls for 'acme' go on"
    for each in (paused, resumed):
        other = attrs.evolve(each, name="other")
        assert each.kind != other.kind
        assert attrs.evolve(each, others=20).kind == attrs.evolve(other, others=99).kind
