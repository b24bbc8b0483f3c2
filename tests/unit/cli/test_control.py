"""flux pause, resume, set-rate, restart, and skip while workers run: what they print and return."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from click.testing import Result

import flux
from flux.adapters.memory import MemoryAdapter
from flux.core.ports import ProducerRecord, ProducerSettings
from unit.support.cli_support import Flux, flux_cli, only_line

__all__ = ["flux_cli"]

TASK = """
    import flux
    class Billing(flux.Task):
        topic, group_id, retries = "orders", "billing", 1
        def call(self, message): pass
"""


def wait_for(true: Callable[[], object]) -> None:
    until = time.monotonic() + 10
    while not true():
        assert time.monotonic() < until
        time.sleep(0.001)


class Commands:
    def __init__(self, cli: Flux) -> None:
        self.cli, self.broker = cli, cli.broker
        self.file = cli.file(TASK)
        self.adapter = MemoryAdapter(cli.url.removeprefix("memory://"))
        for topic in ("orders", "orders-billing-try-1", "orders-billing-dlq"):
            self.broker.create_topic(topic)
        self.called: list[bytes] = []

    def __call__(self, *args: str) -> Result:
        name, *rest = args
        return self.cli(name, "--load", self.file, "--adapter", self.cli.url, "--by", "ada", *rest)

    def write(self, *values: bytes) -> None:
        records = [ProducerRecord(value) for value in values]
        self.adapter.producer(ProducerSettings()).write("orders", records, lambda error, record: None)

    @contextmanager
    def working(self, code: int = 0, **options: Any) -> Iterator[flux.Worker]:
        def call(message: flux.Message) -> None:
            self.called.append(message.value)

        task = flux.task(topic="orders", group_id="billing", retries=1)(call)
        worker = flux.Worker(task, adapter=self.adapter, **options)
        codes: list[int] = []
        thread = threading.Thread(target=lambda: codes.append(worker.run()))
        thread.start()
        try:
            wait_for(lambda: self.broker.committed_offsets("billing", "orders") or worker.ready)
            if options:
                wait_for(lambda: any(b'"billing"' in report for report in self.reports))
            yield worker
        finally:
            worker.stop()
            thread.join(20)
        assert codes == [code]

    @property
    def reports(self) -> list[bytes]:
        return [record.value() or b"" for record in self.broker.records("flux-reports")]

    def status(self) -> Any:
        done = self.cli("status", "--load", self.file, "--adapter", self.cli.url, "--json")
        assert done.exit_code == 0, done.output
        return json.loads(only_line(done.stdout))

    def history(self) -> list[dict[str, Any]]:
        done = self.cli("dlq", "history", "--load", self.file, "--adapter", self.cli.url, "--json")
        assert done.exit_code == 0, done.output
        return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def commands(flux_cli: Flux, monkeypatch: pytest.MonkeyPatch) -> Commands:
    monkeypatch.setattr("flux.processes.heartbeat.EVERY", 0.05)
    return Commands(flux_cli)


def test_a_task_is_paused_and_resumed_and_both_are_written_down(commands: Commands) -> None:
    with commands.working(control=True):
        done = commands("pause", "Billing", "--for", "10m", "--why", "database upgrade")
        assert done.exit_code == 0, done.output
        assert only_line(done.stdout).endswith(": paused")
        commands.write(b"1")
        assert commands("pause", "--stage", "1").exit_code == 0
        done = commands("resume")
        assert only_line(done.stdout).endswith(": resumed")
        wait_for(lambda: commands.called == [b"1"])
    pause, _, resume = commands.history()
    assert (pause["by"], pause["action"], pause["result"]) == ("ada", "pause", "1 process: paused")
    assert pause["details"] == {"for": "10.0 minutes", "why": "database upgrade"}
    assert (resume["action"], resume["task"]) == ("resume", "Billing")


def test_the_rate_is_set_and_the_answer_is_json(commands: Commands) -> None:
    with commands.working(control=True):
        done = commands("set-rate", "Billing", "2.5", "--json")
        found = json.loads(only_line(done.stdout))
        assert [answer["text"] for answer in found["answers"]] == ["makes at most 2.5 calls a second"]
        assert found["problems"] == []
        wait_for(lambda: commands.status()["rates_set"])
        [rate] = commands.status()["rates_set"]
        assert (rate["rate"], rate["by"], len(rate["processes"]), rate["ends_in"]) == (2.5, "ada", 1, None)
        shown = commands.cli("status", "--load", commands.file, "--adapter", commands.cli.url).stdout
        assert "rate limit: at most 2.5 calls a second, set by ada, in 1 process" in shown
        assert "calls without a rate limit" in commands("set-rate", "none").stdout
        assert commands("set-rate", "default").exit_code == 0


@pytest.mark.parametrize("rate", ["fast", "-1", "0", "nan", "1e10"])
def test_a_rate_that_is_none_is_wrong_usage(commands: Commands, rate: str) -> None:
    done = commands("set-rate", "--", "Billing", rate)
    assert done.exit_code == 2
    assert "give calls a second, such as 50 or 0.5, none, or default" in only_line(done.stderr)


@pytest.mark.parametrize("time_", ["10", "m", "-5m", "nanm", "1e400d", "0s"])
def test_a_time_without_a_unit_or_sense_is_wrong_usage(commands: Commands, time_: str) -> None:
    done = commands("pause", f"--for={time_}")
    assert done.exit_code == 2
    assert "is no time such as 90s, 10m, 2h or 3d" in only_line(done.stderr)


def test_a_stage_that_does_not_exist_is_refused(commands: Commands) -> None:
    done = commands("pause", "--stage", "9")
    assert done.exit_code == 1
    assert only_line(done.stderr) == "flux: there is no stage 9: 0 is the main topic, 1 is the retry"


def test_a_restart_ends_the_worker_to_be_started_again(commands: Commands) -> None:
    with commands.working(code=4, control=True) as worker:
        assert only_line(commands("restart").stdout).endswith(": restarts")
        wait_for(lambda: worker.ended)


def test_workers_that_take_no_commands_are_named(commands: Commands) -> None:
    with commands.working(report=True):
        done = commands("pause", "--timeout", "0.1")
    assert done.exit_code == 1
    assert only_line(done.stderr).endswith(": runs without --control")
    assert commands.history()[0]["result"].endswith("runs without --control")


def test_without_workers_a_pause_is_kept_and_a_restart_fails(commands: Commands) -> None:
    done = commands("pause")
    assert (done.exit_code, done.stdout) == (0, "")
    assert "it holds for those that start with --control" in only_line(done.stderr)
    assert commands("restart").exit_code == 1
    commands.write(b"1")
    with commands.working(control=True):
        assert commands.called == []
        assert commands("resume").exit_code == 0
        wait_for(lambda: commands.called == [b"1"])


def test_a_record_is_skipped_while_the_workers_run(commands: Commands) -> None:
    with commands.working(control=True):
        assert commands("pause").exit_code == 0
        commands.write(b"1", b"2")
        done = commands("skip", "0:1", "--reason", "crashes the parser")
        assert done.exit_code == 0, done.output
        assert "becomes a dead letter without a call" in only_line(done.stdout)
        assert commands("resume").exit_code == 0
        wait_for(lambda: commands.broker.records("orders-billing-dlq"))
        wait_for(lambda: commands.called == [b"1"])
    skipped = commands.history()[1]
    assert (skipped["action"], skipped["places"]) == ("skip", ["0:1"])
    assert skipped["details"] == {"stage": "0", "why": "crashes the parser"}


def test_a_record_is_not_skipped_beside_workers_without_control(commands: Commands) -> None:
    with commands.working():
        wait_for(lambda: commands.adapter.admin().members("billing", 1))
        commands.write(b"1")
        wait_for(lambda: commands.called)
        done = commands("skip", "0:1", "--reason", "x")
    assert done.exit_code == 1
    assert only_line(done.stderr).endswith("those started with --control skip it while they run")


def test_a_skip_of_a_stopped_group_is_written_down(commands: Commands) -> None:
    commands.write(b"1")
    assert commands("skip", "0:0", "--reason", "bad").exit_code == 0
    [record] = commands.history()
    assert (record["action"], record["by"], record["places"]) == ("skip", "ada", ["0:0"])
    assert record["result"] == "moved to orders-billing-dlq"
