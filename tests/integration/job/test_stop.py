"""An orderly stop repeats nothing; what had to be abandoned is processed again."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections import Counter

import pytest
from confluent_kafka import Producer

import flux
from integration.job.support import Lab, wait_for

TASK = """
import random
import time
import flux

class Slow(flux.Task):
    topic, group_id = TOPIC, GROUP
    retries, wait, offset_commit_interval = 1, 0.3, OFTEN

    def call(self, message):
        time.sleep(random.random() * 0.1)
        with open(CALLS, "a") as calls:
            calls.write(f"{message.value.decode()} {message.stage}\\n")
        if message.value.endswith(b"7"):
            raise ValueError
"""


def test_stops_and_starts_repeat_nothing_with_calls_in_flight_that_end_in_any_order(lab: Lab) -> None:
    calls: Counter[tuple[bytes, int]] = Counter()
    lock = threading.Lock()

    def call(message: flux.Message) -> None:
        time.sleep(random.random() * 0.1)
        with lock:
            calls[message.value, message.stage] += 1
        if message.value.endswith(b"7"):
            raise ValueError

    task = lab.task(call, partitions=3, offset_commit_interval=60)
    values = [b"%d" % n for n in range(300)]
    lab.write(task.topic, *((value, b"k%d" % (int(value) % 40)) for value in values))
    for part in (50, 150, 250):
        with lab.running(task):
            wait_for(lambda n=part: len(calls) >= n, f"{part} calls")  # type: ignore[misc]
    with lab.running(task, exit_when_idle=0.5) as running:
        wait_for(lambda: sum(calls.values()) >= 330, "all calls")
        wait_for(lambda: running.ended, "the end")
    failed = {value for value in values if value.endswith(b"7")}
    assert calls == Counter([(v, 0) for v in values] + [(v, 1) for v in failed])
    assert lab.settled(task)
    assert Counter(m.value() for m in lab.dead(task)) == Counter(failed)


def test_sigterm_ends_calls_in_flight_commits_and_exits_0_and_nothing_is_repeated(lab: Lab) -> None:
    task = lab.task(lambda message: None, partitions=2)
    values = [f"{n}" for n in range(300)]
    lab.write(task.topic, *((value.encode(), f"k{int(value) % 50}".encode()) for value in values))
    log = lab.directory / "calls"
    log.touch()
    path = lab.load(TASK, TOPIC=task.topic, GROUP=task.group_id, CALLS=str(log), OFTEN=60)
    for sent in (signal.SIGTERM, signal.SIGINT):
        before = len(log.read_text().splitlines())
        process = lab.process(path, "Slow")
        wait_for(lambda n=before: len(log.read_text().splitlines()) >= n + 60, "60 calls")  # type: ignore[misc]
        process.send_signal(sent)
        assert process.wait(60) == 0
    process = lab.process(path, "Slow", "--exit-when-idle", "0.5")
    assert process.wait(60) == 0
    expected = [f"{v} 0" for v in values] + [f"{v} 1" for v in values if v.endswith("7")]
    assert Counter(log.read_text().splitlines()) == Counter(expected)
    assert {m.value().decode() for m in lab.dead(task)} == {v for v in values if v.endswith("7")}


def test_a_call_that_outlives_the_shutdown_timeout_is_abandoned_and_worked_again(lab: Lab) -> None:
    begun: list[bytes] = []
    release = threading.Event()

    def call(message: flux.Message) -> None:
        begun.append(message.value)
        if message.value == b"stuck":
            release.wait(60)

    task = lab.task(call, shutdown_timeout=0.5)
    lab.write(task.topic, (b"stuck", b"a"), (b"other", b"b"))
    with lab.running(task, code=3):
        wait_for(lambda: len(begun) == 2, "both calls")
        stopped = time.monotonic()
    assert 0.5 <= time.monotonic() - stopped < 20
    release.set()
    time.sleep(0.2)  # its thread ends, and must not commit or move anything any more
    assert lab.committed_offsets(task.group_id, task.topic)[0].offset == 0
    lab.work(task)
    assert begun == [b"stuck", b"other", b"stuck"]
    assert lab.ends(f"{task.topic}-{task.group_id}-try-1") == {0: 0}


@pytest.mark.timed
def test_a_stop_while_records_wait_leaves_them_for_the_next_start(lab: Lab) -> None:
    seen: list[tuple[bytes, int, float]] = []

    def call(message: flux.Message) -> None:
        seen.append((message.value, message.stage, time.time()))
        if message.stage == 0:
            raise ValueError

    task = lab.task(call, wait=2)
    lab.write(task.topic, b"v")
    with lab.running(task):
        lab.settle(task, 0)
        stopped = time.monotonic()
    assert time.monotonic() - stopped < 1
    lab.work(task)
    [(_, _, first), (_, _, second)] = seen
    assert [(value, stage) for value, stage, _ in seen] == [(b"v", 0), (b"v", 1)]
    assert 1.99 <= second - first < 2.5


def test_a_worker_can_be_stopped_before_it_has_begun(lab: Lab) -> None:
    task = lab.task(lambda message: None)
    with lab.running(task) as running:
        running.worker.stop()


def test_idle_is_only_who_has_worked_everything_that_waits_too(lab: Lab) -> None:
    seen: list[int] = []

    def call(message: flux.Message) -> None:
        seen.append(message.stage)
        raise ValueError

    task = lab.task(call, retries=2, wait=0.8)
    lab.write(task.topic, b"v")
    with lab.running(task, exit_when_idle=0.2) as running:
        wait_for(lambda: running.ended, "the worker ends by itself")
    assert seen == [0, 1, 2]
    assert len(lab.dead(task)) == 1
    assert lab.settled(task)


@pytest.mark.parametrize("scheme", ["confluent", "aiokafka"])
def test_a_worker_is_idle_at_the_end_of_a_topic_that_ends_with_a_transaction(lab: Lab, scheme: str) -> None:
    seen: list[bytes] = []
    task = lab.task(lambda message: seen.append(message.value), retries=0)
    writer = Producer({"bootstrap.servers": lab.bootstrap, "transactional.id": lab.unique()})
    writer.init_transactions(30)
    writer.begin_transaction()
    writer.produce(task.topic, b"one")
    writer.commit_transaction(30)
    with lab.running(task, adapter=f"{scheme}://{lab.bootstrap}", exit_when_idle=0.5) as running:
        wait_for(lambda: running.ended, "it ends by itself")
    assert seen == [b"one"]
    assert lab.committed_offsets(task.group_id, task.topic)[0].offset == 2, "the marker behind it is no lag"
