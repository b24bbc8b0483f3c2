"""Which open transactions hold readers back, since when, and what to do."""

from __future__ import annotations

import pytest

from flux.consuming.open_transactions import STAYS_OPEN, held_back, lasting, open_transactions
from flux.core.ports import ProducerRecord, TopicPartition, TransactionSettings
from unit.support.memory_support import START
from unit.support.operate_support import MAIN, OperateKit

P0 = TopicPartition(MAIN, 0)


@pytest.fixture
def yard() -> OperateKit:
    """A partition whose last record is of an open transaction."""
    yard = OperateKit()
    yard.kit.write(ProducerRecord(b"v", partition=0, timestamp=int((START - 900) * 1000)), topic=MAIN)
    transactions = yard.adapter.transactions(TransactionSettings("foreign", timeout=1_000_000.0))
    transactions.start(5)
    transactions.begin()
    transactions.write(MAIN, [ProducerRecord(b"v", partition=0)])
    transactions.flush(5)
    return yard


def test_one_is_open_from_its_first_record_on(yard: OperateKit) -> None:
    assert open_transactions(yard.admin, [MAIN]) == {P0: 1}


def test_one_that_ends_soon_holds_nobody_back(yard: OperateKit) -> None:
    looks = iter([{P0: 1}, {P0: 4}])
    assert lasting({P0: 1}, lambda _: next(looks), yard.system) == {}
    assert yard.system.now() - START < 0.5, "there is nothing to wait for"


def test_one_that_stays_open_holds_readers_back(yard: OperateKit) -> None:
    assert lasting({P0: 1}, lambda _: {P0: 1}, yard.system) == {P0: 1}
    assert yard.system.now() - START == pytest.approx(STAYS_OPEN)


@pytest.mark.parametrize("age", [7, 600, 50_000])
def test_it_began_with_its_first_record(yard: OperateKit, age: int) -> None:
    yard.system.sleep(age)
    found = held_back(yard.admin, P0, 1, "kafka://a:9092,b:9092", yard.system)
    assert found.since == pytest.approx(START, abs=1)
    assert found.remedy.startswith(
        "`kafka-transactions.sh --bootstrap-server a:9092,b:9092 describe-producers --topic orders --partition 0`"
    )


def test_how_long_it_has_been_open_is_known_to_a_day_only(yard: OperateKit) -> None:
    yard.system.sleep(400_000)
    assert yard.system.now() - held_back(yard.admin, P0, 1, "", yard.system).since == 86_400
