"""Metrics: what is counted, in names and labels that Prometheus takes."""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

import flux
from flux.core.control.standing import Hold, SetRate
from flux.core.engine.crashes import Mark
from flux.core.engine.offset_tracker import OffsetTracker
from flux.core.ports import CommittedOffset, ProducerRecord, TopicPartition, Watermarks
from flux.observe import names
from flux.observe.gather import NoAnswer, live, merge, metrics, ready
from flux.observe.lags import Lag, lag_of
from flux.observe.prometheus import MOST_ERRORS, Histogram, Metrics
from flux.observe.server import Answer
from flux.testing import Kit
from unit.support.engine_support import Driver
from unit.support.peers_support import Peer, wait_for

Samples = Callable[..., float | None]


class Orders(flux.Producer):
    topic = "orders"


def read(text: str) -> Samples:
    """Asks for a sample: `read(text)("flux_calls_total", stage=0, result="done")`; labels not named may be anything."""
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]

    def sample(name: str, **labels: object) -> float | None:
        wanted = {key: str(value) for key, value in labels.items()}
        found = [each.value for each in samples if each.name == name and wanted.items() <= each.labels.items()]
        return sum(found) if found else None

    return sample


def work(message: flux.Message) -> None:
    if message.value == b"bad":
        raise ValueError("bad")
    if message.value == b"reject":
        raise flux.Reject("no")


def test_a_worker_counts_what_its_records_go_through() -> None:
    peer, watching = Peer(), Metrics(registry=None)
    task = peer.task(work, retries=1, wait=0)
    worker = flux.Worker(task, adapter=peer.adapter, system=peer.machine)
    peer.write(*[b"good"] * 7, b"bad", b"bad", b"reject")

    def sample(name: str, **labels: object) -> float | None:
        return read(watching.text())(name, **labels)

    watching.watch(worker)
    with running(worker):
        wait_for(lambda: sample("flux_dead_letters_total") == 3, "all have ended")
        wait_for(lambda: sample("flux_lag_records", stage=0) == 0, "the lag is known")
        assert sample("flux_calls_total", task="work", stage=0, result="done") == 7
        assert sample("flux_calls_total", stage=0, result="failed") == 3
        assert sample("flux_calls_total", stage=1, result="failed") == 2
        assert sample("flux_failures_total", stage=0, error="ValueError") == 2
        assert sample("flux_failures_total", stage=0, error="flux.Reject") == 1
        assert sample("flux_transfers_total", stage=0, target="retry") == 2
        assert sample("flux_transfers_total", stage=0, target="dlq") == 1
        assert sample("flux_dead_letters_total", stage=0, reason="rejected") == 1
        assert sample("flux_dead_letters_total", stage=1, reason="exhausted") == 2
        assert sample("flux_call_duration_seconds_count", stage=0) == 10
        assert sample("flux_lateness_seconds_count", stage=1) == 2
        assert sample("flux_rebalances_total", stage=0, event="assigned") == 1
        assert sample("flux_assigned_partitions", stage=0, topic="t") == 1
        assert sample("flux_concurrency_limit", task="work") == 10
        assert sample("flux_commits_total", stage=0, result="failed") == 0
        assert sample("flux_due_records", stage=1) == 0
        assert sample("flux_waiting_records", stage=1) == 0
        assert sample("flux_open_transfers", stage=0) == 0
        assert (sample("flux_ready"), sample("flux_live")) == (1, 1)
    assert sample("flux_rebalances_total", stage=0, event="revoked") == 1
    assert (sample("flux_commits_total", stage=0, result="done") or 0) >= 1
    assert sample("flux_ready") == 0
    watching.close()


def test_after_the_end_of_a_worker_nothing_looks_as_if_it_ran() -> None:
    peer, watching = Peer(), Metrics(registry=None)

    def call(message: flux.Message) -> None:
        if message.value == b"later":
            raise ValueError
        raise flux.Pause(600)

    task = peer.task(call, retries=1, wait=600)
    worker = flux.Worker(task, adapter=peer.adapter, system=peer.machine)
    watching.watch(worker)

    def sample(name: str) -> float | None:
        return read(watching.text())(name)

    peer.write(b"later")
    with running(worker):
        wait_for(lambda: sample("flux_waiting_records") == 1, "one waits")
        peer.write(b"pause")
        wait_for(lambda: sample("flux_paused") == 1, "it is paused")
    paused = sample("flux_paused_seconds_total") or 0
    assert paused > 0
    peer.machine.sleep(5)
    assert sample("flux_paused_seconds_total") == paused
    gone = (
        names.PAUSED,
        names.PAUSED_NAMES,
        names.WAITING,
        names.IN_FLIGHT,
        names.OPEN,
        names.IN_PLACE,
        names.PARTITIONS,
        names.READY,
    )
    assert [sample(each.name) for each in gone] == [0] * len(gone)
    assert [sample(each.name) for each in (names.LAG, names.DUE, names.POLL_AGE)] == [None] * 3
    watching.close()


def test_after_the_end_of_a_worker_no_name_is_paused() -> None:
    peer, watching = Peer(), Metrics(registry=None)

    def call(message: flux.Message) -> None:
        raise ValueError

    rate = flux.FailureRate(0.5, of=2, within=30, by=lambda message: "shop")
    worker = flux.Worker(peer.task(call, pause_when=rate), adapter=peer.adapter, system=peer.machine)
    watching.watch(worker)
    peer.write(*[b"bad"] * 5)
    with running(worker):
        wait_for(lambda: read(watching.text())("flux_paused_names") == 1, "it is paused")
    assert read(watching.text())("flux_paused_names") == 0
    watching.close()


@contextmanager
def running(worker: flux.Worker) -> Iterator[None]:
    thread = threading.Thread(target=worker.run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        worker.stop()
        thread.join(60)


def test_every_metric_is_named_in_one_place_and_every_one_is_there() -> None:
    peer = Peer()
    task = peer.task(work, retries=1, rate_limit=1000)
    watching = Metrics(registry=None)
    worker = flux.Worker(task, adapter=peer.adapter, system=peer.machine)
    watching.watch(worker)
    peer.write(b"bad")
    with running(worker):
        wait_for(lambda: "flux_lag_records{" in watching.text() and "flux_failures_total{" in watching.text(), "all")
        text = watching.text()
    watching.close()
    found = set(re.findall(r"^(flux_\w+?)(?:\{| )", text, re.MULTILINE))
    known = {series for metric in names.ALL for series in metric.series}
    from_elsewhere = {names.UP.name, names.BUFFERED.name, *names.BATCH.series}
    assert found - known == set()
    assert known - found <= from_elsewhere


@pytest.mark.parametrize("metric", [*names.ALL, *names.OUTBOX], ids=lambda metric: metric.name)
def test_names_follow_the_conventions(metric: names.Metric) -> None:
    assert metric.name.startswith("flux_")
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert (metric.kind == "histogram") == bool(metric.buckets)
    if metric.kind == "histogram":
        assert metric.name.endswith(("_seconds", "_records"))
    assert metric.help.endswith(".")


def test_lateness_is_counted_from_when_a_record_was_due(flux_kit: Kit) -> None:
    watching = Metrics(registry=None)
    task = flux.task(topic="orders", group_id="g", retries=1, wait=10, hooks=[watching])(work)
    now = flux_kit.clock.now()
    flux_kit.produce("orders", b"bad", timestamp=int((now - 3) * 1000))
    flux_kit.run(task)
    flux_kit.clock.advance(17)
    flux_kit.run(task)
    sample = read(watching.text())
    assert sample("flux_lateness_seconds_sum", stage=0) == pytest.approx(3)
    assert sample("flux_lateness_seconds_sum", stage=1) == pytest.approx(7)


def test_a_pause_is_there_from_its_first_call_to_its_end() -> None:
    peer, watching, away = Peer(), Metrics(registry=None), threading.Event()
    away.set()

    def call(message: flux.Message) -> None:
        if away.is_set():
            raise flux.Pause(1.0)

    worker = flux.Worker(peer.task(call), adapter=peer.adapter, system=peer.machine)

    def sample(name: str, **labels: object) -> float | None:
        return read(watching.text())(name, **labels)

    watching.watch(worker)
    peer.write(b"x")
    with running(worker):
        wait_for(lambda: (sample("flux_paused_seconds_total") or 0) > 2.5, "two tries have found it away")
        assert (sample("flux_paused", task="call"), sample("flux_pauses_total", task="call")) == (1, 1)
        assert sample("flux_calls_total", stage=0, result="failed") == 0
        assert sample("flux_call_duration_seconds_count") in (None, 0)
        away.clear()
        wait_for(lambda: sample("flux_paused") == 0, "it goes on")
        lasted = sample("flux_paused_seconds_total")
        wait_for(lambda: sample("flux_calls_total", stage=0, result="done") == 1, "it is done")
        assert sample("flux_paused_seconds_total") == lasted
        assert sample("flux_pauses_total") == 1
    watching.close()


def test_a_pause_by_somebody_is_one_too() -> None:
    peer, watching = Peer(), Metrics(registry=None)
    worker = flux.Worker(peer.task(lambda message: None), adapter=peer.adapter, system=peer.machine)
    watching.watch(worker)
    with running(worker):
        wait_for(lambda: worker.ready, "the start")
        control = worker.jobs[0].coordinator.control  # type: ignore[union-attr]
        control.hold({1: Hold("ada", "", 0.0, math.inf)})
        assert read(watching.text())("flux_paused") == 1
        control.hold({})
        assert read(watching.text())("flux_paused") == 0


def test_a_partition_whose_processes_vanished_is_counted() -> None:
    peer, watching = Peer(), Metrics(registry=None)
    task = peer.task(lambda message: None, max_crashes=2)
    vanished = CommittedOffset(0, OffsetTracker(0).metadata(Mark(1, None, 9)))
    peer.broker.set_committed_offset(task.group_id, TopicPartition(task.topic, 0), vanished)
    worker = flux.Worker(task, adapter=peer.adapter, system=peer.machine)
    watching.watch(worker)
    with running(worker):
        wait_for(lambda: worker.ready, "the start")
        wait_for(lambda: read(watching.text())("flux_crash_suspects", stage=0) == 1, "it is found")
        assert read(watching.text())("flux_crash_suspects", stage=1) == 0
    watching.close()


def test_the_rate_limit_is_the_one_in_force() -> None:
    peer, watching = Peer(), Metrics(registry=None)
    worker = flux.Worker(peer.task(lambda message: None, rate_limit=5), adapter=peer.adapter, system=peer.machine)
    watching.watch(worker)
    with running(worker):
        wait_for(lambda: worker.ready, "the start")
        control = worker.jobs[0].coordinator.control  # type: ignore[union-attr]
        assert read(watching.text())("flux_rate_limit") == 5
        control.set_rate(50.0, SetRate("ada", 50.0, math.inf))
        assert read(watching.text())("flux_rate_limit") == 50
        control.set_rate(None, SetRate("ada", None, math.inf))
        assert "flux_rate_limit{" not in watching.text()


def test_what_is_tried_in_place_and_what_expires_is_counted() -> None:
    peer, watching = Peer(), Metrics(registry=None)
    task = peer.task(work, retries=1, wait=0, in_place_retries=1, in_place_wait=40, give_up_after=3600)
    worker = flux.Worker(task, adapter=peer.adapter, system=peer.machine)

    def sample(name: str, **labels: object) -> float | None:
        return read(watching.text())(name, **labels)

    watching.watch(worker)
    assert sample("flux_dead_letters_total", stage=0, reason="expired") == 0
    peer.write(b"bad", ProducerRecord(b"old", timestamp=int((peer.machine.now() - 7200) * 1000)))
    with running(worker):
        wait_for(lambda: sample("flux_in_place_records", stage=0) == 1, "it waits")
        wait_for(lambda: sample("flux_dead_letters_total", stage=0, reason="expired") == 1, "the old one is dead")
        assert sample("flux_open_transfers", stage=0) == 0
    watching.close()


def test_a_batch_is_one_duration_and_one_size_and_each_of_its_records_a_call(flux_kit: Kit) -> None:
    watching = Metrics(registry=None)

    class Loading(flux.BatchTask):
        topic, group_id, retries, wait, max_batch = "orders", "g", 1, 0, 4
        hooks = [watching]

        def call(self, messages: Any) -> None:
            bad = {message: ValueError("bad") for message in messages if message.value == b"bad"}
            if bad:
                raise flux.BatchFailure(bad)

    for value in (b"1", b"bad", b"3", b"4", b"5"):
        Orders.produce(value)
    flux_kit.run_to_the_end(Loading)
    sample = read(watching.text())
    assert sample("flux_batch_records_count", stage=0) == 2
    assert sample("flux_batch_records_sum", stage=0) == 5
    assert sample("flux_batch_records_bucket", stage=0, le="2.0") == 1
    assert sample("flux_call_duration_seconds_count", stage=0) == 2
    assert sample("flux_call_duration_seconds_count", stage=1) == 1
    assert sample("flux_failures_total", stage=0, error="ValueError") == 1
    assert sample("flux_lateness_seconds_count", stage=0) == 5


def test_types_of_errors_are_bounded(flux_kit: Kit) -> None:
    def fail(message: flux.Message) -> None:
        raise type(f"Error{message.offset}", (Exception,), {})

    watching = Metrics(registry=None)
    for _ in range(MOST_ERRORS + 5):
        Orders.produce(b"x")
    flux_kit.run(flux.task(topic="orders", group_id="g", hooks=[watching])(fail))
    sample = read(watching.text())
    assert sample("flux_failures_total") == MOST_ERRORS + 5
    assert sample("flux_failures_total", error="other") == 5
    assert watching.text().count("flux_failures_total{") == MOST_ERRORS + 1


def test_what_producers_hold_is_shown_by_topic(flux_kit: Kit) -> None:
    watching = Metrics(registry=None)
    Orders.produce(b"x")
    Orders.produce(b"y")
    assert read(watching.text())("flux_producer_buffered_records", topic="orders") == 2


def test_a_program_finds_them_in_a_registry_of_its_own() -> None:
    registry, peer = CollectorRegistry(), Peer()
    watching = Metrics(registry)
    watching.watch(flux.Worker(peer.task(work), adapter=peer.adapter))
    assert registry.get_sample_value("flux_concurrency_limit", {"task": "work"}) == 10
    assert registry.get_sample_value("flux_ready") == 0
    with pytest.raises(ValueError, match="Duplicated"):
        Metrics(registry)
    watching.close()
    assert registry.get_sample_value("flux_ready") is None


def test_a_bucket_includes_its_upper_end() -> None:
    histogram = Histogram((0.5, 1))
    for value in (0, 0.5, 0.50001, 1, 7):
        histogram.observe(value)
    buckets, total = histogram.read()
    assert buckets == [("0.5", 2.0), ("1.0", 4.0), ("+Inf", 5.0)]
    assert total == pytest.approx(9.00001)


# ---- lag


def test_the_lag_of_the_main_topic_is_due_all_of_it() -> None:
    driver = Driver(0)
    driver.assign(0, 1)
    driver.poll(5, 6, 7)
    driver.work(driver.take())
    assert lag_of(driver.engine, {0: Watermarks(2, 20), 1: Watermarks(3, 10)}) == Lag(all=12 + 7, due=12 + 7)


def test_what_waits_in_a_retry_topic_is_lag_that_is_not_due_and_so_is_what_lies_behind_it() -> None:
    driver = Driver(1)
    driver.assign(0, 0)
    driver.poll(0, 1, 2)
    marks = {0: Watermarks(0, 10), 1: Watermarks(0, 4)}
    assert lag_of(driver.engine, marks) == Lag(all=14, due=4), "where nothing waits, what was not read may be due"
    driver.now += 20
    driver.take()
    assert lag_of(driver.engine, marks) == Lag(all=14, due=14)


def test_markers_of_transactions_beside_records_that_wait_are_not_due() -> None:
    driver = Driver(1)
    driver.assign(0)
    driver.poll(0, 2)
    driver.poll(7, 9)  # one marker each at 1, 3 and 8; three records of an aborted transaction, and its marker, at 4
    assert lag_of(driver.engine, {0: Watermarks(0, 11)}) == Lag(all=11, due=0)


def test_what_is_done_in_a_retry_topic_above_the_committed_offset_is_not_due() -> None:
    driver = Driver(1)
    driver.assign(CommittedOffset(0, OffsetTracker(0, [(1, 5)]).metadata()))
    driver.poll(0, 1, 2, 3, 4, 5)
    driver.now += 20
    driver.take()
    assert lag_of(driver.engine, {0: Watermarks(0, 6)}) == Lag(all=6, due=2)


def test_what_a_retry_topic_has_not_delivered_yet_may_be_due() -> None:
    driver = Driver(1)
    driver.assign(0)
    assert lag_of(driver.engine, {0: Watermarks(4, 10)}) == Lag(all=6, due=6)
    assert lag_of(driver.engine, {}) == Lag(all=0, due=0)


# ---- several processes

ONE = """# HELP flux_calls_total Calls.
# TYPE flux_calls_total counter
flux_calls_total{task="T",stage="0"} 3.0
# HELP flux_ready Ready.
# TYPE flux_ready gauge
flux_ready 1.0
# HELP mine Somebody's own.
# TYPE mine gauge
mine{process="x",text="a}{process=\\"b\\" 1"} 4.0 1700000000000
empty{} 5.0
"""


def test_samples_of_several_processes_keep_apart_and_families_come_once() -> None:
    merged = merge({0: ONE, 2: ONE})
    assert merged.count("# TYPE flux_calls_total counter") == 1
    sample = read(merged)
    for process in (0, 2):
        assert sample("flux_calls_total", process=process, task="T", stage=0) == 3
        assert sample("flux_ready", process=process) == 1
        assert sample("mine", process=process, exported_process="x", text='a}{process="b" 1') == 4
        assert sample("empty", process=process) == 5


@pytest.mark.skipif(
    shutil.which("promtool") is None and os.environ.get("CI", "").lower() != "true", reason="promtool is not installed"
)
def test_promtool_finds_nothing_wrong_with_what_is_served() -> None:
    watching, peer = Metrics(registry=None), Peer()
    worker = flux.Worker(peer.task(work), adapter=peer.adapter, system=peer.machine)
    watching.watch(worker)
    peer.write(b"good", b"bad")
    with running(worker):
        wait_for(lambda: "flux_lag_records{" in watching.text(), "the lag is known")
        text = watching.text()
    watching.close()
    served = metrics({0: Answer(200, text), 1: Answer(200, text)}).text
    command = ["promtool", "check", "metrics"]
    done = subprocess.run(command, input=served, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_a_process_that_does_not_answer_is_down_and_the_others_count() -> None:
    answer = metrics({0: Answer(200, ONE), 1: NoAnswer.ABSENT, 2: NoAnswer.HUNG})
    assert answer.status == 200
    sample = read(answer.text)
    assert [sample("flux_process_up", process=number) for number in range(3)] == [1, 0, 0]
    assert sample("flux_ready") == 1


def test_processes_without_the_package_say_so() -> None:
    assert metrics({0: Answer(404, "install it\n"), 1: NoAnswer.ABSENT}) == Answer(404, "install it\n")


OK = Answer(200, "ok\n")


@pytest.mark.parametrize(
    ("answers", "lives", "is_ready"),
    [
        ({0: OK, 1: OK}, "ok\n", "ok\n"),
        ({0: OK, 1: NoAnswer.ABSENT}, "ok\n", "process 1 is not running yet\n"),
        ({0: OK, 1: NoAnswer.HUNG}, *["process 1 has not answered within 3 s\n"] * 2),
        ({0: OK, 1: Answer(503, "stuck\nstarting\n")}, *["process 1: stuck\nprocess 1: starting\n"] * 2),
    ],
)
def test_all_processes_are_well_when_each_is(answers: dict[int, Any], lives: str, is_ready: str) -> None:
    assert live(answers) == Answer(200 if lives == "ok\n" else 503, lives)
    assert ready(answers) == Answer(200 if is_ready == "ok\n" else 503, is_ready)


def test_the_page_names_every_metric_with_its_labels() -> None:
    page = (Path(__file__).parents[3] / "docs" / "reference" / "metrics.md").read_text()
    rows = dict(re.findall(r"^\| `(flux_\w+)` \|([^|]*)\|", page, re.MULTILINE))
    everything = (*names.ALL, *names.OUTBOX)
    labels = {metric.name: ", ".join(f"`{label}`" for label in metric.labels) for metric in everything}
    assert {name: row.strip() for name, row in rows.items()} == labels


def test_records_of_any_kind_leave_labels_alone() -> None:
    peer = Peer()
    watching = Metrics(registry=None)
    task = peer.task(work, retries=0)
    worker = flux.Worker(task, adapter=peer.adapter, system=peer.machine)
    watching.watch(worker)
    peer.write(
        ProducerRecord(None), ProducerRecord(b'x"}\n\xff', b'k"\n'), ProducerRecord(b"x", None, [("h\n", b"\x00")])
    )
    with running(worker):
        wait_for(lambda: read(watching.text())("flux_call_duration_seconds_count") == 3, "worked")
    watching.close()
