"""What a stage commits in transactions when it keeps the order through retries."""

from __future__ import annotations

from collections.abc import Sequence

from flux.core.engine.transactions import CallOutputs, Sealed
from flux.core.ports import ProducerRecord
from unit.support.engine_support import AWAY, P0
from unit.support.order_support import Keys, Ordered


def exact(stage: int = 0, keys: Keys | None = None) -> Ordered:
    driver = Ordered(stage, keys, exactly_once=True)
    driver.assign(0)
    driver.read()
    return driver


def produced(driver: Ordered) -> CallOutputs:
    """The next call produces a record and returns."""
    run = driver.take()
    entry = driver.engine.produced(run, run.index, driver.message(run, run.index))
    assert entry is not None
    outputs = CallOutputs([entry], [("out", ProducerRecord(b"x"))], 1)
    driver.engine.transactions.produced(outputs)
    run.index += 1
    driver.engine.finished(run, driver.now)
    return outputs


def seal(driver: Ordered) -> Sealed:
    sealed = driver.engine.transactions.seal(driver.now)
    assert sealed is not None
    return sealed


def written(driver: Ordered, sealed: Sealed) -> Sequence[str]:
    """The transaction is committed, and read."""
    topics = []
    for forward in sealed.forwards:
        copy = forward.forwarded_copy
        topics.append(copy.target.topic)
        record = copy.producer_record(0, None)
        if copy.target.topic.endswith("-keys"):
            assert record.key is not None
            driver.keys.log.append((record.key, record.value))
    driver.engine.transactions.committed(sealed, driver.now)
    driver.read()
    return topics


def test_the_offset_of_a_record_that_moves_is_committed_with_its_copy() -> None:
    driver = exact()
    driver.poll(driver.record(0))
    driver.work_all(0)
    first = seal(driver)
    assert first.offsets == {}
    assert written(driver, first) == ["t-g-keys"]
    driver.now += driver.policy.commit_interval
    assert driver.engine.transactions.due(driver.now)
    second = seal(driver)
    assert second.offsets[P0].offset == 1
    assert written(driver, second) == ["t-g-try-1"]


def test_a_move_that_was_not_committed_is_written_anew() -> None:
    driver = exact()
    driver.poll(driver.record(0))
    driver.work_all(0)
    driver.engine.transactions.put_back(seal(driver), AWAY, driver.now)
    driver.now += 60
    assert written(driver, seal(driver)) == ["t-g-keys"]
    assert written(driver, seal(driver)) == ["t-g-try-1"]


def test_what_a_call_produced_is_committed_with_the_removal_of_its_entry() -> None:
    keys = Keys()
    version = keys.set(7)
    driver = exact(1, keys)
    driver.poll(driver.copy(0, 7, version))
    outputs = produced(driver)
    assert [topic for topic, _ in outputs.records] == ["out", "t-g-keys"]
    assert outputs.records[1][1].value is None
    sealed = seal(driver)
    assert (sealed.outputs, sealed.offsets[driver.p0].offset) == ([outputs], 1)


def test_the_key_waits_for_the_transaction_of_what_its_call_produced() -> None:
    driver = exact()
    driver.poll(driver.record(0), driver.record(1))
    outputs = produced(driver)
    assert [topic for topic, _ in outputs.records] == ["out"]
    assert driver.nothing_to_take()
    sealed = seal(driver)
    assert driver.nothing_to_take()
    driver.engine.transactions.committed(sealed, driver.now)
    assert driver.work_all() == [1]


def test_the_copy_of_a_later_record_waits_until_the_one_before_may_be_written() -> None:
    keys = Keys()
    keys.set(0)
    driver = exact(0, keys)
    driver.poll(driver.record(1), driver.record(2))
    assert driver.nothing_to_take()
    assert written(driver, seal(driver)) == ["t-g-keys", "t-g-keys"]
    sealed = seal(driver)
    first, second = sealed.forwards
    driver.engine.transactions.put_back(sealed, AWAY, driver.now, {first: AWAY})
    driver.now += 0.9
    assert first.at > driver.now
    driver.engine.transactions._retry_at = 0.0
    assert driver.engine.transactions.seal(driver.now) is None
    driver.now += 60
    assert written(driver, seal(driver)) == ["t-g-try-1"]
    assert seal(driver).forwards == [second]
