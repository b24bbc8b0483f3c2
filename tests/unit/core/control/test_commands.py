"""Commands and answers as JSON, and which command replaces which in the topic."""

from __future__ import annotations

import json

import attrs
import pytest

from flux.core.control.commands import Action, CommandAnswer, WorkerCommand, answers_topic

PAUSE = WorkerCommand(
    action=Action.PAUSE, topic="orders", group="billing", id="1", by="ada@ops", why="audit", seconds=600.0
)
SKIP = attrs.evolve(PAUSE, action=Action.SKIP, stage=0, partition=3, offset=7)
ANSWER = CommandAnswer(id="1", process="host/1/2", name="host pid 1", task="Billing", ok=True, text="paused")


@pytest.mark.parametrize("command", [PAUSE, SKIP, attrs.evolve(PAUSE, action=Action.SET_RATE, rate=2.5, stage=None)])
def test_a_command_is_read_as_it_was_written(command: WorkerCommand) -> None:
    assert WorkerCommand.from_json(command.to_json()) == command


def test_an_answer_is_read_as_it_was_written() -> None:
    assert CommandAnswer.from_json(ANSWER.to_json()) == ANSWER


@pytest.mark.parametrize("changed", [{"v": 2}, {"action": "explode"}, {"stage": -1}, {"by": 5}, {"more": 1}])
def test_a_command_of_another_kind_is_none(changed: dict[str, object]) -> None:
    found = {**json.loads(PAUSE.to_json()), **changed}
    assert WorkerCommand.from_json(json.dumps(found).encode()) is None


@pytest.mark.parametrize("data", [None, b"", b"\xff", b"[]", b"{}", b"[" * 100_000])
def test_what_is_no_object_of_this_version_is_none(data: bytes | None) -> None:
    assert WorkerCommand.from_json(data) is None
    assert CommandAnswer.from_json(data) is None


def test_a_skip_without_its_record_is_none() -> None:
    assert WorkerCommand.from_json(attrs.evolve(SKIP, offset=None).to_json()) is None


def test_the_resume_of_a_stage_replaces_its_pause_and_nothing_else() -> None:
    of_stage = attrs.evolve(PAUSE, stage=2)
    assert attrs.evolve(of_stage, action=Action.RESUME).key == of_stage.key
    others = [of_stage, attrs.evolve(PAUSE, group="shipping"), attrs.evolve(PAUSE, topic="t")]
    others += [attrs.evolve(PAUSE, action=each) for each in (Action.RESUME, Action.SET_RATE, Action.RESTART)]
    assert len({each.key for each in [PAUSE, *others]}) == 7


def test_answers_have_a_topic_of_their_own() -> None:
    assert answers_topic("acme.flux-commands") == "acme.flux-commands-answers"
