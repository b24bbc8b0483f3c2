"""Metrics and probes of real workers on a real cluster."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

import flux
from flux.adapters.aiokafka import AiokafkaAdapter
from flux.adapters.confluent import ConfluentAdapter
from flux.testing.kafka import free_ports
from integration.job.conftest import lab
from integration.job.support import Lab, wait_for

__all__ = ["lab"]
pytestmark = pytest.mark.kafka

TASK = """
import flux

class Billing(flux.Task):
    topic, group_id = TOPIC, GROUP
    retries, wait, offset_commit_interval = 1, 0.1, 0.1

    def call(self, message):
        if message.value == b"bad":
            raise ValueError(f"bad record \\x1b[31m {message.offset}")
"""


@pytest.fixture
def port() -> int:
    return free_ports(1)[0]


def ask(port: int, path: str) -> tuple[int, str]:
    """(0, "") when nobody listens."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


def sample(port: int, name: str, **labels: object) -> float:
    """The sum of what has these labels."""
    wanted = {key: str(value) for key, value in labels.items()}
    families = text_string_to_metric_families(ask(port, "/metrics")[1])
    samples = [each for family in families for each in family.samples]
    return sum(each.value for each in samples if each.name == name and wanted.items() <= each.labels.items())


def serving(port: int) -> dict[str, Any]:
    return {"metrics_port": port, "metrics_host": "127.0.0.1"}


def pids(log: Path) -> dict[int, int]:
    """Of the processes, the latest of each number."""
    found = re.findall(r"process (\d) started \(pid (\d+)\)", log.read_text())
    return {int(number): int(pid) for number, pid in found}


def test_one_port_answers_for_two_processes_while_they_work_fail_and_die(lab: Lab, port: int) -> None:
    task = lab.task(lambda message: None, partitions=4)
    path = lab.load(TASK, TOPIC=task.topic, GROUP=task.group_id)
    options = ["--processes", "2", "--metrics-port", str(port), "--metrics-host", "127.0.0.1", "--log-format", "json"]
    process = lab.process(path, "Billing", *options, query="?session.timeout.ms=6000")
    log = Path(f"{path}.log")

    wait_for(lambda: ask(port, "/live")[0] == 200, "it is live")
    status, why = ask(port, "/ready")
    assert status == 503, "before anything is assigned"
    assert "process 1 " in why
    wait_for(lambda: ask(port, "/ready") == (200, "ok\n"), "it is ready")
    wait_for(
        lambda: [sample(port, "flux_assigned_partitions", process=n, stage=0) for n in (0, 1)] == [2, 2],
        "each process has its share",
    )

    lab.write(task.topic, *[(b"bad" if n % 10 == 0 else b"good", str(n).encode()) for n in range(200)])
    wait_for(lambda: sample(port, "flux_dead_letters_total", reason="exhausted") == 20, "the failures are dead letters")
    wait_for(lambda: sample(port, "flux_calls_total", result="done") == 180, "the others are done")
    assert sample(port, "flux_calls_total", stage=0, result="failed") == 20
    assert sample(port, "flux_failures_total", stage=1, error="ValueError") == 20
    assert sample(port, "flux_call_duration_seconds_count", stage=0) == 200
    assert all(sample(port, "flux_calls_total", process=n, stage=0) > 0 for n in (0, 1))
    assert [sample(port, "flux_process_up", process=n) for n in (0, 1)] == [1, 1]
    # the ends of the topics are asked for every 10 s
    wait_for(lambda: "flux_lag_records{" in ask(port, "/metrics")[1], "the lag is known")
    wait_for(lambda: sample(port, "flux_lag_records") == 0, "there is no lag")

    before = sample(port, "flux_calls_total", process=1)
    os.kill(pids(log)[1], signal.SIGKILL)
    wait_for(lambda: sample(port, "flux_process_up", process=1) == 0, "it is seen to be down")
    assert ask(port, "/live")[0] == 200, "the supervisor starts it again"
    assert ask(port, "/ready")[0] == 503
    assert sample(port, "flux_process_up", process=0) == 1
    wait_for(lambda: ask(port, "/ready")[0] == 200, "it is back")
    assert sample(port, "flux_calls_total", process=1) < before, "and counts anew"

    process.terminate()
    assert process.wait(40) == 0
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert "\x1b" not in log.read_text()
    failures = [event for event in events if "failed on attempt" in event["message"]]
    assert failures
    assert {event["stage"] for event in failures} == {0, 1}
    assert len(failures) <= 2 * 2, "the first of a kind, per stage and process"
    for event in failures:
        assert event["task"] == "Billing"
        assert event["error"] == "ValueError"
        assert event["exception"].startswith("Traceback")
        assert isinstance(event["offset"], int)


def test_a_worker_is_not_live_while_its_poll_loop_is_stuck(lab: Lab, port: int, monkeypatch: Any) -> None:
    release, adapter = threading.Event(), ConfluentAdapter(lab.bootstrap)
    real, stick = adapter.consumer, threading.Event()

    def consumer(*given: Any) -> Any:
        client = real(*given)
        poll = client.poll

        def polled(*args: Any) -> Any:
            if stick.is_set():
                release.wait(60)
            return poll(*args)

        monkeypatch.setattr(client, "poll", polled, raising=False)
        return client

    monkeypatch.setattr(adapter, "consumer", consumer)
    task = lab.task(lambda message: None, retries=0, stalled_after=3.0)
    with lab.running(task, adapter=adapter, **serving(port)):
        wait_for(lambda: ask(port, "/ready")[0] == 200, "it is ready")
        wait_for(lambda: ask(port, "/live") == (200, "ok\n"), "it is live")
        stick.set()
        wait_for(lambda: ask(port, "/live")[0] == 503, "it is stuck")
        assert f"{task.topic}: its poll loop has made no progress for" in ask(port, "/live")[1]
        assert sample(port, "flux_live") == 0
        assert sample(port, "flux_poll_age_seconds", stage=0) >= 3
        release.set()
        wait_for(lambda: ask(port, "/live")[0] == 200, "it goes on")
    assert ask(port, "/live")[0] == 0, "the port is given back"


def test_a_worker_whose_cluster_is_away_is_live_and_not_ready(lab: Lab, port: int) -> None:
    task = lab.task(lambda message: None, topics=False)
    with lab.running(task, adapter=ConfluentAdapter("127.0.0.1:1"), **serving(port)):
        wait_for(lambda: ask(port, "/live")[0] == 200, "it is live")
        wait_for(
            lambda: "starting: kafka://127.0.0.1:1 cannot be reached (" in ask(port, "/ready")[1],
            "its cluster is named",
        )
        assert ask(port, "/ready")[0] == 503
        assert sample(port, "flux_ready") == 0


@pytest.mark.parametrize("adapter", [ConfluentAdapter, AiokafkaAdapter])
def test_an_event_loop_is_seen_as_threads_are(lab: Lab, port: int, adapter: Callable[[str], Any]) -> None:
    async def handler(message: flux.Message) -> None:
        if message.value == b"bad":
            raise ValueError("bad")

    heard: list[str] = []

    class Hearing(flux.Hooks):
        def on_success(self, where: flux.StageInfo, message: flux.Message, seconds: float) -> None:
            heard.append("success")

        def on_assigned(self, where: flux.StageInfo, partitions: Any) -> None:
            heard.append("assigned")

        def on_revoked(self, where: flux.StageInfo, partitions: Any) -> None:
            heard.append("revoked")

    task = lab.task(handler, hooks=[Hearing()])
    with lab.running(task, adapter=adapter(lab.bootstrap), **serving(port)):
        wait_for(lambda: ask(port, "/ready")[0] == 200, "it is ready")
        lab.write(task.topic, *[b"good"] * 9, b"bad")
        wait_for(lambda: sample(port, "flux_dead_letters_total") == 1, "the dead letter")
        wait_for(lambda: sample(port, "flux_calls_total", result="done") == 9, "the others")
        assert sample(port, "flux_rebalances_total", event="assigned") == 2
        assert sample(port, "flux_transfers_total", target="retry") == 1
    assert heard.count("success") == 9
    assert heard.count("assigned") == heard.count("revoked") == 2


@pytest.mark.parametrize("adapter", [ConfluentAdapter, AiokafkaAdapter])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_outage_is_seen_while_it_lasts_and_counts_once(
    lab: Lab, port: int, adapter: Callable[[str], Any], asynchronous: bool
) -> None:
    back = threading.Event()

    def handler(message: flux.Message) -> None:
        if not back.is_set():
            raise ConnectionError("no route")

    async def handler_async(message: flux.Message) -> None:
        handler(message)

    chosen: Any = handler_async if asynchronous else handler
    task = lab.task(chosen, pause_on=(OSError,), concurrency=4)
    with lab.running(task, adapter=adapter(lab.bootstrap), **serving(port)):
        wait_for(lambda: ask(port, "/ready")[0] == 200, "it is ready")
        lab.write(task.topic, *[b"x"] * 20)
        wait_for(lambda: sample(port, "flux_paused_seconds_total") > 1.5, "a try has found it away too")
        assert (sample(port, "flux_paused"), sample(port, "flux_pauses_total")) == (1, 1)
        assert ask(port, "/ready")[0] == ask(port, "/live")[0] == 200, "a restart would not bring it back"
        back.set()
        wait_for(lambda: sample(port, "flux_calls_total", result="done") == 20, "all are done")
        assert (sample(port, "flux_paused"), sample(port, "flux_pauses_total")) == (0, 1)
        assert sample(port, "flux_calls_total", result="failed") == 0
        assert sample(port, "flux_transfers_total") == 0
