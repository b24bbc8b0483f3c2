"""Reports: what a process publishes, what readers accept, and that nothing waits for it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import attrs
import pytest

import flux
from flux import config
from flux.adapters.memory import MemoryAdapter, forget
from flux.adapters.memory.log import MemoryRecord
from flux.core.errors import BrokerError, ConfigurationError, Fault
from flux.core.monitoring.report import (
    IN_PLACE,
    TOPIC,
    Call,
    Open,
    Report,
    ScheduleReport,
    StageReport,
)
from flux.core.ports import NewTopic, ProducerRecord
from flux.core.stage import Role, Stage
from flux.operate.status.reports import ReceivedReport, find_reported, latest_reports, read_reports
from flux.processes.heartbeat import ENVIRONMENT, Channel, report_topic
from unit.support.memory_support import ScriptedSystem
from unit.support.report_support import CALL, NOW_MS, OPEN, PAUSED, REPORT, STAGE

MAIN = Stage(0, "orders", "billing", Role.MAIN)


def written(value: bytes | None, age: float = 1.0, key: bytes = REPORT.key) -> MemoryRecord:
    return MemoryRecord(TOPIC, 0, 0, ProducerRecord(value, key), (2, NOW_MS - int(age * 1000)))


def test_what_is_no_report_is_ignored() -> None:
    assert latest_reports([written(b"[]"), written(b"")], NOW_MS) == []


def test_of_each_process_the_newest_report_counts() -> None:
    newer = attrs.evolve(REPORT, memory=1)
    other = attrs.evolve(REPORT, pid=1)
    found = latest_reports(
        [written(REPORT.to_json(), 6), written(other.to_json(), 3, other.key), written(newer.to_json(), 2)], NOW_MS
    )
    assert [(each.report.pid, each.report.memory, each.age) for each in found] == [(1, 50_000_000, 3), (4711, 1, 2)]


def test_a_process_that_ended_well_is_gone_and_one_that_is_silent_too() -> None:
    assert latest_reports([written(REPORT.to_json()), written(None)], NOW_MS) == []
    assert latest_reports([written(REPORT.to_json(), age=21)], NOW_MS) == []
    assert len(latest_reports([written(REPORT.to_json(), age=19)], NOW_MS)) == 1


def test_a_call_is_found_by_its_record_and_has_run_since_the_report_too() -> None:
    found = find_reported(latest_reports([written(REPORT.to_json(), age=3)], NOW_MS), MAIN, 3, 17)
    assert found is not None
    assert (found.what, found.process, found.seconds) == (CALL, "host-1 pid 4711", 15.5)
    [reports] = [latest_reports([written(REPORT.to_json(), age=3)], NOW_MS)]
    assert find_reported(reports, MAIN, 3, 18) is None
    assert find_reported(reports, Stage(1, "orders", "others", Role.RETRY), 3, 17) is None
    of_hop = find_reported(reports, MAIN, 3, 9)
    assert of_hop is not None
    assert of_hop.what == OPEN


def test_a_report_is_narrowed_to_the_stages_of_a_task_and_to_what_is_not_done() -> None:
    tried = Open(3, 8, None, 3, "orders", IN_PLACE, 2, 1.5)
    foreign = attrs.evolve(STAGE, topic="invoices")
    mine = attrs.evolve(STAGE, open=(OPEN, tried), in_place=1)
    report = ReceivedReport(attrs.evolve(REPORT, stages=(foreign, mine)), 1.0)
    places = {("orders", "billing")}

    def narrowed(*done: int) -> StageReport:
        found = report.narrowed(places, lambda stage, partition, offset: partition == 3 and offset in done)
        assert found is not None
        [stage] = found.report.stages
        return stage

    assert narrowed() == mine
    assert (narrowed(17).calls, narrowed(17).in_flight, narrowed(17).open) == ((), 0, mine.open)
    assert (narrowed(8).open, narrowed(8).in_place, narrowed(8).on_their_way) == ((OPEN,), 0, 1)
    assert (narrowed(9).open, narrowed(9).in_place, narrowed(9).on_their_way) == ((tried,), 1, 0)
    assert report.narrowed({("orders", "others")}, lambda *_: False) is None


def test_a_record_that_waits_to_be_tried_in_place_is_found_by_itself() -> None:
    tried = attrs.evolve(STAGE, calls=(), open=(Open(3, 9, None, 3, "orders", IN_PLACE, 2, 1.5),), in_place=1)
    found = find_reported([ReceivedReport(attrs.evolve(REPORT, stages=(tried,)), 1.0)], MAIN, 3, 9)
    assert found is not None
    assert (found.reason, found.seconds) == ("it is tried again in place, after 2 failures", 2.5)


def test_a_record_that_its_next_topic_refuses_is_reported_with_the_fix() -> None:
    why = "too large: raise max.message.bytes of orders-billing-dlq"
    refused = attrs.evolve(STAGE, calls=(), open=(attrs.evolve(OPEN, refused=why),))
    [report] = [Report.from_json(attrs.evolve(REPORT, stages=(refused,)).to_json())]
    assert report is not None
    found = find_reported([ReceivedReport(report, 1.0)], MAIN, 3, 9)
    assert found is not None
    assert found.reason == f"orders-billing-dlq refuses its copy ({why})"


def test_what_a_paused_task_has_waits_for_the_end_of_the_pause() -> None:
    reports = [ReceivedReport(attrs.evolve(REPORT, stages=(PAUSED,)), 2.0)]
    found = find_reported(reports, MAIN, 3, 100)
    assert found is not None
    assert (found.reason, found.seconds) == ("its task is paused by ConnectionError", 92.0)
    assert find_reported(reports, MAIN, 4, 100) is None, "another process has that partition"


def test_the_topic_is_the_named_one_the_environments_or_the_usual_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    assert (report_topic(False), report_topic(None)) == (None, None)
    assert (report_topic(True), report_topic("mine")) == (TOPIC, "mine")
    monkeypatch.setenv(ENVIRONMENT, "theirs")
    assert (report_topic(True), report_topic("mine")) == ("theirs", "mine")
    with pytest.raises(ConfigurationError, match="topic 'no topic'"):
        report_topic("no topic")


# -- written by a worker


class Orders(flux.Producer):
    topic = "orders"


@pytest.fixture
def cluster() -> Any:
    adapter = MemoryAdapter("reports")
    for topic in ("orders", "orders-billing-dlq"):
        adapter.broker.create_topic(topic)
    flux.configure(adapter=adapter)
    yield adapter
    config.reset()
    forget("reports")


def wait_for(condition: Callable[[], object]) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


def reports_in(adapter: MemoryAdapter, topic: str = TOPIC) -> list[Report | None]:
    return [
        None if (value := record.value()) is None else Report.from_json(value)
        for record in adapter.broker.records(topic)
    ]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_worker_reports_the_running_call_and_removes_its_report_at_the_end(
    cluster: MemoryAdapter, monkeypatch: pytest.MonkeyPatch, asynchronous: bool
) -> None:
    monkeypatch.setattr("flux.processes.heartbeat.EVERY", 0.02)
    entered, go = threading.Event(), threading.Event()

    def call(message: flux.Message) -> None:
        if message.value == b"stuck":
            entered.set()
            go.wait(60)

    async def call_async(message: flux.Message) -> None:
        if message.value == b"stuck":
            entered.set()
            while not go.is_set():
                await asyncio.sleep(0.01)

    task = flux.task(topic="orders", group_id="billing", retries=0)(call_async if asynchronous else call)
    for value in (b"quick", b"stuck", b"behind"):
        Orders.produce(value, key="ada-secretless")
    Orders.flush()
    worker = flux.Worker(task, report=True, process=2)
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        assert entered.wait(60)

        def shown() -> list[Call]:
            found = [each for each in reports_in(cluster) if each is not None]
            return [call for each in found for stage in each.stages for call in stage.calls if call.offset == 1]

        wait_for(lambda: any(call.seconds >= 0.1 for call in shown()))
        call_ = shown()[-1]
        assert (call_.partition, call_.offset, call_.key, call_.attempt) == (0, 1, "ada-secretless", 1)

        def stages() -> list[tuple[str, int, int]]:
            [mine] = read_reports(cluster, cluster.admin(), TOPIC) or []
            return [(stage.partitions, stage.done, stage.in_flight) for stage in mine.of(task.policy().stages[0])]

        wait_for(lambda: stages() == [("0", 1, 1)])  # on a busy machine the run is accounted for somewhat later
        [mine] = read_reports(cluster, cluster.admin(), TOPIC) or []
        assert (mine.report.process, mine.report.name.endswith("(process 2)")) == (2, True)
        assert not any(b"stuck" in (record.value() or b"") for record in cluster.broker.records(TOPIC))
    finally:
        go.set()
        worker.stop()
        thread.join(60)
    assert reports_in(cluster)[-1] is None
    assert read_reports(cluster, cluster.admin(), TOPIC) == []
    assert len({record.key() for record in cluster.broker.records(TOPIC)}) == 1
    config_ = cluster.admin().topic_config(TOPIC, 1)
    assert "compact" in config_["cleanup.policy"]


def test_a_batch_is_one_call_with_so_many_records(cluster: MemoryAdapter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flux.processes.heartbeat.EVERY", 0.02)
    go = threading.Event()

    class Loading(flux.BatchTask):
        topic, group_id, retries, max_batch = "orders", "billing", 0, 3

        def call(self, messages: Any) -> None:
            go.wait(60)

    for _ in range(3):
        Orders.produce(b"x")
    Orders.flush()
    worker = flux.Worker(Loading, report=True)
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        stage = Loading.policy().stages[0]
        wait_for(lambda: find_reported(read_reports(cluster, cluster.admin(), TOPIC) or [], stage, 0, 0))
        found = find_reported(read_reports(cluster, cluster.admin(), TOPIC) or [], stage, 0, 0)
        assert found is not None
        assert found.reason == "its call is running with 3 records"
    finally:
        go.set()
        worker.stop()
        thread.join(60)


def test_a_worker_reports_the_last_tick_of_its_schedules(
    cluster: MemoryAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flux.processes.heartbeat.EVERY", 0.02)
    task = flux.task(topic="orders", group_id="billing", retries=1)(lambda message: None)
    task.every(seconds=1, name="often")
    worker = flux.Worker(task, report=True, create_topics=True)
    thread = threading.Thread(target=worker.run)
    thread.start()

    def reported() -> list[ScheduleReport]:
        found = [stage for each in reports_in(cluster) if each is not None for stage in each.stages]
        assert not any(stage.schedules for stage in found if stage.stage != 1)
        return [each for stage in found for each in stage.schedules]

    try:
        wait_for(reported)
        last = reported()[-1]
        assert (last.schedule, last.tick % 1000, last.called) == ("often: every 1 s", 0, True)
        assert last.started >= last.tick
    finally:
        worker.stop()
        thread.join(60)


def test_a_worker_reports_that_it_is_paused_by_what_and_what_is_tried_in_place(
    cluster: MemoryAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flux.processes.heartbeat.EVERY", 0.02)
    away = threading.Event()
    away.set()

    def call(message: flux.Message) -> None:
        if message.value == b"flaky":
            raise ValueError("flaky")
        if message.value == b"away" and away.is_set():
            raise flux.Pause(0.05) from ConnectionError("no route")

    task = flux.task(topic="orders", group_id="billing", retries=0, in_place_retries=3, in_place_wait=20)(call)
    Orders.produce(b"flaky", key="ada")
    Orders.flush()
    worker = flux.Worker(task, report=True)
    thread = threading.Thread(target=worker.run)
    thread.start()

    def shown() -> StageReport:
        found = [stage for report in reports_in(cluster) if report is not None for stage in report.stages]
        return found[-1] if found else STAGE

    try:
        wait_for(lambda: shown().in_place == 1 and shown().open[0].seconds >= 0.2)
        [open_] = shown().open
        assert (open_.offset, open_.attempt, open_.target, open_.state, open_.failures) == (0, 1, "orders", IN_PLACE, 1)
        assert (open_.seconds < 10, shown().on_their_way) == (True, 0)
        Orders.produce(b"away")
        Orders.flush()
        wait_for(lambda: (paused := shown().paused) is not None and paused.seconds >= 0.1)
        paused = shown().paused
        assert paused is not None
        assert (paused.error, paused.tried_in is None or 0 <= paused.tried_in <= 0.1) == ("ConnectionError", True)
        away.clear()
        wait_for(lambda: shown().done == 1 and shown().paused is None)
    finally:
        away.clear()
        worker.stop()
        thread.join(60)


def test_reports_that_cannot_be_written_do_not_disturb_calls(
    cluster: MemoryAdapter, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("flux.processes.heartbeat.EVERY", 0.01)
    denied = BrokerError("no permission", Fault.DENIED)
    cluster.broker.fail_writes(lambda topic, partition, record: denied if topic == TOPIC else None)
    done: list[bytes] = []

    def call(message: flux.Message) -> None:
        done.append(message.value)
        time.sleep(0.05)

    for number in range(4):
        Orders.produce(b"%d" % number)
    Orders.flush()
    task = flux.task(topic="orders", group_id="billing", retries=0)(call)
    assert flux.Worker(task, report=True, exit_when_idle=0.1).run() == 0
    assert sorted(done) == [b"0", b"1", b"2", b"3"]
    shown = [record.message for record in caplog.records if record.name == "flux.report"]
    assert shown == [f"reports cannot be written to {TOPIC}: no permission; trying again, tasks continue"]


def test_a_worker_reports_only_if_configured(cluster: MemoryAdapter) -> None:
    task = flux.task(topic="orders", group_id="billing", retries=0)(lambda message: None)
    assert flux.Worker(task, exit_when_idle=0.0).run() == 0
    assert TOPIC not in cluster.admin().topic_names(1)
    assert read_reports(cluster, cluster.admin(), TOPIC) is None


# -- the channel, in time that nobody waits for


class Refusing(MemoryAdapter):
    """A cluster on which the topic may not be made."""

    def admin(self) -> Any:
        admin = super().admin()

        def create(topics: list[NewTopic], timeout: float) -> None:
            raise BrokerError("cannot create", Fault.DENIED)

        admin.create_topics = create  # type: ignore[method-assign, assignment]
        return admin


def test_a_topic_that_may_not_be_created_is_logged_with_its_remedy(caplog: pytest.LogCaptureFixture) -> None:
    forget("refusing")
    channel = Channel(Refusing("refusing", system=ScriptedSystem()), "r", "orders")
    channel.write(b"k", b"v", 100.0)
    [line] = [record.message for record in caplog.records]
    assert line.startswith("reports cannot be written to r: cannot create: create it, with cleanup.policy=compact")


def test_a_failure_is_tried_again_less_and_less_often(caplog: pytest.LogCaptureFixture) -> None:
    forget("refusing")
    adapter = Refusing("refusing", system=ScriptedSystem())
    channel, tries = Channel(adapter, "r", "orders"), []
    admin = adapter.admin
    adapter.admin = lambda: tries.append(1) or admin()  # type: ignore[method-assign, func-returns-value]
    for second in range(0, 200, 5):
        channel.write(b"k", b"v", 1000.0 + second)
    assert 4 <= len(tries) <= 8
    assert len(caplog.records) == 1
    channel.write(b"k", b"v", 500.0)
    assert len(tries) > 4, "a clock that was set back does not silence it for long"


def test_a_topic_that_was_deleted_is_made_again(cluster: MemoryAdapter) -> None:
    channel = Channel(cluster, TOPIC, "orders")
    channel.write(b"k", b"1", 100.0)
    cluster.broker.delete_topic(TOPIC)
    cluster.broker.fail_writes(lambda *_: BrokerError("no such topic", Fault.UNKNOWN_TOPIC))
    channel.write(b"k", b"2", 105.0)
    cluster.broker.fail_writes(None)
    cluster.broker.delete_topic(TOPIC)  # which the write that was refused has made, as brokers may
    channel.write(b"k", b"3", 200.0)
    assert [record.value() for record in cluster.broker.records(TOPIC)] == [b"3"]
    assert "compact" in cluster.admin().topic_config(TOPIC, 1)["cleanup.policy"]
