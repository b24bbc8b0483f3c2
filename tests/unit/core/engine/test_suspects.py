"""Processes that vanish during a call: what their successors call alone, and which record is dead in the end."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import attrs
import pytest

from flux.core.backoff import Waits
from flux.core.control.standing import Hold
from flux.core.engine.batches import OpenBatch
from flux.core.engine.crashes import SETTLED, Mark
from flux.core.engine.offset_tracker import OffsetTracker, read_mark, read_metadata
from flux.core.engine.verdicts import Crashed, Pause
from flux.core.errors import BrokerError, Fault
from flux.core.ports import CommittedOffset
from unit.support.engine_support import AWAY, DAY, Driver, message_at

IN_DOUBT = Mark(1, None, 4)
Change = Callable[[Driver], None]


@attrs.define
class Processes:
    """Processes that work on one partition, one after the other. A call of a killer ends its process."""

    killers: frozenset[int]
    records: int = 30
    settings: dict[str, Any] = attrs.field(factory=dict)
    stage: int = 0
    committed: CommittedOffset | None = None
    calls: Counter[int] = attrs.field(factory=Counter)
    dead: list[int] = attrs.field(factory=list)

    def live(self) -> bool:
        """One process, until it vanishes (True) or everything is done."""
        driver = Driver(self.stage, **{"max_crashes": 2, "concurrency": 4, **self.settings})
        starts = driver.assign(self.committed)
        first = max(0, starts[driver.p0])
        driver.poll(*range(first, self.records))
        for _ in range(20_000):
            for forward in driver.engine.writes(driver.now):
                copy = forward.forwarded_copy
                assert copy.reason == "crashed"
                self.dead.append(copy.message.offset)
                driver.engine.written(forward, driver.now)
            self.commit(driver)
            run = driver.engine.take(True, driver.now)
            if run is None:
                if self.committed == CommittedOffset(self.records):
                    return False
                driver.now += 0.05
                continue
            while run.index < run.limit:
                offset = message_at(run, run.index).offset
                self.calls[offset] += 1
                if offset in self.killers:
                    return True
                run.index += 1
            driver.engine.finished(run, driver.now)
        raise AssertionError("it makes no progress")

    def commit(self, driver: Driver) -> None:
        offsets = driver.turn().commit
        if offsets is not None:
            driver.engine.committed(offsets, None, driver.now)
            self.committed = offsets[driver.p0]

    def live_all(self) -> int:
        """Number of processes that vanished."""
        vanished = 0
        while self.live():
            vanished += 1
            assert vanished < 20, self
        return vanished


@pytest.mark.parametrize("settings", [{}, {"ordering": "none"}, {"batch": OpenBatch(5, 0.0)}, {"concurrency": 1}])
@pytest.mark.parametrize("limit", [2, 5])
@pytest.mark.parametrize("killer", [0, 13, 29])
def test_a_record_that_ends_its_process_is_dead_and_all_others_are_done(
    killer: int, limit: int, settings: dict[str, Any]
) -> None:
    processes = Processes(frozenset([killer]), settings={"max_crashes": limit, **settings})
    assert processes.live_all() == limit + 1
    assert processes.dead == [killer]
    assert set(processes.calls) == set(range(30))


def test_several_of_them_are_dead_one_after_the_other() -> None:
    processes = Processes(frozenset([3, 4, 20]))
    assert processes.live_all() <= 9
    assert processes.dead == [3, 4, 20]


def test_without_a_limit_the_process_ends_again_and_again() -> None:
    processes = Processes(frozenset([3]), settings={"max_crashes": None})
    assert [processes.live() for _ in range(9)] == [True] * 9
    assert processes.dead == []


def test_an_owner_that_called_nothing_leaves_what_it_found_and_is_not_counted() -> None:
    driver = careful(Mark(2, 1))
    assert mark(driver) == Mark(3, 1, None, True)
    other = careful(Mark(3, 1, None, True))
    assert other.engine.commit(other.now) is None
    other.engine.revoking([other.p0])
    assert other.engine.commit(other.now, at_once=True) is None


def test_a_process_that_was_killed_from_outside_costs_its_successor_some_commits() -> None:
    driver = careful(Mark(0))
    driver.poll(*range(1, 101))
    commit(driver)
    assert turns(driver) == [list(range(1, 17)), list(range(17, 49)), list(range(49, 101))]
    driver.now += SETTLED
    assert commit(driver) is None
    assert not driver.engine.unclear()
    driver.poll(101, 102)
    assert driver.work_all() == [101, 102]


def careful(found: Mark | None, **settings: Any) -> Driver:
    """A process that finds a mark at offset 1."""
    driver = Driver(**{"max_crashes": 2, "concurrency": 2, **settings})
    driver.assign(CommittedOffset(1, OffsetTracker(1).metadata(found)))
    return driver


def clear(driver: Driver) -> None:
    """The first commit of an owner that found a mark."""
    assert driver.engine.unclear()
    assert mark(driver) is not None
    assert not driver.engine.unclear()


def commit(driver: Driver) -> Mark | None:
    """One turn of the poll loop. Returns the mark that it commits."""
    offsets = driver.turn().commit
    if offsets is None:
        return None
    driver.engine.committed(offsets, None, driver.now)
    return read_mark(*offsets[driver.p0])


def turns(driver: Driver) -> list[list[int]]:
    """The offsets that are called after each commit, until there is nothing more to call."""
    called = []
    while offsets := driver.work_all():
        called.append(offsets)
        commit(driver)
    return called


def mark(driver: Driver) -> Mark | None:
    committed = driver.commit(0)
    return read_mark(*committed[0]) if committed else None


# ---- before the first call


def test_the_mark_is_committed_before_the_first_call_and_not_again() -> None:
    driver = Driver(max_crashes=2)
    driver.assign(5)
    assert driver.engine.commit(driver.now) is None
    driver.poll(5, 6)
    assert driver.nothing_to_take()
    assert driver.engine.awaits_commit()
    assert not driver.engine.quiet
    assert not driver.engine.rests(driver.now)
    turn = driver.turn()
    assert turn.timeout <= 0.005
    assert turn.commit is not None
    assert read_mark(*turn.commit[driver.p0]) == Mark(0)
    driver.engine.committed(turn.commit, None, driver.now)
    assert driver.work_all() == [5, 6]
    assert driver.commit()[0].offset == 7


def test_a_reader_that_does_not_expect_a_mark_reads_what_is_done() -> None:
    driver = Driver(max_crashes=2)
    driver.assign(5)
    driver.poll(5, 6, 7)
    driver.commit(0)
    run = driver.take()
    driver.fail(run)
    run.index += 1
    driver.work(run)
    committed = driver.commit(1.0)[0]
    assert read_metadata(*committed) == [(6, 8)]
    assert read_mark(*committed) == Mark(0)


def test_a_commit_that_fails_holds_back_no_call() -> None:
    driver = Driver(max_crashes=2)
    driver.assign(5)
    driver.poll(5)
    offsets = driver.engine.commit(driver.now)
    assert offsets
    driver.engine.committed(offsets, AWAY, driver.now)
    assert driver.work_all() == [5]


@pytest.mark.parametrize("settings", [{"max_metadata": 0}, {"max_metadata": 16}])
def test_without_room_for_a_mark_calls_begin_at_once(settings: dict[str, Any]) -> None:
    driver = Driver(max_crashes=2, **settings)
    driver.assign(5)
    driver.poll(5)
    driver.commit(0)
    assert driver.work_all() == [5]


def test_a_broker_that_refuses_metadata_ends_the_marks() -> None:
    driver = careful(Mark(1))
    driver.assign(5)
    driver.poll(5)
    offsets = driver.engine.commit(driver.now)
    assert offsets
    driver.engine.committed(offsets, BrokerError("too large", Fault.METADATA), driver.now)
    assert driver.work_all() == [5]
    driver.assign(CommittedOffset(6))
    driver.poll(6)
    assert driver.work_all() == [6]


@pytest.mark.parametrize("stops", [False, True])
def test_a_revocation_and_a_stop_leave_no_mark(stops: bool) -> None:
    driver = Driver(max_crashes=2)
    driver.assign(5)
    driver.poll(5)
    assert mark(driver) == Mark(0)
    if stops:
        driver.engine.stop()
    else:
        driver.engine.revoking([driver.p0])
    assert driver.engine.commit(driver.now, at_once=True) == {driver.p0: CommittedOffset(5)}
    assert not driver.engine.awaits_commit()


# ---- windows


def test_each_window_is_committed_before_it_is_called() -> None:
    driver = careful(Mark(0))
    driver.poll(*range(1, 1001))
    assert commit(driver) == Mark(1, None, 1 + 16)
    assert [len(called) for called in turns(driver)] == [16, 32, 64, 128, 128, 128, 128, 128, 128, 120]


def test_a_window_waits_for_the_commit_that_names_it_even_if_another_one_ends() -> None:
    driver = careful(Mark(0))
    first = driver.turn().commit
    assert first is not None
    driver.poll(1, 2)
    driver.turn()
    driver.engine.committed(first, None, driver.now)
    assert driver.engine.unclear()
    assert driver.nothing_to_take()
    assert commit(driver) == Mark(1, None, 3)
    assert not driver.engine.unclear()
    assert driver.work_all() == [1, 2]


def test_slow_calls_are_given_small_windows_while_callers_are_left() -> None:
    driver = careful(Mark(0), concurrency=2)
    driver.poll(*range(1, 100))
    commit(driver)
    driver.take()
    driver.look()
    assert driver.engine.dispatch_mode.slow
    for offset in range(2, 14):
        assert driver.work(driver.take(polling=False)) == [offset]
    assert commit(driver) is None
    assert driver.work(driver.take(polling=False)) == [14]
    assert commit(driver) == Mark(1, None, 33)


def test_a_window_has_room_for_a_batch() -> None:
    driver = careful(Mark(0), batch=OpenBatch(20, 5.0))
    driver.poll(*range(1, 100))
    assert commit(driver) == Mark(1, None, 1 + 20)
    assert [len(called) for called in turns(driver)] == [20, 40, 20]


def test_a_window_without_room_for_its_mark_ends_the_windows() -> None:
    driver = careful(Mark(0), max_metadata=22)
    driver.poll(*range(1, 100))
    assert commit(driver) is None
    assert driver.work_all() == list(range(1, 100))


def test_a_window_whose_commit_fails_is_called_all_the_same() -> None:
    driver = careful(Mark(0))
    driver.poll(1)
    offsets = driver.turn().commit
    assert offsets
    driver.engine.committed(offsets, AWAY, driver.now)
    assert driver.engine.unclear()
    assert driver.nothing_to_take()
    commit(driver)
    driver.now += 1.0
    commit(driver)
    assert driver.work_all() == [1]


# ---- alone


def test_after_two_crashes_a_record_is_called_when_its_name_is_committed() -> None:
    driver = careful(IN_DOUBT)
    assert "2 process(es) in a row vanished" in driver.log_events()
    driver.poll(*range(1, 30))
    assert driver.engine.wants_alone(driver.now)
    assert not driver.engine.ready(driver.now)
    clear(driver)
    assert driver.engine.ready(driver.now)
    assert driver.nothing_to_take()
    assert not driver.engine.ready(driver.now)
    assert mark(driver) == Mark(2, 1, 4)
    run = driver.take()
    assert driver.nothing_to_take()
    assert driver.engine.wants_alone(driver.now)
    assert driver.work(run) == [1]
    assert not driver.engine.ready(driver.now)
    assert driver.nothing_to_take()
    assert mark(driver) == Mark(2, 2, 4)  # clears the one and names the next one
    assert driver.work(driver.take()) == [2]
    mark(driver)
    assert driver.work(driver.take()) == [3]
    assert commit(driver) == Mark(1, None, 4 + 16)  # what is not in doubt is called in windows
    assert "no record is in doubt any more" in driver.log_events()
    assert not driver.engine.wants_alone(driver.now)
    assert driver.work_all() == list(range(4, 20))


def test_records_that_come_later_are_called_alone_if_they_are_in_doubt() -> None:
    driver = careful(IN_DOUBT)
    commit(driver)
    driver.poll(1)
    assert driver.nothing_to_take()
    commit(driver)
    assert driver.work(driver.take()) == [1]
    assert commit(driver) == Mark(2, None, 4, True)
    driver.poll(3, 4)
    assert driver.nothing_to_take()
    assert commit(driver) == Mark(2, 3, 4)
    assert driver.work(driver.take()) == [3]
    assert commit(driver) == Mark(1, None, 5)
    assert driver.work_all() == [4]


def test_what_waits_ends_the_suspicion_once_it_would_have_been_due() -> None:
    driver = Driver(1, max_crashes=2, waits=Waits(lambda stage: 1000.0, DAY))
    driver.assign(careful_offset())
    driver.poll(1)
    driver.now += 1000.0
    driver.poll(driver.record(2, timestamp=int(driver.now * 1000)), driver.record(3), driver.record(4))
    commit(driver)
    for offset in (1, 3, 4):
        assert driver.nothing_to_take()
        assert driver.nothing_to_take()
        commit(driver)
        assert driver.work(driver.take()) == [offset]
    assert commit(driver) == Mark(2, None, 4, True)
    driver.now += 59.0
    assert commit(driver) is None
    driver.now += 1.0
    assert commit(driver) == Mark(1, None, None, True)


def test_a_record_whose_name_could_not_be_committed_is_named_again_later() -> None:
    driver = careful(IN_DOUBT)
    driver.poll(1)
    clear(driver)
    assert driver.nothing_to_take()
    offsets = driver.engine.commit(driver.now)
    assert offsets
    driver.engine.committed(offsets, AWAY, driver.now)
    assert driver.engine.unclear()  # it may have been committed nevertheless
    driver.commit(0.5)
    assert not driver.engine.wants_alone(driver.now)
    assert driver.engine.wants_alone(driver.now + 1.0)


def careful_offset() -> CommittedOffset:
    return CommittedOffset(1, OffsetTracker(1).metadata(IN_DOUBT))


def test_a_failure_of_a_record_that_is_called_alone_moves_it_at_once() -> None:
    driver = careful(IN_DOUBT, in_place_retries=2)
    driver.poll(1)
    clear(driver)
    driver.nothing_to_take()
    driver.commit(0)
    driver.work(driver.take(), 1)
    assert driver.write() == [1]


def test_an_outage_that_a_record_finds_alone_ends_the_suspicion() -> None:
    driver = careful(IN_DOUBT)
    driver.poll(1, 2)
    clear(driver)
    driver.nothing_to_take()
    driver.commit(0)
    run = driver.take()
    driver.fail(run, Pause())
    driver.engine.finished(run, driver.now)
    assert commit(driver) == Mark(1, None, 3)
    assert driver.work_all() == [1, 2]


def test_a_process_that_fails_in_a_call_alone_names_nothing_further() -> None:
    driver = careful(IN_DOUBT)
    driver.poll(1)
    clear(driver)
    driver.nothing_to_take()
    driver.commit(0)
    run = driver.take()
    driver.engine.aborted(run)
    driver.engine.stop()
    assert not driver.engine.wants_alone(driver.now)


def test_a_record_that_is_dead_says_why() -> None:
    driver = careful(Mark(2, 1, 4))
    driver.poll(1, 2)
    clear(driver)
    assert driver.nothing_to_take()
    assert driver.engine.commit(driver.now, at_once=True) is None
    [(message, failure, _)] = driver.engine.failures()
    assert (message.offset, type(failure.error)) == (1, Crashed)
    assert "3 processes in a row vanished" in str(failure.error)
    [forward] = driver.engine.writes(driver.now)
    assert (forward.forwarded_copy.reason, forward.forwarded_copy.target.number) == ("crashed", 3)


def test_a_retry_stage_calls_alone_what_is_due() -> None:
    processes = Driver(1, max_crashes=2, concurrency=2)
    processes.assign(CommittedOffset(1, careful_offset().metadata))
    processes.poll(1)
    processes.now += 10_000
    clear(processes)
    assert processes.nothing_to_take()
    assert processes.nothing_to_take()
    assert mark(processes) == Mark(2, 1, 4)
    assert processes.work(processes.take()) == [1]


def test_a_record_that_is_named_is_called_before_one_of_another_partition_is_named() -> None:
    driver = Driver(max_crashes=2, concurrency=2)
    driver.assign(careful_offset(), careful_offset())
    driver.poll(driver.record(1, partition=1))
    clear(driver)
    driver.nothing_to_take()
    driver.poll(driver.record(1, partition=0))
    assert mark_of(driver, 1) == Mark(2, 1, 4)
    run = driver.take()
    assert [each.partition.partition for each in run.assignments()] == [1]


def mark_of(driver: Driver, partition: int) -> Mark | None:
    return read_mark(*driver.commit(0)[partition])


def _hold(driver: Driver) -> None:
    driver.engine.call_limits.held[0] = Hold("ada", "", 0.0, math.inf)


def _resume(driver: Driver) -> None:
    driver.engine.call_limits.held.clear()


def _find_outage(driver: Driver) -> None:
    driver.engine.call_limits.breaker.pause(None, Pause(), 5.0, 0.0, driver.now)


def _wait(driver: Driver) -> None:
    driver.now += 10.0


CLOSED = pytest.mark.parametrize(("close", "open_again"), [(_hold, _resume), (_find_outage, _wait)])


@CLOSED
def test_a_record_is_not_named_any_more_once_it_may_not_be_called(close: Change, open_again: Change) -> None:
    driver = careful(IN_DOUBT)
    driver.poll(1)
    clear(driver)
    assert driver.nothing_to_take()
    assert mark(driver) == Mark(2, 1, 4)
    close(driver)
    assert driver.engine.wants_alone(driver.now)  # it would be blamed for calls of other stages
    assert driver.nothing_to_take()
    offsets = driver.turn().commit
    assert offsets
    assert driver.engine.unclear()
    driver.engine.committed(offsets, None, driver.now)
    assert read_mark(*offsets[driver.p0]) == Mark(2, None, 4, True)
    assert not driver.engine.wants_alone(driver.now)
    assert not driver.engine.unclear()
    open_again(driver)
    assert driver.nothing_to_take()
    assert mark(driver) == Mark(2, 1, 4)
    assert driver.work(driver.take()) == [1]


@CLOSED
def test_a_record_that_is_named_by_no_commit_yet_is_not_named_by_the_next_one(
    close: Change, open_again: Change
) -> None:
    driver = careful(IN_DOUBT)
    driver.poll(1)
    clear(driver)
    assert driver.nothing_to_take()
    close(driver)
    assert driver.engine.wants_alone(driver.now)
    assert commit(driver) is None
    assert not driver.engine.wants_alone(driver.now)
    open_again(driver)
    assert driver.nothing_to_take()
    assert mark(driver) == Mark(2, 1, 4)


def test_the_next_record_is_not_named_while_the_rate_is_used_up() -> None:
    driver = careful(IN_DOUBT, rate_limit=0.1)
    driver.poll(1, 2)
    clear(driver)
    assert driver.nothing_to_take()
    assert commit(driver) == Mark(2, 1, 4)
    run = driver.take()
    assert commit(driver) is None  # it is at work
    driver.work(run)
    assert driver.engine.unclear()
    assert commit(driver) == Mark(2, None, 4, True)
    assert not driver.engine.wants_alone(driver.now)
    driver.now += 10.0
    assert driver.nothing_to_take()
    assert commit(driver) == Mark(2, 2, 4)
    assert driver.work(driver.take()) == [2]


def test_a_partition_is_revoked_with_a_record_that_is_named_and_nothing_is_called_until_that_is_committed() -> None:
    driver = careful(IN_DOUBT)
    driver.poll(1)
    clear(driver)
    assert driver.nothing_to_take()
    assert mark(driver) == Mark(2, 1, 4)
    driver.engine.revoking([driver.p0])
    assert driver.engine.unclear()
    offsets = driver.engine.commit(driver.now, [driver.p0], at_once=True)
    assert offsets
    assert read_mark(*offsets[driver.p0]) == Mark(2, None, 4, True)
    driver.engine.committed(offsets, None, driver.now)
    assert not driver.engine.unclear()


def test_nothing_is_named_while_a_record_is_in_flight_or_the_commit_that_names_it() -> None:
    driver = careful(IN_DOUBT)
    driver.poll(1, 2)
    clear(driver)
    assert driver.nothing_to_take()
    assert driver.nothing_to_take()  # not committed yet
    assert commit(driver) == Mark(2, 1, 4)
    run = driver.take()
    assert commit(driver) is None
    driver.work(run)
    assert commit(driver) == Mark(2, 2, 4)


def test_a_partition_that_is_being_revoked_stays_in_doubt() -> None:
    driver = careful(IN_DOUBT)
    clear(driver)
    driver.poll(1, 2, 3)
    driver.engine.revoking([driver.p0])
    assert commit(driver) is None
    assert driver.engine.commit(driver.now, [driver.p0], at_once=True) is None
