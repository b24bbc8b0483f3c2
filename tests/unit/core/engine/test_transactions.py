"""What a stage commits in transactions: forwarded copies, what calls produced, and committed offsets."""

from __future__ import annotations

import pytest

from flux.core.engine.commands import Level, LogEvent
from flux.core.engine.offset_tracker import read_metadata
from flux.core.engine.slices import Entry
from flux.core.engine.transactions import MOST_OUTPUT_BYTES, MOST_OUTPUTS, CallOutputs, Sealed
from flux.core.errors import BrokerError, ConfigurationError, Fault
from flux.core.ports import CommittedOffset, ProducerRecord
from unit.support.engine_support import AWAY, DENIED, P0, Driver, policy

FENCED = BrokerError("a rebalance", Fault.FENCED)
OVERHEAD = 200


@pytest.fixture
def driver() -> Driver:
    driver = Driver(exactly_once=True)
    driver.assign(0)
    return driver


def produce(driver: Driver, offset: int, *values: bytes, size: int | None = None) -> CallOutputs:
    """Polls one record, whose call produces these values and returns. `size`: what counts as theirs."""
    driver.poll(offset)
    run = driver.take()
    entry = driver.engine.produced(run, run.index, driver.message(run, run.index))
    assert entry is not None
    size = sum(map(len, values)) if size is None else size
    outputs = CallOutputs([entry], [("out", ProducerRecord(value)) for value in values], size)
    driver.engine.transactions.produced(outputs)
    run.index += 1
    driver.engine.finished(run, driver.now)
    return outputs


def seal(driver: Driver) -> Sealed:
    sealed = driver.engine.transactions.seal(driver.now)
    assert sealed is not None
    return sealed


def commit(driver: Driver) -> Sealed:
    sealed = seal(driver)
    driver.engine.transactions.committed(sealed, driver.now)
    return sealed


def test_a_forward_and_the_offset_behind_it_are_sealed_together(driver: Driver) -> None:
    driver.poll(0, 1)
    driver.work_all(0)

    sealed = seal(driver)

    assert [forward.entry.offset for forward in sealed.forwards] == [0]
    assert sealed.offsets == {P0: CommittedOffset(2)}
    assert sealed.before == {P0: CommittedOffset(0)}


def test_what_a_call_produced_and_the_offset_behind_it_are_sealed_together(driver: Driver) -> None:
    outputs = produce(driver, 0, b"a", b"b")

    sealed = seal(driver)

    assert sealed.outputs == [outputs]
    assert sealed.offsets == {P0: CommittedOffset(1)}


def test_a_record_is_open_until_its_transaction_is_committed(driver: Driver) -> None:
    produce(driver, 0, b"a")
    assert driver.engine.transactions.sealed is None
    sealed = seal(driver)
    assert driver.engine.transactions.sealed is sealed
    assert not driver.engine.quiet
    assert not driver.engine.drained([P0])
    assert driver.engine.committable_offsets() == {P0: 0}
    assert driver.engine.stats.done == 0

    driver.engine.transactions.committed(sealed, driver.now)

    assert driver.engine.quiet
    assert driver.engine.drained([P0])
    assert driver.engine.committable_offsets() == {P0: 1}
    assert driver.engine.stats.done == 1
    assert driver.engine.commit(driver.now, at_once=True) is None


def test_a_forward_counts_when_its_transaction_is_committed(driver: Driver) -> None:
    driver.poll(0)
    driver.work_all(0)
    sealed = seal(driver)
    assert driver.engine.stats.retried == 0

    assert driver.engine.transactions.committed(sealed, driver.now) == sealed.forwards

    assert driver.engine.stats.retried == 1
    assert driver.engine.open_forwards == 0


def test_a_record_that_ends_above_an_open_one_is_done_by_metadata(driver: Driver) -> None:
    driver.poll(0)
    slow = driver.take()
    driver.look()
    produce(driver, 1, b"a")

    (offset,) = commit(driver).offsets.values()

    assert offset.offset == 0
    assert read_metadata(0, offset.metadata) == [(1, 2)]
    slow.index = 1
    driver.engine.finished(slow, driver.now)
    assert commit(driver).offsets == {P0: CommittedOffset(2)}


def test_no_offset_is_committed_outside_of_transactions(driver: Driver) -> None:
    driver.poll(0)
    driver.work_all()

    turn = driver.turn(after=10.0)

    assert turn.commit is None
    assert turn.transact


def test_a_forward_is_not_written_outside_of_transactions(driver: Driver) -> None:
    driver.poll(0)
    driver.work_all(0)
    driver.engine.failures()

    assert not driver.engine.has_news


def test_a_transaction_is_due_after_the_interval_and_only_if_something_waits() -> None:
    driver = Driver(exactly_once=True, commit_interval=0.5)
    driver.assign(0)
    assert not driver.turn(after=1.0).transact

    produce(driver, 0, b"a")
    assert not driver.turn(after=0.4).transact
    assert driver.turn(after=0.2).transact


def test_a_transaction_is_due_at_once_after_the_threshold() -> None:
    driver = Driver(exactly_once=True, commit_interval=60.0, commit_threshold=2)
    driver.assign(0)
    driver.turn(after=61.0)
    produce(driver, 0, b"a")
    assert not driver.turn().transact
    produce(driver, 1, b"a")
    assert driver.turn().transact


def test_one_transaction_at_a_time(driver: Driver) -> None:
    produce(driver, 0, b"a")
    sealed = seal(driver)
    produce(driver, 1, b"b")

    assert driver.engine.transactions.seal(driver.now) is None
    assert not driver.turn(after=10.0).transact

    driver.engine.transactions.committed(sealed, driver.now)
    assert commit(driver).offsets == {P0: CommittedOffset(2)}


def test_a_transaction_that_failed_goes_into_the_next_one_in_order(driver: Driver) -> None:
    first = produce(driver, 0, b"a")
    driver.poll(1)
    driver.work_all(1)
    sealed = seal(driver)
    later = produce(driver, 2, b"c")
    driver.poll(3)
    driver.work_all(3)

    driver.engine.transactions.put_back(sealed, FENCED, driver.now)
    driver.now += 0.1
    again = seal(driver)

    assert again.outputs == [first, later]
    assert [forward.entry.offset for forward in again.forwards] == [1, 3]
    assert again.offsets == {P0: CommittedOffset(4)}
    assert again.before == {P0: CommittedOffset(0)}


def test_while_the_cluster_is_unavailable_no_call_starts_and_the_log_says_so_once(driver: Driver) -> None:
    produce(driver, 0, b"a")
    driver.poll(1)
    driver.engine.transactions.put_back(seal(driver), AWAY, driver.now)

    assert driver.nothing_to_take()
    assert driver.engine.transactions.seal(driver.now) is None
    assert not driver.turn(after=0.05).transact
    assert "a transaction of g was not committed (not now)" in driver.log_events()

    assert driver.turn(after=10.0).transact
    commit(driver)
    assert driver.work_all() == [1]


@pytest.mark.parametrize("forwarded", [True, False])
def test_calls_start_again_when_all_that_could_not_be_committed_is_lost(driver: Driver, forwarded: bool) -> None:
    if forwarded:
        driver.poll(0)
        driver.work_all(0)
    else:
        produce(driver, 0, b"a")
    sealed = seal(driver)
    driver.engine.lost([P0])
    driver.assign(0)
    driver.engine.transactions.put_back(sealed, AWAY, driver.now)
    driver.poll(0)
    assert driver.work_all() == []
    driver.now += 31

    for _ in range(2):
        if driver.engine.turn(driver.now).transact:
            assert driver.engine.transactions.seal(driver.now) is None

    assert driver.work_all() == [0]


def test_a_transaction_that_a_rebalance_refuses_stops_no_calls(driver: Driver) -> None:
    produce(driver, 0, b"a")
    driver.poll(1)
    driver.engine.transactions.put_back(seal(driver), FENCED, driver.now)

    assert driver.work_all() == [1]
    assert driver.log_events() == ""


def test_a_refused_forward_is_kept_and_the_others_are_committed(driver: Driver) -> None:
    driver.poll(0, 1)
    driver.work_all(0, 1)
    sealed = seal(driver)
    refused, other = sealed.forwards

    driver.engine.transactions.put_back(sealed, DENIED, driver.now, {refused: DENIED}, blamed=True)
    again = seal(driver)

    assert again.forwards == [other]
    (offset,) = again.offsets.values()
    assert offset.offset == 0
    assert read_metadata(0, offset.metadata) == [(1, 2)]
    assert driver.engine.refused == [refused]


def test_a_forward_that_was_refused_is_tried_again_in_a_transaction_of_its_own(driver: Driver) -> None:
    driver.poll(0, 1)
    driver.work_all(0)
    sealed = seal(driver)
    (refused,) = sealed.forwards
    driver.engine.transactions.put_back(sealed, DENIED, driver.now, {refused: DENIED}, blamed=True)
    commit(driver)
    driver.now += 61
    produce(driver, 2, b"c")

    alone = seal(driver)

    assert alone.alone
    assert alone.forwards == [refused]
    assert alone.outputs == []
    driver.engine.transactions.committed(alone, driver.now)
    assert [outputs.records[0][1].value for outputs in commit(driver).outputs] == [b"c"]


def test_a_transaction_is_due_when_a_refused_forward_is_to_be_tried_again(driver: Driver) -> None:
    driver.poll(0)
    driver.work_all(0)
    sealed = seal(driver)
    driver.engine.transactions.put_back(sealed, DENIED, driver.now, {sealed.forwards[0]: DENIED}, blamed=True)
    driver.now += 0.9
    assert not driver.engine.transactions.due(driver.now)

    driver.now += 0.1

    assert driver.engine.transactions.due(driver.now)
    assert seal(driver).forwards == sealed.forwards
    assert not driver.engine.transactions.due(driver.now)


def test_a_stage_does_not_poll_in_a_hot_loop_until_its_next_transaction(driver: Driver) -> None:
    driver.poll(0)
    driver.work_all(0)
    refused = seal(driver)
    driver.engine.transactions.put_back(refused, DENIED, driver.now, {refused.forwards[0]: DENIED}, blamed=True)
    produce(driver, 1, b"a")
    for _ in range(8):
        driver.now += 60
        driver.engine.transactions.put_back(seal(driver), AWAY, driver.now)

    driver.now += 20

    assert not driver.engine.transactions.due(driver.now)
    assert driver.engine.turn(driver.now).timeout > 0.2


def test_outputs_that_are_refused_leave_the_transaction_and_their_call_fails(driver: Driver) -> None:
    refused, other = produce(driver, 0, b"a"), produce(driver, 1, b"b")
    sealed = seal(driver)

    driver.engine.transactions.withdraw(sealed, refused)
    driver.engine.transactions.put_back(sealed, DENIED, driver.now, blamed=True)
    again = seal(driver)

    assert again.outputs == [other]
    (offset,) = again.offsets.values()
    assert (offset.offset, read_metadata(0, offset.metadata)) == (0, [(1, 2)])


def test_what_was_sealed_for_a_lost_partition_is_dropped(driver: Driver) -> None:
    produce(driver, 0, b"a")
    driver.poll(1)
    driver.work_all(1)
    sealed = seal(driver)
    assert not sealed.has_lapsed
    driver.engine.lost([P0])

    assert sealed.has_lapsed
    driver.engine.transactions.put_back(sealed, FENCED, driver.now)

    assert driver.engine.transactions.seal(driver.now) is None
    assert driver.engine.open_forwards == 0


def test_a_commit_that_succeeds_after_the_loss_counts_nothing(driver: Driver) -> None:
    produce(driver, 0, b"a")
    sealed = seal(driver)
    driver.engine.lost([P0])
    driver.assign(0)

    driver.engine.transactions.committed(sealed, driver.now)

    assert driver.engine.stats.done == 0
    assert driver.engine.committable_offsets() == {P0: 0}


def test_a_transaction_of_a_former_assignment_says_nothing_about_the_next_one(driver: Driver) -> None:
    produce(driver, 0, b"a")
    sealed = seal(driver)
    driver.engine.lost([P0])
    driver.assign(5)

    driver.engine.transactions.committed(sealed, driver.now)

    assert driver.engine.commit(driver.now, at_once=True) is None


def test_no_call_starts_while_too_much_waits_and_a_transaction_is_due_before(driver: Driver) -> None:
    driver.turn(after=1.0)
    produce(driver, 0, *[b""] * (MOST_OUTPUTS // 2))
    assert driver.turn().transact
    produce(driver, 1, *[b""] * (MOST_OUTPUTS // 2))
    driver.poll(2)
    assert driver.nothing_to_take()

    commit(driver)

    assert driver.work_all() == [2]


@pytest.mark.parametrize(("missing", "due"), [(0, True), (1, False)])
def test_a_transaction_is_due_at_once_when_half_the_memory_is_used(driver: Driver, missing: int, due: bool) -> None:
    driver.turn(after=1.0)
    driver.now -= 0.5
    produce(driver, 0, b"a", b"b", size=MOST_OUTPUT_BYTES // 2 - 2 * OVERHEAD - missing)
    assert driver.engine.transactions.due(driver.now) is due


@pytest.mark.parametrize(("missing", "calls"), [(0, []), (1, [2])])
def test_no_call_starts_while_all_the_memory_is_used(driver: Driver, missing: int, calls: list[int]) -> None:
    for offset in (0, 1):
        produce(driver, offset, b"a", size=MOST_OUTPUT_BYTES // 2 - OVERHEAD - missing * offset)
    driver.poll(2)
    assert driver.work_all() == calls


def test_a_transaction_is_due_at_once_when_many_forwards_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flux.core.engine.retries.MOST_IN_TRANSACTION", 4)
    driver = Driver(exactly_once=True, commit_interval=60.0)
    driver.assign(0)
    driver.turn(after=61.0)
    driver.poll(0)
    driver.work_all(0)
    assert not driver.turn().transact
    driver.poll(1)
    driver.work_all(1)
    assert driver.turn().transact


@pytest.mark.parametrize("gone", ["withdrawn", "lost", "committed"])
def test_what_a_transaction_does_not_hold_any_more_takes_no_memory(driver: Driver, gone: str) -> None:
    outputs = produce(driver, 0, *[b""] * (MOST_OUTPUTS // 2), size=MOST_OUTPUT_BYTES)
    transactions = driver.engine.transactions
    assert transactions.blocked
    if gone == "withdrawn":
        sealed = seal(driver)
        transactions.withdraw(sealed, outputs)
        transactions.put_back(sealed, DENIED, driver.now, blamed=True)
    elif gone == "lost":
        driver.engine.lost([P0])
        assert transactions.seal(driver.now) is None
        driver.assign(2)
    else:
        commit(driver)
    assert not transactions.blocked
    produce(driver, 2, *[b""] * (MOST_OUTPUTS - 1))
    assert not transactions.blocked
    produce(driver, 3, b"")
    assert transactions.blocked


def test_the_wait_after_failures_grows_to_half_a_minute_and_begins_again_after_a_success(driver: Driver) -> None:
    produce(driver, 0, b"a")
    transactions, waits = driver.engine.transactions, []
    for _ in range(12):
        transactions.put_back(seal(driver), AWAY, driver.now)
        retried = transactions.postponed(driver.now)
        assert retried is not None
        assert transactions.seal(retried - 0.001) is None
        assert not transactions.due(retried - 0.001)
        assert transactions.due(retried)
        waits.append(round(retried - driver.now, 3))
        driver.now = retried
    assert waits == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30, 30, 30, 30]
    assert driver.engine.stats.commit_failures == 12

    commit(driver)
    produce(driver, 1, b"b")
    transactions.put_back(seal(driver), AWAY, driver.now)

    assert transactions.postponed(driver.now) == pytest.approx(driver.now + 0.2)
    assert transactions.postponed(driver.now + 5) == driver.now + 5


def test_offsets_are_open_from_the_call_until_their_transaction_is_committed(driver: Driver) -> None:
    driver.poll(0)
    driver.work_all()
    sealed = seal(driver)
    assert (driver.engine.empty, driver.engine.idle) == (True, False)

    driver.engine.transactions.put_back(sealed, FENCED, driver.now)
    assert not driver.engine.idle
    assert driver.engine.deadline(driver.now) == pytest.approx(driver.now + 0.2)

    driver.now += 0.2
    commit(driver)
    assert driver.engine.idle


def test_a_transaction_that_was_due_and_not_sealed_is_due_again_after_the_interval(driver: Driver) -> None:
    driver.poll(0)
    driver.work_all()
    assert driver.engine.transactions.due(driver.now)
    assert driver.engine.transactions.due(driver.now + 0.2)


def test_a_failure_is_logged_as_one_of_its_kind(driver: Driver) -> None:
    produce(driver, 0, b"a")
    driver.engine.transactions.put_back(seal(driver), AWAY, driver.now)
    text = "a transaction of g was not committed (not now): the stage pauses and retries"
    kind = ("transaction", Fault.UNAVAILABLE)
    assert driver.engine.log_events() == [LogEvent(Level.WARNING, text, kind=kind)]


def test_what_a_transaction_holds_is_not_written_earlier(driver: Driver) -> None:
    transactions = driver.engine.transactions
    assert (transactions.postponed(None), transactions.postponed(7.0)) == (None, 7.0)
    produce(driver, 0, b"a")
    sealed = seal(driver)
    assert transactions.postponed(7.0) is None
    transactions.put_back(sealed, FENCED, driver.now)
    assert transactions.postponed(7.0) == pytest.approx(driver.now + 0.1)
    assert transactions.postponed(driver.now + 7.0) == driver.now + 7.0


def test_a_transaction_that_a_rebalance_refuses_is_not_repeated_in_a_hot_loop(driver: Driver) -> None:
    produce(driver, 0, *[b"x"] * (MOST_OUTPUTS // 2))
    assert driver.engine.transactions.due(driver.now)

    driver.engine.transactions.put_back(seal(driver), FENCED, driver.now)

    assert not driver.engine.transactions.due(driver.now + 0.05)
    assert driver.engine.transactions.seal(driver.now + 0.05) is None
    assert driver.engine.transactions.due(driver.now + 0.1)
    assert driver.engine.transactions.seal(driver.now + 0.1) is not None


def refuse(driver: Driver, seconds: float) -> int:
    """The group refuses all transactions for so long. Returns how many."""
    count, until = 0, driver.now + seconds
    while driver.now < until:
        if driver.engine.transactions.due(driver.now):
            driver.engine.transactions.put_back(seal(driver), FENCED, driver.now)
            count += 1
            postponed = driver.engine.transactions.postponed(driver.now)
            assert postponed is not None
            assert postponed > driver.now
        driver.now += 0.1
    return count


def test_a_rebalance_that_takes_seconds_is_not_named(driver: Driver) -> None:
    produce(driver, 0, b"a")
    refuse(driver, 4.5)
    driver.now += 1
    commit(driver)
    produce(driver, 1, b"b")
    refuse(driver, 4.5)
    assert driver.log_events() == ""


def test_a_group_that_goes_on_refusing_is_named_and_asked_less_often(driver: Driver) -> None:
    produce(driver, 0, b"a")
    first = refuse(driver, 60)
    assert first < 30
    text = driver.log_events()
    assert "group g has refused " in text
    assert " s (a rebalance): nothing is committed until it accepts one" in text
    assert refuse(driver, 60) <= 13
    driver.now += 5
    commit(driver)
    produce(driver, 1, b"b")
    driver.log_events()
    assert refuse(driver, 2.0) >= 5, "afterwards it is asked as often as at first"
    assert driver.log_events() == ""


def test_it_is_named_from_the_fifth_second_of_refusals_on(driver: Driver) -> None:
    produce(driver, 0, b"a")
    for _ in range(2):
        driver.engine.transactions.put_back(seal(driver), FENCED, driver.now)
        driver.now += 5.0
    [event] = driver.engine.log_events()
    text = "group g has refused 2 transactions in 5 s (a rebalance)"
    assert event.text == f"{text}: nothing is committed until it accepts one, so find out why it rebalances"
    assert (event.level, event.kind) == (Level.WARNING, ("transaction", Fault.FENCED))


def test_a_batch_is_sealed_as_one() -> None:
    driver = Driver(exactly_once=True)
    driver.assign(0)
    driver.poll(0, 1)
    run = driver.take()
    entries: list[Entry] = []
    for index in (0, 1):
        run.index = index
        entry = driver.engine.produced(run, index, driver.message(run, index))
        assert entry is not None
        entries.append(entry)
    run.index = 2
    driver.engine.finished(run, driver.now)
    driver.engine.transactions.produced(CallOutputs(entries, [("out", ProducerRecord(b"sum"))], 3))

    assert commit(driver).offsets == {P0: CommittedOffset(2)}
    assert driver.engine.stats.done == 2


def test_the_start_offset_of_a_new_group_is_committed_in_a_transaction(driver: Driver) -> None:
    driver.assign(CommittedOffset(5), chosen=[P0])

    assert driver.turn().transact
    sealed = seal(driver)
    assert (sealed.offsets, sealed.before) == ({P0: CommittedOffset(5)}, {P0: None})


def test_metadata_is_required() -> None:
    with pytest.raises(ConfigurationError, match="exactly_once keeps what is done above the committed offset"):
        policy(exactly_once=True, max_metadata=0).check()
    policy(exactly_once=False, max_metadata=0).check()
