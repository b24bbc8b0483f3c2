"""What a call produces is on the cluster before its record counts as done."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence

import pytest

import flux
from integration.job.support import Lab, flux_headers, wait_for


def test_what_a_call_produces_is_on_the_cluster_when_its_record_is_committed(lab: Lab) -> None:
    target = lab.make_topic(2)

    class Results(flux.Producer):
        topic = target
        adapter = f"confluent://{lab.bootstrap}"
        options = flux.ProducerOptions(flush_interval=3600, max_buffer_size=100_000)

    def call(message: flux.Message) -> None:
        Results.produce(b"result of " + message.value, key=message.key, headers={"of": message.id})

    task = lab.task(call)
    values = [b"%d" % n for n in range(300)]
    lab.write(task.topic, *((value, value) for value in values))
    lab.work(task)
    found = lab.read(target)
    assert Counter((m.key(), m.value()) for m in found) == Counter((v, b"result of " + v) for v in values)
    assert {m.headers()[0][1] for m in found} == {f"{task.topic}/0/{n}".encode() for n in range(300)}
    Results.close()


def test_a_failed_delivery_makes_the_call_fail(lab: Lab) -> None:
    target = lab.make_topic(2, max_message_bytes=1000)
    calls: list[tuple[bytes, int]] = []

    class Results(flux.Producer):
        topic = target
        adapter = f"confluent://{lab.bootstrap}"

    def call(message: flux.Message) -> None:
        calls.append((message.value, message.stage))
        large = message.value == b"large"
        Results.produce(b"x" * (5000 if large else 10), partition=int(large))  # apart: a batch fails as a whole

    task = lab.task(call, retries=1)
    lab.write(task.topic, (b"small", b"a"), (b"large", b"b"))
    lab.work(task)
    assert Counter(calls) == Counter([(b"small", 0), (b"large", 0), (b"large", 1)])
    [dead] = lab.dead(task)
    assert (dead.key(), dead.value()) == (b"b", b"large")
    headers = flux_headers(dead)
    assert headers["flux-reason"] == b"exhausted"
    assert headers["flux-attempts"] == b"2"
    assert headers["flux-error-type"].endswith((b"DeliveryError", b"BrokerError"))
    assert [m.value() for m in lab.read(target)] == [b"x" * 10]


@pytest.mark.parametrize("scheme", ["confluent", "aiokafka"])
def test_a_call_that_fails_twice_leaves_one_output_and_what_it_sent_three_times(lab: Lab, scheme: str) -> None:
    produced, sent = lab.make_topic(), lab.make_topic()
    url = f"{scheme}://{lab.bootstrap}"

    class Results(flux.Producer):
        topic = produced
        adapter = url

    class Attempts(flux.Producer):
        topic = sent
        adapter = url

    def call(message: flux.Message) -> None:
        Results.produce(b"attempt %d" % message.attempt)
        Attempts.send(b"attempt %d" % message.attempt)
        if message.attempt < 3:
            raise ValueError

    task = lab.task(call, retries=2)
    lab.write(task.topic, b"v")
    lab.work(task)
    for producer in (Results, Attempts):
        producer.close()
    assert [m.value() for m in lab.read(produced)] == [b"attempt 3"]
    assert [m.value() for m in lab.read(sent)] == [b"attempt 1", b"attempt 2", b"attempt 3"]


def test_of_a_batch_only_what_belongs_to_done_records_leaves(lab: Lab) -> None:
    target = lab.make_topic()

    class Results(flux.Producer):
        topic = target
        adapter = f"confluent://{lab.bootstrap}"

    class Batched(flux.BatchTask):
        topic, group_id = lab.unique(), lab.unique()
        retries, wait, max_wait = 1, 0.1, 0.2

        def call(self, messages: Sequence[flux.Message]) -> None:
            for message in messages:
                with flux.producing(message):
                    Results.produce(b"%s in stage %d" % (message.value, message.stage))
            bad = {message: ValueError() for message in messages if message.value == b"b" and message.stage == 0}
            if bad:
                raise flux.BatchFailure(bad)

    for stage in Batched.policy().stages:
        lab.make_topic(1, stage.topic)
    lab.write(Batched.topic, b"a", b"b", b"c")
    lab.work(Batched)
    Results.close()
    assert sorted(m.value() for m in lab.read(target)) == [b"a in stage 0", b"b in stage 1", b"c in stage 0"]


def test_what_a_call_produced_keeps_neither_its_thread_nor_its_key(lab: Lab) -> None:
    """Its target is away, so the first record is not done for long; its successors are called all the same."""
    calls: list[bytes] = []
    lock = threading.Lock()

    class Away(flux.Producer):
        topic = "nowhere"
        adapter = "confluent://127.0.0.1:9?log_level=0"
        options = flux.ProducerOptions(delivery_timeout=8)

    def call(message: flux.Message) -> None:
        with lock:
            calls.append(message.value)
        if message.value == b"first" and message.stage == 0:
            Away.produce(b"never arrives")

    task = lab.task(call, concurrency=1, retries=1)
    lab.write(task.topic, (b"first", b"k"), *((b"%d" % n, b"k") for n in range(20)))
    with lab.running(task):
        wait_for(lambda: len(calls) >= 21, "the others", 7)
        time.sleep(0.3)
        assert lab.committed_offsets(task.group_id, task.topic).get(0) is None or (
            lab.committed_offsets(task.group_id, task.topic)[0].offset == 0
        )
        lab.settle(task)
    assert calls == [b"first", *(b"%d" % n for n in range(20)), b"first"]
    assert [m.value() for m in lab.read(f"{task.topic}-{task.group_id}-try-1")] == [b"first"]


@pytest.mark.parametrize("scheme", ["confluent", "aiokafka"])
def test_a_record_that_is_too_large_fails_no_other(lab: Lab, scheme: str) -> None:
    target = lab.make_topic(1, max_message_bytes=1000)

    class Results(flux.Producer):
        topic = target
        adapter = f"{scheme}://{lab.bootstrap}"
        options = flux.ProducerOptions(flush_interval=3600)

    for value in (b"before", b"x" * 5000, b"after"):
        Results.produce(value)
    with pytest.raises(flux.DeliveryError) as failed:
        Results.flush(10)
    assert [record.value for record in failed.value.failed] == [b"x" * 5000]
    assert [m.value() for m in lab.read(target)] == [b"before", b"after"]
