"""An outage of one name pauses the calls for it alone."""

from __future__ import annotations

import pytest

from flux.core.limits.breakers import MOST_NAMES, BreakersByName
from flux.core.limits.failure_rate import FailureRate
from flux.core.limits.name_limits import NamePaused, NameResumed
from flux.core.message import Message
from unit.support.engine_support import T0

NO = ValueError("no")


def host(message: Message) -> bytes | None:
    return message.key


class Watched:
    def __init__(self) -> None:
        self.names: list[str] = []
        self.waiting: set[str] = set()

    def freed(self, limit: object, name: str) -> None:
        self.names.append(name)

    def names_for(self, limit: object) -> set[str]:
        return self.waiting


def breakers(share: float = 0.5, of: int = 4) -> BreakersByName:
    return BreakersByName(FailureRate(share, of=of, by=host), host)


def pause(
    limit: BreakersByName, name: str, call: object, error: Exception = NO, seconds: float | None = None, now: float = T0
) -> NamePaused | None:
    assert limit.counts(name)
    return limit.pause(name, call, error, seconds, 0.0, now)


def fail(limit: BreakersByName, name: str, call: object = None, now: float = T0, record: str = "r") -> bool:
    """A call fails and ends; returns whether by an outage, for which its name is then paused."""
    call = object() if call is None else call
    outage = limit.is_outage(name, call, record, NO, now)
    if outage:
        pause(limit, name, call, now=now)
    limit.ended(name, call, called=not outage)
    return outage


def test_the_failures_of_one_name_pause_that_name_alone() -> None:
    limit = breakers()
    assert [fail(limit, "a"), fail(limit, "b"), fail(limit, "a")] == [False, False, True]
    assert list(limit.paused) == ["a"]
    assert (limit.opens_at("a", T0), limit.opens_at("b", T0), limit.opens_at("c", T0)) == (T0 + 1, T0, T0)


def test_what_succeeded_counts_for_its_name() -> None:
    limit = breakers()
    assert not fail(limit, "a")
    for _ in range(4):
        limit.ended("a", object(), called=True)
    assert not fail(limit, "a")
    limit.started("never failed", object(), T0)
    assert limit.ended("never failed", object(), called=True) is None


def test_a_failed_call_counts_once() -> None:
    limit = breakers(0.5, of=3)
    assert [fail(limit, "a"), fail(limit, "a")] == [False, True]


def test_a_call_that_was_not_made_counts_for_nothing() -> None:
    limit = breakers(0.5, of=4)
    assert not fail(limit, "a")
    for _ in range(9):
        limit.ended("a", object(), called=False)
    assert fail(limit, "a")


def test_one_call_probes_and_its_success_ends_the_pause() -> None:
    limit, watched, probe = breakers(), Watched(), object()
    limit.watchers.append(watched)
    fail(limit, "a")
    fail(limit, "a")
    assert watched.names == ["a"]
    limit.started("a", probe, T0 + 1)
    assert limit.opens_at("a", T0 + 1) is None
    assert limit.ended("a", object(), called=True) is None
    assert limit.ended("a", probe, called=True) == NameResumed("a", T0)
    assert (dict(limit.paused), limit.opens_at("a", T0 + 1), watched.names) == ({}, T0 + 1, ["a", "a"])
    assert not fail(limit, "a"), "what failed before does not count"


def test_a_probe_that_fails_doubles_the_pause() -> None:
    limit, probe = breakers(), object()
    fail(limit, "a")
    fail(limit, "a")
    limit.started("a", probe, T0 + 1)
    assert fail(limit, "a", probe, T0 + 1)
    assert limit.opens_at("a", T0 + 1) == T0 + 3


def test_a_record_that_fails_three_probes_is_to_blame_and_the_pause_goes_on() -> None:
    limit, watched, now = breakers(), Watched(), T0
    limit.watchers.append(watched)
    fail(limit, "a")
    fail(limit, "a")
    outages = []
    for _ in range(3):
        now, probe = now + 60, object()
        limit.started("a", probe, now)
        outages.append(fail(limit, "a", probe, now))
    assert outages == [True, True, False]
    assert (limit.opens_at("a", now) or 0.0) > now
    assert watched.names == ["a"] * 4, "others that wait are looked at again"


def test_a_call_that_knows_of_an_outage_pauses_its_name() -> None:
    limit, error = breakers(), ConnectionError("away")
    assert pause(limit, "b", object(), error, 5.0) == NamePaused("b", 5.0, error)
    assert pause(limit, "a", object(), error, 5.0) == NamePaused("a", 5.0, error, others=1)
    assert limit.opens_at("a", T0) == T0 + 5
    assert pause(limit, "a", object(), error, 5.0) is None, "no news"


def test_the_reason_of_a_pause_is_how_many_failed() -> None:
    limit, call = breakers(), object()
    fail(limit, "a")
    assert limit.is_outage("a", call, "r", NO, T0)
    news = pause(limit, "a", call)
    assert news is not None
    assert str(news.error) == "2 of the last 2 calls failed, the last with ValueError: no"


def test_names_are_bounded_and_those_that_failed_last_are_kept() -> None:
    limit = breakers()
    fail(limit, "first")
    for number in range(MOST_NAMES):
        fail(limit, f"n{number}")
    assert len(limit) == MOST_NAMES
    assert not fail(limit, "first"), "forgotten"
    assert fail(limit, f"n{MOST_NAMES - 1}")


def test_no_paused_name_is_forgotten() -> None:
    limit = breakers(1.0, of=1)
    for number in range(MOST_NAMES):
        assert fail(limit, f"n{number}")
    assert not fail(limit, "one more")
    assert (limit.counts("one more"), limit.counts("n0"), len(limit)) == (False, True, MOST_NAMES)


def test_a_pause_ends_when_no_record_of_its_name_is_here_any_more() -> None:
    limit, watched = breakers(), Watched()
    limit.watchers.append(watched)
    assert limit.forget(T0) == []
    for name in ("left", "waiting", "probed"):
        pause(limit, name, object(), seconds=5.0)
    watched.waiting = {"waiting"}
    limit.started("probed", object(), T0 + 5)
    assert limit.forget(T0 + 59) == [], "not all the time"
    assert limit.forget(T0 + 60) == [NameResumed("left", T0)]
    assert list(limit.paused) == ["waiting", "probed"]
    pause(limit, "later", object(), seconds=600.0, now=T0 + 100)
    assert limit.forget(T0 + 120) == []


def test_after_a_probe_without_a_call_another_may_start() -> None:
    limit, watched, probe = breakers(), Watched(), object()
    fail(limit, "a")
    fail(limit, "a")
    limit.started("a", probe, T0 + 1)
    limit.watchers.append(watched)
    assert limit.ended("a", probe, called=False) is None
    assert (watched.names, limit.opens_at("a", T0 + 1)) == (["a"], T0 + 1)


@pytest.mark.parametrize("seconds", [None, 7.0])
def test_jitter_and_a_known_end_are_those_of_the_circuit_breaker(seconds: float | None) -> None:
    limit = breakers()
    assert limit.counts("a")
    limit.pause("a", object(), NO, seconds, 1.0, T0)
    assert limit.opens_at("a", T0) == pytest.approx(T0 + (1.1 if seconds is None else seconds))
