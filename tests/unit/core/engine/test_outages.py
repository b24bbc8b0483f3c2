"""Outages of one name: its records wait without an attempt, others go on, and memory stays bounded."""

from __future__ import annotations

from typing import Any

import pytest

from flux.core import flux_headers
from flux.core.engine import retries
from flux.core.engine.forwarding import MOST_OPEN
from flux.core.engine.runs import Run
from flux.core.engine.verdicts import Expired, Move, Pause, Undecodable
from flux.core.limits import breakers
from flux.core.limits.backpressure import FULL
from flux.core.limits.failure_rate import FailureRate
from flux.core.message import Message
from flux.core.stage import Stages
from unit.support.engine_support import T0, Driver, FakeRecord, offsets


def host(message: Message) -> bytes | None:
    """The value up to a colon; without one there is no name."""
    name, colon, _ = (message.raw_value or b"").partition(b":")
    return name if colon else None


def hosts(stage: int = 0, share: float = 0.5, of: int = 4, **settings: Any) -> Driver:
    driver = Driver(stage, pause_when=FailureRate(share, of=of, by=host), **settings)
    driver.assign(0, 0)
    driver.engine.dispatch_mode.slow = True
    return driver


def of(driver: Driver, offset: int, name: str, key: str | None = None) -> FakeRecord:
    return driver.record(offset, None if key is None else key.encode(), value=f"{name}:{offset}".encode())


def work(driver: Driver, *away: bytes) -> tuple[list[int], list[Move]]:
    """All calls that may be made now; those for the hosts `away` fail. Returns the offsets called, and what became of
    failures."""
    called, moves = [], []
    while (run := driver.engine.take(False, driver.now)) is not None:
        while run.index < run.limit:
            message = driver.message(run, run.index)
            called.append(message.offset)
            if host(message) in away:
                moves.append(driver.fail(run))
            run.index += 1
        driver.engine.finished(run, driver.now)
    return called, moves


def only(driver: Driver) -> Run:
    run = driver.engine.take(False, driver.now)
    assert run is not None
    return run


def test_after_so_many_failures_the_records_of_one_host_wait_and_others_go_on() -> None:
    driver = hosts()
    driver.poll(*(of(driver, n, name) for n, name in enumerate("aaaabbbb")))
    called, moves = work(driver, b"a")
    assert called == [0, 1, 4, 5, 6, 7]
    assert moves == [Move.NEXT, Move.HOLD]
    assert not driver.engine.ready(driver.now)
    assert "calls for 'a' are paused, others go on; the next one in 1.0 s" in driver.log_events()
    assert driver.write() == [0]


def test_a_record_that_waited_has_the_attempts_that_it_had() -> None:
    driver = hosts(share=0.25)
    driver.poll(of(driver, 0, "a"))
    assert work(driver, b"a") == ([0], [Move.HOLD])
    driver.now += 1.2
    run = only(driver)
    assert driver.message(run, 0).attempt == 1


def test_one_record_probes_and_its_success_lets_all_go_on() -> None:
    driver = hosts()
    driver.poll(*(of(driver, n, "a") for n in range(6)))
    work(driver, b"a")
    assert driver.engine.begins_at(driver.now) == pytest.approx(T0 + 1)
    driver.now += 1.2
    probe = only(driver)
    assert driver.engine.take(False, driver.now) is None
    probe.index += 1
    driver.engine.finished(probe, driver.now)
    called, _ = work(driver)
    assert sorted(called + offsets(probe)) == [1, 2, 3, 4, 5]
    assert "calls for 'a' go on" in driver.log_events()


def test_a_probe_that_fails_doubles_the_pause_and_another_record_is_next() -> None:
    driver = hosts()
    driver.poll(*(of(driver, n, "a") for n in range(5)))
    work(driver, b"a")
    driver.now += 1.2
    first = work(driver, b"a")
    assert first[1] == [Move.HOLD]
    assert not driver.engine.ready(driver.now + 1.9)
    driver.now += 2.2
    second = work(driver, b"a")
    assert second[1] == [Move.HOLD]
    assert first[0] != second[0]


def test_the_order_of_a_key_holds_through_a_pause() -> None:
    driver = hosts(share=0.25)
    driver.poll(of(driver, 0, "a", "k"), of(driver, 1, "b", "k"), of(driver, 2, "b", "x"))
    assert work(driver, b"a")[0] == [0, 2]
    driver.now += 1.2
    assert work(driver)[0] == [0, 1]


def test_a_call_that_raises_pause_pauses_its_host() -> None:
    driver = hosts()
    driver.poll(of(driver, 0, "a"), of(driver, 1, "a"), of(driver, 2, "b"))
    run = only(driver)
    assert driver.fail(run, Pause(5)) is Move.HOLD
    run.index += 1
    driver.engine.finished(run, driver.now)
    assert work(driver)[0] == [2]
    assert driver.engine.begins_at(driver.now) == T0 + 5
    assert driver.engine.begins_at(driver.now, probes=False) is None


def test_without_a_name_a_pause_is_the_tasks_and_failures_pause_nothing() -> None:
    driver = hosts(share=0.25)
    driver.poll(0, 1)
    run = only(driver)
    assert driver.fail(run) is Move.NEXT
    run.index += 1
    driver.engine.finished(run, driver.now)
    run = only(driver)
    assert driver.fail(run, Pause()) is Move.PAUSE


@pytest.mark.parametrize("refused", [Expired("old"), Undecodable("no")])
def test_a_probe_that_makes_no_call_ends_no_pause(refused: Exception) -> None:
    driver = hosts(share=0.25)
    driver.poll(*(of(driver, n, "a") for n in range(3)))
    work(driver, b"a")
    driver.now += 1.2
    probe = only(driver)
    assert driver.fail(probe, refused) is Move.DEAD
    probe.index += 1
    driver.engine.finished(probe, driver.now)
    by_name = driver.engine.call_limits.breakers
    assert by_name is not None
    assert list(by_name.paused) == ["a"]
    assert len(offsets(only(driver))) == 1


def test_a_failure_of_the_process_is_nobodys_outage() -> None:
    driver = hosts(share=0.25)
    driver.poll(of(driver, 0, "a"))
    assert driver.fail(only(driver), MemoryError()) is Move.STOP


def test_all_stages_share_what_is_paused() -> None:
    driver = hosts(share=0.25)
    retry = Driver(1, call_limits=driver.engine.call_limits, pause_when=driver.policy.pause_when)
    retry.assign(0)
    driver.poll(of(driver, 0, "a"))
    work(driver, b"a")
    retry.now = driver.now + 60
    driver.now = retry.now
    probe = only(driver)
    retry.poll(retry.record(0, None, value=b"a:0"), retry.record(1, None, value=b"b:1"))
    assert retry.work_all() == [1]
    assert retry.write() == []
    probe.index += 1
    driver.engine.finished(probe, driver.now)
    assert retry.work_all() == [0]


def fill(driver: Driver) -> None:
    """A partition becomes full of records of a host that is paused."""
    driver.poll(of(driver, 0, "a"))
    work(driver, b"a")
    driver.poll(*(of(driver, n, "a") for n in range(1, FULL + 10)))
    work(driver, b"a")


def test_what_memory_has_no_room_for_moves_on_without_an_attempt_and_others_go_on() -> None:
    driver = hosts(share=0.25)
    fill(driver)
    driver.poll(of(driver, FULL + 10, "b"))
    assert work(driver, b"a")[0] == []
    driver.turn()
    forwards = driver.engine.writes(driver.now)
    assert len(forwards) == FULL + 10
    headers = dict(forwards[0].forwarded_copy.producer_record(int(T0 * 1000), None).headers or ())
    assert headers[flux_headers.ATTEMPTS] == b"0"
    assert b"TooManyFailures" in (headers[flux_headers.ERROR_TYPE] or b"")
    assert headers[flux_headers.STAGE] == b"1"
    for forward in forwards:
        driver.engine.written(forward, driver.now)
    assert work(driver, b"a")[0] == [FULL + 10]
    assert driver.commit()[0].offset == FULL + 11


def test_nothing_moves_while_there_is_room() -> None:
    driver = hosts(share=0.25)
    driver.poll(*(of(driver, n, "a") for n in range(9)))
    work(driver, b"a")
    driver.turn()
    assert driver.engine.writes(driver.now) == []


def test_nothing_moves_to_the_dead_letters() -> None:
    driver = hosts(share=0.25, stages=Stages("t", "g", 0))
    fill(driver)
    driver.turn()
    assert driver.engine.writes(driver.now) == []


def test_what_was_moved_waits_for_its_acknowledgement_before_more_moves() -> None:
    driver = hosts(share=0.25)
    for partition in (0, 1):
        driver.poll(*(driver.record(n, None, partition, value=b"a:%d" % n) for n in range(FULL + 10)))
        driver.poll(*(driver.record(FULL + 10 + n, None, partition, value=b"b:%d" % n) for n in range(FULL + 10)))
    work(driver, b"a", b"b")
    for _ in range(5):
        driver.turn()
        work(driver, b"a", b"b")
    assert driver.engine.open_forwards < MOST_OPEN


def test_a_call_of_a_task_without_names_pauses_the_task() -> None:
    driver = Driver(pause_when=FailureRate(0.25, of=4))
    driver.assign(0)
    driver.poll(0, 1)
    run = driver.take()
    assert driver.fail(run) is Move.PAUSE
    driver.turn()
    assert driver.engine.writes(driver.now) == []


def test_no_more_moves_while_many_writes_are_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "MOST_OPEN", 40)
    driver = hosts(share=0.25)
    fill(driver)
    driver.poll(*(driver.record(n, None, 1) for n in range(20)))
    while (run := driver.engine.take(False, driver.now)) is not None:
        while run.index < run.limit:
            driver.fail(run)
            run.index += 1
        driver.engine.finished(run, driver.now)
    driver.turn()
    assert driver.engine.open_forwards == 20


def test_a_second_pause_of_the_same_kind_is_no_news() -> None:
    driver = hosts()
    driver.poll(of(driver, 0, "a"), of(driver, 1, "a"))
    runs = [only(driver), only(driver)]
    assert driver.fail(runs[0], Pause(5)) is Move.HOLD
    driver.log_events()
    assert driver.fail(runs[1], Pause(5)) is Move.HOLD
    assert driver.log_events() == ""


def test_with_too_many_paused_names_a_pause_is_the_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breakers, "MOST_NAMES", 1)
    driver = hosts()
    driver.poll(of(driver, 0, "a"), of(driver, 1, "b"))
    runs = [only(driver), only(driver)]
    assert driver.fail(runs[0], Pause(5)) is Move.HOLD
    assert driver.fail(runs[1], Pause(5)) is Move.PAUSE


def test_a_pause_of_a_name_without_records_here_is_over_after_a_while() -> None:
    driver = hosts(share=0.25)
    driver.turn()
    driver.poll(of(driver, 0, "a"))
    work(driver, b"a")
    driver.engine.lost([driver.p0])
    driver.log_events()
    driver.now += 61
    driver.turn()
    assert driver.log_events() == "calls for 'a' go on"
