"""Who should obey a command, and what is said of those that do not."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from flux.adapters.memory.reader import MemoryReader
from flux.core.control.commands import Action, CommandAnswer
from flux.core.errors import BrokerError, ConfigurationError, Fault
from flux.core.monitoring.report import TOPIC, Report
from flux.core.ports import PollResult, ProducerRecord
from flux.core.stage import Stages
from flux.operate.commands import (
    Addressees,
    CommandOutcome,
    addressees_of,
    audit_record,
    command_of,
    find_addressees,
    give,
)
from flux.operate.status.reports import ReceivedReport
from unit.support.operate_support import OperateKit, policy
from unit.support.report_support import REPORT, STAGE

STAGES = Stages("orders", "billing", 1)
MAIN, RETRY = STAGES[0], STAGES[1]
PAUSE = command_of(policy(), Action.PAUSE, "ada@ops", why="audit", seconds=600.0)


def report(pid: int, control: bool = True, *stages: int) -> Report:
    those = tuple(
        attrs.evolve(STAGE, stage=number, topic=STAGES[number].topic, group=STAGES[number].group)
        for number in stages or (0, 1)
    )
    return attrs.evolve(REPORT, pid=pid, control=control, stages=those)


def received(*reports: Report) -> list[ReceivedReport]:
    return [ReceivedReport(each, 2.0) for each in reports]


def answer(to: Report, ok: bool = True, text: str = "paused") -> CommandAnswer:
    return CommandAnswer(id=PAUSE.id, process=to.key.decode(), name=to.name, task="Billing", ok=ok, text=text)


def test_processes_with_control_should_obey_and_others_are_named_or_counted() -> None:
    with_it, without, other = report(1), report(2, control=False), report(3, True, 0)
    found = addressees_of(received(with_it, without, other), {RETRY: 5})
    assert list(found.obeying) == [with_it.key.decode()]
    assert [each.report for each in found.deaf] == [without]
    assert found.unknown == 3
    assert addressees_of(received(with_it), {MAIN: 0, RETRY: 1}).unknown == 0
    assert addressees_of([], {}) == Addressees({}, [], 0)


def test_all_is_well_when_all_have_answered() -> None:
    one, two = report(1), report(2)
    outcome = CommandOutcome(PAUSE, addressees_of(received(one, two), {MAIN: 2}))
    outcome.answers = {each.key.decode(): answer(each) for each in (one, two)}
    assert (outcome.ok, outcome.silent, outcome.problems) == (True, [], [])
    assert outcome.summary == "2 processes: paused"


def test_those_that_did_not_answer_are_named() -> None:
    one, two = report(1), report(2, control=False)
    outcome = CommandOutcome(PAUSE, addressees_of(received(one, two), {MAIN: 4}))
    assert not outcome.ok
    assert outcome.problems == [
        "host-1 pid 1: no answer in time; its last report is 2 seconds old",
        "host-1 pid 2: runs without --control",
        "2 members of the group without reports: start them with --control; a killed one counts until its session times"
        " out",
    ]


def test_a_process_that_refuses_is_no_success() -> None:
    one = report(1)
    outcome = CommandOutcome(PAUSE, addressees_of(received(one), {MAIN: 1}))
    outcome.answers = {one.key.decode(): answer(one, ok=False, text="does not run stage 7")}
    assert (outcome.ok, outcome.summary) == (False, "1 process: does not run stage 7")


@pytest.mark.parametrize(("action", "ok"), [(Action.PAUSE, True), (Action.RESTART, False)])
def test_without_workers_a_pause_waits_for_those_to_come_and_a_restart_fails(action: Action, ok: bool) -> None:
    outcome = CommandOutcome(attrs.evolve(PAUSE, action=action), Addressees({}))
    assert outcome.ok is ok
    assert ("holds for those that start" in outcome.summary) is ok


def test_an_action_is_written_down_with_what_it_says() -> None:
    record = audit_record(PAUSE, "Billing", 5)
    assert (record.at, record.by, record.action, record.topic) == (5, "ada@ops", "pause", "orders")
    assert record.what == "for: 10.0 minutes; why: audit"
    skip = command_of(policy(), Action.SKIP, "ada", stage=0, partition=3, offset=7, why="bad")
    assert audit_record(skip, "Billing", 5).what == "3:7; stage: 0; why: bad"


def test_a_command_out_of_bounds_is_refused_in_one_line() -> None:
    with pytest.raises(ConfigurationError, match=r"^pause: .*seconds"):
        command_of(policy(), Action.PAUSE, "ada", seconds=-1.0)


class Cluster:
    """A kit with the task's topics and one report."""

    def __init__(self) -> None:
        kit = OperateKit()
        self.kit, self.admin, self.adapter, self.system = kit, kit.admin, kit.adapter, kit.system

    def give(self, addressees: Addressees, **more: Any) -> CommandOutcome:
        return give(self.adapter, self.admin, PAUSE, addressees, system=self.system, **more)


def test_answers_are_read_until_all_are_there() -> None:
    cluster, one = Cluster(), report(1)
    late = attrs.evolve(answer(one), id="another")

    def reply() -> None:
        made = [ProducerRecord(each.to_json(), each.id.encode()) for each in (late, answer(one))]
        cluster.kit.kit.write(*made, topic="flux-commands-answers")

    cluster.system.after(1.0, reply)
    shown: list[CommandAnswer] = []
    outcome = cluster.give(addressees_of(received(one), {MAIN: 1}), on_answer=shown.append)
    assert (outcome.ok, shown) == (True, [answer(one)])


def test_the_wait_for_answers_is_bounded() -> None:
    cluster = Cluster()
    began = cluster.system.monotonic()
    outcome = cluster.give(addressees_of(received(report(1)), {MAIN: 1}), wait=5.0)
    assert [each.report.pid for each in outcome.silent] == [1]
    assert 5.0 <= cluster.system.monotonic() - began < 6.0


def test_a_cluster_that_becomes_unavailable_during_the_wait_ends_it_in_time_with_what_is_known() -> None:
    cluster, one, two = Cluster(), report(1), report(2)

    def lose() -> None:
        cluster.kit.kit.write(ProducerRecord(answer(one).to_json(), PAUSE.id.encode()), topic="flux-commands-answers")
        cluster.system.after(1.0, lambda: setattr(cluster.kit.broker, "available", False))

    cluster.system.after(1.0, lose)
    began = cluster.system.monotonic()
    outcome = cluster.give(addressees_of(received(one, two), {MAIN: 2}), wait=5.0)
    assert cluster.system.monotonic() - began < 9.0
    assert list(outcome.answers.values()) == [answer(one)]
    assert not outcome.ok
    assert outcome.problems == [
        "the command is given, but not all answers can be read: memory://kit is unavailable",
        "host-1 pid 2: no answer in time; its last report is 2 seconds old",
    ]


def test_answers_that_may_not_be_read_are_told_with_the_missing_right(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster()

    def refuse(*_: object) -> Any:
        raise BrokerError("not authorized", Fault.DENIED)

    monkeypatch.setattr(MemoryReader, "poll", refuse)
    outcome = cluster.give(addressees_of(received(report(1)), {MAIN: 1}))
    assert outcome.problems[0].endswith("allow this login READ and DESCRIBE on topic flux-commands-answers")


def test_a_reader_that_fails_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, one = Cluster(), report(1)
    poll, failures = MemoryReader.poll, [BrokerError("gone", Fault.UNAVAILABLE)]

    def fail_once(reader: MemoryReader, most: int, timeout: float) -> PollResult:
        if not failures:
            return poll(reader, most, timeout)
        cluster.kit.kit.write(ProducerRecord(answer(one).to_json(), PAUSE.id.encode()), topic="flux-commands-answers")
        raise failures.pop()

    monkeypatch.setattr(MemoryReader, "poll", fail_once)
    assert cluster.give(addressees_of(received(one), {MAIN: 1})).ok


def test_a_command_whose_write_is_not_acknowledged_may_be_given() -> None:
    cluster = Cluster()
    gone = BrokerError("no acknowledgement", Fault.UNAVAILABLE)
    cluster.kit.broker.fail_writes(lambda topic, partition, record: gone)
    with pytest.raises(BrokerError, match="no acknowledgement: the command may be given: give it again"):
        cluster.give(Addressees({}))


def test_the_commands_topic_is_compacted_and_holds_the_last_command_of_a_kind() -> None:
    cluster = Cluster()
    cluster.give(Addressees({}))
    [record] = cluster.kit.broker.records("flux-commands")
    assert record.key() == PAUSE.key
    config = cluster.admin.topic_config("flux-commands", 1)
    assert (config["cleanup.policy"], config["message.timestamp.type"]) == ("compact", "LogAppendTime")
    assert cluster.admin.topic_config("flux-commands-answers", 1)["cleanup.policy"] == "delete"


def test_without_the_right_to_give_commands_the_error_names_the_right_and_the_topic() -> None:
    cluster = Cluster()
    denied = BrokerError("not authorized", Fault.DENIED)
    cluster.kit.broker.fail_writes(lambda topic, partition, record: denied)
    with pytest.raises(ConfigurationError, match=r"allow this login WRITE on topic flux-commands$"):
        cluster.give(Addressees({}))


def test_without_a_right_on_any_of_the_topics_the_error_names_all_that_are_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = Cluster()

    def topics(*_: object) -> Any:
        raise BrokerError("not authorized", Fault.DENIED)

    monkeypatch.setattr(cluster.admin, "topics", topics)
    rights = r"WRITE on topic flux-commands, READ and DESCRIBE on topic flux-commands-answers$"
    with pytest.raises(ConfigurationError, match=rights):
        cluster.give(Addressees({}))


def test_workers_are_found_by_their_reports_and_the_members_of_the_groups() -> None:
    cluster = Cluster()
    kit = cluster.kit.kit
    assert find_addressees(cluster.adapter, cluster.admin, policy(1), TOPIC, None, cluster.system) == Addressees({}, [])
    kit.consumer("orders", "billing")
    one = report(1)
    kit.write(ProducerRecord(one.to_json(), one.key), topic=TOPIC)
    found = find_addressees(cluster.adapter, cluster.admin, policy(1), TOPIC, 0, cluster.system)
    assert (list(found.obeying), found.unknown) == ([one.key.decode()], 0)
