"""A night on call, on a real Kafka, with either client: what holds a partition, where a record is, how it gets out of
the way."""

from __future__ import annotations

import json
import re
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

from flux.adapters.confluent import ConfluentAdapter
from flux.core.monitoring.report import Report
from integration import shop as shops
from integration.shop import SCHEMES, SECONDS

TASK = """
import os, time
import flux

class Billing(flux.Task):
    topic, group_id = "{topic}", "{group}"
    retries, wait, offset_commit_interval, shutdown_timeout = 2, {wait}, 0.2, 0.5
    concurrency, stalled_after = 4, 2

    def call(self, message):
        if message.value == b"stuck" and not os.path.exists("{mended}"):
            time.sleep(120)
        if message.value == b"bad":
            raise ValueError(f"no customer {{message.offset}}")
        with open("{calls}", "a") as calls:
            calls.write(message.value.decode() + "\\n")
"""


AWAY = """
import os
import flux

class Billing(flux.Task):
    topic, group_id = "{topic}", "{group}"
    retries, wait, offset_commit_interval = 2, {wait}, 0.2
    pause_on, in_place_retries, in_place_wait = (ConnectionError,), 1, 20

    def call(self, message):
        if message.value == b"away" and not os.path.exists("{mended}"):
            raise ConnectionRefusedError("no route to the bank")
        if message.value == b"flaky" and message.attempt == 1:
            raise ValueError("once")
        with open("{calls}", "a") as calls:
            calls.write(message.value.decode() + "\\n")
"""


@attrs.define
class Shop(shops.Shop):
    """Of one partition."""

    reports: str
    wait: object = 0.1
    processes: list[subprocess.Popen[str]] = attrs.field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.open(TASK, wait=self.wait)

    @property
    def done(self) -> list[str]:
        return self.calls.read_text().split()

    def start(self, *args: str) -> subprocess.Popen[str]:
        process = shops.Shop.start(self, *args)
        self.processes.append(process)
        return process

    def work(self, *args: str) -> subprocess.Popen[str]:
        reporting = ("--report", "--report-topic", self.reports)
        return self.start("process", *self.options, "--create-topics", *reporting, *args, "Billing")

    def __call__(self, name: str, *args: str) -> tuple[int, str, str]:
        """(exit code, stdout, stderr) of `flux NAME ARGS`."""
        process = self.start(*name.split(), *self.options, *args)
        out, err = process.communicate(timeout=SECONDS)
        return process.returncode, out, err

    def status(self) -> Any:
        def ask() -> Any:
            code, out, err = self("status", "--json", "--report-topic", self.reports)
            # a cluster's first coordinator of groups takes a while to be there
            assert code == 0 or "GroupCoordinatorNotAvailable" in err, err
            return code == 0 and json.loads(out)

        return eventually(ask, "the status is told")

    def produce(self, *values: bytes, key: bytes | None = None) -> None:
        producer = Producer({"bootstrap.servers": self.bootstrap})
        for number, value in enumerate(values):
            producer.produce(self.topic, value, key or b"key-%d" % number, 0)
        assert producer.flush(SECONDS) == 0

    def idle(self) -> None:
        """Works until there is nothing left to do."""
        process = self.work("--exit-when-idle", "1")
        out, err = process.communicate(timeout=SECONDS)
        assert process.returncode == 0, out + err


@pytest.fixture(params=SCHEMES)
def shop(
    request: pytest.FixtureRequest,
    bootstrap: str,
    make_topic: Callable[..., str],
    unique: Callable[[], str],
    tmp_path: Path,
) -> Iterator[Shop]:
    shop = Shop(bootstrap, request.param, make_topic(1), unique()[:9], tmp_path, f"{unique()[:9]}-reports")
    yield shop
    for process in shop.processes:
        if process.poll() is None:
            process.kill()
        process.wait(60)
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def eventually(found: Callable[[], Any], what: str) -> Any:
    until = time.monotonic() + SECONDS
    while not (result := found()):
        assert time.monotonic() < until, f"not within {SECONDS:g} s: {what}"
        time.sleep(0.5)  # a look may be a process of its own
    return result


def test_a_stuck_call_is_named_skipped_and_the_worker_goes_on_behind_it(
    shop: Shop, read_all: Callable[..., list[Any]]
) -> None:
    """The partition of a poison record, from the first look to the work behind it."""
    shop.produce(b"before", b"stuck", b"behind")
    worker = shop.work("--stages", "0")
    held = eventually(lambda: [one for one in shop.status()["blockers"] if one["process"]], "what holds the partition")
    assert [(one["partition"], one["offset"], one["key"], one["attempt"]) for one in held] == [(0, 1, "key-1", 1)]
    assert held[0]["why"] == "its call is running"
    assert held[0]["process"].endswith(f"pid {worker.pid}")
    assert 0 < held[0]["seconds"] < SECONDS
    eventually(lambda: "behind" in shop.done, "other keys are worked meanwhile")
    told = shop.status()
    [process] = told["processes"]
    assert (process["pid"], process["stages"][0]["partitions"], process["memory"] > 1_000_000) == (
        worker.pid,
        "0",
        True,
    )
    assert [member["partitions"] for member in told["stages"][0]["members"]] == [[0]]
    code, out, _ = shop("status", "--report-topic", shop.reports)
    assert code == 0
    assert f"{shop.topic}[0]@1" in out

    code, _, err = shop("skip", "Billing", "0:1", "--reason", "never ends", "--by", "ada")
    assert (code, "stop the workers of stage 0" in err, len(err.splitlines())) == (1, True, 1)
    assert read_all(shop.dead) == []

    worker.send_signal(signal.SIGTERM)
    worker.communicate(timeout=SECONDS)
    assert worker.returncode == 3, "the call was abandoned"
    eventually(lambda: shop.status()["processes"] == [], "its report is taken back")
    code, out, err = shop("skip", "Billing", "0:1", "--reason", "never ends", "--by", "ada")
    assert code == 0, err
    assert out == f"moved {shop.topic}[0]@1 (key key-1) to {shop.dead}; {shop.group} continues at offset 3\n"
    [letter] = read_all(shop.dead)
    headers = dict(letter.headers())
    assert (letter.key(), letter.value()) == (b"key-1", b"stuck")
    assert (headers["flux-skipped-by"], headers["flux-error-message"]) == (b"ada", b"never ends")
    assert (headers["flux-origin-offset"], headers["flux-reason"]) == (b"1", b"skipped")

    shop.produce(b"after")
    shop.idle()
    assert sorted(shop.done) == ["after", "before", "behind"]
    assert shop.status()["stages"][0]["committed_offset"] == {"0": 4}

    shop.mended.touch()
    code, out, err = shop("dlq replay", "--reason", "skipped")
    assert (code, out) == (0, f"replayed 1 dead letter to {shop.retry}\n"), err
    shop.idle()
    assert sorted(shop.done) == ["after", "before", "behind", "stuck"]


def test_an_outage_is_named_with_what_it_holds_and_work_goes_on_when_it_ends(shop: Shop) -> None:
    shop.open(AWAY, wait=60)
    shop.produce(b"before", b"flaky")
    worker = shop.work("--stages", "0")
    code, out, err = eventually(
        lambda: (told := trace(shop, 1)) and "tried again in place" in told[1] and told, "the record is tried in place"
    )
    assert code == 0, err
    assert "it is tried again in place, after 1 failure on" in out
    shop.produce(b"away", b"behind")
    [paused] = eventually(lambda: shop.status()["paused"], "the pause is told")
    assert (paused["error"], paused["process"].endswith(f"pid {worker.pid}")) == ("ConnectionRefusedError", True)
    assert 0 <= paused["seconds"] < SECONDS
    held = eventually(lambda: shop.status()["blockers"], "what it holds is named")
    assert "ConnectionRefusedError" in held[0]["why"] or "tried again in place" in held[0]["why"]
    code, out, _ = shop("status", "--report-topic", shop.reports)
    assert "ConnectionRefusedError" in out
    assert eventually(lambda: "paused by ConnectionRefusedError" in trace(shop, 2)[1], "a record that waits is told")

    shop.mended.touch()
    eventually(lambda: {"away", "behind", "flaky"} <= set(shop.done), "all is done")
    eventually(lambda: shop.status()["paused"] == [], "the pause has ended")
    worker.send_signal(signal.SIGTERM)
    _, err = worker.communicate(timeout=SECONDS)
    assert worker.returncode == 0
    assert sorted(shop.done) == ["away", "before", "behind", "flaky"]
    assert "Billing is paused: ConnectionRefusedError: no route to the bank; no record moves" in err
    assert "Billing resumed after a pause of" in err


def trace(shop: Shop, offset: int) -> tuple[int, str, str]:
    return shop("trace", "Billing", "--origin", f"0:{offset}", "--report-topic", shop.reports)


def test_a_record_is_followed_through_two_retries_to_the_dead_letters(shop: Shop) -> None:
    shop.produce(b"good", b"bad")
    shop.idle()
    shop.produce(b"good", key=b"key-0")
    code, out, err = shop("trace", "Billing", "--origin", "0:1", "--json")
    assert code == 0, err
    told = json.loads(out)
    assert (told["id"], told["key"], told["state"], told["complete"]) == (f"{shop.topic}/0/1", "key-1", "dead", True)
    assert [(each["stage"], each["role"], each["attempts"], each["state"]) for each in told["copies"]] == [
        (0, "main", 0, "passed"),
        (1, "retry", 1, "passed"),
        (2, "retry", 2, "passed"),
        (3, "dead letters", 3, "dead"),
    ]
    assert [each["reason"] for each in told["copies"]] == [None, "error", "error", "exhausted"]
    assert told["copies"][1]["error_message"] == "no customer 1"
    times = [each["written_at"] for each in told["copies"]]
    assert times == sorted(times)
    assert told["copies"][1]["due"] - told["copies"][1]["written_at"] == 100

    code, out, err = shop("trace", "Billing", "--key", "key-0", "--json")
    assert code == 0, err
    assert [json.loads(line)["state"] for line in out.splitlines()] == ["done", "due"]
    code, out, _ = shop("trace", "Billing", "--origin", "0:1")
    assert re.search(r"^now: a dead letter at 0:0 since 20", out, re.MULTILINE), out


def test_a_record_that_waits_is_found_with_its_time(shop: Shop) -> None:
    waiting = attrs.evolve(shop, wait=[3600, 0.1])
    waiting.produce(b"bad")
    worker = waiting.work()
    eventually(lambda: waiting.status()["stages"][1]["lag"] == 1, "the record is in the retry topic")
    eventually(lambda: waiting.status()["stages"][0]["lag"] == 0, "the main topic is passed")
    code, out, err = waiting("trace", "Billing", "--key", "key-0", "--json")
    assert code == 0, err
    told = json.loads(out)
    assert (told["state"], told["copies"][-1]["stage"]) == ("waiting", 1)
    assert 3500 < told["copies"][-1]["due"] / 1000 - time.time() <= 3600
    stage = waiting.status()["stages"][1]
    assert (stage["waiting"], stage["oldest_unfinished"]["0"]["attempt"]) == (1, 2)
    assert 3500 < stage["next_due"] / 1000 - time.time() <= 3600
    assert waiting.status()["blockers"] == []
    worker.send_signal(signal.SIGTERM)
    worker.communicate(timeout=SECONDS)


def test_each_of_several_processes_reports_and_takes_it_back(shop: Shop) -> None:
    worker = shop.work("--processes", "2")
    found = eventually(
        lambda: told if len(told := shop.status()["processes"] or []) == 2 else None, "two processes report"
    )
    assert [process["process"] for process in found] == [0, 1]
    assert len({process["pid"] for process in found}) == 2
    admin = ConfluentAdapter(shop.bootstrap).admin()
    settings = admin.topic_config(shop.reports, SECONDS)
    assert (settings["cleanup.policy"], settings["message.timestamp.type"]) == ("compact,delete", "LogAppendTime")
    worker.send_signal(signal.SIGTERM)
    worker.communicate(timeout=SECONDS)
    eventually(lambda: shop.status()["processes"] == [], "their reports are taken back")


def test_a_process_that_was_killed_is_forgotten(shop: Shop, read_all: Callable[..., list[Any]]) -> None:
    worker = shop.work()
    eventually(lambda: shop.status()["processes"], "it reports")
    worker.kill()
    worker.wait(60)
    eventually(lambda: shop.status()["processes"] == [], "its last report is too old")
    reports = [Report.from_json(message.value()) for message in read_all(shop.reports)]
    assert all(report is not None for report in reports)


DYING = """
import os
import flux.operate.skip
from flux.cli.main import main

flux.operate.skip._pass = lambda plan, admin: os._exit(9)
main()
"""


def test_a_skip_that_dies_in_between_repeats_and_loses_nothing(shop: Shop, read_all: Callable[..., list[Any]]) -> None:
    shop.produce(b"one", b"two")
    shop.idle()
    shop.calls.write_text("")
    shop.produce(b"three", b"four")
    arguments = ["skip", *shop.options, "--reason", "x", "0:2"]
    died = subprocess.run([sys.executable, "-c", DYING, *arguments], cwd=shop.directory, timeout=SECONDS, check=False)
    assert died.returncode == 9
    assert [message.value() for message in read_all(shop.dead)] == [b"three"]
    assert shop.status()["stages"][0]["committed_offset"] == {"0": 2}
    shop.idle()
    assert shop.done == ["three", "four"]


def test_members_by_the_newer_protocol_are_in_the_way_too(shop: Shop, read_all: Callable[..., list[Any]]) -> None:
    """Whichever client skips: aiokafka cannot see them."""
    shop.produce(b"stuck")
    url = f"confluent://{shop.bootstrap}?group.protocol=consumer"
    worker = shop.start(
        "process", "--load", "billing.py", "--adapter", url, "--create-topics", "--stages", "0", "Billing"
    )
    eventually(lambda: shop.status()["stages"][0]["committed_offset"] == {"0": 0}, "it is worked")
    code, _, err = shop("skip", "0:0", "--reason", "x")
    assert (code, "stop the workers of stage 0" in err) == (1, True), err
    assert read_all(shop.dead) == []
    worker.kill()


MEASURED = """
import sys
from flux.cli.main import main

try:
    main()
finally:
    try:
        with open("/proc/self/status") as status:
            peak = next(line.split()[1] for line in status if line.startswith("VmHWM"))
    except OSError:
        peak = 0
    print("peak kB", peak, file=sys.stderr)
"""
MANY = 60_000


def test_tracing_reads_no_more_than_it_may_and_holds_little(shop: Shop) -> None:
    shop.idle()
    shop.produce(b"v", key=b"wanted")
    producer = Producer({"bootstrap.servers": shop.bootstrap, "queue.buffering.max.messages": 2 * MANY})
    retry = shop.retry
    for number in range(MANY):
        producer.produce(retry, b"x" * 500, b"key-%d" % number, 0, headers={"flux-due": b"1"})
    producer.produce(retry, b"v", b"wanted", 0)
    assert producer.flush(SECONDS) == 0

    def traced(*args: str) -> tuple[Any, str, float]:
        done = subprocess.run(
            [sys.executable, "-c", MEASURED, "trace", *shop.options, "--key", "wanted", "--json", *args],
            cwd=shop.directory,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        err, _, peak = done.stderr.rpartition("peak kB ")
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()], err, int(peak or 0) / 1024

    found, err, peak = traced("--limit", "10000")
    assert [work["complete"] for work in found] == [False]
    assert re.search(rf"--limit 10,000 or --timeout 60 was reached: 5\d,\d+ offsets of {retry} not read", err), err
    found, err, all_ = traced()
    assert [(work["complete"], work["copies"][0]["topic"]) for work in found] == [(True, shop.topic), (True, retry)]
    assert err == ""
    assert all_ - peak < 60, f"{all_:.0f} MB for all, {peak:.0f} for a sixth"
