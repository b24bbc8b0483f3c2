"""Names, URLs, and real threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

import pytest

from flux.adapters.memory import MemoryAdapter, forget, from_url
from flux.core.errors import ConfigurationError
from flux.core.ports import Adapter, CommittedOffset, ConsumerSettings, ProducerRecord, ProducerSettings, Record
from unit.support.memory_support import Remembering, ScriptedSystem, values


def fresh(name: str, partitions: int = 1) -> MemoryAdapter:
    forget(name)
    return MemoryAdapter(name, default_partitions=partitions)


def test_adapters_of_one_name_share_a_cluster_and_two_names_are_two() -> None:
    one, other = fresh("one"), fresh("other")
    one.broker.create_topic("t")
    assert MemoryAdapter("one").admin().topic_names(1) == {"t"}
    assert other.admin().topic_names(1) == set()
    forget("one")
    assert MemoryAdapter("one").admin().topic_names(1) == set()


def test_a_cluster_keeps_its_system() -> None:
    fresh("timed")
    with pytest.raises(ConfigurationError, match="forget"):
        MemoryAdapter("timed", system=ScriptedSystem())


def test_a_url_names_the_cluster_and_its_options() -> None:
    forget("Demo_1")
    adapter: Adapter = from_url("memory://Demo_1?partitions=4&auto_create=true")
    assert adapter.cluster == "memory://Demo_1"
    assert adapter.shares_processes is False
    assert adapter.producer(ProducerSettings()).partitions("t", 1) == 4


@pytest.mark.parametrize(
    "url",
    [
        "memory://",
        "memory:demo",
        "kafka://demo",
        "memory://demo/path",
        "memory://demo?partition=4",
        "memory://demo?partitions=0",
        "memory://demo?partitions=many",
        "memory://demo?auto_create=perhaps",
    ],
)
def test_a_url_that_makes_no_sense_is_refused_in_one_line(url: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        from_url(url)
    assert "\n" not in str(raised.value)


def test_threads_that_write_poll_join_and_leave_lose_nothing_and_order_each_partition() -> None:
    """Real threads on the real machine: 4 writers, 3 consumers, of which one leaves in the middle."""
    adapter = fresh("threads", partitions=6)
    adapter.broker.create_topic("t", 6)
    each, writers = 2_000, 4
    seen: list[tuple[int, int]] = []
    all_seen = threading.Event()
    failures: list[BaseException] = []

    def guarded(target: Callable[[], object]) -> threading.Thread:
        def run() -> None:
            try:
                target()
            except BaseException as error:
                failures.append(error)
                all_seen.set()

        return threading.Thread(target=run, daemon=True)

    def write() -> None:
        producer = adapter.producer(ProducerSettings())
        acknowledged: list[Record] = []
        for start in range(0, each, 50):
            records = [ProducerRecord(b"v", key=b"%d" % i) for i in range(start, start + 50)]
            producer.write("t", records, lambda error, record: acknowledged.append(record))
        assert len(acknowledged) == each

    def consume(leave_after: int) -> None:
        listener = Remembering()
        consumer = listener.consumer = adapter.consumer(ConsumerSettings("t", "g"), listener)
        got = 0
        while not all_seen.is_set() and got < leave_after:
            for batch in consumer.poll(100, 0.5).batches:
                seen.extend((r.partition(), r.offset()) for r in batch.records)
                got += len(batch.records)
                consumer.commit_now({batch.partition: CommittedOffset(batch.records[-1].offset() + 1)}, 5)
            if len(seen) >= each * writers:
                all_seen.set()
        consumer.close()

    threads = [guarded(write) for _ in range(writers)]
    threads += [guarded(partial(consume, n)) for n in (500, 10**9, 10**9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    assert len(seen) == each * writers
    assert len(set(seen)) == len(seen), "a clean leave repeats nothing"


def test_a_waiting_poll_of_a_real_thread_is_woken_at_once() -> None:
    adapter = fresh("woken")
    adapter.broker.create_topic("t")
    got: list[bytes | None] = []
    joined = threading.Event()
    listener = Remembering()
    listener.consumer = adapter.consumer(ConsumerSettings("t", "g"), listener)
    listener.on_assigned = joined.set

    def wait_for_one() -> None:
        assert listener.consumer is not None
        got.extend(values(listener.consumer.poll(1, 60)))

    thread = threading.Thread(target=wait_for_one, daemon=True)
    thread.start()
    assert joined.wait(60)
    adapter.producer(ProducerSettings()).write("t", [ProducerRecord(b"v")], lambda error, record: None)
    thread.join(60)
    assert got == [b"v"]


def test_a_real_outage_is_served_by_a_thread() -> None:
    adapter = fresh("outage")
    adapter.broker.available = False
    producer = adapter.producer(ProducerSettings())
    ends: list[object] = []
    producer.write("t", [ProducerRecord(b"v")], lambda error, record: ends.append(error))
    adapter.broker.available = True
    assert producer.flush(10) == 0
    assert ends == [None]
