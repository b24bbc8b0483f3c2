"""Which records of a key may be called, and what becomes of the others, stage by stage."""

from __future__ import annotations

import pytest

from flux.core.backoff import Waits
from flux.core.engine import ordered_retries
from flux.core.engine.forwards import Failure
from flux.core.engine.verdicts import Reject
from flux.core.ports import TopicPartition
from unit.support.engine_support import AWAY, DAY, P0, T0_MS
from unit.support.order_support import KEYS, Keys, Ordered

TRY1, TRY2, DLQ = "t-g-try-1", "t-g-try-2", "t-g-dlq"
K = b"k"


def keyed(driver: Ordered, *offsets: int) -> None:
    driver.poll(*(driver.record(offset) for offset in offsets))


# ---- main stage


def test_records_behind_one_that_failed_follow_it_without_a_call() -> None:
    driver = Ordered()
    driver.assign(0)
    keyed(driver, 0, 1, 2)
    driver.poll(7)
    assert driver.work_all(0) == [0, 7]
    assert driver.settle() == [KEYS, KEYS, KEYS, TRY1, TRY1, TRY1]
    assert [int(entry.attempts) for entry in map(driver.keys.view.entry, ((0, 0), (0, 1), (0, 2))) if entry] == [
        1,
        0,
        0,
    ]
    assert driver.commit()[0].offset == 8


def test_nothing_is_committed_before_entry_and_copy_are_written() -> None:
    driver = Ordered()
    driver.assign(0)
    keyed(driver, 0)
    driver.work_all(0)
    [entry] = driver.writes()
    assert driver.commit() == {}
    assert driver.stored(entry) == [KEYS]
    assert driver.writes() == []  # the copy needs the version, which was not read yet
    driver.read()
    [copy] = driver.writes()
    assert driver.commit() == {}
    assert driver.stored(copy) == [TRY1]
    assert driver.commit()[0].offset == 1
    assert driver.headers()["flux-order"] == b"0"


def test_a_follower_goes_where_the_first_record_of_its_key_is() -> None:
    keys = Keys()
    keys.set(3, stage=2, due=T0_MS + 60_000)
    driver = Ordered(keys=keys)
    driver.assign(4)
    driver.read()
    keyed(driver, 4)
    assert driver.nothing_to_take()
    assert driver.settle() == [KEYS, TRY2]
    told = driver.headers()
    assert (told["flux-due"], told["flux-attempts"]) == (b"%d" % (T0_MS + 60_000), b"0")
    assert (told["flux-origin-offset"], told["flux-stage"]) == (b"4", b"2")


def test_what_was_outstanding_is_not_waited_for_once_it_is_done() -> None:
    keys = Keys()
    keys.set(3)
    driver = Ordered(keys=keys)
    driver.assign(4)
    driver.read()
    keys.remove(3)
    driver.read()
    keyed(driver, 4)
    assert driver.work_all() == [4]


def test_a_record_before_the_outstanding_ones_is_called() -> None:
    keys = Keys()
    keys.set(3)
    driver = Ordered(keys=keys)
    driver.assign(2)
    driver.read()
    keyed(driver, 2)
    assert driver.work_all() == [2]


def test_a_record_that_was_entered_before_a_crash_is_forwarded_and_not_called() -> None:
    keys = Keys()
    version = keys.set(0, stage=2, attempts=2, due=5)
    driver = Ordered(keys=keys)
    driver.assign(0)
    driver.read()
    keyed(driver, 0)
    assert driver.nothing_to_take()
    assert driver.settle() == [TRY2]
    told = driver.headers()
    assert (told["flux-order"], told["flux-attempts"], told["flux-due"]) == (b"%d" % version, b"2", b"5")


def test_other_keys_and_null_keys_never_wait() -> None:
    keys = Keys()
    keys.set(0)
    driver = Ordered(keys=keys)
    driver.assign(1)
    driver.read()
    driver.poll(driver.record(1), driver.record(2, None), driver.record(3, b"other"))
    assert driver.work_all() == [2, 3]


def test_a_null_key_that_fails_moves_as_without_an_order() -> None:
    driver = Ordered()
    driver.assign(0)
    driver.poll(driver.record(0, None))
    driver.work_all(0)
    assert driver.settle() == [TRY1]
    assert "flux-order" not in driver.headers()


def test_a_rejected_record_frees_its_key_when_its_dead_letter_is_written() -> None:
    driver = Ordered()
    driver.assign(0)
    keyed(driver, 0, 1)
    run = driver.take()
    driver.fail(run, Reject("no"))
    run.index += 1
    driver.engine.finished(run, driver.now)
    assert driver.nothing_to_take()
    assert driver.settle() == [DLQ]
    assert driver.work_all() == [1]
    assert driver.keys.log == []


def test_a_dead_record_holds_its_key_if_that_is_wanted() -> None:
    driver = Ordered(on_dead="hold")
    driver.assign(0)
    keyed(driver, 0, 1)
    run = driver.take()
    driver.fail(run, Reject("no"))
    run.index += 1
    driver.engine.finished(run, driver.now)
    assert driver.nothing_to_take()
    assert driver.settle() == [KEYS, KEYS, DLQ, TRY2]
    held = driver.keys.view.entry((0, 0))
    assert held is not None
    assert held.dead
    assert driver.headers(0)["flux-order"] == b"0"


def test_a_key_waits_for_what_its_call_produced() -> None:
    driver = Ordered()
    driver.assign(0)
    keyed(driver, 0, 1, 2)
    run = driver.take()
    entry = driver.engine.produced(run, 0, driver.message(run, 0))
    assert entry is not None
    run.index += 1
    driver.engine.finished(run, driver.now)
    assert driver.nothing_to_take()
    driver.engine.settled(entry, None, driver.now)
    assert driver.work_all() == [1, 2]


def test_a_partition_that_is_gone_leaves_nothing_behind() -> None:
    driver = Ordered()
    driver.assign(0)
    keyed(driver, 0, 1)
    driver.work_all(0)
    run_entry = driver.engine.produced
    assert run_entry is not None
    driver.engine.lost([P0])
    assert driver.settle() == []
    driver.assign(0)
    keyed(driver, 0)
    assert driver.work_all() == [0]


def test_what_a_lost_partitions_calls_produced_holds_no_key() -> None:
    driver = Ordered()
    driver.assign(0)
    keyed(driver, 0, 1)
    run = driver.take()
    entry = driver.engine.produced(run, 0, driver.message(run, 0))
    assert entry is not None
    driver.engine.lost([P0])
    assert driver.engine.settled(entry, None, driver.now) is None
    driver.assign(0)
    keyed(driver, 0, 1)
    assert driver.work_all() == [0, 1]


def test_queued_records_of_a_key_come_before_later_ones() -> None:
    driver = Ordered(concurrency=2)
    driver.assign(0)
    keyed(driver, 0, 1)
    run = driver.take()
    entry = driver.engine.produced(run, 0, driver.message(run, 0))  # holds the key: record 1 is queued
    assert entry is not None
    run.index += 1
    driver.engine.finished(run, driver.now)
    assert driver.nothing_to_take()
    keyed(driver, 2)
    driver.engine.settled(entry, Failure(ValueError("not delivered")), driver.now)
    assert driver.nothing_to_take()
    driver.settle()
    assert [driver.headers(at)["flux-origin-offset"] for at in range(3)] == [b"0", b"1", b"2"]


# ---- retry stages


def test_the_first_record_of_a_key_is_called_and_the_next_one_when_it_is_done() -> None:
    keys = Keys()
    first, second = keys.set(3), keys.set(4, attempts=0)
    driver = Ordered(1, keys)
    driver.assign(0)
    driver.read()
    driver.poll(driver.copy(0, 4, second, attempts=0), driver.copy(1, 3, first))
    assert driver.work_all() == [1]
    assert driver.commit() == {}
    [removal] = driver.writes()
    driver.stored(removal)
    assert driver.nothing_to_take()  # it was not read yet
    driver.read()
    assert driver.work_all() == [0]
    driver.settle()
    assert driver.commit()[0].offset == 2
    assert len(keys.view) == 0


def test_a_follower_called_first_in_a_later_stage_fails_into_the_first_one() -> None:
    keys = Keys()
    version = keys.set(3, stage=2, attempts=0)
    driver = Ordered(2, keys)
    driver.assign(0)
    driver.read()
    driver.poll(driver.copy(0, 3, version, attempts=0))
    driver.work_all(0)
    assert driver.settle() == [KEYS, TRY1]
    assert driver.headers()["flux-attempts"] == b"1"
    assert driver.commit()[0].offset == 1


def test_the_last_attempt_makes_a_dead_letter_and_frees_the_key() -> None:
    keys = Keys()
    version = keys.set(3, stage=2, attempts=2)
    driver = Ordered(2, keys)
    driver.assign(0)
    driver.read()
    driver.poll(driver.copy(0, 3, version, attempts=2))
    driver.work_all(0)
    assert driver.settle() == [DLQ, KEYS]
    assert len(keys.view) == 0


def test_a_follower_moves_behind_the_first_record_when_that_has_moved() -> None:
    keys = Keys()
    first, second = keys.set(3), keys.set(4, attempts=0)
    driver = Ordered(1, keys)
    driver.assign(0)
    driver.read()
    driver.poll(driver.copy(0, 3, first), driver.copy(1, 4, second, attempts=0))
    driver.work_all(0)
    assert driver.settle() == [KEYS, TRY2, KEYS, TRY2]
    moved = keys.view.entry((0, 3)), keys.view.entry((0, 4))
    assert moved[0] is not None
    assert moved[1] is not None
    assert moved[1].due == moved[0].due
    assert driver.headers()["mine"] == b"x"
    assert driver.commit()[0].offset == 2


def test_a_follower_of_a_dead_letter_waits_in_the_last_stage() -> None:
    keys = Keys()
    keys.set(3, stage=3, dead=True)
    version = keys.set(4, stage=2)
    driver = Ordered(2, keys, on_dead="hold")
    driver.assign(0)
    driver.read()
    driver.poll(driver.copy(0, 4, version))
    assert driver.work_all() == []
    assert driver.settle() == [KEYS, TRY2]
    assert int(driver.headers()["flux-due"] or 0) >= T0_MS + 10_000


def test_followers_of_a_dead_letter_look_again_after_an_hour_at_most() -> None:
    keys = Keys()
    keys.set(3, stage=3, dead=True)
    version = keys.set(4, stage=2)
    driver = Ordered(2, keys, on_dead="hold", waits=Waits(30 * DAY, 30 * DAY))
    driver.assign(0)
    driver.read()
    driver.poll(driver.copy(0, 4, version))
    assert driver.work_all() == []
    driver.settle()
    assert int(driver.headers()["flux-due"] or 0) == T0_MS + 3_600_000


def test_all_followers_are_called_at_once_and_in_order_when_their_dead_letter_is_rejected() -> None:
    keys, late = Keys(), T0_MS + 600_000
    keys.set(3, stage=3, dead=True)
    versions = [keys.set(offset, stage=2, due=late, follows=True) for offset in (4, 5, 6)]
    driver = Ordered(2, keys, on_dead="hold")
    driver.assign(0)
    driver.read()
    driver.poll(driver.copy(0, 4, versions[0], due=late), driver.copy(1, 5, versions[1], due=late))
    assert driver.nothing_to_take()
    keys.remove(3)
    driver.read()
    driver.poll(driver.copy(2, 6, versions[2], due=late))  # one that was not in memory
    called = []
    for _ in versions:
        called += driver.work_all()
        assert driver.settle() == [KEYS]
    assert called == [0, 1, 2]


@pytest.mark.parametrize("replayed", [False, True])
def test_followers_are_due_at_once_when_their_dead_letter_is_replayed_or_rejected(replayed: bool) -> None:
    keys = Keys()
    keys.set(3, stage=3, dead=True)
    version = keys.set(4, stage=2, follows=True)
    driver = Ordered(2, keys, on_dead="hold")
    driver.assign(0)
    driver.read()
    late = T0_MS + 600_000
    driver.poll(driver.copy(0, 4, version, due=late), driver.copy(1, 5, None, key=b"other", due=late))
    assert driver.nothing_to_take()
    if replayed:
        keys.set(3, stage=2, due=T0_MS + 3000)
        driver.read()
        assert driver.nothing_to_take()
        keys.remove(3)
    else:
        keys.remove(3)
    driver.read()
    assert driver.work_all() == [0]
    assert driver.engine.waiting == 1


def test_a_dead_letter_that_holds_its_key_frees_it_when_it_is_called_with_success() -> None:
    keys = Keys()
    version = keys.set(3, stage=3, dead=True)
    keys.set(4, stage=2)
    driver = Ordered(3, keys, on_dead="hold")
    driver.assign(0)
    driver.read()
    driver.poll(driver.copy(0, 3, version), driver.copy(1, 4, 1))
    assert driver.work_all() == [0]
    assert driver.settle() == [KEYS]
    assert driver.work_all() == [1]


@pytest.mark.parametrize("max_metadata", [4000, 0])
def test_a_second_copy_of_a_record_that_is_called_is_dropped(max_metadata: int) -> None:
    """Without room in the metadata, once the first one is done."""
    keys = Keys()
    version = keys.set(3)
    driver = Ordered(1, keys, max_metadata=max_metadata)
    driver.assign(0)
    driver.read()
    driver.poll(driver.copy(0, 3, version), driver.copy(1, 3, version))
    run = driver.take()
    assert driver.nothing_to_take()
    run.index += 1
    driver.engine.finished(run, driver.now)
    assert driver.settle() == [KEYS]
    assert driver.nothing_to_take()
    assert driver.commit()[0].offset == 2


def test_a_copy_whose_record_is_done_is_dropped() -> None:
    keys = Keys()
    version = keys.set(3)
    keys.remove(3)
    driver = Ordered(1, keys)
    driver.assign(0)
    driver.read()
    driver.poll(driver.copy(0, 3, version))
    assert driver.work_all() == []
    assert driver.commit()[0].offset == 1


def test_a_copy_is_not_dropped_before_its_entry_could_be_read() -> None:
    keys = Keys()
    version = keys.set(3)
    driver = Ordered(1, keys)
    driver.assign(0)
    driver.poll(driver.copy(0, 3, version))
    assert driver.work_all() == []
    assert driver.commit() == {}
    driver.read()
    assert driver.work_all() == [0]


def test_a_copy_waits_until_the_topic_is_known_to_be_read_past_its_version() -> None:
    driver = Ordered(1)
    driver.assign(0)
    driver.poll(driver.copy(0, 3, 5))
    assert driver.work_all() == []
    driver.order.read_to(6, driver.now)  # its entry and its removal were compacted
    assert driver.commit()[0].offset == 1


def test_a_copy_that_is_older_than_its_entry_is_written_as_the_entry_says() -> None:
    keys = Keys()
    old = keys.set(3)
    new = keys.set(3, stage=2, attempts=2, due=9)
    driver = Ordered(1, keys)
    driver.assign(0)
    driver.read()
    driver.poll(driver.copy(0, 3, old))
    assert driver.work_all() == []
    assert driver.settle() == [TRY2]
    assert driver.headers()["flux-order"] == b"%d" % new


def test_of_two_copies_of_one_record_one_is_called() -> None:
    keys = Keys()
    version = keys.set(3)
    driver = Ordered(1, keys)
    driver.assign(0)
    driver.read()
    driver.poll(driver.copy(0, 3, version), driver.copy(1, 3, version))
    assert driver.work_all() == [0]
    driver.settle()
    assert driver.work_all() == []
    assert driver.commit()[0].offset == 2


def test_a_record_without_an_entry_takes_no_part() -> None:
    driver = Ordered(1)
    driver.assign(0)
    driver.poll(driver.copy(0, 3, None), driver.copy(1, 4, 0, None))
    assert driver.work_all(0) == [0, 1]
    assert driver.settle() == [TRY2]
    assert driver.commit()[0].offset == 2


def test_a_record_that_was_skipped_during_its_call_moves_no_more() -> None:
    keys = Keys()
    version = keys.set(3)
    driver = Ordered(1, keys)
    driver.assign(0)
    driver.read()
    driver.poll(driver.copy(0, 3, version))
    run = driver.take()
    keys.remove(3)
    driver.read()
    driver.work(run, 0)
    assert driver.settle() == []
    assert driver.commit()[0].offset == 1


def test_a_record_that_was_skipped_during_a_call_that_succeeds_is_done() -> None:
    keys = Keys()
    version = keys.set(3)
    driver = Ordered(1, keys)
    driver.assign(0)
    driver.read()
    driver.poll(driver.copy(0, 3, version))
    run = driver.take()
    keys.remove(3)
    driver.read()
    driver.work(run)
    assert driver.settle() == []
    assert driver.commit()[0].offset == 1


def test_few_followers_wait_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ordered_retries, "MOST_PARKED", 1)
    keys = Keys()
    keys.set(2)  # is due, and another process's
    versions = [keys.set(offset, attempts=0) for offset in (3, 4)]
    driver = Ordered(1, keys)
    driver.assign(0)
    driver.read()
    driver.poll(*(driver.copy(at, 3 + at, version, attempts=0) for at, version in enumerate(versions)))
    assert driver.work_all() == []
    assert len(driver.order.parked) == 1
    assert driver.settle() == [KEYS, TRY1]
    assert int(driver.headers()["flux-due"] or 0) >= T0_MS + 1000


def test_a_second_copy_of_a_record_that_is_to_be_called_does_not_hold_back_the_committed_offset() -> None:
    """Without room in the metadata, the first one could never be called."""
    keys = Keys()
    version = keys.set(3)
    driver = Ordered(1, keys, max_metadata=0)
    driver.assign(0)
    driver.read()
    driver.poll(driver.copy(0, 3, version, due=2), driver.copy(1, 3, version, due=1))
    assert driver.work_all() == [1]
    driver.settle()
    assert driver.commit()[0].offset == 2


def test_followers_in_memory_are_discarded_with_their_partition() -> None:
    keys = Keys()
    keys.set(2)
    version = keys.set(3, attempts=0)
    driver = Ordered(1, keys)
    driver.assign(0)
    driver.read()
    driver.poll(driver.copy(0, 3, version, attempts=0))
    assert driver.work_all() == []
    assert not driver.engine.empty
    driver.engine.revoking([TopicPartition(TRY1, 0)])
    assert len(driver.order.parked) == 0
    keys.remove(2)
    driver.read()
    assert driver.nothing_to_take()


def test_a_stop_discards_followers_that_wait_in_memory() -> None:
    keys = Keys()
    keys.set(2)
    version = keys.set(3, attempts=0)
    driver = Ordered(1, keys)
    driver.assign(0)
    driver.read()
    driver.poll(driver.copy(0, 3, version, attempts=0))
    driver.work_all()
    driver.engine.stop()
    assert driver.engine.empty


def test_a_lost_partitions_record_can_be_called_by_its_next_owner() -> None:
    keys = Keys()
    version = keys.set(3)
    driver = Ordered(1, keys)
    driver.assign(0)
    driver.read()
    driver.poll(driver.copy(0, 3, version))
    driver.take()
    driver.engine.lost([TopicPartition(TRY1, 0)])
    driver.assign(0)
    driver.poll(driver.copy(0, 3, version))
    assert driver.work_all() == [0]


def test_a_follower_waits_for_room_in_the_metadata() -> None:
    keys = Keys()
    keys.set(0)
    driver = Ordered(keys=keys, max_metadata=0)
    driver.assign(1)
    driver.read()
    driver.poll(driver.record(1, b"other"), driver.record(2))
    run = driver.take()
    assert driver.settle() == []
    driver.work(run)
    assert driver.settle() == [KEYS, TRY1]
    assert driver.commit()[0].offset == 3


def test_an_entry_whose_write_failed_is_written_again_before_the_copy() -> None:
    driver = Ordered()
    driver.assign(0)
    keyed(driver, 0)
    driver.work_all(0)
    [entry] = driver.writes()
    outgoing = entry.forwarded_copy.producer_record(T0_MS, None)
    assert outgoing.key is not None
    driver.keys.log.append((outgoing.key, outgoing.value))
    driver.read()
    driver.engine.unwritten(entry, AWAY, driver.now)
    driver.now += 60
    assert driver.settle() == [KEYS, TRY1]


def test_a_follower_moves_out_of_the_way_of_the_first_record_if_the_metadata_has_no_room() -> None:
    keys = Keys()
    second = keys.set(4, attempts=0)
    first = keys.set(3)
    driver = Ordered(1, keys, max_metadata=0)
    driver.assign(0)
    driver.read()
    driver.poll(driver.copy(0, 4, second, attempts=0), driver.copy(1, 3, first))
    assert driver.work_all() == []
    assert driver.settle() == [KEYS, TRY1]
    assert driver.work_all() == [1]
    driver.settle()
    assert driver.commit()[0].offset == 2


def test_a_later_record_in_a_slice_is_queued_behind_one_of_its_key_that_is_queued() -> None:
    driver = Ordered(concurrency=2)
    driver.assign(0)
    keyed(driver, 0, 1, 2)
    driver.engine.dispatch_mode.slow = True
    run = driver.take()
    assert driver.nothing_to_take()  # record 1 is queued behind the one that is called
    keyed(driver, 3)
    driver.fail(run)
    run.index += 1
    driver.engine.finished(run, driver.now)
    assert driver.nothing_to_take()
    driver.settle()
    assert [driver.headers(at)["flux-origin-offset"] for at in range(4)] == [b"0", b"1", b"2", b"3"]


def test_a_record_is_called_before_later_ones_of_its_key_that_wait_for_room_however_often_it_is_looked_at() -> None:
    """A former owner has moved them, and has not committed the offset of an earlier one."""
    keys = Keys()
    keys.set(1)
    keys.set(2)
    driver = Ordered(keys=keys, max_metadata=0)
    driver.assign(0)
    driver.read()
    driver.poll(*(driver.record(offset) for offset in range(3)))
    [owner] = driver.engine._partitions.of([driver.p0])
    piece = owner.backlog[0]
    for _ in range(3):
        looked_at = driver.order.sift(owner, piece, driver.now)
        assert looked_at is not None
        piece = looked_at
        assert [record.offset() for record in piece.records] == [0]
        assert len(driver.order.parked) == 2


def test_what_waits_for_room_is_looked_at_again_when_a_copy_before_it_was_dropped() -> None:
    """Both wait while a record before them is called, and the later one is looked at first."""
    keys = Keys()
    done = keys.set(3, b"b")
    keys.remove(3)
    version = keys.set(4, b"a")
    keys.set(4, b"a")
    driver = Ordered(1, keys, max_metadata=0)
    driver.assign(0)
    driver.read()
    driver.poll(
        driver.copy(0, 9, None, b"other"), driver.copy(1, 3, done, b"b", due=2), driver.copy(2, 4, version, b"a", due=1)
    )
    run = driver.take()
    assert driver.nothing_to_take()
    driver.work(run)
    assert len(driver.order.parked) == 1
    driver.turn()
    assert driver.settle() == [TRY1]
    driver.turn()
    assert not driver.writes()


def test_a_done_copy_waits_for_room_in_the_metadata() -> None:
    keys = Keys()
    done = keys.set(3)
    keys.remove(3)
    driver = Ordered(1, keys, max_metadata=0)
    driver.assign(0)
    driver.read()
    driver.poll(driver.copy(0, 9, None, b"other"), driver.copy(1, 3, done))
    run = driver.take()
    assert driver.nothing_to_take()
    driver.work(run)
    assert driver.commit()[0].offset == 2


def test_a_follower_that_holds_back_nothing_stays_in_memory() -> None:
    keys = Keys()
    second, first = keys.set(4, attempts=0), keys.set(3)
    driver = Ordered(1, keys)
    driver.assign(0)
    driver.read()
    driver.poll(driver.copy(0, 4, second, attempts=0), driver.copy(1, 3, first))
    run = driver.take()
    driver.order.make_room(driver.now)
    assert len(driver.order.parked) == 1
    assert driver.work(run) == [1]


def test_a_null_key_waits_for_nothing_that_its_call_produced() -> None:
    driver = Ordered()
    driver.assign(0)
    driver.poll(driver.record(0, None), driver.record(1, None))
    run = driver.take()
    assert driver.engine.produced(run, 0, driver.message(run, 0)) is not None
    run.index += 1
    driver.engine.finished(run, driver.now)
    assert driver.work_all() == [1]


def test_records_of_a_partition_that_is_given_up_are_not_looked_at_again() -> None:
    keys = Keys()
    keys.set(2)
    version = keys.set(3, attempts=0)
    driver = Ordered(1, keys)
    driver.assign(0)
    driver.read()
    driver.poll(driver.copy(0, 3, version, attempts=0))
    assert driver.work_all() == []
    driver.engine._common.stopping = True
    keys.remove(2)
    driver.read()
    assert len(driver.order.parked) == 0


def test_a_later_record_that_may_not_be_called_is_queued_behind_those_of_its_key_that_are() -> None:
    driver = Ordered(concurrency=2)
    driver.assign(0)
    keyed(driver, 0, 1)
    run = driver.take()
    entry = driver.engine.produced(run, 0, driver.message(run, 0))
    assert entry is not None
    run.index += 1
    driver.engine.finished(run, driver.now)
    assert driver.nothing_to_take()
    driver.keys.set(0)
    driver.read()
    keyed(driver, 2)
    assert driver.nothing_to_take()
    driver.engine.settled(entry, Failure(ValueError("not delivered")), driver.now)
    assert driver.nothing_to_take()
    driver.settle()
    assert [driver.headers(at)["flux-origin-offset"] for at in range(3)] == [b"0", b"1", b"2"]
