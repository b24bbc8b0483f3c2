"""flux dlq: what it prints, confirms and refuses."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from typing import Any

import pytest
from click.testing import Result

from flux.adapters.memory import MemoryAdapter
from flux.core.errors import BrokerError, Fault
from flux.core.ports import CommittedOffset, ProducerRecord, ProducerSettings, TopicPartition
from unit.support.cli_support import Flux, flux_cli, only_line
from unit.support.operate_support import NOW_MS, headers_of

__all__ = ["flux_cli"]

COMMANDS = ("list", "show", "causes", "replay", "edit", "reject", "history", "purge", "export", "import")
TASK = """
    import flux
    class Billing(flux.Task):
        topic, group_id, retries = "orders", "billing", 2
        def call(self, message): pass
"""
DEAD, RETRY, MAIN = "orders-billing-dlq", "orders-billing-try-1", "orders"
EVIL = "\x1b[31mred\x07\u202e"


class Dlq:
    """`flux dlq` for the task above, whose topics have two partitions."""

    def __init__(self, flux_cli: Flux, text: str = TASK) -> None:
        self.cli = flux_cli
        self.broker = flux_cli.broker
        self.file = flux_cli.file(text)
        for topic in (MAIN, RETRY, "orders-billing-try-2", DEAD):
            self.broker.create_topic(topic, 2)
        self.producer = MemoryAdapter(flux_cli.url.removeprefix("memory://")).producer(ProducerSettings())

    def __call__(self, name: str, *args: str, input: str | None = None) -> Result:
        return self.cli("dlq", name, "--load", self.file, "--adapter", self.cli.url, *args, input=input)

    def bury(self, *specs: dict[str, Any], key: bytes | None = b"c42", value: bytes = b'{"a": [1, 2]}') -> None:
        for number, spec in enumerate(specs):
            record = ProducerRecord(value, key, headers_of(number, **spec), spec.get("partition", 0), NOW_MS + number)
            self.producer.write(DEAD, [record], lambda error, record: None)


@pytest.fixture
def dlq(flux_cli: Flux) -> Dlq:
    return Dlq(flux_cli)


def test_the_commands_are_listed(flux_cli: Flux) -> None:
    shown = flux_cli("dlq", "--help").output
    assert all(name in shown for name in COMMANDS)
    for name in COMMANDS:
        help = flux_cli("dlq", name, "--help")
        assert (help.exit_code, "Examples:" in help.output) == (0, True), name
    assert flux_cli("dlq", "lost").exit_code == 2


# -- list


def test_list_is_a_table_of_what_matters(dlq: Dlq) -> None:
    dlq.bury({"text": "no customer 17"}, {"partition": 1, "error": "KeyError", "text": "'x'", "reason": "rejected"})
    done = dlq("list", "Billing")
    assert done.exit_code == 0, done.output
    oldest, _, first, second = done.output.splitlines()
    assert oldest.split() == ["at", "state", "key", "reason", "error", "first", "failed", "attempts"]
    assert " ".join(first.split()) == "0:0 open c42 exhausted ValueError: no customer 17 2023-11-14 22:12:30Z 3"
    assert " ".join(second.split()).startswith("1:0 open c42 rejected KeyError: 'x' 2023")


def test_list_takes_what_matches_only(dlq: Dlq) -> None:
    dlq.bury({"error": "A"}, {"error": "app.Timeout", "text": "slow"}, {"error": "B", "reason": "rejected"})

    def errors(*args: str) -> list[str]:
        return [json.loads(line)["error_type"] for line in dlq("list", "--json", *args).output.splitlines()]

    assert errors() == ["A", "app.Timeout", "B"]
    assert errors("--error", "timeout") == ["app.Timeout"]
    assert errors("--error", "*slow*") == ["app.Timeout"]
    assert errors("--reason", "rejected") == ["B"]
    assert errors("--key", "other") == []
    assert errors("--limit", "2") == ["A", "app.Timeout"]
    assert errors("--since", "2023-11-14T22:13:20.002+00:00") == ["B"]
    cause = json.loads(dlq("list", "--json", "--limit", "1").output)["cause"]
    assert errors("--cause", cause) == ["A"]


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="Windows keeps its zone")
def test_a_time_without_a_zone_is_meant_as_times_are_shown(dlq: Dlq, monkeypatch: pytest.MonkeyPatch) -> None:
    dlq.bury({"error": "A"}, {"error": "app.Timeout"}, {"error": "B"})
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        done = dlq("list", "--json", "--since", "2023-11-14T22:13:20.002")
    finally:
        monkeypatch.undo()
        time.tzset()
    assert [json.loads(line)["error_type"] for line in done.output.splitlines()] == ["B"]


def test_list_says_that_there_are_more(dlq: Dlq) -> None:
    dlq.bury({}, {}, {})
    done = dlq("list", "--limit", "2")
    assert len(done.stdout.splitlines()) == 2 + 2
    assert "only the first 2 are shown: use --limit or --since" in done.stderr
    assert "more" not in dlq("list", "--limit", "0").output


def test_list_of_many_has_one_head(dlq: Dlq) -> None:
    dlq.bury(*[{} for _ in range(450)])
    lines = dlq("list", "--limit", "0").output.splitlines()
    assert len(lines) == 452
    assert sum("first failed" in line for line in lines) == 1
    assert len({line.index("exhausted") for line in lines[2:]}) == 1, "the columns jump"


def test_list_of_nothing_says_so(dlq: Dlq) -> None:
    assert dlq("list").output == f"no dead letters in {DEAD}\n"
    assert dlq("list", "--key", "x").output == f"no dead letters in {DEAD} match\n"


def test_a_topic_that_was_never_made_is_one_line(flux_cli: Flux) -> None:
    done = flux_cli("dlq", "list", "--load", flux_cli.file(TASK), "--adapter", flux_cli.url)
    assert (done.exit_code, f"no topic {DEAD}" in only_line(done.stderr)) == (1, True)


@pytest.mark.parametrize(
    "args",
    [
        ["--since", "soon"],
        ["--since", "nand"],
        ["--since", "9e99d"],
        ["--since", "-1h"],
        ["--cause", "xyz"],
        ["--cause", "ab"],
        ["--limit", "-1"],
    ],
)
def test_a_choice_that_cannot_be_meant_is_wrong_usage(dlq: Dlq, args: list[str]) -> None:
    done = dlq("list", *args)
    assert done.exit_code == 2
    assert args[0] in only_line(done.stderr)


# -- show


def test_show_prints_all_of_one(dlq: Dlq) -> None:
    dlq.bury({}, {"replays": 2, "reason": "rejected"})
    text = dlq("show", "Billing", "0:1").output
    for part in (
        f"{DEAD}[0]@1",
        "orders[0]@1001",
        "replays       2",
        "rejected",
        "ValueError: no customer 17",
        'File "/srv/app/billing.py", line 17, in call',
        "own: header",
        '{\n  "a": [\n    1,\n    2\n  ]\n}',
    ):
        assert part in text, part
    assert dlq("show", "0:1").output == text
    assert json.loads(dlq("show", "0:1", "--json").output)["offset"] == 1


def test_nothing_of_a_record_reaches_the_terminal_as_it_is(dlq: Dlq) -> None:
    dlq.bury({"error": EVIL, "text": EVIL, "trace": EVIL, "reason": EVIL}, key=EVIL.encode(), value=EVIL.encode())
    for args in (["list"], ["list", "--json"], ["show", "0:0"], ["causes"], ["causes", "--json"]):
        done = dlq(*args)
        assert done.exit_code == 0
        assert not {"\x1b", "\x07", "\u202e"} & set(done.output), args


def test_show_of_what_is_no_text_is_a_dump(dlq: Dlq) -> None:
    dlq.bury({}, key=None, value=bytes(range(256)) + b"\xff" * 1000)
    text = dlq("show", "0:0").output
    assert "key           (none)" in text
    assert "00000010  10 11 12" in text
    assert "1,000 more bytes" in text


@pytest.mark.parametrize(
    ("place", "says"), [("0:7", "has offsets 0 to 0"), ("1:0", "is empty"), ("9:0", "no partition 9")]
)
def test_show_of_what_is_not_there_says_what_is(dlq: Dlq, place: str, says: str) -> None:
    dlq.bury({})
    done = dlq("show", place)
    assert (done.exit_code, says in only_line(done.stderr)) == (1, True)


@pytest.mark.parametrize("args", [["0"], ["0:x"], ["0:-1"], ["Billing"], [], ["a", "b", "0:1"], ["0:" + "9" * 30]])
def test_a_place_is_partition_and_offset(dlq: Dlq, args: list[str]) -> None:
    done = dlq("show", *args)
    assert done.exit_code == 2
    only_line(done.stderr)


# -- causes


def test_causes_group_dead_letters_by_what_went_wrong(dlq: Dlq) -> None:
    dlq.bury(*[{"text": f"no customer {n}"} for n in range(7)], {"error": "KeyError", "text": "'x'"})
    done = dlq("causes")
    assert done.exit_code == 0, done.output
    first, second = [line for line in done.output.splitlines() if "Error:" in line]
    assert first.split()[1] == "7"
    assert "ValueError: no customer # (app/billing.py in call)" in first
    assert "0:6" in first
    assert "KeyError: #" in second
    assert done.output.splitlines()[-1] == "8 dead letters, 2 causes"
    rows = [json.loads(line) for line in dlq("causes", "--json").output.splitlines()]
    assert [row["count"] for row in rows] == [7, 1]
    assert rows[0]["example"] == {"partition": 0, "offset": 6, "error": "ValueError: no customer 6"}
    assert "1 not shown" in dlq("causes", "--limit", "1").output


# -- replay


def test_replay_prints_a_result_and_the_next_one_continues(dlq: Dlq) -> None:
    dlq.bury({}, {})
    done = dlq("replay", "Billing")
    assert done.exit_code == 0, done.output
    assert done.stdout == f"replayed 2 dead letters to {RETRY}\n"
    assert f"{DEAD} keeps every dead letter" in done.stderr
    assert "no earlier replay found" in done.stderr
    again = dlq("replay")
    assert again.stdout == f"replayed 0 dead letters to {RETRY}\n"
    assert "no earlier replay found" not in again.stderr
    assert len(dlq.broker.records(RETRY)) == 2


def test_replay_of_one_cause(dlq: Dlq) -> None:
    dlq.bury({"error": "A"}, {"error": "B"}, {"error": "A"})
    cause = json.loads(dlq("causes", "--json", "--limit", "1").output)["cause"]
    assert dlq("replay", "--cause", cause).stdout == f"replayed 2 dead letters to {RETRY}; 1 did not match\n"
    rest = dlq("replay", "--json")
    assert json.loads(rest.stdout) == {
        "dry_run": False,
        "from": DEAD,
        "to": RETRY,
        "group": "billing-replay",
        "replayed": 1,
        "unmatched": 0,
        "replayed_before": 2,
        "rejected": 0,
        "missing": 0,
        "stopped": None,
    }


def test_replay_can_be_tried_dry(dlq: Dlq) -> None:
    dlq.bury({})
    assert dlq("replay", "--dry-run").stdout == f"would replay 1 dead letter to {RETRY}\n"
    assert dlq.broker.records(RETRY) == []


def test_replay_to_main_leaves_nothing_of_flux(dlq: Dlq) -> None:
    dlq.bury({})
    assert dlq("replay", "--to", "main").exit_code == 0
    [record] = dlq.broker.records(MAIN)
    assert record.headers() == [("own", b"header")]


def test_replay_ends_with_1_at_a_dead_letter_that_was_replayed_too_often(dlq: Dlq) -> None:
    dlq.bury({}, {"replays": 2, "text": EVIL})
    done = dlq("replay", "--max-replays", "2")
    assert (done.exit_code, done.stdout) == (1, f"replayed 1 dead letter to {RETRY}\n")
    assert "0:1 was replayed 2 times" in done.stderr
    assert "\x1b" not in done.output


def test_replay_without_retries_says_what_to_do(flux_cli: Flux) -> None:
    dlq = Dlq(flux_cli, TASK.replace('"billing", 2', '"billing", 0'))
    done = dlq("replay")
    assert (done.exit_code, "--to main" in only_line(done.stderr)) == (1, True)
    assert dlq("replay", "--to", "main").exit_code == 0


def test_replay_says_what_was_given_one_more_try_already(dlq: Dlq) -> None:
    dlq.bury({}, {})
    dlq.broker.set_committed_offset("billing-3", TopicPartition(DEAD, 0), CommittedOffset(1))
    assert "billing-3 has given up to 1 of these one more try" in dlq("replay").stderr


def test_replay_is_stopped_by_a_signal_with_its_offset_committed_and_a_result(dlq: Dlq) -> None:
    dlq.bury(*[{} for _ in range(30)])
    seen = iter(range(1000))

    def interrupt(topic: str, partition: int, record: ProducerRecord) -> None:
        if next(seen) == 11:
            signal.raise_signal(signal.SIGINT)

    dlq.broker.fail_writes(interrupt)
    before = signal.getsignal(signal.SIGINT)
    done = dlq("replay", "--rate", "100")
    assert signal.getsignal(signal.SIGINT) is before
    assert done.exit_code == 130
    count = len(dlq.broker.records(RETRY))
    assert 11 < count < 30
    assert done.stdout == f"replayed {count} dead letters to {RETRY}\n"
    assert "the next replay continues there" in done.stderr
    assert dlq.broker.committed_offsets("billing-replay", DEAD)[0] == CommittedOffset(count)
    dlq.broker.fail_writes(None)
    dlq("replay")
    assert len(dlq.broker.records(RETRY)) == 30


def test_a_cluster_that_is_unavailable_is_one_line(dlq: Dlq, monkeypatch: pytest.MonkeyPatch) -> None:
    dlq.bury({})
    monkeypatch.setattr("flux.consuming.topic_setup.REQUEST_TIMEOUT", 0.0)
    dlq.broker.available = False
    for args in (["list"], ["causes"], ["replay"], ["purge", "--all"], ["export"], ["show", "0:0"]):
        done = dlq(*args)
        assert done.exit_code == 1, args
        assert "cannot be reached" in only_line(done.stderr), args


# -- purge


def test_purge_needs_a_confirmation(dlq: Dlq) -> None:
    dlq.bury({}, {}, {"partition": 1})
    for answer in ("n", "y", "2", ""):
        refused = dlq("purge", "--all", input=f"{answer}\n")
        assert refused.exit_code == 1
        assert f"Delete 3 dead letters of {DEAD} (3 of them open) for good? Type their number" in refused.stderr
        assert "nothing was deleted" in refused.stderr
    nobody = dlq("purge", "--all", input="")
    assert (nobody.exit_code, "--yes" in nobody.stderr) == (1, True)
    assert len(dlq.broker.records(DEAD)) == 3
    assert dlq("purge", "--all", input="3\n").stdout == f"deleted 3 dead letters of {DEAD}\n"
    assert dlq.broker.records(DEAD) == []
    assert dlq("purge", "--all").stdout == f"nothing to delete in {DEAD}\n"


def test_purge_counts_dead_letters_and_not_offsets(dlq: Dlq) -> None:
    dlq.bury({}, {}, {})
    dlq.broker.skip_offsets(TopicPartition(DEAD, 0), 5)
    dlq("replay", "--only", "0:0")
    dlq("reject", "--only", "0:1")
    wrong = dlq("purge", "--all", "--count", "8")
    assert only_line(wrong.stderr) == (
        f"flux: nothing was deleted: there are 3 dead letters of {DEAD} (1 of them open), and not 8"
    )
    done = dlq("purge", "--all", "--count", "3")
    assert (done.exit_code, done.stdout) == (0, f"deleted 3 dead letters of {DEAD}\n")
    last = json.loads(dlq("history", "--json").stdout.splitlines()[-1])
    assert (last["action"], last["details"]) == ("purge", {"which": "before 0:8"})


def test_purge_up_to_a_point(dlq: Dlq) -> None:
    dlq.bury({}, {}, {}, {})

    def left() -> list[int]:
        return [record.offset() for record in dlq.broker.records(DEAD)]

    assert dlq("purge", "--yes", "--before", "0:1").exit_code == 0
    assert left() == [1, 2, 3]
    assert dlq("purge", "--yes", "--until", "2023-11-14T22:13:20.002+00:00").exit_code == 0
    assert left() == [2, 3]
    assert dlq("replay", "--limit", "1").exit_code == 0
    assert dlq("purge", "--yes", "--replayed").exit_code == 0
    assert left() == [3]
    for args, code in ((["--before", "0:9"], 1), (["--before", "7:1"], 1), ([], 2), (["--all", "--replayed"], 2)):
        done = dlq("purge", "--yes", *args)
        assert done.exit_code == code, args
        only_line(done.stderr)
    assert left() == [3]


# -- export and import


def test_what_is_exported_is_imported_byte_for_byte(dlq: Dlq) -> None:
    dlq.bury({}, {"partition": 1, "text": "ä \u2028 \x1b"}, key=b"\xff\x00", value=b"\xfe\n{}")
    before = [(r.partition(), r.key(), r.value(), r.headers(), r.timestamp()) for r in dlq.broker.records(DEAD)]
    exported = dlq("export", "Billing")
    assert "2 exported" in exported.stderr
    dlq("purge", "--all", "--yes")
    imported = dlq("import", "Billing", "-", input=exported.stdout + "\n")
    assert (imported.exit_code, imported.stdout) == (0, f"2 imported to {DEAD}\n")
    after = [(r.partition(), r.key(), r.value(), r.headers(), r.timestamp()) for r in dlq.broker.records(DEAD)]
    assert after == before


def test_export_to_a_file_takes_what_matches(dlq: Dlq) -> None:
    dlq.bury({"error": "A"}, {"error": "B"})
    path = str(dlq.cli.directory / "out.jsonl")
    assert dlq("export", "--error", "B", "--output", path).exit_code == 0
    with open(path, encoding="utf-8") as file:
        [line] = file.readlines()
    assert json.loads(line)["offset"] == 1
    assert dlq("import", path).stdout == f"1 imported to {DEAD}\n"


def test_import_ends_at_a_line_that_is_wrong_and_says_what_is_there(dlq: Dlq) -> None:
    good = '{"key": null, "value": "x"}\n'
    done = dlq("import", "-", input=good * 3 + "oops\n" + good)
    assert done.exit_code == 1
    assert only_line(done.stderr) == "flux: line 4: not JSON; the 3 before it were imported"
    assert len(dlq.broker.records(DEAD)) == 3
    assert dlq("import", "no-such-file").exit_code == 2


def test_import_says_how_far_it_came_when_the_cluster_refuses(dlq: Dlq) -> None:
    refused = iter([None, None, BrokerError("refused", Fault.DENIED)])
    dlq.broker.fail_writes(lambda topic, partition, record: next(refused, None))
    done = dlq("import", "-", input='{"key": null, "value": "x"}\n' * 4)
    assert done.exit_code == 1
    assert "refused; the first 2 were imported" in only_line(done.stderr)


def test_the_list_of_commands_imports_nothing_of_it() -> None:
    code = "import flux.cli.main, sys; sys.exit('flux.operate' in sys.modules or 'flux.cli.dlq' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
