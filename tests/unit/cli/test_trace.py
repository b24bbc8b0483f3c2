"""flux trace: what it prints and refuses."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from click.testing import Result

from flux.adapters.memory import MemoryAdapter
from flux.core.monitoring.report import IN_PLACE, Call, Open, Paused, Report, StageReport
from flux.core.ports import CommittedOffset, Headers, ProducerRecord, ProducerSettings, TopicPartition
from unit.support.cli_support import Flux, flux_cli, only_line

__all__ = ["flux_cli"]

TASK = """
    import flux
    class Billing(flux.Task):
        topic, group_id, retries = "orders", "billing", 1
        def call(self, message): pass
"""
EVIL = "\x1b[31mred\x07\u202e"
RETRY, DEAD = "orders-billing-try-1", "orders-billing-dlq"


class Tracing:
    def __init__(self, flux_cli: Flux) -> None:
        self.cli, self.broker = flux_cli, flux_cli.broker
        self.file = flux_cli.file(TASK)
        for topic in ("orders", RETRY, DEAD):
            self.broker.create_topic(topic)
        self.producer = MemoryAdapter(flux_cli.url.removeprefix("memory://")).producer(ProducerSettings())
        self.write("orders", key=EVIL.encode())

    def write(self, topic: str, headers: Headers = (), key: bytes = b"k") -> None:
        record = ProducerRecord(b"v", key, headers, 0, int(time.time() * 1000))
        self.producer.write(topic, [record], lambda error, record: None)

    def forward(self, topic: str, due: float | None = None, error: str = "boom") -> None:
        pairs: dict[str, object] = {"attempts": 1, "origin-topic": "orders", "origin-partition": 0, "origin-offset": 0}
        pairs |= {"reason": "error", "error-type": "ValueError", "error-message": error}
        if due is not None:
            pairs["due"] = int((time.time() + due) * 1000)
        self.write(topic, [(f"flux-{n}", str(v).encode()) for n, v in pairs.items()], EVIL.encode())

    def passed(self, group: str, topic: str, offset: int) -> None:
        self.broker.set_committed_offset(group, TopicPartition(topic, 0), CommittedOffset(offset))

    def __call__(self, *args: str) -> Result:
        return self.cli("trace", "--load", self.file, "--adapter", self.cli.url, *args)


@pytest.fixture
def tracing(flux_cli: Flux) -> Tracing:
    return Tracing(flux_cli)


def conclusion(done: Result) -> str:
    assert done.exit_code == 0, done.output
    [line] = [line for line in done.stdout.splitlines() if line.startswith("now: ")]
    return line.removeprefix("now: ")


def test_where_a_record_waits_and_until_when(tracing: Tracing) -> None:
    tracing.passed("billing", "orders", 1)
    tracing.forward(RETRY, due=3600)
    done = tracing("Billing", "--origin", "0:0")
    assert conclusion(done).startswith("waits in retry 1 until 20")
    assert conclusion(done).endswith("; then attempt 2")
    assert "error: ValueError: boom" in done.stdout
    assert f"{RETRY}[0]@0" in done.stdout


def test_a_dead_letter_is_named_by_its_place(tracing: Tracing) -> None:
    tracing.passed("billing", "orders", 1)
    tracing.forward(DEAD)
    assert conclusion(tracing("Billing", "--origin", "0:0")).startswith("a dead letter at 0:0 since 20")


def test_done_is_known_by_the_committed_offset(tracing: Tracing) -> None:
    tracing.passed("billing", "orders", 1)
    assert conclusion(tracing("Billing", "--origin", "0:0")) == ("done in main: group billing has committed offset 1")


def test_a_record_that_is_not_passed_is_to_be_called(tracing: Tracing) -> None:
    assert conclusion(tracing("Billing", "--origin", "0:0")) == (
        "in main, not called yet, or being called: group billing has no committed offset there; attempt 1"
    )


@pytest.mark.parametrize(
    ("shown", "says"),
    [
        ({"calls": (Call(0, 0, None, 1, 299.0),)}, "its call is running"),
        (
            {"open": (Open(0, 0, None, 3, "orders", IN_PLACE, 2, 9.0),)},
            "it is tried again in place, after 2 failures",
        ),
        ({"paused": Paused("ConnectionError", 90.0, 4.0)}, "its task is paused by ConnectionError"),
    ],
)
def test_what_a_record_waits_for_is_shown_where_workers_report(
    tracing: Tracing, shown: dict[str, Any], says: str
) -> None:
    rest = dict.fromkeys(("done", "failed", "retried", "dead", "waiting", "in_flight", "on_their_way"), 0)
    stage = StageReport(
        task="Billing",
        stage=0,
        topic="orders",
        group="billing",
        partitions="0",
        done_rate=0.0,
        failed_rate=0.0,
        due_in=None,
        **{"calls": (), "open": (), **rest, **shown},
    )
    report = Report("host", 7, None, "1", 5, 5.0, None, (stage,))
    tracing.producer.write("mine", [ProducerRecord(report.to_json(), report.key)], lambda error, record: None)
    done = tracing("Billing", "--origin", "0:0", "--report-topic", "mine")
    assert conclusion(done).startswith(f"in main, {says} on host pid 7, for ")
    assert conclusion(done).endswith("; attempt 1")


def test_a_record_cannot_do_anything_to_a_terminal(tracing: Tracing) -> None:
    tracing.forward(DEAD, error=EVIL)
    out = tracing("Billing", "--key", EVIL).stdout
    assert "\\x1b[31mred" in out
    assert not set("\x1b\x07\u202e") & set(out)


def test_machines_get_an_object_for_each_record(tracing: Tracing) -> None:
    tracing.passed("billing", "orders", 1)
    tracing.forward(RETRY, due=3600)
    [shown] = [json.loads(line) for line in tracing("Billing", "--key", EVIL, "--json").stdout.splitlines()]
    assert (shown["id"], shown["state"], shown["complete"]) == ("orders/0/0", "waiting", True)
    assert [(each["stage"], each["offset"], each["state"]) for each in shown["copies"]] == [
        (0, 0, "passed"),
        (1, 0, "waiting"),
    ]


def test_a_limit_that_was_reached_is_reported(tracing: Tracing) -> None:
    for _ in range(30):
        tracing.write(RETRY)
    done = tracing("Billing", "--origin", "0:0", "--limit", "4")
    assert done.exit_code == 0
    assert "--limit 4 or --timeout 60 was reached" in only_line(done.stderr)
    assert f"offsets of {RETRY} not read: there may be more" in done.stderr


def test_nothing_found_ends_with_1(tracing: Tracing) -> None:
    done = tracing("Billing", "--key", "nobody")
    assert (done.exit_code, done.stdout) == (1, "nothing found in 1 record\n")
    gone = tracing("Billing", "--origin", "0:99")
    assert (gone.exit_code, "orders[0]@99 does not exist: it is deleted, or was never written" in gone.stdout) == (
        1,
        True,
    )


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ([], "either --key or --origin"),
        (["--key", "k", "--origin", "0:0"], "either --key or --origin"),
        (["--origin", "x"], "is not PARTITION:OFFSET"),
        (["--origin", "0:0", "--since", "1d"], "--since needs --key"),
        (["--key", "k", "--limit", "0"], "--limit"),
    ],
)
def test_wrong_usage_is_one_line(tracing: Tracing, args: list[str], says: str) -> None:
    done = tracing(*args)
    assert (done.exit_code, says in only_line(done.stderr)) == (2, True), done.output
