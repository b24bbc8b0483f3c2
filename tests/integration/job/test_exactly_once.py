"""A task with `exactly_once`: readers of committed records see each output and each dead letter once."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from brokers.base import NoBroker
from brokers.jars import found_java, libraries
from confluent_kafka import ConsumerGroupTopicPartitions

import flux
from flux.adapters.confluent.transactions import ConfluentTransactions
from integration.job.support import Lab, flux_headers, wait_for

TASK = """
import os, signal, time
import flux
from flux.adapters.confluent.transactions import ConfluentTransactions

class Out(flux.Producer):
    topic = OUT

class Work(flux.Task):
    topic, group_id = TOPIC, GROUP
    exactly_once = True
    retries, wait, offset_commit_interval, concurrency = 2, 0.2, INTERVAL, 2

    def call(self, message):
        Work.called = True
        with open(CALLS, "a") as calls:
            calls.write(f"{message.value.decode()} {message.stage}\\n")
        time.sleep(0.002)
        Out.produce(message.value)
        if message.value.startswith(b"dead") or (message.value.startswith(b"once") and message.stage == 0):
            raise ValueError

def die(self, timeout):
    if not hasattr(Work, "called"):  # the transaction says that calls will begin
        return commit(self, timeout)
    if DIES == "committed":
        commit(self, timeout)
    else:
        self.flush(10)
    os.kill(os.getpid(), signal.SIGKILL)

commit = ConfluentTransactions.commit
if DIES:
    ConfluentTransactions.commit = die
"""

READER = Path(__file__).with_name("Reader.java")
PROTOCOLS = ["classic", "consumer"]
STATIC = "?group.instance.id=worker"
"""So that one who was killed gets its partitions back at once."""


def values_of(count: int) -> list[bytes]:
    return [b"%s%d" % (b"dead" if n % 9 == 0 else b"once" if n % 5 == 0 else b"good", n) for n in range(count)]


def out_of(lab: Lab, name: str) -> type[Any]:
    """A producer."""
    return type("Out", (flux.Producer,), {"topic": name, "adapter": f"confluent://{lab.bootstrap}"})


def each_once(messages: Sequence[Any], values: Sequence[bytes]) -> None:
    assert Counter(message.value() for message in messages) == Counter(values)


def load(lab: Lab, task: type[flux.Task] | flux.Task, out: str, dies: str = "", interval: float = 0.05) -> Path:
    calls = str(lab.directory / "calls")
    return lab.load(TASK, TOPIC=task.topic, GROUP=task.group_id, OUT=out, CALLS=calls, DIES=dies, INTERVAL=interval)


def assert_each_once(lab: Lab, task: type[flux.Task] | flux.Task, out: str, values: Sequence[bytes]) -> None:
    dead = [value for value in values if value.startswith(b"dead")]
    each_once(lab.read(out), [value for value in values if value not in dead])
    each_once(lab.dead(task), dead)


def test_kills_leave_each_output_and_each_dead_letter_once(lab: Lab) -> None:
    task, out, values = lab.task(lambda message: None, partitions=3, retries=2), lab.make_topic(3), values_of(1500)
    lab.write(task.topic, *((value, value) for value in values))
    path, calls = load(lab, task, out), lab.directory / "calls"
    calls.touch()
    for _ in range(3):
        process = lab.process(path, "Work", query=STATIC)
        before = calls.stat().st_size
        wait_for(lambda n=before: calls.stat().st_size > n, "it works")  # type: ignore[misc]
        time.sleep(0.3)
        process.kill()
        process.wait(60)
    assert lab.process(path, "Work", "--exit-when-idle", "1", query=STATIC).wait(60) == 0
    assert_each_once(lab, task, out, values)
    assert lab.settled(task)


@pytest.mark.parametrize("dies", ["open", "committed"])
def test_the_next_worker_ends_the_transaction_in_which_the_last_one_died(lab: Lab, dies: str) -> None:
    """Long before the transaction's timeout of 15 s."""
    task, out, values = lab.task(lambda message: None, retries=2), lab.make_topic(1), values_of(20)
    lab.write(task.topic, *values)
    assert lab.process(load(lab, task, out, dies, interval=1.0), "Work", query=STATIC).wait(60) == -9
    lab.process(load(lab, task, out), "Work", query=STATIC)
    wait_for(lambda: lab.read(out), "its outputs are visible", 14.0)
    lab.settle(task)
    assert_each_once(lab, task, out, values)
    made = Counter((lab.directory / "calls").read_text().splitlines())
    assert max(made.values()) == (1 if dies == "committed" else 2), "what was committed is not repeated"


def test_outputs_copies_and_offsets_become_visible_together(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    called, goes_on, written = threading.Event(), threading.Event(), threading.Event()
    commit = ConfluentTransactions.commit

    def held(self: ConfluentTransactions, timeout: float) -> None:
        if called.is_set():  # otherwise the transaction says that calls will begin
            self.flush(timeout)
            written.set()
            assert goes_on.wait(12)
        commit(self, timeout)

    monkeypatch.setattr(ConfluentTransactions, "commit", held)
    out = out_of(lab, lab.make_topic(1))

    def call(message: flux.Message) -> None:
        called.set()
        out.produce(message.value)
        if message.value == b"b":
            raise flux.Reject("never")

    task = lab.task(call, exactly_once=True, retries=0, offset_commit_interval=0.5)
    lab.write(task.topic, b"a", b"b", b"c")

    def committed() -> int:
        [found] = lab.admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(task.group_id)]).values()
        return max((p.offset for p in found.result(60).topic_partitions or []), default=0)

    with lab.running(task):
        assert written.wait(60)
        assert (lab.read(out.topic), lab.dead(task), committed()) == ([], [], 0)
        assert lab.ends(out.topic) != {0: 0}, "nothing was written"
        goes_on.set()
        lab.settle(task)
    each_once(lab.read(out.topic), [b"a", b"c"])
    each_once(lab.dead(task), [b"b"])
    assert flux_headers(lab.dead(task)[0])["flux-reason"] == b"rejected"
    assert committed() == 3


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_stops_and_rebalances_repeat_nothing(lab: Lab, protocol: str) -> None:
    calls: list[tuple[bytes | None, int]] = []
    adapter = f"confluent://{lab.bootstrap}?group.protocol={protocol}"
    out, values = out_of(lab, lab.make_topic(3)), values_of(600)

    def call(message: flux.Message) -> None:
        time.sleep(0.005)
        calls.append((message.value, message.stage))
        out.produce(message.value or b"")
        if message.value and message.value.startswith(b"once") and message.stage == 0:
            raise ValueError

    task = lab.task(call, partitions=4, exactly_once=True, concurrency=2)
    lab.write(task.topic, *((value, value) for value in values))
    with lab.running(task, adapter=adapter):
        wait_for(lambda: len(calls) > 50, "the first works")
        with lab.running(task, adapter=adapter):
            wait_for(lambda: len(calls) > 250, "both work")
    with lab.running(task, adapter=adapter):
        lab.settle(task)
    assert max(Counter(calls).values()) == 1
    each_once(lab.read(out.topic), values)
    assert lab.dead(task) == []


def test_tasks_of_a_process_an_event_loop_and_batches_share_transactions(lab: Lab) -> None:
    out = out_of(lab, lab.make_topic(2))

    def call(message: flux.Message) -> None:
        out.produce(b"thread " + (message.value or b""))

    async def awaited(message: flux.Message) -> None:
        await out.aproduce(b"loop " + (message.value or b""))
        if message.stage == 0:
            raise ValueError

    class Batched(flux.BatchTask):
        topic, group_id = lab.unique(), lab.unique()
        retries, wait, max_wait, exactly_once = 1, 0.1, 0.2, True

        def call(self, messages: Sequence[flux.Message]) -> None:
            bad = {}
            for message in messages:
                with flux.producing(message):
                    out.produce(b"batch " + (message.value or b""))
                if message.value == b"1" and message.stage == 0:
                    bad[message] = ValueError()
            if bad:
                raise flux.BatchFailure(bad)

    for stage in Batched.policy().stages:
        lab.make_topic(1, stage.topic)
    tasks: list[Any] = [lab.task(call, exactly_once=True), lab.task(awaited, exactly_once=True), Batched]
    values = [b"%d" % n for n in range(20)]
    for task in tasks:
        lab.write(task.topic, *values)
    with lab.running(*tasks):
        for task in tasks:
            lab.settle(task)
    each_once(
        lab.read(out.topic), [b"%s %s" % (way, value) for way in (b"thread", b"loop", b"batch") for value in values]
    )
    assert [lab.dead(task) for task in tasks] == [[], [], []]


@pytest.mark.parametrize("missing", [False, True])
def test_an_output_that_its_topic_refuses_fails_its_own_call_only(lab: Lab, missing: bool) -> None:
    out, small = out_of(lab, lab.make_topic(1)), lab.make_topic(1, max_message_bytes=1000)
    refused = out_of(lab, lab.unique() if missing else small)

    def call(message: flux.Message) -> None:
        out.produce(message.value or b"")
        if message.value == b"bad":
            refused.produce(os.urandom(5000))

    task = lab.task(call, exactly_once=True, retries=0)
    lab.write(task.topic, b"a", b"bad", b"b")
    lab.work(task)
    each_once(lab.read(out.topic), [b"a", b"b"])
    [dead] = lab.dead(task)
    assert dead.value() == b"bad"
    assert flux_headers(dead)["flux-error-type"] == b"flux.DeliveryError"
    assert refused.topic.encode() in flux_headers(dead)["flux-error-message"]


def test_aiokafka_is_refused_at_start_in_one_line(lab: Lab) -> None:
    task = lab.task(lambda message: None, retries=2)
    path = load(lab, task, "out")
    assert lab.process(path, "Work", "--adapter", f"aiokafka://{lab.bootstrap}").wait(60) == 1
    log = Path(f"{path}.log").read_text()
    assert "Traceback" not in log
    assert "Work: exactly_once needs confluent://, not" in log.splitlines()[-1], log


def kcat(lab: Lab, topic: str) -> list[str]:
    program = shutil.which("kcat")
    assert program is not None
    command = [program, "-b", lab.bootstrap, "-t", topic, "-C", "-e", "-q", "-X", "isolation.level=read_committed"]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.splitlines()


def java(lab: Lab, topic: str) -> list[str]:
    """Kafka's own client."""
    command = [found_java(), "-cp", f"{libraries()}/*", str(READER), lab.bootstrap, topic]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.splitlines()


def missing() -> str:
    try:
        found_java(), libraries()
    except NoBroker as reason:
        return str(reason)
    return "" if shutil.which("kcat") else "install kcat"


@pytest.mark.parametrize("reader", [kcat, java])
def test_other_clients_see_each_output_once(lab: Lab, reader: Callable[[Lab, str], list[str]]) -> None:
    """Between transactions that were aborted: the worker dies in each of its first two."""
    if reason := missing():
        (pytest.fail if os.environ.get("CI", "").lower() == "true" else pytest.skip)(f"NOT TESTED: {reason}")
    task, out, values = lab.task(lambda message: None, retries=2), lab.make_topic(1), values_of(50)
    lab.write(task.topic, *values)
    for _ in range(2):
        path = load(lab, task, out, "open", interval=1.0)
        assert lab.process(path, "Work", query=STATIC).wait(60) == -9
    last = lab.process(load(lab, task, out), "Work", "--exit-when-idle", "1", query=STATIC)
    assert last.wait(40) == 0
    done = [value.decode() for value in values if not value.startswith(b"dead")]
    assert lab.ends(out)[0] > 2 * len(done), "the aborted ones are in the topic"
    assert Counter(reader(lab, out)) == Counter(done)
