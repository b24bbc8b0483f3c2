"""`give_up_after`: what is too old for a call, or would be after its next wait, is a dead letter."""

from __future__ import annotations

from typing import Any

import pytest

from flux.core import flux_headers
from flux.core.engine.expiry import expires
from flux.core.engine.verdicts import Expired, Move, Reject, Retry
from flux.core.stage import Role
from unit.support.engine_support import P0, T0, T0_MS, Driver, message, record

LIMIT = 100.0


def expiring(stage: int = 0, **settings: Any) -> Driver:
    driver = Driver(stage, give_up_after=LIMIT, **settings)
    driver.assign(0)
    return driver


def moved(driver: Driver) -> tuple[Role, dict[str, bytes | None]]:
    [forward] = driver.engine.writes(driver.now)
    return forward.forwarded_copy.target.role, dict(
        forward.forwarded_copy.producer_record(int(driver.now * 1000), None).headers
    )


def retried(driver: Driver, *, born: float, attempts: int = 1) -> Any:
    """A record of a retry stage whose work began `born` seconds from the start."""
    headers = [
        (flux_headers.DUE, b"1"),
        (flux_headers.ATTEMPTS, str(attempts).encode()),
        (flux_headers.ORIGIN_TOPIC, b"t"),
        (flux_headers.ORIGIN_PARTITION, b"0"),
        (flux_headers.ORIGIN_OFFSET, b"7"),
        (flux_headers.ORIGIN_TIMESTAMP, str(T0_MS + int(born * 1000)).encode()),
    ]
    return driver.record(0, headers=headers)


# ---- what is too old


@pytest.mark.parametrize(("at", "too_old"), [(T0, False), (T0 + 100, False), (T0 + 100.001, True)])
def test_work_expires_when_it_is_older_than_the_limit(at: float, too_old: bool) -> None:
    assert expires(message(record(0)), LIMIT, at) is too_old


def test_without_a_limit_nothing_expires() -> None:
    assert not expires(message(record(0, timestamp=1)), None, T0)


@pytest.mark.parametrize("timestamp", [-1, 0])
def test_a_record_without_a_timestamp_never_expires(timestamp: int) -> None:
    assert not expires(message(record(0, timestamp=timestamp)), LIMIT, T0 + 10**6)


def test_the_earliest_timestamp_there_is_counts() -> None:
    assert expires(message(record(0, timestamp=1)), LIMIT, T0)


def test_in_a_retry_stage_the_age_is_that_of_the_origin() -> None:
    driver = expiring(1)
    driver.poll(retried(driver, born=-200))
    run = driver.take()
    assert expires(driver.message(run, 0), LIMIT, driver.now)
    young = expiring(1)
    young.poll(retried(young, born=-50))
    assert not expires(young.message(young.take(), 0), LIMIT, young.now)


def test_a_retry_whose_origin_has_no_known_timestamp_never_expires() -> None:
    headers = [
        (flux_headers.ORIGIN_TOPIC, b"t"),
        (flux_headers.ORIGIN_PARTITION, b"0"),
        (flux_headers.ORIGIN_OFFSET, b"7"),
    ]
    assert not expires(message(record(0, headers=headers, timestamp=1), stage=1), LIMIT, T0)


# ---- what becomes of it


def test_what_is_too_old_for_a_call_is_a_dead_letter_without_an_attempt_more() -> None:
    driver = expiring(1)
    driver.poll(retried(driver, born=-200, attempts=3))
    assert driver.fail(driver.take(), Expired("too old")) is Move.DEAD
    role, headers = moved(driver)
    assert role is Role.DEAD
    assert (headers[flux_headers.REASON], headers[flux_headers.ATTEMPTS]) == (b"expired", b"3")
    assert headers[flux_headers.ERROR_TYPE] == b"flux.Expired"


def test_what_would_be_too_old_after_its_wait_is_a_dead_letter_with_the_error_of_its_call() -> None:
    driver = expiring()  # waits of 10 s
    driver.poll(driver.record(0, timestamp=T0_MS - 95_000))
    driver.fail(driver.take(), ValueError("bad"))
    role, headers = moved(driver)
    assert role is Role.DEAD
    assert (headers[flux_headers.REASON], headers[flux_headers.ATTEMPTS]) == (b"expired", b"1")
    assert headers[flux_headers.ERROR_MESSAGE] == b"bad"


def test_what_is_just_young_enough_waits() -> None:
    driver = expiring()
    driver.poll(driver.record(0, timestamp=T0_MS - 90_000))
    driver.fail(driver.take())
    role, headers = moved(driver)
    assert role is Role.RETRY
    assert headers[flux_headers.REASON] == b"error"


def test_a_longer_wait_that_the_call_asked_for_counts() -> None:
    driver = expiring()
    driver.poll(0)
    driver.fail(driver.take(), Retry(after=101))
    role, headers = moved(driver)
    assert (role, headers[flux_headers.REASON]) == (Role.DEAD, b"expired")


@pytest.mark.parametrize(("error", "reason"), [(Reject("no"), b"rejected"), (ValueError("bad"), b"exhausted")])
def test_what_goes_to_the_dead_letters_anyway_keeps_its_own_reason(error: Exception, reason: bytes) -> None:
    driver = expiring(2)
    driver.poll(retried(driver, born=-99, attempts=2))
    driver.fail(driver.take(), error)
    role, headers = moved(driver)
    assert (role, headers[flux_headers.REASON]) == (Role.DEAD, reason)


def test_it_is_not_tried_in_place_where_that_would_be_too_late() -> None:
    driver = expiring(in_place_retries=3, in_place_wait=6.0)
    driver.poll(driver.record(0, timestamp=T0_MS - 95_000))
    assert driver.fail(driver.take()) is Move.NEXT
    assert moved(driver)[1][flux_headers.REASON] == b"expired"


def test_a_dead_letter_that_is_tried_once_more_stays_one() -> None:
    driver = expiring(3)
    driver.poll(driver.record(0, partition=P0.partition, headers=[(flux_headers.DUE, b"1")]))
    driver.now += 20
    driver.fail(driver.take(), Expired("too old"))
    assert driver.engine.writes(driver.now) == []
    assert driver.engine.stats.dead == 0
