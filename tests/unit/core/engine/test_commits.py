"""When the engine asks for commits, what is in them, and what a failure of one means."""

from __future__ import annotations

import pytest

from flux.core.engine.commits import Commits
from flux.core.engine.forwards import Failure
from flux.core.engine.offset_tracker import read_metadata
from flux.core.engine.slice_runs import SliceRun
from flux.core.errors import BrokerError, Fault
from flux.core.ports import CommittedOffset, PollResult
from unit.support.engine_support import AWAY, T0, Driver, polled

METADATA = BrokerError("too long", Fault.METADATA)


def worked(driver: Driver, *records: int) -> None:
    driver.poll(*records)
    driver.work_all()


def test_positions_are_committed_once_an_interval() -> None:
    driver = Driver(commit_interval=5.0)
    driver.assign(0)
    worked(driver, 0)
    positions = driver.turn(after=5).commit
    assert positions == {driver.p0: CommittedOffset(1)}
    driver.engine.committed(positions, None, driver.now)
    worked(driver, 1)
    assert driver.turn(after=4.9).commit is None
    assert driver.turn(after=0.2).commit == {driver.p0: CommittedOffset(2)}


def test_many_records_are_committed_before_the_interval_ends() -> None:
    driver = Driver(commit_threshold=3)
    driver.assign(0)
    driver.commit()
    worked(driver, 0, 1)
    assert driver.turn().commit is None
    worked(driver, 2)
    assert driver.turn().commit == {driver.p0: CommittedOffset(3)}


def test_the_progress_of_a_run_is_committed_while_it_is_worked() -> None:
    driver = Driver()
    driver.assign(0)
    driver.poll(0, 1, 2)
    run = driver.take()
    run.index = 2
    assert driver.commit() == {0: CommittedOffset(2)}
    driver.work(run)
    assert driver.commit() == {0: CommittedOffset(3)}
    assert driver.engine.stats.done == 3


def test_offset_and_metadata_of_a_commit_are_of_one_moment_though_the_run_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Going(SliceRun):
        """Its caller ends a call between two readings of `index`."""

        __slots__ = ("_really",)

        @property
        def index(self) -> int:
            self._really += 1
            return self._really - 1

        @index.setter
        def index(self, value: int) -> None:
            self._really = value

    monkeypatch.setattr("flux.core.engine.dispatch.SliceRun", Going)
    driver = Driver()
    driver.assign(0)
    driver.poll(*range(9))
    run = driver.take()
    run.index = 2
    driver.engine.failed(run, 2, driver.message(run, 2), Failure(ValueError()), driver.now)
    run.index = 5
    positions = driver.engine.commit(driver.now, at_once=True)
    assert positions is not None
    position = positions[driver.p0]
    assert (position.offset, read_metadata(*position)) == (2, [(3, 5)])
    assert driver.engine.stats.done == 4


def test_one_commit_is_in_flight() -> None:
    driver = Driver()
    driver.assign(0)
    worked(driver, 0)
    positions = driver.turn(after=10).commit
    assert positions
    worked(driver, 1)
    assert driver.turn(after=10).commit is None
    driver.engine.committed(positions, None, driver.now)
    assert driver.turn().commit == {driver.p0: CommittedOffset(2)}


def test_a_failed_commit_is_tried_again_within_a_second_with_what_is_done_by_then() -> None:
    driver = Driver(commit_interval=60.0)
    driver.assign(0)
    worked(driver, 0)
    positions = driver.turn(after=60).commit
    assert positions
    driver.engine.committed(positions, AWAY, driver.now)
    assert driver.engine.stats.commit_failures == 1
    assert not driver.engine.idle
    worked(driver, 1)
    assert driver.turn(after=1.0).commit == {driver.p0: CommittedOffset(2)}


def test_nothing_new_is_nothing_to_commit() -> None:
    driver = Driver()
    driver.assign(0)
    assert driver.turn(after=100).commit is None
    worked(driver, 0)
    assert driver.commit() == {0: CommittedOffset(1)}
    assert driver.turn(after=100).commit is None


def test_where_the_broker_takes_no_such_strings_positions_go_without() -> None:
    driver = Driver()
    driver.assign(0)
    driver.poll(0, 1)
    run = driver.take()
    driver.work(run, 0)
    positions = driver.turn(after=10).commit
    assert positions
    assert positions[driver.p0].metadata
    driver.engine.committed(positions, METADATA, driver.now)
    assert "offset.metadata.max.bytes" in driver.log_events()
    assert driver.commit() == {}
    driver.write()
    assert driver.commit() == {0: CommittedOffset(2)}


def test_a_refused_commit_is_an_error_and_one_in_an_outage_is_not() -> None:
    driver = Driver()
    driver.assign(0)
    for error, said in ((AWAY, False), (BrokerError("no", Fault.DENIED), True), (BrokerError("", Fault.FENCED), False)):
        driver.engine.committed({}, error, driver.now)
        assert ("cannot be committed" in driver.log_events()) is said


def test_a_clock_set_back_does_not_stall_commits() -> None:
    driver = Driver(commit_interval=5.0)
    driver.assign(0)
    driver.commit()
    worked(driver, 0)
    driver.now -= 86_400
    deadline = driver.engine.deadline(driver.now)
    assert deadline is not None
    assert deadline <= driver.now + 5
    driver.turn()
    assert driver.turn(after=5).commit == {driver.p0: CommittedOffset(1)}


def test_a_late_answer_to_an_old_generations_commit_hides_nothing_of_the_new_one() -> None:
    driver = Driver()
    driver.assign(0)
    worked(driver, 0)
    positions = driver.turn(after=10).commit
    assert positions
    driver.engine.lost([driver.p0])
    driver.assign(0)
    driver.engine.committed(positions, None, driver.now)
    worked(driver, 0, 1)
    assert driver.commit() == {0: CommittedOffset(2)}


def test_the_deadline_is_the_next_commit_only_if_there_is_something_to_commit() -> None:
    driver = Driver(commit_interval=5.0)
    driver.assign(0)
    driver.commit()
    assert driver.engine.deadline(driver.now) is None
    worked(driver, 0)
    assert driver.engine.deadline(driver.now) == driver.now + 5


def test_little_room_for_metadata_stops_feeding_and_not_for_ever() -> None:
    driver = Driver(max_metadata=16 + 3)
    driver.assign(0)
    driver.poll(*range(0, 100, 7))
    run = driver.take()
    assert driver.look() == [run]
    worked_beside = driver.work_all()
    assert worked_beside
    assert len(worked_beside) < 14
    assert not driver.nothing_to_take() or driver.engine.calls == 1
    position = driver.commit()
    assert position == {} or len(position[0].metadata) <= 16 + 3
    driver.work(run)
    assert sorted(worked_beside + driver.work_all()) == list(range(7, 100, 7))
    assert driver.commit() == {0: CommittedOffset(99)}


def reached(driver: Driver, offset: int) -> None:
    driver.engine.polled(PollResult(reached={driver.p0: offset}), driver.now)


def test_what_lies_behind_the_last_record_is_passed_when_the_client_has_passed_it() -> None:
    driver = Driver()
    driver.assign(0)
    worked(driver, 0, 1)
    assert driver.commit() == {0: CommittedOffset(2)}
    reached(driver, 3)  # a transaction's marker
    assert not driver.engine.idle
    assert driver.commit() == {0: CommittedOffset(3)}
    assert driver.engine.idle
    reached(driver, 3)
    assert driver.turn(after=100).commit is None, "an idle stage commits for ever"


def test_a_record_in_flight_is_not_passed_by_what_the_client_has_reached() -> None:
    driver = Driver()
    driver.assign(0)
    driver.poll(0, 1)
    run = driver.take()
    reached(driver, 4)
    run.index = 1
    assert driver.commit()[0].offset == 1
    driver.work(run)
    assert driver.commit() == {0: CommittedOffset(4)}


def test_records_and_the_end_behind_them_may_come_in_one_poll() -> None:
    driver = Driver()
    driver.assign(0)
    batch = polled(driver.record(0), driver.record(2))
    driver.engine.polled(PollResult(batch.batches, reached={driver.p0: 5}), driver.now)
    assert driver.commit()[0].offset == 0
    driver.work_all()
    assert driver.commit() == {0: CommittedOffset(5)}


def test_a_partition_without_records_has_a_position_once_its_end_is_known() -> None:
    driver = Driver()
    driver.assign(None)
    assert driver.commit() == {}
    reached(driver, 0)
    assert driver.commit() == {0: CommittedOffset(0)}


def test_what_a_stopping_stage_does_not_take_is_not_passed() -> None:
    driver = Driver()
    driver.assign(0)
    worked(driver, 0)
    driver.engine.stop()
    driver.poll(1)
    reached(driver, 2)
    assert driver.commit() == {0: CommittedOffset(1)}


def test_what_was_reached_before_a_revocation_counts_for_nothing_after_it() -> None:
    driver = Driver()
    driver.assign(0)
    driver.engine.revoking([driver.p0])
    reached(driver, 7)
    assert driver.commit() == {}


def test_what_is_done_or_being_committed_is_open() -> None:
    commits = Commits(5.0, 100)
    assert not commits.open
    commits.done = 1
    assert commits.open
    commits.checked(T0)
    assert not commits.open
    commits.began({}, T0)
    assert commits.open


def test_it_is_known_how_long_a_commit_is_in_flight() -> None:
    commits = Commits(5.0, 100)
    assert commits.waited(T0) == 0
    commits.began({}, T0)
    assert (commits.waited(T0 + 3), commits.waited(T0 - 3)) == (3, 0)


def test_a_commit_can_be_made_due_at_once() -> None:
    commits = Commits(5.0, 100)
    commits.checked(T0)
    assert not commits.due(T0 + 1)
    commits.soon(T0 + 1)
    assert commits.due(T0 + 1)


def test_a_commit_that_is_due_at_once_counts_one_record_more() -> None:
    commits = Commits(5.0, 3)
    commits.checked(T0)
    commits.done = 1
    commits.soon(T0)
    assert commits.done == 2


def test_nothing_done_needs_no_commit_by_a_deadline() -> None:
    commits = Commits(5.0, 100)
    assert commits.deadline(T0) is None


def test_the_first_commit_is_due_at_once() -> None:
    assert Commits(5.0, 100).due(0.0)


def test_many_records_make_the_first_commit_due_too() -> None:
    commits = Commits(5.0, 3)
    commits.done = 3
    assert commits.due(-1.0)


@pytest.mark.parametrize(("interval", "wait"), [(60.0, 1.0), (0.5, 0.5), (0.0, 0.1)])
def test_a_failed_commit_is_due_again_after_the_interval_but_at_least_a_tenth_and_at_most_a_second(
    interval: float, wait: float
) -> None:
    commits = Commits(interval, 100)
    commits.checked(T0)
    commits.done = 5
    commits.began({}, T0)
    commits.ended(False, T0)
    assert commits.done == 6
    assert commits.deadline(T0) == T0 + wait
    assert not commits.due(T0 + wait - 0.01)
    assert commits.due(T0 + wait)


def test_many_records_do_not_hurry_the_retry_of_a_failed_commit() -> None:
    commits = Commits(60.0, 3)
    commits.checked(T0)
    commits.began({}, T0)
    commits.ended(False, T0)
    commits.done = 3
    assert not commits.due(T0 + 0.5)
    commits.checked(T0 + 1)
    commits.done = 3
    assert commits.due(T0 + 1)


def test_an_early_due_commit_stays_if_the_clock_is_set_back_by_less_than_the_interval() -> None:
    commits = Commits(5.0, 100)
    commits.checked(T0)
    assert not commits.due(T0)
    assert not commits.due(T0 + 4.9)
    assert commits.due(T0 + 5)


def test_a_commit_that_is_never_answered_counts_as_lost_after_a_minute() -> None:
    commits = Commits(5.0, 100)
    commits.checked(T0)
    commits.began({}, T0)
    assert not commits.due(T0)
    assert not commits.due(T0 + 59)
    assert commits.due(T0 + 60)
    assert commits.waited(T0 + 61) == 0


def test_a_commit_that_began_after_a_clock_was_set_back_counts_as_lost() -> None:
    commits = Commits(5.0, 100)
    commits.checked(T0 - 100)
    commits.began({}, T0)
    assert commits.due(T0 - 1)
