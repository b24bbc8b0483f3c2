"""When a token provider is asked, and what becomes of its answers."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from flux.adapters.tokens import TokenRefused, Tokens, expiry_of, is_token, no_token_yet, provider_failed
from flux.core.errors import BrokerError, Fault

AWAY = BrokerError("away", Fault.UNAVAILABLE)


class Clock:
    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tokens(clock: Clock) -> Tokens[str]:
    return Tokens(clock)


def asked(tokens: Tokens[str], clock: Clock, seconds: float) -> int:
    """How often the provider is asked in that time, by clients that want a token every 0.1 s and get none."""
    count, until = 0, clock.time + seconds
    while clock.time < until:
        clock.time += 0.1
        try:
            if tokens.held() is None:
                count += 1
                tokens.failed(AWAY)
        except BrokerError:
            pass
    return count


def test_a_token_is_given_again_until_it_is_to_be_renewed(tokens: Tokens[str], clock: Clock) -> None:
    assert tokens.held() is None
    tokens.took("one", fresh=30, good=60)
    clock.time += 29
    assert tokens.held() == "one"
    clock.time += 2
    assert tokens.held() is None


def test_a_provider_that_is_away_costs_nothing_while_its_last_token_is_good(tokens: Tokens[str], clock: Clock) -> None:
    tokens.took("one", fresh=30, good=60)
    clock.time += 31
    tokens.failed(AWAY)
    assert tokens.held() == "one"
    assert tokens.why_none() is None
    clock.time += 0.4
    assert tokens.held() == "one"
    clock.time += 29
    tokens.failed(AWAY)
    with pytest.raises(BrokerError, match="away"):
        tokens.held()
    assert tokens.why_none() is AWAY


def test_a_provider_that_fails_is_asked_with_a_back_off(tokens: Tokens[str], clock: Clock) -> None:
    assert asked(tokens, clock, 60) <= 11
    assert asked(tokens, clock, 60) <= 7


def test_a_failure_after_a_long_time_without_one_is_the_first(tokens: Tokens[str], clock: Clock) -> None:
    asked(tokens, clock, 60)
    clock.time += 100
    tokens.failed(AWAY)
    clock.time += 0.6
    assert tokens.held() is None


def test_a_refused_token_is_not_given_again_and_its_successor_comes_after_a_while(
    tokens: Tokens[str], clock: Clock
) -> None:
    tokens.took("one", fresh=30, good=60)
    tokens.refused("one")
    with pytest.raises(TokenRefused):
        tokens.held()
    clock.time += 1
    assert tokens.held() is None
    tokens.took("two", fresh=30, good=60)
    assert tokens.held() == "two"


def test_a_client_that_still_has_the_old_token_refuses_no_new_one(tokens: Tokens[str]) -> None:
    tokens.took("one", fresh=30, good=60)
    tokens.took("two", fresh=30, good=60)
    tokens.refused("one")
    assert tokens.held() == "two"


def test_a_token_that_had_ended_says_nothing_about_the_next(tokens: Tokens[str], clock: Clock) -> None:
    tokens.took("one", fresh=30, good=60)
    clock.time += 61
    tokens.refused("one")
    assert tokens.held() is None


def jwt(claims: Any) -> str:
    def coded(part: Any) -> str:
        return base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")

    return f"{coded({'alg': 'none'})}.{coded(claims)}."


@pytest.mark.parametrize(
    ("token", "expiry"),
    [
        (jwt({"exp": 1700000000}), 1700000000.0),
        (jwt({"sub": "me"}), None),
        (jwt([1]), None),
        (jwt({"exp": "soon"}), None),
        ("opaque", None),
        ("a.b.c", None),
        ("a.\xff.c", None),
    ],
)
def test_the_end_of_a_token_is_read_where_it_says_so(token: str, expiry: float | None) -> None:
    assert expiry_of(token) == expiry


@pytest.mark.parametrize(
    ("given", "is_one"),
    [("eyJ.x.", True), ("a/b+c=", True), ("", False), ("a b", False), ("a\x01b", False), ("ä", False), (b"a", False)],
)
def test_what_cannot_be_sent_is_no_token(given: object, is_one: bool) -> None:
    assert is_token(given) is is_one


def test_a_failure_of_the_provider_is_one_line_without_its_tokens() -> None:
    error = provider_failed(ValueError(f"no\n{'x' * 1000}"), lambda text: text.replace("no", "***"))
    assert str(error).startswith("the token provider failed: ValueError: *** xxx")
    assert len(str(error)) < 400
    assert error.retriable
    assert no_token_yet(3).retriable
