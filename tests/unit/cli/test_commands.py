"""backoff, topics, status and produce."""

from __future__ import annotations

import json

import pytest

from flux.core.errors import BrokerError, Fault
from flux.core.ports import CommittedOffset, ProducerRecord, TopicPartition
from unit.support.cli_support import Flux, flux_cli, only_line

__all__ = ["flux_cli"]

TASK = """
    import flux
    class Billing(flux.Task):
        topic, group_id, retries, wait = "orders", "billing", 2, [1, 90]
        def call(self, message): pass
"""


def rows(output: str) -> dict[str, list[str]]:
    """A table's cells by the first one of the line."""
    return {cells[0]: cells[1:] for line in output.splitlines() if (cells := line.split())}


def test_backoff_is_the_published_table(flux_cli: Flux) -> None:
    table = rows(flux_cli("backoff").stdout)
    waits = {stage: " ".join(cells[:2]) for stage, cells in table.items()}
    assert waits["1"] == "45 seconds"
    assert [waits[n] for n in "2345"] == ["~1.2 minutes", "~2.6 minutes", "~5.7 minutes", "~12.1 minutes"]
    assert waits["25"] == "~4.5 days"
    assert table["25"][2:] == ["~25.0", "days"]
    assert "26" not in table


def test_backoff_of_a_task_is_its_own(flux_cli: Flux) -> None:
    table = rows(flux_cli("backoff", "--load", flux_cli.file(TASK)).stdout)
    assert table["1"] == ["1", "second", "1", "second"]
    assert table["2"] == ["~1.5", "minutes", "~1.5", "minutes"]
    assert "3" not in table


def test_backoff_shows_as_many_stages_as_requested(flux_cli: Flux) -> None:
    assert "3" in (table := rows(flux_cli("backoff", "--stages", "3").stdout))
    assert "4" not in table


def test_topics_lists_what_is_missing_and_ends_with_1(flux_cli: Flux) -> None:
    flux_cli.broker.create_topic("orders", 3)
    done = flux_cli("topics", "--load", flux_cli.file(TASK), "--adapter", flux_cli.url, "Billing")
    assert done.exit_code == 1
    table = rows(done.stdout)
    assert table["0"] == ["main", "orders", "billing", "3", "1", "exists"]
    assert table["1"] == ["retry", "orders-billing-try-1", "billing-1", "missing"]
    assert table["3"] == ["dead", "letters", "orders-billing-dlq", "billing-3", "missing"]
    assert "3 topics missing" in only_line(done.stderr)


def test_topics_creates_what_is_missing(flux_cli: Flux) -> None:
    args = ["topics", "--load", flux_cli.file(TASK), "--adapter", flux_cli.url]
    created = flux_cli(*args, "--create", "--partitions", "2", "--replication-factor", "1")
    assert created.exit_code == 0, created.output
    assert rows(created.stdout)["0"] == ["main", "orders", "billing", "2", "1", "created"]
    again = flux_cli(*args)
    assert again.exit_code == 0
    assert [rows(again.stdout)[n][-3:] for n in "0123"] == [["2", "1", "exists"]] * 4


def test_topics_says_what_exists_otherwise_than_asked_for(flux_cli: Flux) -> None:
    flux_cli.broker.create_topic("orders", 2)
    args = ["topics", "--load", flux_cli.file(TASK), "--adapter", flux_cli.url, "--create", "--replication-factor", "1"]
    done = flux_cli(*args, "--partitions", "4")
    assert done.exit_code == 0, done.output
    table = rows(done.stdout)
    assert table["0"][-8:] == ["2", "1", "existed:", "not", "changed", "to", "4", "partitions"]
    assert table["1"][-1] == "created"
    assert rows(flux_cli(*args, "--partitions", "2").stdout)["0"][-1] == "exists"


REFUNDS = """
    class Refunds(flux.Task):
        topic, group_id, retries = "refunds", "billing", 0
        def call(self, message): pass
"""


def test_topics_takes_several_tasks_and_without_a_name_all_of_the_code(flux_cli: Flux) -> None:
    args = ["topics", "--adapter", flux_cli.url, "--load", flux_cli.file(TASK + REFUNDS)]
    done = flux_cli(*args)
    assert done.exit_code == 1
    assert [name for name, cells in rows(done.stdout).items() if not cells and name[0].isupper()] == [
        "Billing",
        "Refunds",
    ]
    assert "6 topics missing" in only_line(done.stderr)
    created = flux_cli(*args, "--create", "--partitions", "2", "--replication-factor", "1", "Billing", "Refunds")
    assert (created.exit_code, created.stdout.count("created")) == (0, 6), created.output
    alone = flux_cli(*args, "Refunds").stdout
    assert [cells[-1] for number, cells in rows(alone).items() if number.isdigit()] == ["exists"] * 2
    assert "orders" not in alone


def test_tasks_lists_what_process_runs(flux_cli: Flux) -> None:
    file = flux_cli.file(TASK)
    assert "Billing" in flux_cli("tasks", "--load", file).stdout
    listed = json.loads(only_line(flux_cli("tasks", "--load", file, "--json").stdout))
    assert listed["task"] == "Billing"
    assert (listed["topic"], listed["group"], listed["retries"], listed["call"]) == ("orders", "billing", 2, "message")


def test_topics_takes_partitions_only_to_create(flux_cli: Flux) -> None:
    done = flux_cli("topics", "--load", flux_cli.file(TASK), "--adapter", flux_cli.url, "--partitions", "2")
    assert (done.exit_code, "--create" in only_line(done.stderr)) == (2, True)


def test_status_shows_lag_committed_offsets_and_dead_letters(flux_cli: Flux) -> None:
    broker = flux_cli.broker
    broker.create_topic("orders", 2)
    broker.create_topic("orders-billing-try-1")
    broker.create_topic("orders-billing-dlq")
    for topic, count in (("orders", 6), ("orders-billing-try-1", 4), ("orders-billing-dlq", 3)):
        lines = "".join(f"{n}\n" for n in range(count))
        assert flux_cli("produce", topic, "--adapter", flux_cli.url, input=lines).exit_code == 0
    broker.set_committed_offset("billing", TopicPartition("orders", 0), CommittedOffset(2))
    broker.delete_records(TopicPartition("orders-billing-try-1", 0), 1)
    ends = {str(n): sum(r.partition() == n for r in broker.records("orders")) for n in (0, 1)}
    done = flux_cli("status", "--load", flux_cli.file(TASK), "--adapter", flux_cli.url, "--json", "Billing")
    assert done.exit_code == 0, done.output
    status = json.loads(done.stdout)
    assert (status["task"], status["dead_letters"]) == ("Billing", 3)
    main, first, second = status["stages"]
    assert main["committed_offset"] == {"0": 2, "1": None}
    assert main["end"] == ends
    assert (main["stage"], main["topic"], main["group"], main["lag"]) == (0, "orders", "billing", 4)
    assert (first["stage"], first["committed_offset"], first["lag"]) == (1, {"0": None}, 3)
    assert (second["exists"], second["lag"]) == (False, None)
    table = flux_cli("status", "--load", flux_cli.file(TASK), "--adapter", flux_cli.url).stdout
    assert rows(table)["0"] == ["main", "orders", "0", "4"]
    assert rows(table)["2"][-1] == "missing"
    assert "3 records in retry topics (3 not due yet), 3 dead letters" in table


def test_status_of_a_cluster_that_refuses_is_one_line_that_names_it(
    flux_cli: Flux, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flux.operate.status.status.REQUEST_TIMEOUT", 0.0)
    flux_cli.broker.available = False
    done = flux_cli("status", "--load", flux_cli.file(TASK), "--adapter", flux_cli.url)
    assert done.exit_code == 1
    assert f"{flux_cli.url} cannot be reached" in only_line(done.stderr)


def test_produce_writes_a_record_for_each_line(flux_cli: Flux) -> None:
    done = flux_cli(
        *("produce", "orders", "--adapter", flux_cli.url, "--key-separator", "::", "--header", "a=1=2"),
        input="k::v::w\r\nalone\n\nlast",
    )
    assert done.exit_code == 0, done.output
    assert done.stdout == "4 delivered to orders\n"
    records = flux_cli.broker.records("orders")
    assert [(r.key(), r.value()) for r in records] == [(b"k", b"v::w"), (None, b"alone"), (None, b""), (None, b"last")]
    assert records[0].headers() == [("a", b"1=2")]


def test_produce_reads_a_file(flux_cli: Flux) -> None:
    done = flux_cli("produce", "orders", flux_cli.file("one\ntwo\n"), "--adapter", flux_cli.url)
    assert (done.exit_code, done.stdout) == (0, "2 delivered to orders\n")


def test_produce_names_what_was_not_delivered_and_ends_with_1(flux_cli: Flux) -> None:
    def refuse(topic: str, partition: int, record: ProducerRecord) -> BrokerError | None:
        return BrokerError("too \x1b[31mlarge", Fault.TOO_LARGE) if record.key == b"b" else None

    flux_cli.broker.fail_writes(refuse)
    lines = "a|1\nb|2\n" + "c|3\n" * 1500 + "b|4\n"
    done = flux_cli("produce", "orders", "--adapter", flux_cli.url, "--key-separator", "|", input=lines)
    assert done.exit_code == 1
    assert done.stdout == "1,501 delivered to orders\n"
    *named, total = done.stderr.splitlines()
    assert len(named) == 2
    assert all("key b'b': too \\x1b[31mlarge" in line for line in named)
    assert total == "flux: 2 not delivered"


def test_produce_gives_up_when_nothing_is_taken(flux_cli: Flux) -> None:
    flux_cli.broker.fail_writes(lambda topic, partition, record: BrokerError("denied", Fault.DENIED))
    done = flux_cli("produce", "orders", "--adapter", flux_cli.url, input="x\n" * 5000)
    assert done.exit_code == 1
    assert done.stdout == "0 delivered to orders\n"
    assert len(done.stderr.splitlines()) == 11
    assert "the rest of the input was not read" in done.stderr


@pytest.mark.parametrize(
    ("args", "code"),
    [(["t", "--header", "x"], 2), (["t", "--key-separator", ""], 2), (["t", "nofile"], 2), (["a b"], 1)],
)
def test_produce_refuses_what_cannot_be_meant(flux_cli: Flux, args: list[str], code: int) -> None:
    done = flux_cli("produce", "--adapter", flux_cli.url, *args, input="x\n")
    assert done.exit_code == code
    only_line(done.stderr)
