"""A snapshot has the running calls and the open records of a stage, and changes nothing."""

from __future__ import annotations

import math

import pytest

from flux.core.control.standing import Hold, SetRate
from flux.core.engine.batches import OpenBatch
from flux.core.engine.forwards import Detail
from flux.core.engine.verdicts import Pause, Rules
from flux.core.flux_headers import DUE
from flux.core.limits.circuit_breaker import CircuitBreaker
from flux.core.limits.failure_rate import FailureRate
from flux.core.monitoring.report import MOST_LIMITED, Call, Open, Paused, RateSet, StageReport
from flux.core.monitoring.snapshot import Snapshot, limited_by_name, pause_of, paused_names
from unit.support.engine_support import AWAY, DENIED, T0, T0_MS, TOO_LARGE, Driver


class Watched(Driver):
    """A driver whose engine is looked at."""

    def look_at(self, after: float = 0.0) -> StageReport:
        self.now += after
        self.engine.epoch = 0.0
        if not hasattr(self, "snapshot"):
            self.snapshot = Snapshot("Billing", self.engine)
        return self.snapshot.look(self.now)


def test_a_stage_without_records_has_nothing_to_report() -> None:
    report = Watched().look_at()
    assert (report.task, report.stage, report.topic, report.group) == ("Billing", 0, "t", "g")
    assert (report.partitions, report.done, report.done_rate, report.calls, report.open) == ("", 0, 0.0, (), ())
    assert (report.waiting, report.due_in, report.paused) == (0, None, None)


def test_rates_are_of_the_time_since_the_last_snapshot() -> None:
    driver = Watched()
    driver.assign(0, 0, 0)
    driver.look_at()
    driver.poll(0, 1, 2, 3)
    driver.work_all(1)
    report = driver.look_at(2.0)
    assert (report.partitions, report.done, report.failed) == ("0-2", 3, 1)
    assert (report.done_rate, report.failed_rate) == (1.5, 0.5)
    assert driver.look_at(2.0).done_rate == 0.0


def test_counts_are_those_of_the_stage_and_rates_are_rounded() -> None:
    driver = Watched()
    driver.look_at()
    stats = driver.engine.stats
    stats.done, stats.failed, stats.retried, stats.dead = 1, 2, 3, 4
    report = driver.look_at(3.0)
    assert (report.done, report.failed, report.retried, report.dead) == (1, 2, 3, 4)
    assert (report.done_rate, report.failed_rate) == (0.33, 0.67)
    stats.done += 2
    stats.failed += 1
    report = driver.look_at(0.5)
    assert (report.done_rate, report.failed_rate) == (4.0, 2.0)


def test_the_first_snapshot_has_no_rates() -> None:
    driver = Watched()
    driver.engine.stats.done = driver.engine.stats.failed = 5
    report = driver.look_at(7.0)
    assert (report.done, report.done_rate, report.failed_rate) == (5, 0.0, 0.0)


def test_what_is_due_next_is_given_to_a_tenth_of_a_second() -> None:
    driver = Watched(1)
    driver.assign(0)
    driver.poll(driver.record(7, headers=[(DUE, b"%d" % (T0_MS + 100_134))]))
    assert driver.look_at().due_in == 100.1


def test_the_oldest_calls_are_listed() -> None:
    driver = Watched()
    driver.assign(*[0] * 25)
    for number in range(25):
        driver.poll(driver.record(number, partition=number))
        driver.take()
        driver.now += 1.0
    report = driver.look_at()
    assert [(call.partition, call.seconds) for call in report.calls] == [
        (number, 25.0 - number) for number in range(20)
    ]
    assert report.in_flight == 25


def test_the_oldest_open_records_are_listed() -> None:
    driver = Watched()
    driver.assign(0)
    for number in range(25):
        driver.poll(number)
        driver.work_all(number)
        driver.now += 1.0
    report = driver.look_at(0.04)
    assert [(each.offset, each.seconds) for each in report.open] == [(number, 25.0 - number) for number in range(20)]
    assert report.on_their_way == 25


@pytest.mark.parametrize("stage", [0, 1])
def test_a_run_shows_the_call_that_it_is_at_and_none_once_all_have_ended(stage: int) -> None:
    driver = Watched(stage)
    driver.assign(0)
    driver.poll(driver.record(7, b"ada"), driver.record(8, b"bea"))
    driver.now += 20
    run = driver.take()
    shown = []
    for index in range(3):
        run.index = index
        report = driver.look_at()
        shown.append((report.in_flight, [call.offset for call in report.calls]))
    assert shown == [(1, [7]), (1, [8]), (0, [])]


def test_an_entry_whose_call_has_ended_is_not_shown() -> None:
    driver = Watched(ordering="none", concurrency=2)
    driver.assign(0)
    driver.poll(driver.record(7), driver.record(8))
    driver.take()
    driver.look()
    driver.take(polling=False).index = 1
    assert [call.offset for call in driver.look_at().calls] == [7]


def test_a_run_of_several_entries_shows_the_one_it_is_at() -> None:
    driver = Watched(ordering="none", concurrency=2)
    driver.assign(0)
    driver.poll(*range(9))
    driver.take()
    driver.look()
    driver.engine.dispatch_mode.took(0.0, 40)
    run = driver.take(polling=False)
    assert run.entries is not None
    offsets = [entry.offset for entry in run.entries]
    assert len(offsets) > 1
    assert driver.look_at().calls[-1].offset == offsets[0]
    run.index = 1
    assert driver.look_at().calls[-1].offset == offsets[1]


def test_a_call_is_as_old_as_the_watcher_has_seen_it() -> None:
    driver = Watched()
    driver.assign(0)
    driver.poll(*range(40))
    run = driver.take()
    driver.now += 1.0
    assert driver.look_at().calls == (Call(0, 0, "0", 1, 1.0),), "its run has as many seconds"
    run.index = 20
    assert driver.look_at(2.0).calls == (Call(0, 20, "20", 1, 0.0),), "it began after the last check"
    driver.look()
    assert driver.look_at(3.0).calls == (Call(0, 20, "20", 1, 3.0),)


def test_a_call_whose_run_was_found_stuck_is_as_old_as_it_is() -> None:
    driver = Watched()
    driver.assign(0)
    driver.poll(0, 1)
    run = driver.take()
    driver.look()
    assert run.limit == 1, "the other record goes to another caller"
    driver.look()
    assert driver.look_at(7.0).calls[0] == Call(0, 0, "0", 1, round(driver.now - run.started, 1))


def test_a_call_in_a_retry_stage_has_its_attempt() -> None:
    driver = Watched(1)
    driver.assign(0)
    driver.poll(driver.record(7, b"ada"))
    assert driver.look_at().waiting == 1
    assert driver.look_at().due_in == 10.0
    driver.now += 20
    driver.take()
    assert driver.look_at().calls == (Call(0, 7, "ada", 2, 0.0),)


def test_a_call_of_an_entry_is_one_too() -> None:
    driver = Watched(ordering="none", concurrency=2)
    driver.assign(0)
    driver.poll(driver.record(7, b"ada"), driver.record(8, b"bea"))
    first = driver.take()
    driver.look()
    driver.take(polling=False)
    assert [call.offset for call in driver.look_at().calls] == [7, 8]
    assert driver.look_at().in_flight == 2
    assert first.limit == 1


def test_what_is_done_and_not_committed_is_given_by_partition() -> None:
    driver = Watched()
    driver.assign(0, 0)
    driver.poll(0, 1)
    driver.work_all()
    assert driver.look_at().done_to == {"0": 2}


def test_a_batch_is_one_call_of_its_records() -> None:
    driver = Watched(batch=OpenBatch(3, 60.0))
    driver.assign(0)
    driver.poll(0, 1, 2)
    run = driver.take()
    assert driver.look_at().calls == (Call(0, 0, "0", 1, 0.0, records=3),)
    run.index = 1
    assert driver.look_at().calls == (), "its call has ended, and its records are reported"


def test_a_record_that_its_next_topic_refuses_is_open_with_the_reason() -> None:
    driver = Watched()
    driver.assign(0)
    driver.poll(driver.record(0, b"ada"))
    driver.work_all(0)
    assert driver.look_at(3.0).open == (Open(0, 0, "ada", 1, "t-g-try-1", "queued", 0, 3.0),)
    driver.write(DENIED)
    [found] = driver.look_at(1.0).open
    assert (found.state, found.failures) == ("kept", 1)
    assert found.refused.startswith("denied: grant WRITE on it")
    assert driver.look_at().on_their_way == 1


def test_the_reason_names_the_topic_that_refuses() -> None:
    driver = Watched()
    driver.assign(0)
    driver.poll(0)
    driver.work_all(0)
    for _ in Detail:
        driver.write(TOO_LARGE)
    driver.write(TOO_LARGE)
    [found] = driver.look_at().open
    assert found.refused.startswith("too large: raise max.message.bytes of t-g-try-1, or ")


def test_a_record_that_waits_for_a_retry_in_place_is_open_but_not_on_its_way() -> None:
    driver = Watched(in_place_retries=1, in_place_wait=60.0)
    driver.assign(0)
    driver.poll(driver.record(0, b"ada"))
    driver.look_at()
    driver.work_all(0)
    assert driver.look_at(5.0).open[0].seconds == 0.0, "it may have come just now"
    report = driver.look_at(5.0)
    assert report.open == (Open(0, 0, "ada", 1, "t", "in place", 1, 5.0),)
    assert (report.in_place, report.on_their_way) == (1, 0)


def test_a_record_that_waits_for_what_it_produced_is_open() -> None:
    driver = Watched()
    driver.assign(0)
    driver.poll(driver.record(0, b"ada"))
    run = driver.take()
    driver.engine.produced(run, 0, driver.message(run, 0))
    assert driver.look_at(5.0).open == (Open(0, 0, "ada", 1, "", "produced", 0, 0.0),)
    assert driver.look_at(2.0).open == (Open(0, 0, "ada", 1, "", "produced", 0, 2.0),)
    assert driver.look_at(1.0).open == (Open(0, 0, "ada", 1, "", "produced", 0, 3.0),)


@pytest.mark.parametrize(
    ("error", "name"),
    [(ConnectionError(), "ConnectionError"), (Pause(), "flux.Pause")],
)
def test_a_paused_task_has_its_reason_and_the_time_of_the_next_try(error: Exception, name: str) -> None:
    driver = Watched(rules=Rules(pause_on=(ConnectionError,)))
    driver.engine.call_limits.breaker.pause(None, error, 10.0, 0.0, T0)
    assert driver.look_at(4.0).paused == Paused(name, 4.0, 6.0)


def test_the_cause_of_a_pause_is_more_specific() -> None:
    breaker, pause = CircuitBreaker(), Pause()
    pause.__cause__ = AWAY
    assert pause_of(breaker, T0) is None
    breaker.pause(None, pause, 10.0, 0.0, T0)
    assert pause_of(breaker, T0) == Paused("flux.BrokerError", 0.0, 10.0)


def test_the_cause_of_another_error_is_not_the_reason() -> None:
    breaker, error = CircuitBreaker(), ConnectionError()
    error.__cause__ = AWAY
    breaker.pause(None, error, 10.26, 0.0, T0)
    assert pause_of(breaker, T0) == Paused("ConnectionError", 0.0, 10.3)
    assert pause_of(breaker, T0 + 11) == Paused("ConnectionError", 11.0, 0.0)


def test_a_paused_task_that_tries_a_record_has_no_next_time() -> None:
    driver = Watched()
    driver.assign(0)
    driver.poll(0)
    driver.engine.call_limits.breaker.pause(None, ConnectionError(), 10.0, 0.0, T0)
    driver.now += 20
    driver.take()
    assert driver.look_at().paused == Paused("ConnectionError", 20.0, None)


@pytest.mark.parametrize(("until", "ends_in"), [(math.inf, None), (T0_MS + 70_000, 60.0), (T0_MS, 0.0)])
def test_a_stage_that_somebody_has_paused_says_who_and_until_when(until: float, ends_in: float | None) -> None:
    driver = Watched()
    driver.engine.call_limits.held[0] = Hold("ada", "audit", T0_MS - 5000, until)
    assert driver.look_at(10.0).paused == Paused("ada", 15.0, None, commanded=True, ends_in=ends_in, why="audit")
    driver.engine.call_limits.held = {1: Hold("ada", "audit", T0_MS, until)}
    assert driver.look_at().paused is None


@pytest.mark.parametrize(("until", "ends_in"), [(math.inf, None), (T0_MS + 70_000, 60.0), (T0_MS, 0.0)])
@pytest.mark.parametrize("rate", [50.0, None])
def test_a_rate_that_somebody_has_set_says_who_and_until_when(
    rate: float | None, until: float, ends_in: float | None
) -> None:
    driver = Watched(rate_limit=10.0)
    assert driver.look_at().rate_set is None
    driver.engine.call_limits.set_rate(rate, SetRate("ada", rate, until))
    assert driver.look_at(10.0).rate_set == RateSet(rate, "ada", ends_in)


def test_paused_names_are_shown_with_since_when_and_how_many_failed_and_no_text_of_an_error() -> None:
    driver = Watched(pause_when=FailureRate(0.5, of=4, by=lambda message: message.key))
    breakers = driver.engine.call_limits.breakers
    assert breakers is not None
    for offset in range(2):
        breakers.is_outage("a", offset, "r", ValueError("secret"), T0)
    assert breakers.counts("a")
    assert breakers.counts("b")
    breakers.pause("a", 1, ValueError("secret"), None, 0.0, T0)
    breakers.pause("b", 2, ConnectionError("secret"), 60.0, 0.0, T0 + 3)
    a, b = driver.look_at(5.0).paused_names
    assert a == Paused(a.error, 5.0, 0.0, why="2 of the last 2 calls failed", name="a")
    assert a.error.endswith("TooManyFailures")
    assert b == Paused("ConnectionError", 2.0, 58.0, name="b")
    assert paused_names(Watched().engine, T0) == []
    for breaker in breakers.paused.values():
        breaker.error = None
    assert paused_names(driver.engine, T0) == []


def test_what_waits_for_a_limit_is_shown_by_name_the_most_first() -> None:
    driver = Watched(concurrency_key=lambda message: message.raw_value)
    assert (driver.look_at().limited, limited_by_name(Watched().engine)) == ((), [])
    driver.assign(0)
    names = [b"a", b"a", b"b", b"b", b"b", *(b"c%d" % (n // 2) for n in range(2 * MOST_LIMITED))]
    driver.poll(*(driver.record(n, None, value=name) for n, name in enumerate(names)))
    driver.engine.dispatch_mode.slow = True
    while driver.engine.take(False, driver.now) is not None:
        pass
    report = driver.look_at()
    assert report.limited_records == sum(records for *_, records in limited_by_name(driver.engine))
    assert report.limited_records + report.in_flight == len(names)
    assert len(report.limited) == MOST_LIMITED
    counts = [each.records for each in report.limited]
    assert counts == sorted(counts, reverse=True)
    assert {each.setting for each in report.limited} == {"concurrency_key"}
