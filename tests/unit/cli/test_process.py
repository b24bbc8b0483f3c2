from __future__ import annotations

import logging
import os
import re
import subprocess
import sys

import pytest

from unit.support.cli_support import Flux, flux_cli, only_line

__all__ = ["flux_cli"]

TASK = """
    import flux

    class Billing(flux.Task):
        topic, group_id, retries = "orders", "billing", 1
        wait = 0
        offset_commit_interval = 0.05

        def call(self, message):
            if message.value == b"bad":
                raise ValueError("bad")
"""
STUCK = """
    import os, signal, threading, time
    import flux

    class Billing(flux.Task):
        topic, group_id, retries, shutdown_timeout = "orders", "billing", 0, 0.1

        def call(self, message):
            threading.Thread(target=time.sleep, args=(LEFT,)).start()
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(LEFT)
"""


def test_it_runs_a_task_until_idle_and_ends_with_0(flux_cli: Flux) -> None:
    flux_cli.broker.create_topic("orders")
    produced = flux_cli("produce", "orders", "--adapter", flux_cli.url, input="good\nbad\n")
    assert produced.exit_code == 0
    file = flux_cli.file(TASK)
    done = flux_cli(
        "process", "--load", file, "--adapter", flux_cli.url, "--create-topics", "--exit-when-idle", "0.1", "Billing"
    )
    assert done.exit_code == 0, done.output
    assert [record.value() for record in flux_cli.broker.records("orders-billing-dlq")] == [b"bad"]


def test_its_log_says_what_runs_and_what_was_done(flux_cli: Flux, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    flux_cli.broker.create_topic("orders")
    assert flux_cli("produce", "orders", "--adapter", flux_cli.url, input="good\nbad\n").exit_code == 0
    args = ["--load", flux_cli.file(TASK), "--adapter", flux_cli.url, "--create-topics", "--exit-when-idle", "0.1"]
    assert flux_cli("process", *args, "--log-calls").exit_code == 0
    worker = [each for each in caplog.records if each.name == "flux.worker" and each.levelno == logging.INFO]
    said = [each.getMessage() for each in worker]
    on = f"on {flux_cli.url} (MemoryAdapter)"
    assert f"Billing: topic orders, group billing, stages 0-1, concurrency 10, {on}" in said
    assert any(re.fullmatch(r"flux \S+, pid \d+: Billing", each) for each in said)
    assert said.count("Billing: assigned orders[0], orders-billing-try-1[0]") == 1
    assert re.match(r"Billing: in all: 1 done, 2 failed, 1 retried, 1 dead letter in \d+ s", said[-1])
    assert vars(worker[-1])["retried"] == 1
    calls = [re.sub(r" in [\d.]+ ms", "", each.getMessage()) for each in caplog.records if each.name == "flux.calls"]
    assert calls == [
        "Billing: orders[0]@0 done, attempt 1",
        "Billing: orders[0]@1 failed with ValueError, attempt 1",
        "Billing: orders-billing-try-1[0]@0 failed with ValueError, attempt 2",
    ]


def test_without_a_name_it_runs_all_tasks(flux_cli: Flux) -> None:
    flux_cli.broker.create_topic("orders")
    assert flux_cli("produce", "orders", "--adapter", flux_cli.url, input="bad\n").exit_code == 0
    other = "\n    class Shipping(Billing):\n        group_id = 'shipping'\n"
    file = flux_cli.file(TASK + other)
    done = flux_cli("process", "--load", file, "--adapter", flux_cli.url, "--create-topics", "--exit-when-idle", "0.1")
    assert done.exit_code == 0, done.output
    assert [record.value() for record in flux_cli.broker.records("orders-billing-dlq")] == [b"bad"]
    assert [record.value() for record in flux_cli.broker.records("orders-shipping-dlq")] == [b"bad"]


def test_a_port_for_metrics_needs_the_package(flux_cli: Flux, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    args = ["process", "--load", flux_cli.file(TASK), "--adapter", flux_cli.url, "--metrics-port", "0"]
    for more in ([], ["--processes", "2"]):
        done = flux_cli(*args, *more)
        assert done.exit_code == 1
        assert 'pip install "super-flux[prometheus]"' in only_line(done.stderr)


def test_missing_topics_are_named_in_one_line_and_end_with_1(flux_cli: Flux) -> None:
    done = flux_cli("process", "--load", flux_cli.file(TASK), "--adapter", flux_cli.url)
    assert done.exit_code == 1
    line = only_line(done.stderr)
    assert "orders, orders-billing-try-1, orders-billing-dlq" in line
    assert "--create-topics" in line


def test_no_adapter_is_one_line(flux_cli: Flux) -> None:
    done = flux_cli("process", "--load", flux_cli.file(TASK))
    assert done.exit_code == 1
    assert "no adapter" in only_line(done.stderr)


def test_a_mistake_in_the_task_is_one_line(flux_cli: Flux) -> None:
    done = flux_cli(
        "process", "--load", flux_cli.file(TASK.replace('"orders"', '"or ders"')), "--adapter", flux_cli.url
    )
    assert done.exit_code == 1
    assert "topic 'or ders'" in only_line(done.stderr)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["Bling"], "there is no task Bling: found Billing"),
        (["--stages", "3"], "the stages are 0 to 2"),
        (["--stages", "x"], "write numbers and ranges"),
        (["--processes", "2"], "exists in one process only"),
        (["--processes", "0"], "--processes"),
        (["--concurrency", "0"], "--concurrency"),
        (["--exit-when-idle", "-1"], "--exit-when-idle"),
    ],
)
def test_wrong_usage_is_one_line_and_ends_with_2(flux_cli: Flux, args: list[str], says: str) -> None:
    done = flux_cli("process", "--load", flux_cli.file(TASK), "--adapter", flux_cli.url, *args)
    assert done.exit_code == 2
    assert says in only_line(done.stderr)


def test_a_setup_that_fails_is_reported_with_the_users_line(flux_cli: Flux) -> None:
    flux_cli.broker.create_topic("orders")
    code = TASK + '\n        def setup(self):\n            raise OSError("no database")\n'
    done = flux_cli("process", "--load", flux_cli.file(code), "--adapter", flux_cli.url, "--create-topics")
    assert done.exit_code == 1
    first, *rest = done.stderr.splitlines()
    assert first.endswith("OSError: no database")
    assert 'raise OSError("no database")' in rest[-1]
    assert "Traceback" not in done.stderr


def test_calls_that_do_not_end_are_abandoned_with_3(flux_cli: Flux) -> None:
    flux_cli.broker.create_topic("orders")
    flux_cli("produce", "orders", "--adapter", flux_cli.url, input="x\n")
    done = flux_cli(
        "process", "--load", flux_cli.file(STUCK.replace("LEFT", "1.5")), "--adapter", flux_cli.url, "--create-topics"
    )
    assert done.exit_code == 3


def test_threads_left_in_calls_do_not_keep_the_process(flux_cli: Flux) -> None:
    seed = """
from flux.adapters.memory import MemoryAdapter
MemoryAdapter("x").broker.create_topic("orders")
class Orders(flux.Producer):
    topic, adapter = "orders", "memory://x"
Orders.produce("x")
Orders.flush(5)
"""
    file = flux_cli.file(STUCK.replace("LEFT", "3600"))
    with open(file, "a") as code:
        code.write(seed)
    command = [sys.executable, "-m", "flux.cli.main", "process", "--load", file, "--create-topics", "Billing"]
    done = subprocess.run(
        command,
        env={**os.environ, "FLUX_ADAPTER": "memory://x"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    assert "1 call(s) did not end in time" in done.stderr
