"""flux waiting: what it prints."""

from __future__ import annotations

import json
import time

import pytest
from click.testing import Result

from flux.adapters.memory import MemoryAdapter
from flux.core.ports import CommittedOffset, ProducerRecord, ProducerSettings, TopicPartition
from unit.support.cli_support import Flux, flux_cli, only_line

__all__ = ["flux_cli"]

TASK = """
    import flux
    class Billing(flux.Task):
        topic, group_id, retries = "orders", "billing", 2
        def call(self, message): pass
"""
RETRY = "orders-billing-try-1"


class Waiting:
    def __init__(self, flux_cli: Flux) -> None:
        self.cli, self.broker = flux_cli, flux_cli.broker
        self.file = flux_cli.file(TASK)
        self.adapter = MemoryAdapter(flux_cli.url.removeprefix("memory://"))
        self.now_ms = int(time.time() * 1000)
        for topic in ("orders", RETRY, "orders-billing-try-2", "orders-billing-dlq"):
            self.broker.create_topic(topic)

    def write(self, seconds: float, *headers: tuple[str, bytes], topic: str = RETRY, key: bytes = b"k") -> None:
        due = str(self.now_ms + int(seconds * 1000)).encode()
        record = ProducerRecord(b"v", key, [("flux-attempts", b"0"), ("flux-due", due), *headers], 0, self.now_ms)
        self.adapter.producer(ProducerSettings()).write(topic, [record], lambda error, record: None)

    def __call__(self, *args: str) -> Result:
        return self.cli("waiting", "--load", self.file, "--adapter", self.cli.url, *args)


@pytest.fixture
def waiting(flux_cli: Flux) -> Waiting:
    return Waiting(flux_cli)


def test_it_lists_what_is_due_next_first_without_what_is_void(waiting: Waiting) -> None:
    waiting.write(7200, ("flux-id", b"reminder-42"), key=b"first")
    waiting.write(3600, ("flux-id", b"reminder-42"), key=b"second")
    waiting.write(60, ("flux-id", b"cancelled"))
    waiting.write(0, ("flux-cancelled", b"cancelled"))
    tick = str(waiting.now_ms + 600_000).encode()
    waiting.write(600, ("flux-tick", tick), ("flux-schedule", b"nightly"), key=b"nightly")
    waiting.write(30, ("flux-error-type", b"Timeout"), topic="orders-billing-try-2", key=b"failed")
    # a cancellation that a worker has read is done
    waiting.broker.set_committed_offset("billing-1", TopicPartition(RETRY, 0), CommittedOffset(0))
    done = waiting()
    assert done.exit_code == 0, done.output
    _, _, *rows = done.stdout.splitlines()
    assert [" ".join(row.split()).partition("Z ")[2] for row in rows] == [
        "retry 2 failed 1 Timeout orders-billing-try-2 0:0",
        f"retry 1 nightly schedule nightly 1 {RETRY} 0:4",
        f"retry 1 second id reminder-42 1 {RETRY} 0:1",
    ]
    objects = [json.loads(line) for line in waiting("--json", "--limit", "2").stdout.splitlines()]
    assert [(each["stage"], each["key"], each["id"], each["schedule"]) for each in objects] == [
        (2, "failed", None, None),
        (1, "nightly", None, "nightly"),
    ]


def test_a_record_that_follows_another_one_of_its_key_says_so(waiting: Waiting) -> None:
    waiting.write(60, ("flux-order", b"7"), key=b"follows")
    waiting.write(70, ("flux-order", b"8"), ("flux-error-type", b"Timeout"), ("flux-attempts", b"1"), key=b"failed")
    waiting.write(80, ("flux-order", b"9"), ("flux-replays", b"1"), key=b"replayed")
    follows, failed, replayed = waiting().stdout.splitlines()[2:]
    assert "follows 1 behind an earlier record of its key orders-billing-try-1 0:0" in " ".join(follows.split())
    assert "Timeout" in failed
    assert "behind" not in failed + replayed
    objects = [json.loads(line) for line in waiting("--json").stdout.splitlines()]
    assert [(each["follows"], each["error"]) for each in objects] == [(True, None), (False, "Timeout"), (False, None)]


def test_it_says_that_there_are_more(waiting: Waiting) -> None:
    for seconds in range(3):
        waiting.write(60 + seconds)
    assert "only the next 2 of 3 are shown" in waiting("--limit", "2").stderr


def test_nothing_waits(waiting: Waiting) -> None:
    assert waiting().stdout == "no record waits\n"


def test_flux_cancel_takes_back_what_waits_and_writes_down_who_did(waiting: Waiting) -> None:
    waiting.write(60, ("flux-id", b"meeting-42"), key=b"ada")
    arguments = ("--load", waiting.file, "--adapter", waiting.cli.url)
    done = waiting.cli("cancel", *arguments, "meeting-42", "--by", "nora", "--why", "off sick")
    assert (done.exit_code, done.stdout.rpartition(",")[0]) == (0, "cancelled meeting-42 (key ada)"), done.output
    assert waiting().stdout == "no record waits\n"
    *_, action = [json.loads(record.value() or b"") for record in waiting.broker.records("flux-audit")]
    assert (action["by"], action["action"], action["result"]) == ("nora", "cancel", "cancelled")
    assert (action["places"], action["details"]) == (["0:0"], {"id": "meeting-42", "why": "off sick"})
    again = waiting.cli("cancel", *arguments, "meeting-42")
    assert again.exit_code == 1
    assert "no work waits with the id 'meeting-42'; flux waiting lists the ids" in only_line(again.stderr)
    assert "give [TASK] ID" in waiting.cli("cancel", *arguments).stderr


def test_flux_cancel_prints_an_object(waiting: Waiting) -> None:
    waiting.write(60, ("flux-id", b"42"))
    done = waiting.cli("cancel", "--load", waiting.file, "--adapter", waiting.cli.url, "Billing", "42", "--json")
    shown = json.loads(done.stdout)
    assert (shown["id"], shown["topic"], shown["cancelled"]["offset"]) == ("42", RETRY, 0)
