"""Retry stages: no record is called before its due time, and records are called in due order."""

from __future__ import annotations

from typing import Any

import pytest

from flux.core import flux_headers
from flux.core.backoff import Waits
from flux.core.engine.commands import Level, LogEvent
from flux.core.engine.due_times import DueTimes, whole_ms
from flux.core.engine.slices import Slice
from flux.core.message import Message
from flux.core.monitoring.log_events import LogEvents
from flux.core.monitoring.stats import Stats
from flux.core.ports import CommittedOffset
from unit.support.engine_support import STAGES, T0, T0_MS, Driver, FakeRecord, assignment, policy, record
from unit.support.order_support import Keys, Ordered


def due(driver: Driver, offset: int, after: float, key: bytes | None = None, **fields: Any) -> FakeRecord:
    """A record that is due `after` seconds from the start."""
    header = ("flux-due", str(T0_MS + int(after * 1000)).encode())
    return driver.record(offset, key, headers=[header], **fields)


def retrying(stage: int = 1, **settings: Any) -> Driver:
    driver = Driver(stage, **settings)
    driver.assign(0, 0)
    return driver


def test_no_call_before_its_time_and_then_at_once() -> None:
    driver = retrying()
    driver.poll(due(driver, 0, 30))
    driver.now = T0 + 29.999
    assert driver.nothing_to_take()
    assert driver.engine.deadline(driver.now) == T0 + 30
    assert driver.turn().timeout == pytest.approx(0.001, abs=0.0005)
    driver.now = T0 + 30
    assert driver.work_all() == [0]


def test_records_are_worked_in_due_order_with_ties_by_offset() -> None:
    driver = retrying()
    driver.poll(due(driver, 0, 9), due(driver, 1, 3), due(driver, 2, 3), due(driver, 3, 1))
    driver.now = T0 + 10
    assert driver.work_all() == [3, 1, 2, 0]
    assert driver.commit() == {0: CommittedOffset(4)}


def test_a_key_is_worked_in_due_order() -> None:
    driver = retrying()
    driver.poll(due(driver, 0, 9, b"x"), due(driver, 1, 3, b"x"))
    driver.now = T0 + 10
    assert driver.work_all() == [1, 0]


@pytest.mark.parametrize("timestamp", [-1, 0, T0_MS + 10**12, -(10**15)])
def test_a_timestamp_that_cannot_be_is_when_it_was_first_seen(timestamp: int) -> None:
    driver = retrying()
    driver.poll(driver.record(0, timestamp=timestamp))
    driver.now = T0 + 9.9
    assert driver.nothing_to_take()
    driver.now = T0 + 10
    assert driver.work_all() == [0]


def test_a_record_of_the_ruby_library_waits_from_when_it_was_written() -> None:
    driver = retrying(2)
    driver.poll(driver.record(0, timestamp=T0_MS - 6000))
    driver.now = T0 + 4
    run = driver.take()
    message = driver.message(run, 0)
    assert (message.stage, message.attempt) == (2, 3)


def test_a_due_time_beyond_the_longest_delay_counts_as_absent() -> None:
    driver = retrying()
    driver.poll(*(driver.record(offset, headers=[("flux-due", b"253402300799000")]) for offset in range(2)))
    [log_event] = driver.engine.log_events()
    assert isinstance(log_event.about, Message)
    assert log_event.about.offset == 0
    text = f"{log_event.about!r}: header flux-due is invalid and ignored (logged once)"
    assert log_event == LogEvent(Level.WARNING, text, log_event.about)
    driver.now = T0 + 10
    assert driver.work_all() == [0, 1]


def test_forged_headers_in_the_main_topic_are_not_looked_at() -> None:
    driver = Driver()
    driver.assign(0)
    driver.poll(due(driver, 0, 10**6))
    run = driver.take()
    assert (driver.message(run, 0).stage, driver.message(run, 0).attempt) == (0, 1)


def test_headers_that_cannot_be_read_cost_themselves_alone() -> None:
    class Broken(FakeRecord):
        def headers(self) -> Any:
            raise SystemError("not UTF-8")

    driver = retrying()
    driver.poll(*(Broken(offset, the_topic=driver.stage.topic) for offset in range(2)))
    [log_event] = driver.engine.log_events()
    assert isinstance(log_event.about, Message)
    assert log_event.about.offset == 0
    text = f"{log_event.about!r}: its headers cannot be read and are left out (logged once)"
    assert log_event == LogEvent(Level.WARNING, text, log_event.about)
    driver.now = T0 + 10
    assert driver.work_all() == [0, 1]


def test_a_wait_that_fails_is_the_default_one() -> None:
    driver = retrying(waits=Waits(lambda stage: 1 / 0, 1e6))
    driver.poll(driver.record(0), driver.record(1))
    assert driver.engine.log_events() == [
        LogEvent(Level.ERROR, "wait failed for stage 1 (ZeroDivisionError: division by zero): waiting 16 s")
    ]
    driver.now = T0 + 15.9
    assert driver.nothing_to_take()
    driver.now = T0 + 16
    assert driver.work_all() == [0, 1]


def test_what_arrives_after_its_time_is_counted() -> None:
    driver = retrying()
    driver.now = T0 + 60
    driver.poll(due(driver, 0, 1), due(driver, 1, 59.5), due(driver, 2, 90))
    assert driver.engine.stats.late == 1


def times(**settings: Any) -> tuple[DueTimes, LogEvents]:
    log_events = LogEvents()
    return DueTimes(policy(**settings), STAGES[1], log_events, Stats()), log_events


def test_a_forwarded_record_waits_as_its_stage_or_its_call_says_and_no_longer_than_the_limit() -> None:
    due_times, log_events = times(waits=Waits([5.0, 6.0], 100))
    assert [due_times.wait(STAGES[stage], None, 0) for stage in (1, 2, 3)] == [5, 6, 0]
    assert due_times.wait(STAGES[1], 7.0, 0) == 7
    assert log_events.take() == []
    assert due_times.wait(STAGES[1], 200.0, 0) == 100
    assert log_events.take() == [
        LogEvent(Level.WARNING, "Retry(after=200) is longer than max_delay: clipped to 100 s", kind="clipped")
    ]
    assert due_times.wait(STAGES[1], 100.0, 0) == 100
    assert log_events.take() == []


def test_the_random_part_of_a_wait_is_that_of_the_partition() -> None:
    due_times, log_events = times(waits=Waits(None, 100))
    assert [due_times.wait(STAGES[1], None, jitter) for jitter in (0, 7)] == [16, 30]
    assert log_events.take() == []
    broken, _ = times(waits=Waits(lambda stage: 1 / 0, 29))
    assert [broken.wait(STAGES[1], None, jitter) for jitter in (0, 6, 7)] == [16, 28, 29]


def test_a_polled_slice_is_put_in_due_order_and_measured() -> None:
    due_times, _ = times()
    headers = [[("flux-due", b"%d" % (T0_MS + after))] for after in (3, 1, 1)]
    records = [
        record(offset, key, value=value, headers=header)
        for offset, key, value, header in zip(
            (2, 5, 6), (b"abc", None, b""), (b"12345", b"", None), headers, strict=True
        )
    ]
    in_due_order, size = due_times.timed(assignment(), Slice(records, 9), T0_MS)
    assert size == 8
    assert [one.offset for one in in_due_order.messages or ()] == [5, 6, 2]
    assert (in_due_order.due_times, in_due_order.ends) == ([T0_MS + 1, T0_MS + 1, T0_MS + 3], [6, 9, 5])
    as_it_came, _ = due_times.timed(assignment(), Slice(records[1:], 9), T0_MS)
    assert (as_it_came.due_times, as_it_came.end, as_it_came.ends) == ([T0_MS + 1, T0_MS + 1], 9, None)


def test_a_due_time_may_be_as_late_as_the_longest_delay_and_an_hour() -> None:
    due_times, log_events = times(waits=Waits([5.0], 100))
    latest = T0_MS + 100_000 + 3_600_000
    records = [
        record(0, headers=[("flux-due", b"%d" % latest)]),
        record(1, headers=[("flux-due", b"%d" % (latest + 1))]),
    ]
    piece, _ = due_times.timed(assignment(), Slice(records, 2), T0_MS)
    assert sorted(piece.due_times or ()) == [T0_MS + 5000, latest]
    assert len(log_events.take()) == 1


def test_a_timestamp_may_be_the_first_millisecond_there_is() -> None:
    due_times, _ = times(waits=Waits([5.0], 100))
    piece, _ = due_times.timed(assignment(), Slice([record(0, timestamp=1)], 1), T0_MS)
    assert piece.due_times == [5001]


@pytest.mark.parametrize(("seconds", "ms"), [(0.001, 1), (0.0019, 1), (1.001, 1001), (1.0009, 1000), (T0, T0_MS)])
def test_milliseconds_are_whole_ones(seconds: float, ms: int) -> None:
    assert whole_ms(seconds) == ms


def test_an_interrupt_in_the_users_wait_is_not_hidden() -> None:
    def interrupted(stage: int) -> float:
        raise KeyboardInterrupt

    due_times, _ = times(waits=Waits(interrupted, 100))
    with pytest.raises(KeyboardInterrupt):
        due_times.wait(STAGES[1], None, 0)


def test_of_two_records_with_an_id_the_first_is_void_and_a_cancellation_is_due_at_once() -> None:
    made, _ = times()
    later = [("flux-attempts", b"0"), ("flux-due", str(T0_MS + 9_000).encode())]
    headers = [[*later, (name, b"x")] for name in ("flux-id", "flux-cancelled")]
    piece = Slice([record(offset, headers=headers[offset]) for offset in range(2)], 2)
    timed, _ = made.timed(assignment(), piece, T0_MS)
    assert timed.due_times == [T0_MS, T0_MS + 9_000]
    assert timed.messages is not None
    assert [(each.offset, each.named and each.named.void) for each in timed.messages] == [(1, True), (0, True)]


def test_a_follower_is_due_with_what_it_follows() -> None:
    keys, header = Keys(), (flux_headers.DUE, b"%d" % (T0_MS + 600_000))
    keys.set(3, due=T0_MS + 3000)
    version = keys.set(4, due=T0_MS + 600_000, follows=True)
    keys.view.take([FakeRecord(at, *entry) for at, entry in enumerate(keys.log)])
    times = DueTimes(policy(), STAGES[1], LogEvents(), Stats(), keys.view)
    copies = [Ordered(1, keys).copy(0, 4, version, due=T0_MS + 600_000), record(1, headers=[header])]
    timed, _ = times.timed(assignment(), Slice(copies, 2), T0_MS)
    assert timed.due_times == [T0_MS + 3000, T0_MS + 600_000]
