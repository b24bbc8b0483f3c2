"""Keys that are held: counted, and freed by what an operator does."""

from __future__ import annotations

import pytest

from flux.core import flux_headers
from flux.core.engine.key_order import KeyOrder, OrderEntry, entry_name
from flux.core.errors import BrokerError, ConfigurationError, Fault
from flux.core.ports import ProducerRecord
from flux.operate.dlq.deleted import free_deleted
from flux.operate.dlq.filters import Filter
from flux.operate.dlq.purge import plan_purge
from flux.operate.dlq.replay_plan import Edit
from flux.operate.held_keys import HeldKeys, held_keys
from flux.operate.messages import freeing
from flux.operate.skip import plan_skip, skip, stage_of
from unit.support.operate_support import DEAD, MAIN, RETRY, OperateKit, header, headers_of, policy

KEYS = "orders-billing-keys"


@pytest.fixture
def yard() -> OperateKit:
    made = OperateKit()
    made.policy = policy(retry_order="key", on_dead="hold")
    made.broker.create_topic(KEYS, 1)
    return made


def enter(yard: OperateKit, offset: int, key: bytes = b"k", dead: bool = False, due: int = 0) -> None:
    value = OrderEntry(key, 3 if dead else 1, due, 1, dead).value()
    yard.kit.write(ProducerRecord(value, entry_name((0, offset)), (), 0), topic=KEYS)


def outstanding(yard: OperateKit) -> int:
    view = KeyOrder()
    view.take(yard.broker.records(KEYS))
    return len(view)


def bury(yard: OperateKit) -> None:
    headers = [*headers_of(), (flux_headers.ORDER, b"0")]
    yard.kit.write(ProducerRecord(b"v", b"k", headers, 0), topic=DEAD)


def test_held_keys_are_counted(yard: OperateKit) -> None:
    assert held_keys(yard.adapter, yard.admin, yard.policy, yard.system) == HeldKeys()
    enter(yard, 1, dead=True)
    enter(yard, 2)
    enter(yard, 3, b"other")
    assert held_keys(yard.adapter, yard.admin, yard.policy, yard.system) == HeldKeys(keys=2, dead=1, records=3)


def test_a_task_without_an_order_or_without_its_topic_holds_none(yard: OperateKit) -> None:
    assert held_keys(yard.adapter, yard.admin, policy(), yard.system) is None
    other = OperateKit()
    assert held_keys(other.adapter, other.admin, yard.policy, other.system) is None


def test_a_replayed_dead_letter_keeps_its_place_in_the_order(yard: OperateKit) -> None:
    enter(yard, 1000, dead=True)
    bury(yard)
    yard.replay()
    [copy] = yard.broker.records(RETRY)
    assert (header(copy, flux_headers.ORDER), header(copy, flux_headers.ORIGIN_OFFSET)) == ("0", "1000")


def test_a_dead_letter_that_holds_its_key_is_not_replayed_with_another_one(yard: OperateKit) -> None:
    enter(yard, 1000, dead=True)
    bury(yard)
    result = yard.replay(edits={(0, 0): Edit(b"other", b"v", ())})
    assert (result.failed, yard.broker.records(RETRY)) == (True, [])
    assert result.stopped == "0:0 holds its key for others: replay it with the key that it has"


def test_a_rejection_that_could_not_be_committed_can_be_tried_again(
    yard: OperateKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter(yard, 1000, dead=True)
    bury(yard)

    def fail(*_: object) -> None:
        raise BrokerError("no", Fault.UNAVAILABLE)

    with monkeypatch.context() as patch:
        patch.setattr(type(yard.admin), "set_committed_offsets", fail)
        with pytest.raises(BrokerError):
            yard.reject(Filter())
    assert len(yard.reject(Filter()).rejected) == 1
    assert outstanding(yard) == 0


def test_a_dead_letter_that_holds_its_key_is_not_replayed_as_a_new_record(yard: OperateKit) -> None:
    with pytest.raises(ConfigurationError, match="replay it with --to retry"):
        yard.plan(to_main=True)


def test_a_rejected_dead_letter_frees_its_key(yard: OperateKit) -> None:
    enter(yard, 1000, dead=True)
    bury(yard)
    yard.reject(Filter(), dry=True)
    assert outstanding(yard) == 1
    yard.reject(Filter())
    assert outstanding(yard) == 0


def test_a_rejection_that_ended_before_its_key_was_free_can_be_repeated(yard: OperateKit) -> None:
    enter(yard, 1000, dead=True)
    bury(yard)
    yard.broker.fail_writes(lambda topic, *_: BrokerError("no", Fault.DENIED) if topic == KEYS else None)
    with pytest.raises(BrokerError):
        yard.reject(Filter())
    yard.broker.fail_writes(None)
    assert (yard.reject(Filter()).decided, outstanding(yard)) == (1, 0)


def test_a_rejected_dead_letter_does_not_free_the_key_of_a_newer_copy(yard: OperateKit) -> None:
    """A crash has written it twice, and its replay has failed into a retry topic."""
    enter(yard, 1000, dead=True)
    bury(yard)
    enter(yard, 1000)
    yard.reject(Filter())
    assert outstanding(yard) == 1


def test_keys_that_wait_for_dead_letters_which_were_deleted_can_be_freed(yard: OperateKit) -> None:
    died = int(yard.system.now() * 1000) - 3_700_000
    enter(yard, 1000, dead=True, due=died)
    bury(yard)
    enter(yard, 7, b"other", dead=True, due=died)
    enter(yard, 9, b"other")
    enter(yard, 8, b"just now", dead=True, due=died + 200_000)
    enter(yard, 6, b"not dead", due=died)
    would = free_deleted(yard.adapter, yard.admin, yard.policy, dry=True, system=yard.system)
    assert (outstanding(yard), len(would.freed)) == (5, 1)
    found = free_deleted(yard.adapter, yard.admin, yard.policy, system=yard.system)
    assert freeing(found) == (
        f"freed 1 key, with 1 record behind: {DEAD} no longer has the dead letters of 0:7 of the main topic"
    )
    assert outstanding(yard) == 4
    again = free_deleted(yard.adapter, yard.admin, yard.policy, system=yard.system)
    assert freeing(again) == f"no key has waited for over an hour for a dead letter that {DEAD} does not have"


def test_no_key_is_freed_when_the_search_for_its_dead_letter_was_interrupted(yard: OperateKit) -> None:
    enter(yard, 7, dead=True)
    found = free_deleted(yard.adapter, yard.admin, yard.policy, should_stop=lambda: True, system=yard.system)
    assert (found.freed, outstanding(yard)) == ([], 1)


def test_a_replay_of_a_rejected_dead_letter_is_called_although_it_has_no_entry(yard: OperateKit) -> None:
    enter(yard, 1000, dead=True)
    bury(yard)
    yard.reject(Filter())
    assert yard.replay(rejected=True).replayed == 1
    [copy] = yard.broker.records(RETRY)
    assert flux_headers.ORDER not in dict(copy.headers() or ())


def test_a_replay_has_the_version_of_the_entry_that_was_written_twice(yard: OperateKit) -> None:
    for _ in range(2):
        enter(yard, 1000, dead=True)
    bury(yard)
    yard.replay()
    [copy] = yard.broker.records(RETRY)
    assert header(copy, flux_headers.ORDER) == "1"


def test_a_second_replay_of_what_is_done_since_keeps_its_version_and_is_dropped(yard: OperateKit) -> None:
    """The first one ended before it was noted."""
    enter(yard, 1000, dead=True)
    bury(yard)
    yard.kit.write(ProducerRecord(None, entry_name((0, 1000)), (), 0), topic=KEYS)
    yard.replay()
    [copy] = yard.broker.records(RETRY)
    assert header(copy, flux_headers.ORDER) == "0"


def test_dead_letters_that_hold_their_keys_are_not_purged(yard: OperateKit) -> None:
    enter(yard, 1000, dead=True)
    bury(yard)
    with pytest.raises(ConfigurationError, match="1 dead letter of orders-billing-dlq would leave its key held"):
        plan_purge(yard.adapter, yard.admin, yard.policy, system=yard.system)
    yard.reject(Filter())
    assert plan_purge(yard.adapter, yard.admin, yard.policy, system=yard.system).records == 1


def test_a_skipped_record_frees_its_key(yard: OperateKit) -> None:
    enter(yard, 1000)
    yard.kit.write(ProducerRecord(b"v", b"k", [*headers_of(), (flux_headers.ORDER, b"0")], 0), topic=RETRY)
    plan = plan_skip(yard.adapter, yard.admin, yard.policy, stage_of(yard.policy, 1, yard.admin), 0, 0)
    skip(plan, yard.adapter, yard.admin, "ada", "no", yard.system)
    assert outstanding(yard) == 0


def test_a_record_of_the_main_topic_that_is_skipped_frees_its_key_whatever_its_entry_says(yard: OperateKit) -> None:
    enter(yard, 0)
    yard.kit.write(ProducerRecord(b"v", b"k", (), 0), topic=MAIN)
    plan = plan_skip(yard.adapter, yard.admin, yard.policy, stage_of(yard.policy, 0, yard.admin), 0, 0)
    skip(plan, yard.adapter, yard.admin, "ada", "no", yard.system)
    assert outstanding(yard) == 0
