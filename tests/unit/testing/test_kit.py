"""The kit apart from `run`: what it captures and shows, whose brokers there are, and what it leaves behind."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import flux
from flux import config
from flux.adapters.confluent import ConfluentAdapter
from flux.adapters.memory import MemoryAdapter
from flux.core.errors import ConfigurationError
from flux.producing.registry import PRODUCERS
from flux.serde import json_serializer
from flux.system import SYSTEM
from flux.testing import Kit, StoredRecord, kit


class Orders(flux.Producer):
    topic = "orders"
    serializer = json_serializer


class Elsewhere(flux.Producer):
    topic = "orders"
    adapter = "confluent://audit:9093?client.id=audit"


class Billing(flux.Task):
    topic = "orders"
    group_id = "billing"
    retries = 2
    wait = [10, 60]

    def call(self, message: flux.Message) -> None:
        if message.key == b"rejected":
            raise flux.Reject("no such customer")
        if message.key == b"broken":
            raise TimeoutError("the mail server does not answer")


class Auditing(Billing):
    adapter = ConfluentAdapter("audit:9093")


# ---- what was produced


def test_what_is_buffered_is_seen(flux_kit: Kit) -> None:
    Orders.produce({"order": 1}, key="ada", headers={"trace": "1"}, timestamp=1234)
    record = flux_kit.topic("orders").one()
    assert (record.topic, record.partition, record.offset) == ("orders", 0, 0)
    assert (record.key, record.value, record.timestamp) == (b"ada", b'{"order":1}', 1234)
    assert record.headers.get("trace") == b"1"
    assert record.header("trace") == "1"
    assert record.json() == {"order": 1}
    assert record.text() == '{"order":1}'


def test_timestamps_are_the_kit_s_time() -> None:
    with kit(start=datetime(2026, 1, 1, tzinfo=UTC)) as each:
        each.clock.advance(timedelta(minutes=1))
        Orders.produce({})
        assert each.topic(Orders).one().timestamp == 1_767_225_660_000
        assert each.clock.datetime == datetime(2026, 1, 1, 0, 1, tzinfo=UTC)


def test_the_flush_interval_passes_with_the_clock(flux_kit: Kit) -> None:
    flux.configure(producer=flux.ProducerOptions(flush_interval=2.0))
    Orders.produce({})
    flux_kit.clock.advance(1.9)
    assert flux_kit.broker().records("orders") == []
    flux_kit.clock.advance(0.1)
    assert len(flux_kit.broker().records("orders")) == 1


def test_topics_are_found_by_name_producer_and_task(flux_kit: Kit) -> None:
    Orders.produce({})
    assert flux_kit.topic("orders") == flux_kit.topic(Orders) == flux_kit.topic(Billing) == flux_kit.topic(Orders())


def test_a_topic_that_nobody_wrote_holds_nothing(flux_kit: Kit) -> None:
    assert not flux_kit.topic("nothing")
    assert repr(flux_kit.topic("nothing")) == "topic nothing holds no record"


def test_records_of_other_programs_can_be_written(flux_kit: Kit) -> None:
    flux_kit.produce("orders", "text", key="ada", headers={"a": b"1"}, timestamp=5)
    flux_kit.produce("orders", json={"order": 1})
    written = flux_kit.produce(Orders, None, key=b"ada")
    assert written.offset == 2
    assert flux_kit.topic("orders").values == [b"text", b'{"order": 1}', None]
    assert written.json() is None
    assert written.text() == ""


def test_a_record_that_the_broker_refuses_is_told(flux_kit: Kit) -> None:
    with pytest.raises(flux.BrokerError, match="no partition 7"):
        flux_kit.produce("orders", b"x", partition=7)


# ---- assertions


def test_an_assertion_gives_what_it_found(flux_kit: Kit) -> None:
    Orders.produce({"order": 1}, key="ada", headers={"trace": "1", "more": "2"})
    Orders.produce({"order": 2}, key="bob")
    assert flux_kit.assert_produced("orders", key="ada").one().json() == {"order": 1}
    assert flux_kit.assert_produced("orders", key=b"bob", value='{"order":2}', count=1).keys == [b"bob"]
    assert flux_kit.assert_produced(Orders, json={"order": 2}).one().offset == 1
    assert flux_kit.assert_produced("orders", headers={"trace": b"1"}).one().offset == 0
    assert len(flux_kit.assert_produced("orders", count=2)) == 2
    flux_kit.assert_produced("orders", key="eve", count=0)
    flux_kit.assert_produced("orders", key=None, count=0)


def test_a_failed_assertion_shows_what_was_there(flux_kit: Kit) -> None:
    Orders.produce({"order": 1}, key="ada", headers={"trace": "1"})
    with pytest.raises(AssertionError) as raised:
        flux_kit.assert_produced("orders", key="eve", json={"order": 1})
    assert str(raised.value) == (
        "expected a record with key='eve', json={'order': 1}, found 0: topic orders holds 1 record(s):\n"
        "  orders[0]@0 key=b'ada' value=b'{\"order\":1}' trace=b'1'"
    )


@pytest.mark.parametrize("wanted", [{"value": "x"}, {"json": "x"}, {"headers": {"trace": "2"}}, {"count": 2}])
def test_each_part_counts(flux_kit: Kit, wanted: dict[str, Any]) -> None:
    flux_kit.produce("orders", b"{broken", headers={"trace": "1"})
    with pytest.raises(AssertionError):
        flux_kit.assert_produced("orders", **wanted)


def test_a_failed_assertion_shows_what_may_explain_it(flux_kit: Kit) -> None:
    Orders.produce({}, key="broken")
    flux_kit.run(Billing)
    with pytest.raises(AssertionError) as raised:
        flux_kit.assert_produced("bills")
    assert "expected a record, found 0: topic bills holds no record" in str(raised.value)
    assert "Billing: <Message orders[0]@0 stage 0 attempt 1>: TimeoutError" in str(raised.value)
    assert "topics with records: orders, orders-billing-try-1" in str(raised.value)


def test_many_and_long_records_are_shown_in_short(flux_kit: Kit) -> None:
    for _ in range(25):
        flux_kit.produce("orders", b"x" * 1000)
    shown = repr(flux_kit.topic("orders"))
    assert "and 5 more" in shown
    assert len(shown.splitlines()) == 22
    assert all(len(line) < 250 for line in shown.splitlines())


def test_one_record_is_one(flux_kit: Kit) -> None:
    with pytest.raises(AssertionError, match="one record was expected: topic orders holds no record"):
        flux_kit.topic("orders").one()


def test_records_are_a_sequence(flux_kit: Kit) -> None:
    for number in range(3):
        Orders.produce(number)
    records = flux_kit.topic("orders")
    assert records.json() == [0, 1, 2]
    assert records[1:].json() == [1, 2]
    assert isinstance(records[-1], StoredRecord)
    assert records == list(records)
    assert records != [1]
    assert records.matching(json=1).one() is records[1]


# ---- dead letters and what waits


def test_dead_letters_say_why(flux_kit: Kit) -> None:
    Orders.produce({"order": 1}, key="rejected")
    flux_kit.run(Billing)
    letter = flux_kit.dead_letters(Billing).one()
    assert (letter.reason, letter.attempts) == ("rejected", 1)
    assert (letter.error_type, letter.error_message) == ("flux.Reject", "no such customer")
    assert repr(letter) == (
        "orders-billing-dlq[0]@0 key=b'rejected' value=b'{\"order\":1}'"
        " (rejected after 1 attempt(s): flux.Reject: no such customer)"
    )


def test_what_waits_says_where_and_until_when(flux_kit: Kit) -> None:
    Orders.produce({}, key="broken")
    assert flux_kit.waiting(Billing) == []
    flux_kit.run(Billing)
    (waiting,) = flux_kit.waiting(Billing)
    assert (waiting.stage, waiting.seconds, waiting.due) == (1, 10, flux_kit.clock.now() + 10)
    assert waiting.record.key == b"broken"
    assert repr(waiting).startswith("stage 1, due in 10 s: orders-billing-try-1[0]@0 key=b'broken'")

    flux_kit.clock.advance(10)
    Orders.produce({}, key="broken")
    flux_kit.run(Billing)
    assert [(each.stage, each.seconds) for each in flux_kit.waiting(Billing)] == [(1, 10), (2, 60)]
    flux_kit.run_to_the_end(Billing)
    assert flux_kit.waiting(Billing) == []


def test_what_is_done_above_a_position_waits_no_more(flux_kit: Kit) -> None:
    class Impatient(Billing):
        def call(self, message: flux.Message) -> None:
            if message.attempt == 1:
                raise flux.Retry(after=100 if message.key == b"slow" else 1)

    Orders.produce({}, key="slow")
    Orders.produce({}, key="fast")
    flux_kit.run(Impatient)
    flux_kit.clock.advance(1)
    flux_kit.run(Impatient)
    assert [each.record.key for each in flux_kit.waiting(Impatient)] == [b"slow"]


def test_a_retry_record_of_another_library_has_no_due_time_yet(flux_kit: Kit) -> None:
    flux_kit.produce("orders-billing-try-1", b"x")
    (waiting,) = flux_kit.waiting(Billing)
    assert (waiting.due, waiting.seconds) == (None, None)
    assert "due when it is read" in repr(waiting)


# ---- clusters


def test_a_task_s_own_cluster_is_a_broker_of_its_own(flux_kit: Kit) -> None:
    Elsewhere.produce(b"x", key="rejected")
    Orders.produce({}, key="rejected")
    assert flux_kit.run(Auditing).dead == 1
    assert len(flux_kit.dead_letters(Auditing)) == 1
    assert len(flux_kit.dead_letters(Billing)) == 0
    assert flux_kit.topic(Elsewhere).values == [b"x"]
    assert flux_kit.topic("orders", adapter="confluent://audit:9093") == flux_kit.topic(Auditing)
    assert flux_kit.topic("orders").values == [b"{}"]
    assert flux_kit.broker(Auditing) is not flux_kit.broker()
    assert flux_kit.broker(Billing) is flux_kit.broker(Orders) is flux_kit.broker()


def test_both_clusters_are_worked_in_one_run(flux_kit: Kit) -> None:
    class Other(Billing):
        adapter = "aiokafka://elsewhere:9092"

    Orders.produce({})
    flux_kit.produce(Other, b"{}")
    assert flux_kit.run(Billing, Other).done == 2


def test_the_process_s_cluster_is_one_broker_however_it_is_named(
    monkeypatch: pytest.MonkeyPatch, flux_kit: Kit
) -> None:
    class Named(flux.Producer):
        topic = "orders"
        adapter = "confluent://one:9092,two:9092"

    monkeypatch.setenv("FLUX_ADAPTER", "confluent://two:9092,one:9092?client.id=x")
    assert flux_kit.broker(Named) is flux_kit.broker()
    Named.produce(b"x")
    assert flux_kit.topic("orders").values == [b"x"]


def test_configuring_connects_to_nothing_and_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLUX_ADAPTER", raising=False)
    before = config.current
    with kit() as each:
        flux.configure(adapter="confluent://127.0.0.1:1", producer=flux.ProducerOptions(max_buffer_size=1))
        Orders.produce({})
        assert len(each.topic("orders")) == 1
    assert config.current is before


# ---- what is left behind


def test_each_kit_begins_with_nothing() -> None:
    with kit() as each:
        Orders.produce({})
        assert each.topic("orders")
    with kit() as each:
        assert not each.topic("orders")


def test_afterwards_producers_are_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    real = MemoryAdapter("test-testing-kit")

    class Real(flux.Producer):
        topic = "real"
        adapter = real

    Real.produce(b"before")
    with kit() as each:
        assert [record.value() for record in real.broker.records("real")] == [b"before"]
        Real.produce(b"inside")
        assert each.topic(Real).values == [b"inside"]
    assert PRODUCERS.system is SYSTEM
    Real.produce(b"after")
    Real.flush(10)
    assert [record.value() for record in real.broker.records("real")] == [b"before", b"after"]
    Real.close()


def test_the_flushing_thread_of_before_ends() -> None:
    class Real(flux.Producer):
        topic = "real"
        adapter = "memory://test-testing-thread"

    PRODUCERS.start_over(SYSTEM)
    others = set(threading.enumerate())
    Real.produce(b"before")
    [flushing] = [each for each in threading.enumerate() if each not in others and each.name == "flux-producers"]
    with kit() as each:
        time = each.clock.now()
        flushing.join(60)
        assert not flushing.is_alive()
        assert each.clock.now() == time


def test_nothing_of_a_kit_is_kept() -> None:
    with kit() as each:
        Orders.produce({}, key="broken")
        each.run(Billing)
        brokers = weakref.ref(each.broker())
    del each
    gc.collect()
    assert brokers() is None


def test_a_kit_within_a_kit_leaves_the_outer_one_as_it_was(flux_kit: Kit) -> None:
    Orders.produce({})
    with kit() as inner:
        assert not inner.topic("orders")
        inner.clock.advance(100)
    Orders.produce({})
    first, second = flux_kit.topic("orders")
    assert first.timestamp == second.timestamp


def test_an_outage_that_lasts_fails_no_cleanup() -> None:
    with kit() as each:
        each.topic("orders")
        Orders.produce({})
        each.broker().available = False


def test_an_outage_ends_with_what_was_produced(flux_kit: Kit) -> None:
    broker = flux_kit.broker()
    broker.available = False
    Orders.produce({})
    flux_kit.clock.advance(5)
    assert broker.records("orders") == []
    broker.available = True
    assert len(flux_kit.topic("orders")) == 1


def test_an_outage_beyond_the_delivery_timeout_is_told(flux_kit: Kit) -> None:
    flux_kit.broker().available = False
    Orders.produce({}, key="ada")
    with pytest.raises(flux.DeliveryError, match="key b'ada'"):
        Orders.flush()


def test_the_clock_never_goes_back(flux_kit: Kit) -> None:
    with pytest.raises(ValueError, match="never moves back"):
        flux_kit.clock.advance(-1)


def test_a_worker_s_block_leaves_its_tasks_to_the_kit(flux_kit: Kit) -> None:
    async def main() -> None:
        async with flux.Worker(Billing) as worker:
            assert worker.health().ready
            await flux_kit.arun(Billing)

    Orders.produce({"order": 1})
    with flux.Worker(Billing) as worker:
        assert worker.health().ready
        assert worker.wait(0)
        assert flux_kit.run(Billing).done == 1
    Orders.produce({"order": 2})
    asyncio.run(main())
    assert flux_kit.run(Billing).done == 0, "it was not done in the block"


def test_two_of_one_name_in_one_run_are_refused_as_by_a_worker(flux_kit: Kit) -> None:
    with pytest.raises(ConfigurationError, match="both consume topic orders"):
        flux_kit.run(Billing, type("Same", (Billing,), {}))


def test_threads_of_the_program_may_produce(flux_kit: Kit) -> None:
    def produce() -> None:
        for number in range(500):
            Orders.produce(number)
        Orders.flush()

    threads = [threading.Thread(target=produce) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(flux_kit.topic("orders")) == 2000
