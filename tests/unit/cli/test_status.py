"""flux status: its tables, lines and objects, and the end of --watch."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

import attrs
import pytest
from rich.text import Text

from flux.adapters.memory import MemoryAdapter
from flux.adapters.memory.admin import MemoryAdmin
from flux.cli.status import Watched
from flux.cli.status_output import as_object, lines, parts, summary
from flux.consuming.open_transactions import HeldBack
from flux.core.engine.crashes import Mark
from flux.core.engine.offset_tracker import OffsetTracker
from flux.core.errors import BrokerError, Fault
from flux.core.monitoring.report import TOPIC, Call, Limited, Paused, Report, StageReport
from flux.core.ports import CommittedOffset, ProducerRecord, ProducerSettings, TopicPartition, Watermarks
from flux.core.stage import Role, Stage
from flux.core.text import one_line
from flux.operate.held_keys import HeldKey, HeldKeys
from flux.operate.status.records import Counted
from flux.operate.status.reports import ReceivedReport
from flux.operate.status.schedules import ScheduleStatus
from flux.operate.status.task_status import StageStatus, TaskStatus
from unit.support.cli_support import Flux, flux_cli, only_line

__all__ = ["flux_cli"]

TASK = """
    import flux
    class Billing(flux.Task):
        topic, group_id, retries, wait = "orders", "billing", 1, 60
        def call(self, message): pass
"""
EVIL = "\x1b[31mred\x07\u202e"
RETRY = "orders-billing-try-1"


class Desk:
    def __init__(self, flux_cli: Flux) -> None:
        self.cli, self.broker = flux_cli, flux_cli.broker
        self.file = flux_cli.file(TASK)
        for topic in ("orders", RETRY, "orders-billing-dlq"):
            self.broker.create_topic(topic)
        self.producer = MemoryAdapter(flux_cli.url.removeprefix("memory://")).producer(ProducerSettings())
        self.write("orders", *(ProducerRecord(b"v", EVIL.encode(), partition=0) for _ in range(4)))

    def write(self, topic: str, *records: ProducerRecord) -> None:
        self.producer.write(topic, records, lambda error, record: None)

    def report(
        self,
        call: Call,
        paused: Paused | None = None,
        in_place: int = 0,
        done_to: Mapping[str, int] | None = None,
        limited: tuple[Limited, ...] = (),
    ) -> None:
        counts: dict[str, Any] = dict.fromkeys(("done", "failed", "retried", "dead", "waiting", "on_their_way"), 0)
        stage = StageReport(
            task="Billing",
            stage=0,
            topic="orders",
            group="billing",
            partitions="0",
            done_rate=12.34,
            failed_rate=0.0,
            due_in=None,
            in_flight=1,
            calls=(call,),
            open=(),
            paused=paused,
            in_place=in_place,
            limited=limited,
            done_to=done_to or {},
            **counts,
        )
        report = Report(f"host{EVIL}", 7, 0, "1.2", 5, 5.0, 80_000_000, (stage,))
        self.write(TOPIC, ProducerRecord(report.to_json(), report.key))

    def __call__(self, *args: str) -> str:
        done = self.cli("status", "--load", self.file, "--adapter", self.cli.url, *args)
        assert done.exit_code == 0, done.output
        return done.stdout

    def object(self, *args: str) -> Any:
        return json.loads(only_line(self("--json", *args)))


@pytest.fixture
def desk(flux_cli: Flux) -> Desk:
    return Desk(flux_cli)


def test_it_names_what_blocks_a_committed_offset(desk: Desk) -> None:
    position = CommittedOffset(0, OffsetTracker(0, [(1, 3)]).metadata())
    desk.broker.set_committed_offset("billing", TopicPartition("orders", 0), position)
    desk.report(Call(0, 0, EVIL, 1, 300.0))
    out = desk()
    assert "orders[0]@0" in out
    assert "its call is running on host" in out
    assert "5.0 minutes" in out
    assert "80 MB" in out
    assert not set("\x1b\x07\u202e") & set(out)
    assert desk.object()["stages"][0]["done_above"] == {"0": 2}
    [blockers] = desk.object()["blockers"]
    assert (blockers["partition"], blockers["offset"], blockers["attempt"], blockers["behind"]) == (0, 0, 1, 1)
    assert (blockers["process"], 299 < blockers["seconds"] < 330) == (f"host{EVIL} pid 7 (process 0)", True)


def test_a_pause_is_shown_with_its_reason_and_its_next_try(desk: Desk) -> None:
    assert desk.object()["paused"] == []
    desk.report(Call(0, 0, None, 1, 1.0), Paused(f"ConnectionError{EVIL}", 300.0, 50.0))
    out = desk()
    assert "ConnectionError" in out
    assert "5.0 minutes" in out
    assert any(f"in {seconds} seconds" in out for seconds in range(30, 51))
    assert not set("\x1b\x07\u202e") & set(out)
    [paused] = desk.object()["paused"]
    assert (paused["process"], paused["error"]) == (f"host{EVIL} pid 7 (process 0)", f"ConnectionError{EVIL}")
    assert 299 < paused["seconds"] < 330
    assert desk.object()["processes"][0]["stages"][0]["paused"]["error"] == f"ConnectionError{EVIL}"


def test_what_limits_hold_back_is_shown_by_name(desk: Desk) -> None:
    assert desk.object()["limited"] == []
    desk.report(Call(0, 0, None, 1, 1.0), limited=(Limited("rate_limit_key", f"acme{EVIL}", 1800),))
    out = desk()
    assert re.search(r"acme.*rate_limit_key.*1,800", out)
    assert not set("\x1b\x07\u202e") & set(out)
    assert desk.object()["limited"] == [{"setting": "rate_limit_key", "name": f"acme{EVIL}", "records": 1800}]


def test_what_is_done_and_not_committed_is_in_the_sum(desk: Desk) -> None:
    assert "not committed" not in desk()
    assert desk.object()["stages"][0]["uncommitted"] == 0
    desk.report(Call(0, 3, None, 1, 1.0), done_to={"0": 3})
    assert desk.object()["stages"][0]["uncommitted"] == 3
    assert "3 offsets done and not committed yet" in desk()
    desk.broker.set_committed_offset("billing", TopicPartition("orders", 0), CommittedOffset(2))
    assert "1 offset done and not committed yet" in desk()


def test_what_is_tried_in_place_is_in_the_sum(desk: Desk) -> None:
    assert "in place" not in desk()
    desk.report(Call(0, 0, None, 1, 1.0), in_place=1234)
    assert "0 dead letters, 1,234 records waiting for a retry in place" in desk()


def test_rates_and_processes_are_shown_where_workers_report(desk: Desk) -> None:
    assert desk.object()["processes"] is None
    assert "no worker reports: start workers with --report" in desk()
    desk.write(TOPIC, ProducerRecord(None, b"ended"))
    assert "no worker reports now: start workers with --report" in desk()
    desk.report(Call(0, 0, None, 1, 1.0))
    shown = desk.object()
    assert (shown["stages"][0]["done_rate"], shown["stages"][1]["done_rate"]) == (12.34, None)
    assert [process["version"] for process in shown["processes"]] == ["1.2"]


def test_reports_may_be_in_another_topic(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.report(Call(0, 0, None, 1, 1.0))
    assert desk.object("--report-topic", "others")["processes"] is None
    monkeypatch.setenv("FLUX_REPORT_TOPIC", "others")
    assert desk.object()["processes"] is None


def test_a_retry_stage_shows_what_waits_and_when_the_next_is_due(desk: Desk) -> None:
    desk.write(RETRY, ProducerRecord(b"v", b"k", (), 0, int(time.time() * 1000) - 10_000))
    shown = desk.object()["stages"][1]
    assert (shown["lag"], shown["waiting"], shown["oldest_unfinished"]["0"]["attempt"]) == (1, 1, 2)
    assert 45 < shown["next_due"] / 1000 - time.time() <= 50
    assert "in 49 seconds" in (out := desk()) or "in 50 seconds" in out, out
    assert "1 record in retry topics (1 not due yet), 0 dead letters" in out


def test_the_json_output_has_its_documented_fields(desk: Desk) -> None:
    shown = desk.object()
    assert {"task", "stages", "dead_letters"} <= shown.keys()
    assert all(
        {"stage", "role", "topic", "group", "exists", "committed_offset", "end", "lag"} <= each.keys()
        for each in shown["stages"]
    )


# -- watch

WATCHED = """
import os, signal, sys, threading
from flux.adapters.memory import MemoryAdapter
from flux.adapters.memory.admin import MemoryAdmin
from flux.cli.main import main
broker = MemoryAdapter("w").broker
for topic in ("orders", "orders-billing-try-1", "orders-billing-dlq"):
    broker.create_topic(topic)
main()
"""


def watching(desk: Desk, *args: str, **options: Any) -> subprocess.Popen[Any]:
    command = ["status", "--load", desk.file, "--adapter", "memory://w", "--watch", "--every", "0.2", *args]
    return subprocess.Popen([sys.executable, "-c", WATCHED, *command], **options)


def test_watch_prints_lines_where_there_is_no_terminal_and_ctrl_c_ends_it_with_0(desk: Desk) -> None:
    process = watching(desk, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(7)]
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert "stage 0 orders: lag 0, members 0" in lines[0]
    assert "done 0/s" in lines[3], "rates are known from the second look on"
    assert "dead letters: 0" in lines[2]


def test_a_line_shows_what_limits_hold_back() -> None:
    shown = StageReport("Billing", 0, "orders", "billing", "0", 0, 0, 0, 0, 0.0, 0.0, 0, None, 0, (), 0, ())
    shown = attrs.evolve(shown, limited=(Limited("rate_limit_key", EVIL, 1800),))
    received = ReceivedReport(Report("host", 7, None, "1", 0, 5.0, None, (shown,)), 1.0)
    stage = Stage(0, "orders", "billing", Role.MAIN)
    *_, line = lines(TaskStatus(0.0, [StageStatus(stage, True)], None, [received]), [], None)
    assert line == f"00:00:00Z held back: 1,800 of {one_line(EVIL)}, by rate_limit_key"


def test_held_keys_are_shown_with_what_holds_them() -> None:
    stage = Stage(0, "orders", "billing", Role.MAIN)
    first = [HeldKey(b"ada", 3, 1207, 3, 100_000, True, 14), HeldKey(EVIL.encode(), 0, 7, 2, 220_000, False, 0)]
    held = HeldKeys(2, 1, 16, first)
    found = TaskStatus(160.0, [StageStatus(stage, True)], None, None, held_keys=held)
    by_dead = "ada by 3:1207, a dead letter for 1.0 minute: replay or reject it; 14 records behind it"
    waiting = f"{one_line(EVIL)} by 0:7, in stage 2, due in 1.0 minute; 0 records behind it"
    assert list(lines(found, [], None))[-2:] == [f"00:02:40Z held key: {each}" for each in (by_dead, waiting)]
    shown = [part.plain for part in parts(found, [], None) if isinstance(part, Text)]
    assert [f"held key {each}" for each in (by_dead, waiting)] == [each for each in shown if "held key " in each]
    described = as_object("Billing", found, [], None)["held_keys"]
    assert (described["keys"], described["first"][0]["key"], described["first"][0]["behind"]) == (2, "ada", 14)
    assert as_object("Billing", attrs.evolve(found, held_keys=None), [], None)["held_keys"] is None


def test_a_line_shows_a_pause() -> None:
    received = ReceivedReport(Report("host", 7, None, "1", 0, 5.0, None, ()), 1.0)
    stage = Stage(0, "orders", "billing", Role.MAIN)
    shown = StageReport("Billing", 0, "orders", "billing", "0", 0, 0, 0, 0, 0.0, 0.0, 0, None, 0, (), 0, ())
    for paused, says in (
        (Paused(EVIL, 29.0, 11.0), "for 30 seconds; next try in 10 seconds"),
        (Paused(EVIL, 29.0, None), "for 30 seconds; next try now"),
        (Paused(EVIL, 29.0, None, commanded=True), "for 30 seconds; until flux resume"),
        (Paused(EVIL, 29.0, None, commanded=True, ends_in=61.0), "for 30 seconds; ends in 1.0 minute"),
    ):
        reports = [
            attrs.evolve(received, report=attrs.evolve(received.report, stages=(attrs.evolve(shown, paused=paused),)))
        ]
        *_, line = lines(TaskStatus(0.0, [StageStatus(stage, True)], None, reports), [], None)
        assert line == f"00:00:00Z paused: host pid 7, by {one_line(EVIL)}, {says}"


def test_what_an_open_transaction_holds_back_is_named_with_a_command_to_paste() -> None:
    stage = Stage(0, "orders", "billing", Role.MAIN)
    held = HeldBack(TopicPartition("orders", 1), 17, 100.0, "kafka://a:9092")
    found = TaskStatus(160.0, [StageStatus(stage, True)], None, None, held_back=[held])
    *_, line = lines(found, [], None)
    says = (
        "orders[1]: an open transaction holds back all records from offset 17 on, for 1.0 minute:"
        " `kafka-transactions.sh --bootstrap-server a:9092 describe-producers --topic orders --partition 1`"
        " names its producer: end it, or wait for its transaction.timeout.ms"
    )
    assert line == f"00:02:40Z held back: {says}"
    assert [says] == [
        part.plain for part in parts(found, [], None) if isinstance(part, Text) and "holds back" in part.plain
    ]
    [shown] = as_object("Billing", found, [], None)["held_back"]
    assert shown == {
        "topic": "orders",
        "partition": 1,
        "offset": 17,
        "seconds": 60.0,
        "remedy": held.remedy,
    }


def test_partitions_whose_processes_vanished_are_named_with_what_is_called_alone() -> None:
    committed = {
        number: CommittedOffset(5, OffsetTracker(5).metadata(Mark(2, 7, 9) if number < 22 else Mark(0)))
        for number in range(30)
    }
    found = TaskStatus(0.0, [StageStatus(Stage(0, "orders", "billing", Role.MAIN), True, committed)], None, None)
    says = "2 crashes: records below offset 9 are called alone; the record at offset 7 is called alone now"
    crashed = [line for line in lines(found, [], None) if " crashed: " in line]
    assert (len(crashed), crashed[3]) == (20, f"00:00:00Z crashed: orders[3]: {says}")
    texts = [part.plain for part in parts(found, [], None) if isinstance(part, Text)]
    assert f"orders[19]: {says}" in texts
    assert f"orders[20]: {says}" not in texts
    assert "and 2 more: see --json" in texts
    shown = as_object("Billing", found, [], None)["crashes"]
    assert len(shown) == 22
    assert shown[3] == {"topic": "orders", "partition": 3, "crashes": 2, "alone": 7, "until": 9, "rests": False}


def test_figures_that_may_be_less_are_marked() -> None:
    stage = Stage(1, "orders-try-1", "billing-1", Role.RETRY)
    found = TaskStatus(
        0.0, [StageStatus(stage, True, {}, {0: Watermarks(0, 12_000)})], {0: Counted(0, 12_000, 0, 0)}, None, True
    )
    first, second = lines(found, [], None)
    assert "lag ≤ 12,000" in first
    assert "dead letters: ≤ 12,000" in second
    assert summary(found).startswith("at most 12,000 records in retry topics (0 not due yet), at most 12,000 dead")
    shown = as_object("Billing", found, [], None)
    assert (shown["dead_letters"], shown["dead_letters_exact"], shown["stages"][0]["lag_exact"]) == (
        12_000,
        False,
        False,
    )


def test_watch_prints_objects_for_machines(desk: Desk) -> None:
    process = watching(desk, "--json", stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    looks = [json.loads(process.stdout.readline()) for _ in range(2)]
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert [read_status["stages"][0]["done_rate"] for read_status in looks] == [None, 0.0]


def test_watch_stays_on_a_terminal_and_leaves_it_as_it_was(desk: Desk) -> None:
    ours, theirs = pty.openpty()
    process = watching(desk, stdout=theirs, stderr=theirs, stdin=theirs, env={**os.environ, "TERM": "xterm"})
    os.close(theirs)
    shown = b""
    until = time.monotonic() + 60
    interrupted = False
    while time.monotonic() < until:
        ready, _, _ = select.select([ours], [], [], 0.1)
        if ready:
            try:
                data = os.read(ours, 65536)
            except OSError:
                break
            if not data:
                break
            shown += data
        if shown.count(b"dead letters") >= 4 and not interrupted:
            interrupted = True
            process.send_signal(signal.SIGINT)
        if process.poll() is not None and not ready:
            break
    os.close(ours)
    assert process.wait(60) == 0
    assert b"Traceback" not in shown
    assert b"\x1b[?25h" in shown, "the cursor is back"


@pytest.mark.parametrize(("args", "says"), [(["--every", "0"], "--every"), (["--every", "x"], "--every")])
def test_wrong_usage_is_one_line(desk: Desk, args: list[str], says: str) -> None:
    done = desk.cli("status", "--load", desk.file, "--adapter", desk.cli.url, *args)
    assert (done.exit_code, says in only_line(done.stderr)) == (2, True)


def test_several_tasks_are_shown_by_name(desk: Desk) -> None:
    more = "\n    class Shipping(Billing):\n        group_id = 'shipping'\n"
    desk.file = desk.cli.file(TASK + more)
    assert [json.loads(line)["task"] for line in desk("--json").splitlines()] == ["Billing", "Shipping"]
    assert [json.loads(line)["task"] for line in desk("--json", "Shipping").splitlines()] == ["Shipping"]
    shown = [line.strip() for line in desk("Billing", "Shipping").splitlines()]
    assert shown.index("Billing") < shown.index("Shipping")
    assert "Billing" not in desk("Billing")


def test_watched_lines_name_their_task_if_there_are_several(desk: Desk) -> None:
    more = "\n    class Shipping(Billing):\n        group_id = 'shipping'\n"
    desk.file = desk.cli.file(TASK + more)
    tasks = [Watched(name, "", lambda before: found, named) for name, named in (("Billing", True), ("Shipping", False))]
    found = TaskStatus(0.0, (), None, None)
    for task in tasks:
        task.read()
    assert [list(task.lines()) for task in tasks] == [
        ["00:00:00Z Billing: dead letters: 0"],
        ["00:00:00Z dead letters: 0"],
    ]


def test_an_error_names_the_cluster_that_it_is_of(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = "\n    class Elsewhere(Billing):\n        adapter = 'memory://another-status'\n"

    def gone(*_: object) -> Any:
        raise BrokerError("gone", Fault.UNAVAILABLE)

    monkeypatch.setattr(MemoryAdmin, "topic_names", gone)
    done = desk.cli("status", "--load", desk.cli.file(TASK + elsewhere), "--adapter", desk.cli.url)
    assert done.exit_code == 1
    assert only_line(done.stderr) == f"flux: {desk.cli.url} cannot be reached: gone"


# -- schedules

SCHEDULED = """
    import flux
    class Reports(flux.Task):
        topic, group_id, retries = "reports", "office", 1
        def call(self, message): pass
    Reports.every(seconds=3600, name="hourly")
    Reports.every(seconds=7200, name="never-started")
"""
TICK = 1_800_000_000_000


def test_schedules_are_shown_with_the_next_tick_the_last_one_and_what_was_missed(flux_cli: Flux) -> None:
    topic = "reports-office-try-1"
    for name in ("reports", topic, "reports-office-dlq"):
        flux_cli.broker.create_topic(name)
    headers = [(b"flux-due", b"%d" % TICK), (b"flux-attempts", b"0"), (b"flux-tick", b"%d" % TICK)]
    last = b"%d %d" % (TICK - 4 * 3_600_000, TICK - 2 * 3_600_000)
    headers += [(b"flux-last-tick", last), (b"flux-schedule", b"hourly: every 3600 s")]
    adapter = MemoryAdapter(flux_cli.url.removeprefix("memory://"))
    record = ProducerRecord(b"v", b"k", [(name.decode(), value) for name, value in headers])
    adapter.producer(ProducerSettings()).write(topic, [record], lambda error, record: None)

    def shown(*args: str) -> str:
        done = flux_cli("status", "--load", flux_cli.file(SCHEDULED), "--adapter", flux_cli.url, *args)
        assert done.exit_code == 0, done.output
        return done.stdout

    hourly, never = json.loads(shown("--json"))["schedules"]
    assert (hourly["name"], hourly["when"], hourly["next_tick"]) == ("hourly", "every 3600 s", TICK)
    assert (hourly["last_tick"], hourly["late"], hourly["called"]) == (TICK - 4 * 3_600_000, 7200.0, True)
    assert (hourly["missed"], hourly["not_called"]) == (2, 0)
    assert (never["next_tick"], never["last_tick"], never["called"]) == (None, None, None)
    text = " ".join(shown().split())
    assert "hourly every 3600 s in" in text
    assert "2.0 hours late 2 missed" in text
    assert "never-started every 7200 s no tick waits: start a worker with it not known" in text


def test_schedules_have_their_lines() -> None:
    hourly = ScheduleStatus("hourly", "every 3600 s", TICK, TICK - 3_600_000, TICK - 3_590_000, False, 1, 2)
    found = TaskStatus(TICK / 1000 - 60, (), None, None, schedules=[hourly, ScheduleStatus("old", "", TICK)])
    _, line, old = (each.partition(" ")[2] for each in lines(found, [], None))
    assert line.startswith(
        "schedule hourly: every 3600 s, next tick in 1.0 minute, last tick 2027-01-15 07:00:00Z, not"
    )
    assert line.endswith("called: 10 seconds late, 1 missed, 2 ticks too late for a call")
    assert old == "schedule old: not in this code, next tick in 1.0 minute, last tick not known"
