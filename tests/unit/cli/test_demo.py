from __future__ import annotations

from pathlib import Path

import click
import pytest

from flux.cli.demo import _activation, show
from flux.cli.demo_app import Account, Demonstration, DemoPlan, run
from flux.core.ports import TopicPartition

FAST = DemoPlan(records=500, customers=20, produce_for=0.1, call_takes=0.0, wait=(0.05, 0.05, 0.05), limit=20)


def test_the_account_of_both_sides_adds_up() -> None:
    demonstration, in_time = run(FAST, lambda _: None)
    account = demonstration.account()
    assert in_time
    assert demonstration.code == 0
    assert account.adds_up
    assert account.produced == 500
    assert account.dead == {"exhausted": 3, "rejected": 1}
    assert (account.done, account.at_once) == (496, 450)


def test_a_dead_letter_that_is_gone_is_a_lost_record() -> None:
    demonstration, _ = run(FAST, lambda _: None)
    dead = demonstration.stages[demonstration.stages.dead].topic
    [gone, *_] = demonstration.adapter.broker.records(dead)
    demonstration.adapter.broker.delete_records(TopicPartition(dead, gone.partition()), gone.offset() + 1)
    account = demonstration.account()
    assert account.lost >= 1
    assert not account.adds_up


def test_it_prints_plain_lines_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert show(FAST) == 0
    output = capsys.readouterr().out
    assert "\x1b" not in output
    assert "produced 500   done 496   waiting for a retry 0   dead letters 4" in output
    assert "it adds up" in output
    assert "flux process --load tasks.py" in output


def test_an_account_that_does_not_add_up_fails(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = Account(produced=2, done=1, at_once=1, again=0, dead={}, lost=1, twice=0)
    monkeypatch.setattr(Demonstration, "account", lambda self: wrong)
    with pytest.raises(click.ClickException, match="did not end well"):
        show(FAST)
    assert "does not add up" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "adds_up"),
    [({}, True), ({"lost": 1}, False), ({"again": 1}, False), ({"twice": 1}, False), ({"done": 2}, False)],
)
def test_an_account_adds_up_only_without_a_rest(change: dict[str, int], adds_up: bool) -> None:
    account = {"produced": 4, "done": 3, "at_once": 3, "again": 0, "lost": 0, "twice": 0} | change
    assert Account(**account, dead={"rejected": 1}).adds_up is adds_up


def test_what_it_says_to_do_next_works_in_the_same_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / ".venv" / "bin"
    directory.mkdir(parents=True)
    for name in ("activate", "flux"):
        (directory / name).touch(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert _activation(directory) == "source .venv/bin/activate\n      "
    assert _activation(tmp_path) == ""
    monkeypatch.setenv("PATH", str(directory))
    assert _activation(directory) == ""
