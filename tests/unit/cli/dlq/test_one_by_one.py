"""Dead letters one by one on the command line: chosen, edited, rejected, and who did it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from flux.core.engine.key_order import OrderEntry, entry_name
from flux.core.errors import BrokerError, Fault
from flux.core.ports import ProducerRecord, TopicPartition
from unit.cli.dlq.test_dlq import DEAD, MAIN, RETRY, TASK, Dlq
from unit.support.cli_support import Flux, flux_cli, only_line
from unit.support.operate_support import NOW_MS

__all__ = ["flux_cli"]


@pytest.fixture
def dlq(flux_cli: Flux) -> Dlq:
    return Dlq(flux_cli)


def states(dlq: Dlq) -> list[str]:
    rows = map(json.loads, dlq("list", "--json").stdout.splitlines())
    return [f"{row['partition']}:{row['offset']} {row['state']}" for row in rows]


# -- choosing


def test_chosen_ones_are_replayed_and_the_others_stay_open(dlq: Dlq) -> None:
    dlq.bury({}, {}, {"partition": 1})
    done = dlq("replay", "--only", "0:1", "--only", "1:0")
    assert (done.exit_code, done.stdout) == (0, f"replayed 2 dead letters to {RETRY}\n"), done.output
    assert states(dlq) == ["0:0 open", "0:1 replayed", "1:0 replayed"]
    again = dlq("replay", "--only", "0:1")
    assert again.stdout == f"replayed 0 dead letters to {RETRY}; 1 replayed before\n"
    assert "state         replayed" in dlq("show", "0:1").stdout


def test_one_that_no_replay_has_come_near_is_open(dlq: Dlq) -> None:
    dlq.bury({})
    assert "state         open" in dlq("show", "0:0").stdout


def test_one_is_found_by_its_key_or_header_or_time(dlq: Dlq) -> None:
    dlq.bury({}, key=b"c42")
    dlq.bury({}, key=b"c43")
    for args, count in (
        (["--key", "c43"], 1),
        (["--header", "own=header"], 2),
        (["--header", "own"], 2),
        (["--header", "own=other"], 0),
        (["--until", "2023-11-14T22:13:20+00:00"], 0),
        (["--only", "0:1", "--key", "c43"], 1),
        (["--state", "open"], 2),
        (["--state", "rejected"], 0),
    ):
        rows = dlq("list", "--json", *args).stdout.splitlines()
        assert len(rows) == count, args


def test_it_is_said_how_many_records_wait_behind_one_that_holds_its_key(flux_cli: Flux) -> None:
    dlq = Dlq(flux_cli, TASK.replace("2\n", '2\n        retry_order, on_dead = "key", "hold"\n', 1))
    dlq.bury({}, {})
    dlq.broker.create_topic("orders-billing-keys", 1)
    entries = [OrderEntry(b"c42", 3, 0, 3, True), OrderEntry(b"c42", 2, 0, 0)]
    for offset, entry in zip((1000, 1007), entries, strict=True):
        record = ProducerRecord(entry.value(), entry_name((0, offset)), (), 0)
        dlq.producer.write("orders-billing-keys", [record], lambda error, record: None)
    assert [json.loads(row)["behind"] for row in dlq("list", "--json").stdout.splitlines()] == [1, None]
    assert "open, 1 behind" in dlq("list").stdout
    assert "holds key     1 record behind it" in dlq("show", "0:0").stdout
    assert "holds key" not in dlq("show", "0:1").stdout


def test_keys_of_dead_letters_that_the_topic_does_not_have_are_freed(flux_cli: Flux) -> None:
    dlq = Dlq(flux_cli, TASK.replace("2\n", '2\n        retry_order, on_dead = "key", "hold"\n', 1))
    dlq.bury({})
    dlq.broker.create_topic("orders-billing-keys", 1)
    for offset in (1000, 1001):
        record = ProducerRecord(OrderEntry(b"c%d" % offset, 3, 0, 3, True).value(), entry_name((0, offset)), (), 0)
        dlq.producer.write("orders-billing-keys", [record], lambda error, record: None)
    assert dlq("reject", "--deleted", "--all").exit_code == 2
    would = json.loads(dlq("reject", "--deleted", "--dry-run", "--json").stdout)
    assert would == {"dry_run": True, "topic": DEAD, "freed": ["0:1001"]}
    assert dlq("reject", "--deleted").stdout.startswith("freed 1 key, with 0 records behind: ")
    assert dlq("reject", "--deleted").stdout.startswith("no key has waited ")


def test_a_place_that_does_not_exist_is_one_line(dlq: Dlq) -> None:
    dlq.bury({})
    for name in ("replay", "reject", "list"):
        done = dlq(name, "--only", "0:7")
        assert (done.exit_code, only_line(done.stderr)) == (
            1,
            f"flux: there is no dead letter at 0:7: {DEAD} ends at 0:1",
        )


# -- reject


def test_a_rejected_one_is_open_no_more_and_can_be_replayed_when_that_is_said(dlq: Dlq) -> None:
    dlq.bury({}, {})
    assert dlq("reject", "--only", "0:0").stdout == f"rejected 1 dead letter of {DEAD}\n"
    assert states(dlq) == ["0:0 rejected", "0:1 open"]
    assert dlq("replay").stdout == f"replayed 1 dead letter to {RETRY}; 1 rejected\n"
    assert dlq("replay", "--rejected").stdout.startswith("replayed 1 dead letter ")
    assert states(dlq) == ["0:0 replayed", "0:1 replayed"]


def test_what_to_reject_is_chosen(dlq: Dlq) -> None:
    dlq.bury({"error": "A"}, {"error": "B"})
    for args in ([], ["--all", "--error", "A"]):
        assert dlq("reject", *args).exit_code == 2
    assert dlq("reject", "--error", "A", "--dry-run").stdout == f"would reject 1 dead letter of {DEAD}\n"
    assert states(dlq) == ["0:0 open", "0:1 open"]
    done = json.loads(dlq("reject", "--all", "--json").stdout)
    assert done == {"dry_run": False, "topic": DEAD, "rejected": 2, "decided_before": 0, "missing": 0}


def test_status_says_how_many_are_rejected(dlq: Dlq) -> None:
    dlq.bury({}, {}, {})
    dlq("reject", "--only", "0:0")

    def status(*args: str) -> str:
        return dlq.cli("status", "--load", dlq.file, "--adapter", dlq.cli.url, *args).stdout

    assert "3 dead letters (1 rejected)" in status()
    shown = json.loads(status("--json"))
    assert (shown["dead_letters"], shown["dead_letters_rejected"]) == (3, 1)


# -- edit


def test_an_edited_copy_is_replayed_and_the_original_stays(dlq: Dlq) -> None:
    dlq.bury({}, {})
    done = dlq("edit", "0:1", "--key", "c43", "--header", "tenant=eu", "--remove-header", "own")
    assert done.stdout == f"replayed 1 dead letter to {RETRY}\n", done.output
    [copy] = dlq.broker.records(RETRY)
    own = [pair for pair in copy.headers() or () if not pair[0].startswith("flux-")]
    assert (copy.key(), copy.value(), own) == (b"c43", b'{"a": [1, 2]}', [("tenant", b"eu")])
    assert states(dlq) == ["0:0 open", "0:1 replayed"]
    again = dlq("edit", "0:1", "--key", "c44")
    assert only_line(again.stderr) == "flux: 0:1 was replayed before: add --again to replay it all the same"
    assert dlq("edit", "0:1", "--key", "c44", "--again", "--to", "main").exit_code == 0
    assert [record.key() for record in dlq.broker.records(MAIN)] == [b"c44"]


def test_the_document_is_printed_edited_and_read_back(dlq: Dlq, tmp_path: Path) -> None:
    dlq.bury({}, value=b'{"amount": 7}')
    document = json.loads(dlq("edit", "0:0", "--print").stdout)
    assert document == {"key": "c42", "value": {"json": {"amount": 7}}, "headers": [["own", "header"]]}
    document["value"]["json"]["amount"] = 8
    file = tmp_path / "edited.json"
    file.write_text(json.dumps(document))
    assert dlq("edit", "0:0", "--from", str(file)).exit_code == 0
    assert [record.value() for record in dlq.broker.records(RETRY)] == [b'{"amount": 8}']


def test_another_value_is_taken_byte_for_byte(dlq: Dlq, tmp_path: Path) -> None:
    dlq.bury({})
    (tmp_path / "value").write_bytes(b"\xff\r\n")
    assert dlq("edit", "0:0", "--value", str(tmp_path / "value")).exit_code == 0
    assert [record.value() for record in dlq.broker.records(RETRY)] == [b"\xff\r\n"]


def test_an_edit_that_is_none_or_wrong_replays_nothing(dlq: Dlq) -> None:
    dlq.bury({})
    for args, text, says in (
        (["--key", "c42"], None, "nothing was changed: to replay it as it is, flux dlq replay --only 0:0"),
        (["--from", "-"], "{", "nothing was replayed: not JSON"),
        (["--from", "-"], "{}", "nothing was replayed: expected an object with key, value and headers"),
        (["--header", "flux-due=1"], None, "nothing was replayed: header 'flux-due'"),
    ):
        done = dlq("edit", "0:0", *args, input=text)
        assert (done.exit_code, says in only_line(done.stderr)) == (1, True), done.output
    for args in ([], ["--from", "-", "--key", "x"], ["--header", "a"]):
        assert dlq("edit", "0:0", *args, input="").exit_code == 2, args
    assert dlq.broker.records(RETRY) == []


def test_the_editor_opens_again_after_a_mistake(dlq: Dlq, monkeypatch: pytest.MonkeyPatch) -> None:
    dlq.bury({})
    answers = iter(["{", None])
    shown: list[str] = []

    def edit(text: str, extension: str) -> str | None:
        shown.append(text)
        return next(answers)

    terminal = SimpleNamespace(isatty=lambda: True)
    monkeypatch.setattr("flux.cli.dlq.edit.sys", SimpleNamespace(stdin=terminal))
    monkeypatch.setattr("click.edit", edit)
    monkeypatch.setattr("click.confirm", lambda *_, **__: True)
    done = dlq("edit", "0:0")
    assert "nothing was changed" in done.stderr
    assert json.loads(shown[0])["key"] == "c42"
    assert shown[1] == "{"


# -- history


def test_the_history_names_who_did_what_to_which(dlq: Dlq) -> None:
    dlq.bury({"error": "A"}, {"error": "B"}, {"error": "B"})
    dlq("replay", "--error", "A", "--by", "ada@ops")
    dlq("edit", "0:1", "--key", "c43", "--by", "bob")
    dlq("reject", "--only", "0:2", "--why", "customer is gone")
    dlq("replay", "--dry-run")
    rows = [json.loads(line) for line in dlq("history", "--json").stdout.splitlines()]
    assert [(row["action"], row["places"], row["task"], row["topic"]) for row in rows] == [
        ("replay", [], "Billing", DEAD),
        ("edit", ["0:1"], "Billing", DEAD),
        ("reject", ["0:2"], "Billing", DEAD),
    ]
    assert [row["by"] for row in rows[:2]] == ["ada@ops", "bob"]
    assert "@" in rows[2]["by"]
    assert [row["details"] for row in rows] == [
        {"which": "error A"},
        {"which": "1 chosen", "changed": "key"},
        {"which": "1 chosen", "why": "customer is gone"},
    ]
    assert rows[0]["result"] == f"replayed 1 dead letter to {RETRY}; 2 did not match"
    table = dlq("history", "--only", "0:2").stdout
    assert "customer is gone" in table
    assert "ada@ops" not in table


def test_an_empty_history_says_so(dlq: Dlq) -> None:
    assert dlq("history").stdout == f"nothing is written down of {DEAD} in flux-audit\n"


def test_a_history_that_is_long_is_cut_at_its_start(dlq: Dlq) -> None:
    dlq.bury({}, {})
    for place in ("0:0", "0:1"):
        dlq("reject", "--only", place)
    done = dlq("history", "--limit", "1")
    assert "; 0:1 " in done.stdout
    assert "; 0:0 " not in done.stdout
    assert "1 earlier action not shown: use --limit or --since" in done.stderr


def test_what_cannot_be_written_down_is_done_and_said(dlq: Dlq, monkeypatch: pytest.MonkeyPatch) -> None:
    from flux.adapters.memory.admin import MemoryAdmin

    def refuse(*_: object) -> None:
        raise BrokerError("no permission", Fault.DENIED)

    monkeypatch.setattr(MemoryAdmin, "create_topics", refuse)
    dlq.bury({})
    done = dlq("reject", "--all")
    assert (done.exit_code, states(dlq)) == (0, ["0:0 rejected"])
    assert "this reject is not written down in flux-audit: no permission" in done.stderr


def test_places_survive_a_purge(dlq: Dlq) -> None:
    dlq.bury({}, {})
    dlq("reject", "--only", "0:0")
    dlq.broker.delete_records(TopicPartition(DEAD, 0), 1)
    dlq.producer.write(DEAD, [ProducerRecord(b"new", b"k", [], 0, NOW_MS)], lambda error, record: None)
    assert states(dlq) == ["0:1 open", "0:2 open"]
