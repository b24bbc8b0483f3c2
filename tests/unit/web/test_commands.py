"""The buttons that command running workers, for operators: what is given, and what the workers answered."""

from __future__ import annotations

import attrs
import pytest

from flux.core.control.commands import Action, CommandAnswer, WorkerCommand
from flux.core.errors import BrokerError, Fault
from flux.core.monitoring.report import Paused, Report
from flux.core.ports import ProducerRecord
from flux.operate.audit import actions
from flux.web.users import read_tokens
from unit.support.web_support import TOKEN, Web, text_of

TASK = "/tasks/Billing"
SEND = f"{TASK}/commands"
TOPIC, ANSWERS = "flux-commands", "flux-commands-answers"


def given(web: Web) -> WorkerCommand:
    """The last command."""
    command = WorkerCommand.from_json(web.yard.broker.records(TOPIC)[-1].value())
    assert command is not None
    return command


def obeying(web: Web, ok: bool = True) -> Report:
    """A worker that reports, and answers after a second what it was told."""
    report = attrs.evolve(web.report_of(), control=True)
    web.publish(report)

    def answer() -> None:
        command = given(web)
        said = CommandAnswer(
            id=command.id, process=report.key.decode(), name=report.name, task="Billing", ok=ok, text="as <told>"
        )
        web.yard.kit.write(ProducerRecord(said.to_json(), b"key", partition=0), topic=ANSWERS)

    web.yard.system.after(1.0, answer)
    return report


def test_a_task_s_page_has_the_buttons_and_each_gives_its_command() -> None:
    web = Web()
    web.take_sample()
    page = web.get(TASK)
    for action in ("pause", "resume", "set-rate", "restart"):
        assert f'name="action" value="{action}"' in page
    obeying(web)
    shown = web.post(SEND, {"action": "pause", "stage": "0", "for": "1h", "why": " audit "}, 200).text
    assert "pause all obeyed" in text_of(shown)
    assert "as <told>" in text_of(shown)
    command = given(web)
    assert (command.action, command.stage, command.seconds, command.why) == (Action.PAUSE, 0, 3600.0, "audit")
    assert (command.by, command.topic, command.group) == ("local", "orders", "billing")


def test_who_commanded_what_is_in_the_history() -> None:
    web = Web()
    obeying(web)
    web.post(SEND, {"action": "restart"}, 200)
    [record] = actions(web.context.tasks[0].audit.read())
    assert (record.by, record.action, record.result) == ("local", "restart", "1 process: as <told>")
    assert "restart" in text_of(web.get(f"{TASK}/dead-letters/history"))


def test_a_worker_that_refuses_or_does_not_answer_is_shown() -> None:
    web = Web()
    obeying(web, ok=False)
    assert "resume not all obeyed" in text_of(web.post(SEND, {"action": "resume"}, 200).text)
    web = Web()
    web.publish(attrs.evolve(web.report_of(), control=True))
    assert "no answer in time" in text_of(web.post(SEND, {"action": "pause"}, 200).text)


@pytest.mark.parametrize(("rate", "means"), [("", None), ("default", None), ("none", 0.0), ("2.5", 2.5)])
def test_a_rate_is_given_as_a_number_or_left_to_the_code(rate: str, means: float | None) -> None:
    web = Web()
    web.post(SEND, {"action": "set-rate", "rate": rate, "for": "10m"}, 200)
    assert (given(web).rate, given(web).seconds) == (means, 600.0)


@pytest.mark.parametrize(
    "fields",
    [
        {"action": "explode"},
        {},
        {"action": "pause", "stage": "x"},
        {"action": "set-rate", "rate": "fast"},
        {"action": "set-rate", "rate": "-1"},
        {"action": "set-rate", "rate": "0"},
        {"action": "set-rate", "rate": "nan"},
        {"action": "skip", "stage": "0", "partition": "0", "offset": "0"},
        {"action": "skip", "stage": "0", "partition": "0", "why": "bad"},
    ],
)
def test_a_command_that_makes_no_sense_is_refused(fields: dict[str, str]) -> None:
    web = Web()
    web.post(SEND, fields, 409)
    assert TOPIC not in web.yard.admin.topic_names(1)


def test_a_record_is_skipped_from_its_page_by_workers_that_take_commands() -> None:
    web = Web()
    web.yard.kit.write(ProducerRecord(b"poison", b"k"), topic="orders")
    assert "Skip this record" in text_of(web.get(f"{TASK}/records/0/0/0"))
    fields = {"action": "skip", "stage": "0", "partition": "0", "offset": "0", "why": "poison"}
    assert "no worker of that stage takes commands" in text_of(web.post(SEND, fields, 409).text)
    obeying(web)
    assert "skip all obeyed" in text_of(web.post(SEND, fields, 200).text)
    command = given(web)
    assert (command.action, command.stage, command.partition, command.offset) == (Action.SKIP, 0, 0, 0)
    assert "there is no record" in text_of(web.post(SEND, {**fields, "offset": "7"}, 409).text)


def test_viewers_see_no_buttons_and_may_give_no_commands() -> None:
    web = Web(tokens=read_tokens(f"viewer vera {TOKEN}"))
    web.post("/login", {"token": TOKEN})
    web.take_sample()
    assert 'name="action"' not in web.get(TASK)
    assert "takes the role operator" in text_of(web.post(SEND, {"action": "pause"}, 403).text)


def test_without_the_right_the_page_names_it() -> None:
    web = Web()
    denied = BrokerError("not authorized", Fault.DENIED)
    web.yard.broker.fail_writes(lambda topic, partition, record: denied if topic == TOPIC else None)
    assert "allow this login WRITE on topic flux-commands" in text_of(web.post(SEND, {"action": "pause"}, 409).text)


def test_a_pause_is_shown_with_who_why_and_until_when() -> None:
    web = Web()
    paused = Paused("ada", 5.0, None, commanded=True, ends_in=600.0, why="audit")
    web.report(paused=paused)
    web.take_sample()
    assert "by ada on host pid 7 (process 0): audit. Ends in 10.0 minutes" in text_of(web.get(TASK))
    web.report(paused=attrs.evolve(paused, ends_in=None, why=""))
    web.take_sample()
    assert "by ada on host pid 7 (process 0). Until it is resumed." in text_of(web.get(TASK))
