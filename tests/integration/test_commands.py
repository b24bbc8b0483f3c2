"""Commands to two processes of a task, on a real Kafka, with either client: as an operator gives them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from confluent_kafka import Producer

from integration import shop as shops
from integration.shop import SCHEMES, SECONDS

pytestmark = pytest.mark.timeout(300)

TASK = """
import flux

class Billing(flux.Task):
    topic, group_id = "{topic}", "{group}"
    retries, wait, offset_commit_interval = 1, 0.1, 0.2

    {call} call(self, message):
        with open("{calls}", "a") as calls:
            calls.write(message.value.decode() + "\\n")
"""


@attrs.define
class Shop(shops.Shop):
    """Of two partitions and two processes, which start again when they end."""

    reports: str
    running: list[subprocess.Popen[str]] = attrs.field(factory=list)

    @property
    def called(self) -> list[str]:
        return sorted(self.calls.read_text().split())

    def work(self) -> subprocess.Popen[str]:
        options = ["--create-topics", "--control", "--report-topic", self.reports, "--processes", "2"]
        with (self.directory / "log").open("a") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "flux.cli.main", "process", *self.options, *options, "Billing"],
                cwd=self.directory,
                stderr=log,
                text=True,
            )
        self.running.append(process)
        return process

    def __call__(self, name: str, *args: str) -> tuple[int, str, str]:
        """(exit code, stdout, stderr) of `flux NAME ARGS`."""
        process = self.start(name, *self.options, "--report-topic", self.reports, *args)
        out, err = process.communicate(timeout=SECONDS)
        return process.returncode, out, err

    def does(self, name: str, *args: str) -> list[str]:
        """The answers of both processes."""
        code, out, err = self(name, "--by", "ada", *args)
        assert (code, err) == (0, ""), out + err
        lines = out.splitlines()
        assert len(lines) == 2, out
        return [line.partition(": ")[2] for line in lines]

    def status(self) -> Any:
        code, out, err = self("status", "--json")
        assert code == 0, err
        return json.loads(out)

    def processes(self) -> dict[int, Any]:
        """By pid, the reports of processes that own a partition of the main topic."""
        found = self.status()["processes"] or []
        return {each["pid"]: each for each in found if any(one["partitions"] for one in each["stages"])}

    def produce(self, *values: str) -> None:
        producer = Producer({"bootstrap.servers": self.bootstrap})
        for number, value in enumerate(values):
            producer.produce(self.topic, value, value, number % 2)
        assert producer.flush(SECONDS) == 0


@pytest.fixture(params=SCHEMES)
def shop(
    request: pytest.FixtureRequest,
    bootstrap: str,
    make_topic: Callable[..., str],
    unique: Callable[[], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Shop]:
    name = unique()[:9]
    monkeypatch.setenv("FLUX_COMMANDS_TOPIC", f"{name}-commands")
    monkeypatch.setenv("FLUX_AUDIT_TOPIC", f"{name}-audit")
    shop = Shop(bootstrap, request.param, make_topic(2), name, tmp_path, f"{name}-reports")
    shop.open(TASK, call="async def" if request.param == "aiokafka" else "def")
    yield shop
    for process in shop.running:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(60)


def eventually(found: Callable[[], Any], what: str) -> Any:
    until = time.monotonic() + SECONDS
    while not (result := found()):
        assert time.monotonic() < until, f"not within {SECONDS:g} s: {what}"
        time.sleep(0.2)
    return result


def test_all_processes_obey_and_one_that_starts_later_too(shop: Shop, read_all: Callable[..., list[Any]]) -> None:
    shop.produce("1", "2")
    supervisor = shop.work()
    eventually(lambda: shop.called == ["1", "2"], "the first calls")
    before = eventually(lambda: len(found := shop.processes()) == 2 and found, "two processes with partitions")

    assert shop.does("pause", "--why", "upgrade", "--for", "1h") == ["paused", "paused"]
    shop.produce("3", "4", "5")
    paused = eventually(lambda: len(found := shop.status()["paused"]) == 2 and found, "both report the pause")
    assert {(each["error"], each["command"]) for each in paused} == {("ada", True)}
    assert 3000 < paused[0]["ends_in"] <= 3600

    killed = min(before)
    os.kill(killed, signal.SIGKILL)
    eventually(lambda: killed not in (found := shop.processes()) and len(found) == 2, "another one in its place")
    assert len(shop.status()["paused"]) == 2
    assert shop.called == ["1", "2"]

    skipped = sorted(shop.does("skip", "0:1", "--reason", "kills the parser"))
    assert skipped == [
        "becomes a dead letter without a call when its turn comes",
        "does not own the partition; it would skip the record too",
    ]
    assert shop.does("resume") == ["resumed", "resumed"]
    eventually(lambda: shop.called == ["1", "2", "4", "5"], "the calls after the pause")
    [dead] = eventually(lambda: read_all(shop.dead), "the dead letter")
    assert dead.value() == b"3"
    assert dict(dead.headers())["flux-reason"] == b"skipped"

    assert shop.does("set-rate", "50") == ["makes at most 50 calls a second"] * 2
    pids = set(shop.processes())
    assert shop.does("restart") == ["restarts", "restarts"]
    eventually(lambda: len(found := set(shop.processes())) == 2 and not found & pids, "both are started again")
    shop.produce("6")
    eventually(lambda: "6" in shop.called, "the work goes on")
    assert (shop.directory / "log").read_text().count("makes at most 50 calls a second") == 4

    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait(60) == 0


def test_a_process_that_does_not_answer_is_named(shop: Shop) -> None:
    shop.work()
    pids = eventually(lambda: len(found := shop.processes()) == 2 and found, "two processes with partitions")
    stopped = min(pids)
    os.kill(stopped, signal.SIGSTOP)
    try:
        code, out, err = shop("pause", "--timeout", "3")
    finally:
        os.kill(stopped, signal.SIGCONT)
    assert code == 1
    assert len(out.splitlines()) == 1
    assert f"pid {stopped} (process {pids[stopped]['process']}): no answer in time" in err
    eventually(lambda: len(shop.status()["paused"]) == 2, "it obeys when it goes on")
