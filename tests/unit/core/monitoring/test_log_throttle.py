from __future__ import annotations

import json
import logging
from typing import Any

import pytest

import flux
from flux.cli.log import _JsonFormatter
from flux.core.monitoring.log_throttle import (
    EVERY,
    FORGOTTEN,
    MOST_FAILURE_KINDS,
    MOST_KINDS,
    Count,
    FailureLog,
    LogThrottle,
    and_more,
)
from flux.testing import Kit
from unit.support.peers_support import Peer, wait_for


def test_of_each_kind_there_is_a_line_a_minute_which_counts_those_left_out() -> None:
    throttle = LogThrottle()
    admitted = [(second, left) for second in range(125) if (left := throttle.admit("away", second)) is not None]
    assert admitted == [(0, 0), (60, 59), (120, 59)]


def test_kinds_are_apart() -> None:
    throttle = LogThrottle()
    assert [throttle.admit(kind, 0.0) for kind in "abab"] == [0, 0, None, None]
    assert [throttle.admit(kind, 60.0) for kind in "abab"] == [1, 1, None, None]


def test_a_line_may_be_about_many() -> None:
    throttle = LogThrottle()
    throttle.admit("lost", 0.0, 5)
    throttle.admit("lost", 1.0, 500)
    assert throttle.admit("lost", 61.0, 5) == 500


def test_however_many_kinds_there_are_few_are_kept() -> None:
    throttle = LogThrottle()
    for number in range(3 * MOST_KINDS):
        assert throttle.admit(number, number / 100) == 0
    assert len(throttle._next) == MOST_KINDS
    assert throttle.admit(3 * MOST_KINDS - 1, 15.0) is None


def test_a_kind_that_was_forgotten_begins_again() -> None:
    throttle = LogThrottle()
    throttle.admit("first", 0.0)
    assert throttle.admit("first", 1.0) is None
    for number in range(MOST_KINDS):
        throttle.admit(number, 2.0)
    assert throttle.admit("first", 3.0) == 0


def test_the_kind_that_was_logged_longest_ago_is_forgotten() -> None:
    throttle = LogThrottle()
    for number in range(MOST_KINDS):
        throttle.admit(number, number / 1000)
    throttle.admit(0, EVERY)
    throttle.admit("new", EVERY + 0.0005)
    assert throttle.admit(2, EVERY + 0.0008) is None
    assert throttle.admit(0, EVERY + 0.0008) is None
    assert throttle.admit(1, EVERY + 0.0008) == 0


def test_a_kind_that_is_known_pushes_out_no_other() -> None:
    throttle = LogThrottle()
    for number in range(MOST_KINDS):
        throttle.admit(number, 0.0)
    throttle.admit(MOST_KINDS - 1, EVERY)
    assert throttle.admit(0, EVERY - 1) is None


def test_nothing_is_said_of_none() -> None:
    assert and_more(0) == ""
    assert and_more(1200) == " (1,200 more like it were left out)"


class Orders(flux.Producer):
    topic = "orders"


def fail(message: flux.Message) -> None:
    if message.key == b"rejected":
        raise flux.Reject("no such customer")
    try:
        raise KeyError("account 7")
    except KeyError as error:
        raise ValueError("the mail server is away") from error


def failing(**settings: Any) -> flux.Task:
    return flux.task(topic="orders", group_id="billing", **({"retries": 1, "wait": 0} | settings))(fail)


def lines(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """What workers say; clients of other tests may have something to say too."""
    return [record for record in caplog.records if record.name == "flux.worker" and "failed" in record.getMessage()]


def test_only_the_first_of_a_kind_is_new() -> None:
    failures = FailureLog()
    assert failures.add("a", 0)
    assert not failures.add("a", 1)
    assert failures.add("b", 1)


def test_more_of_a_kind_are_counted_once_a_minute_as_long_as_they_go_on() -> None:
    failures = FailureLog()
    for second in range(90):
        failures.add("a", second)
        if second < EVERY:
            assert failures.counts(second) == []
    assert failures.counts(90) == [Count("a", 89, 90)]
    assert failures.counts(200) == []
    assert not failures.add("a", 201)
    assert failures.counts(201) == [Count("a", 1, 111)]


def test_a_kind_that_was_quiet_for_long_is_new_again() -> None:
    failures = FailureLog()
    failures.add("a", 0)
    assert failures.counts(FORGOTTEN - 1) == []
    assert not failures.add("a", FORGOTTEN - 1)
    failures.counts(FORGOTTEN)
    assert failures.counts(2 * FORGOTTEN) == []
    assert failures.add("a", 2 * FORGOTTEN)


def test_kinds_are_bounded_and_the_longest_quiet_goes() -> None:
    failures = FailureLog()
    for number in range(MOST_FAILURE_KINDS + 1):
        failures.add(-number, number)
    assert failures.add(0, MOST_FAILURE_KINDS + 2)
    assert not failures.add(-MOST_FAILURE_KINDS, MOST_FAILURE_KINDS + 2)


def test_counts_begin_a_minute_after_the_first_of_each_kind() -> None:
    failures = FailureLog()
    for kind, second in (("b", 0), ("a", 30)):
        failures.add(kind, second)
        failures.add(kind, second)
        assert failures.counts(second) == failures.counts(second + 0.5) == []
    failures.add("b", 40)
    assert failures.counts(EVERY) == [Count("b", 2, EVERY)]
    failures.add("b", 70)
    assert failures.counts(EVERY + 30) == [Count("a", 1, EVERY)], "behind one that is not due"


def test_a_kind_is_new_ten_minutes_after_its_last_failure() -> None:
    failures = FailureLog()
    for second in (0, 500):
        failures.add("a", second)
    failures.counts(500)
    assert failures.counts(700) == []
    assert not failures.add("a", 700)
    failures.counts(700)
    failures.counts(700 + FORGOTTEN)
    assert failures.add("a", 700 + FORGOTTEN)


def test_at_the_end_all_is_counted_that_was_not() -> None:
    failures = FailureLog()
    for kind, second in (("a", 0), ("a", 1), ("b", 2), ("a", 3)):
        failures.add(kind, second)
    assert failures.counts(4, at_end=True) == [Count("a", 2, 4)]
    assert failures.counts(5, at_end=True) == []


def test_a_clock_set_back_does_not_silence_them() -> None:
    failures = FailureLog()
    failures.add("a", 10_000)
    failures.add("a", 50)
    assert failures.counts(50) == [Count("a", 1, -9950)]


def test_the_first_is_logged_with_its_place_its_traceback_and_fields(
    flux_kit: Kit, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(5):
        Orders.produce(b"x")
    flux_kit.run_to_the_end(failing())
    first, dead, *counts = lines(caplog)
    assert [vars(each)["count"] for each in counts] == [4, 4], "the others are counted at the end"
    text = first.getMessage()
    assert text.startswith(
        "fail: orders[0]@0 failed on attempt 1 and moves to orders-billing-try-1: ValueError: the mail server is away\n"
    )
    assert 'raise KeyError("account 7")' in text, "what caused it is shown too"
    assert "flux/consuming" not in text, "frames of flux say nothing"
    assert first.levelno == logging.WARNING
    fields = vars(first)
    named = {name: fields[name] for name in ("task", "stage", "topic", "partition", "offset", "attempt", "error")}
    assert named == {
        "task": "fail",
        "stage": 0,
        "topic": "orders",
        "partition": 0,
        "offset": 0,
        "attempt": 1,
        "error": "ValueError",
    }
    assert dead.levelno == logging.ERROR
    assert "orders-billing-try-1[0]@0 failed on attempt 2 and becomes a dead letter" in dead.getMessage()


def test_a_rejection_is_a_kind_of_its_own(flux_kit: Kit, caplog: pytest.LogCaptureFixture) -> None:
    Orders.produce(b"x")
    Orders.produce(b"x", key="rejected")
    flux_kit.run(failing(wait=10))
    assert ["moves to" in record.getMessage() for record in lines(caplog)] == [True, False]
    assert "becomes a dead letter: flux.Reject: no such customer" in lines(caplog)[1].getMessage()


def test_one_place_is_one_kind_whatever_way_led_there(flux_kit: Kit, caplog: pytest.LogCaptureFixture) -> None:
    def descend(depth: int) -> None:
        if not depth:
            raise RecursionError("too deep")
        descend(depth - 1)

    task = flux.task(topic="orders", group_id="g", wait=10)(lambda message: descend(message.offset))
    for _ in range(9):
        Orders.produce(b"x")
    flux_kit.run(task)
    _, more = lines(caplog)
    assert vars(more)["count"] == 8


@pytest.mark.parametrize(("setting", "shows"), [("type", "ValueError"), (lambda error: "hidden", "ValueError: hidden")])
def test_what_may_not_leave_the_process_is_not_logged(
    flux_kit: Kit, caplog: pytest.LogCaptureFixture, setting: Any, shows: str
) -> None:
    Orders.produce(b"x")
    flux_kit.run(failing(wait=10, error_headers=setting))
    [line] = lines(caplog)
    assert line.getMessage().endswith(f": {shows}")
    assert "mail server" not in str(vars(line))


def test_an_undecodable_value_names_what_refused_it(flux_kit: Kit, caplog: pytest.LogCaptureFixture) -> None:
    Orders.produce(b"x")
    flux_kit.run(failing(deserializer=int))
    [line] = lines(caplog)
    assert "becomes a dead letter: ValueError: invalid literal for int()" in line.getMessage()


def test_a_worker_counts_what_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    peer = Peer()
    task = peer.task(fail, retries=0)
    with caplog.at_level(logging.WARNING, "flux.worker"), peer.working(task):
        peer.write(*[b"x"] * 9)
        wait_for(lambda: sum(vars(line).get("count", 0) for line in lines(caplog)) == 8, "the count")
    first, more, *_ = lines(caplog)
    assert f"{vars(more)['count']} more calls of t failed in " in more.getMessage()
    assert 'with ValueError at File "' in more.getMessage()
    assert first.levelno == logging.ERROR


def json_of(record: logging.LogRecord, process: int | None = None) -> dict[str, Any]:
    text = _JsonFormatter(process).format(record)
    assert len(text.splitlines()) == 1
    parsed: dict[str, Any] = json.loads(text)
    return parsed


def test_json_has_one_line_and_a_field_for_each_fact(flux_kit: Kit, caplog: pytest.LogCaptureFixture) -> None:
    Orders.produce(b"x")
    flux_kit.run(failing(wait=10))
    event = json_of(lines(caplog)[0], process=3)
    assert event["message"].endswith(": ValueError: the mail server is away")
    assert event["exception"].startswith("Traceback")
    assert {key: event[key] for key in ("level", "logger", "process", "task", "stage", "offset")} == {
        "level": "warning",
        "logger": "flux.worker",
        "process": 3,
        "task": "fail",
        "stage": 0,
        "offset": 0,
    }
    assert event["time"].endswith("+00:00")


def test_json_shows_what_others_log() -> None:
    try:
        raise OSError("a\x1b[31m\nb")
    except OSError as error:
        record = logging.getLogger("x").makeRecord(
            "x", logging.ERROR, __file__, 1, "it %s", (error,), (OSError, error, None), extra={"level": 1, "mine": {1}}
        )
    event = json_of(record)
    assert event["message"] == "it a\x1b[31m\nb"
    assert event["level"] == "error", "a field of theirs replaces none of ours"
    assert event["mine"] == "{1}"
    assert "OSError" in event["exception"]
