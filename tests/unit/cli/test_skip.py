"""flux skip: what it prints and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import Result

from flux.adapters.memory import MemoryAdapter
from flux.core.errors import BrokerError, Fault
from flux.core.ports import CommittedOffset, ProducerRecord, ProducerSettings, TopicPartition
from unit.support.cli_support import Flux, flux_cli, only_line

__all__ = ["flux_cli"]

TASK = """
    import flux
    class Billing(flux.Task):
        topic, group_id, retries = "orders", "billing", 1
        def call(self, message): pass
"""
EVIL = "\x1b[31mred\x07\u202e"


class Skip:
    def __init__(self, flux_cli: Flux) -> None:
        self.cli, self.broker = flux_cli, flux_cli.broker
        self.file = flux_cli.file(TASK)
        for topic in ("orders", "orders-billing-try-1", "orders-billing-dlq"):
            self.broker.create_topic(topic)
        producer = MemoryAdapter(flux_cli.url.removeprefix("memory://")).producer(ProducerSettings())
        producer.write("orders", [ProducerRecord(b"v", EVIL.encode(), partition=0)] * 3, lambda error, record: None)

    def __call__(self, *args: str) -> Result:
        return self.cli("skip", "--load", self.file, "--adapter", self.cli.url, *args)


@pytest.fixture
def skip(flux_cli: Flux) -> Skip:
    return Skip(flux_cli)


def test_it_says_where_the_record_went_and_where_the_group_continues(skip: Skip) -> None:
    skip.broker.set_committed_offset("billing", TopicPartition("orders", 0), CommittedOffset(1))
    done = skip("Billing", "0:1", "--reason", "crashes  the parser", "--by", "ada")
    assert done.exit_code == 0, done.output
    assert only_line(done.stdout).startswith("moved orders[0]@1 (key \\x1b[31mred")
    assert only_line(done.stdout).endswith("to orders-billing-dlq; billing continues at offset 2")
    headers = dict(skip.broker.records("orders-billing-dlq")[0].headers() or ())
    assert (headers["flux-skipped-by"], headers["flux-error-message"]) == (b"ada", b"crashes the parser")


def test_who_is_this_login_when_nobody_is_named(skip: Skip) -> None:
    assert skip("Billing", "0:0", "--reason", "x").exit_code == 0
    headers = dict(skip.broker.records("orders-billing-dlq")[0].headers() or ())
    assert b"@" in (headers["flux-skipped-by"] or b"")


def test_machines_get_an_object(skip: Skip) -> None:
    shown = json.loads(skip("Billing", "0:0", "--reason", "x", "--by", "me", "--json").stdout)
    assert shown == {
        "topic": "orders",
        "partition": 0,
        "offset": 0,
        "id": "orders/0/0",
        "to": "orders-billing-dlq",
        "receipt": None,
        "group": "billing",
        "committed_offset": 1,
        "by": "me",
    }


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["Billing", "0:0"], 2, "--reason"),
        (["Billing", "0:0", "--reason", " "], 2, "--reason is empty"),
        (["Billing", "nowhere", "--reason", "x"], 2, "is not PARTITION:OFFSET"),
        (["Billing", "0:9", "--reason", "x"], 1, "there is no record orders[0]@9"),
        (["Billing", "0:0", "--stage", "2", "--reason", "x"], 1, "there is no stage 2: 0 is the main topic"),
    ],
)
def test_what_cannot_be_skipped_is_one_line(skip: Skip, args: list[str], code: int, says: str) -> None:
    done = skip(*args)
    assert done.exit_code == code, done.output
    assert says in only_line(done.stderr)
    assert not skip.broker.records("orders-billing-dlq")


def test_a_skipped_record_can_be_replayed_as_any_dead_letter(skip: Skip) -> None:
    skip("Billing", "0:0", "--reason", "x")
    done = skip.cli(
        "dlq", "replay", "--load", skip.file, "--adapter", skip.cli.url, "--reason", "skipped", "--json", "Billing"
    )
    assert json.loads(done.stdout)["replayed"] == 1


def test_what_no_topic_takes_is_kept_in_a_file_that_can_be_imported(skip: Skip, tmp_path: Path) -> None:
    too_large = BrokerError("too large", Fault.TOO_LARGE)
    skip.broker.fail_writes(lambda topic, *_: too_large if topic == "orders-billing-dlq" else None)
    refused = skip("Billing", "0:0", "--reason", "40 MB")
    assert refused.exit_code == 1
    assert "raise max.message.bytes of orders-billing-dlq, or keep it in a file with" in only_line(refused.stderr)
    file = tmp_path / "receipt.jsonl"
    done = skip("Billing", "0:0", "--reason", "40 MB", "--receipt", str(file))
    first, second = done.stdout.splitlines()
    assert (done.exit_code, first.endswith(f"to {file}; billing continues at offset 1")) == (0, True)
    assert second.startswith("orders-billing-dlq refused it (")
    skip.broker.fail_writes(None)
    taken = skip.cli("dlq", "import", "--load", skip.file, "--adapter", skip.cli.url, "Billing", str(file))
    assert taken.exit_code == 0, taken.output
    assert [record.value() for record in skip.broker.records("orders-billing-dlq")] == [b"v"]
    again = skip("Billing", "0:1", "--reason", "x", "--receipt", str(file))
    assert (again.exit_code, "exists: name a new file" in only_line(again.stderr)) == (2, True)


def test_a_receipt_is_not_made_where_the_dead_letters_take_the_record(skip: Skip, tmp_path: Path) -> None:
    file = tmp_path / "receipt.jsonl"
    shown = json.loads(skip("Billing", "0:0", "--reason", "x", "--receipt", str(file), "--json").stdout)
    assert (shown["to"], shown["receipt"], file.exists()) == ("orders-billing-dlq", None, False)
