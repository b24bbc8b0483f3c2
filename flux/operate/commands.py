"""Gives a command to all workers of a task, and waits for their answers.

Workers are known by their reports. Those that do not report are counted as members of the task's groups: they take no
commands, and whoever gives one must know that.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import attrs

from flux.consuming.topic_setup import REQUEST_TIMEOUT
from flux.core.control.commands import Action, CommandAnswer, WorkerCommand, answers_topic
from flux.core.errors import BrokerError, ConfigurationError, Fault
from flux.core.policy import RATES, Policy
from flux.core.ports import AdminPort, Cluster, ProducerRecord, System, TopicPartition
from flux.core.stage import Stage
from flux.core.validation import shown
from flux.operate.audit import AuditRecord
from flux.operate.formatting import lasting, many
from flux.operate.reading import spans_of
from flux.operate.skip import no_stage
from flux.operate.status.reports import ReceivedReport, read_reports
from flux.operate.writing import write_all
from flux.processes.command_topics import commands_topic, explaining_denied, require_topics
from flux.system import SYSTEM

WAIT = 10.0
"""Seconds for the answers."""
_POLL = 0.25
_LOOK = 3.0
_HOLDS = (Action.PAUSE, Action.SET_RATE, Action.SKIP)
"""What a worker that starts later obeys too."""


@attrs.frozen
class Addressees:
    """Who should obey. `obeying`: the processes that take commands, by their key; `deaf`: those that report and take
    none; `unknown`: members of the groups that do not report."""

    obeying: Mapping[str, ReceivedReport]
    deaf: Sequence[ReceivedReport] = ()
    unknown: int = 0


@attrs.define
class CommandOutcome:
    """`answers`: by the key of the process; `silent`: processes that did not answer in time; `unread`: why answers
    could not be read."""

    command: WorkerCommand
    addressees: Addressees
    answers: dict[str, CommandAnswer] = attrs.field(factory=dict)
    unread: str = ""

    @property
    def silent(self) -> list[ReceivedReport]:
        return [each for key, each in self.addressees.obeying.items() if key not in self.answers]

    @property
    def ok(self) -> bool:
        """Whether all processes did it, as far as is known."""
        addressees = self.addressees
        refused = any(not answer.ok for answer in self.answers.values())
        nobody = not self.answers and self.command.action is Action.RESTART
        return not (nobody or refused or self.unread or self.silent or addressees.deaf or addressees.unknown)

    @property
    def problems(self) -> list[str]:
        """Sentences about those that did not answer."""
        found = [f"the command is given, but not all answers can be read: {self.unread}"] if self.unread else []
        found += [
            f"{each.report.name}: no answer in time; its last report is {lasting(each.age)} old" for each in self.silent
        ]
        found += [f"{each.report.name}: runs without --control" for each in self.addressees.deaf]
        if self.addressees.unknown:
            members = many(self.addressees.unknown, "member")
            found.append(
                f"{members} of the group without reports: start them with --control; a killed one counts until its"
                " session times out"
            )
        if not (self.addressees.obeying or self.answers or found):
            found.append(
                "no worker takes commands now; it holds for those that start with --control"
                if self.command.action in _HOLDS
                else "no worker takes commands now"
            )
        return found

    @property
    def summary(self) -> str:
        """In one line, for the audit."""
        texts: dict[str, int] = {}
        for answer in self.answers.values():
            texts[answer.text] = texts.get(answer.text, 0) + 1
        said = [f"{many(count, 'process', 'processes')}: {text}" for text, count in texts.items()]
        return "; ".join([*said, *self.problems])


def command_of(policy: Policy, action: Action, by: str, **more: object) -> WorkerCommand:
    """A new command to a task. Raises ConfigurationError for what is out of bounds."""
    stages = policy.stages
    fields = {"action": action, "topic": stages.topic, "group": stages.group, "id": uuid.uuid4().hex, "by": by}
    try:
        return WorkerCommand(**{**fields, **more})  # type: ignore[arg-type]
    except Exception as error:  # validators show the value, whose repr may raise anything
        raise ConfigurationError(f"{action.value}: {error.args[0] if error.args else error}") from None


def rate_of(text: str) -> float | None:
    """A rate as people write it, for `WorkerCommand.rate`: calls a second, "none" or "default". Raises
    ConfigurationError."""
    if text in ("none", "default"):
        return 0.0 if text == "none" else None
    try:
        rate = float(text)
    except ValueError:
        rate = -1.0
    if not RATES[0] <= rate <= RATES[1]:
        raise ConfigurationError(f"{shown(text)} is no rate: give calls a second, such as 50 or 0.5, none, or default")
    return rate


def audit_record(command: WorkerCommand, task: str, now_ms: int) -> AuditRecord:
    details: dict[str, object] = {
        "stage": command.stage,
        "for": None if command.seconds is None else lasting(command.seconds),
    }
    details |= {"rate": command.rate, "why": command.why or None}
    skipped = command.action is Action.SKIP
    return AuditRecord(
        at=now_ms,
        by=command.by,
        action=command.action.value,
        task=task,
        topic=command.topic,
        places=(f"{command.partition}:{command.offset}",) if skipped else (),
        details={name: str(value) for name, value in details.items() if value is not None},
    )


def find_addressees(
    adapter: Cluster, admin: AdminPort, policy: Policy, report_topic: str, stage: int | None, system: System = SYSTEM
) -> Addressees:
    """Who should obey a command to the task, or to one stage. Raises BrokerError, and ConfigurationError without a
    right."""
    names = admin.topic_names(REQUEST_TIMEOUT)
    stages = [each for each in [*policy.stages, *policy.stages.leftovers(names)] if stage in (None, each.number)]
    if stage is not None and not stages:
        raise ConfigurationError(no_stage(policy.stages, stage))
    with explaining_denied(f"to find the workers, allow this login READ on topic {report_topic}"):
        reports = read_reports(adapter, admin, report_topic, system) or []
    members = {each: _members(admin, each) for each in stages}
    return addressees_of(reports, members)


def addressees_of(reports: Iterable[ReceivedReport], members: Mapping[Stage, int]) -> Addressees:
    """`members`: of the group of each stage that is meant."""
    here = [each for each in reports if any(each.of(stage) for stage in members)]
    unknown = max((count - sum(bool(r.of(stage)) for r in here) for stage, count in members.items()), default=0)
    return Addressees(
        {each.report.key.decode(): each for each in here if each.report.control},
        [each for each in here if not each.report.control],
        max(0, unknown),
    )


def _members(admin: AdminPort, stage: Stage) -> int:
    try:
        return len(admin.members(stage.group, REQUEST_TIMEOUT))
    except BrokerError as error:
        if error.fault is not Fault.DENIED:
            raise
        return 0  # who may not see the group has its reports alone


def give(
    adapter: Cluster,
    admin: AdminPort,
    command: WorkerCommand,
    addressees: Addressees,
    *,
    wait: float = WAIT,
    on_answer: Callable[[CommandAnswer], object] = lambda answer: None,
    should_stop: Callable[[], bool] = lambda: False,
    system: System = SYSTEM,
) -> CommandOutcome:
    """Writes the command, and waits up to `wait` seconds for the answers of all who should obey. Raises BrokerError,
    and ConfigurationError without a right: then the command is not given, or the error says that it may be."""
    topic = commands_topic()
    answers = answers_topic(topic)
    rights = f"WRITE on topic {topic}, READ and DESCRIBE on topic {answers}"
    with explaining_denied(f"to give commands, allow this login {rights}"):
        require_topics(admin, topic, command.topic, system)
    with explaining_denied(f"to read the answers, allow this login READ and DESCRIBE on topic {answers}"):
        starts = {TopicPartition(answers, number): span.end for number, span in spans_of(admin, answers).items()}
    _write(adapter, topic, command, system)
    outcome = CommandOutcome(command, addressees)
    try:
        for answer in _answers(adapter, starts, command.id, system.monotonic() + wait, system):
            if answer is not None:
                outcome.answers[answer.process] = answer
                on_answer(answer)
            if not outcome.silent or should_stop():
                return outcome
        admin.watermarks(answers, _LOOK)  # whether the cluster is there to be read
    except BrokerError as error:
        denied = f": allow this login READ and DESCRIBE on topic {answers}" if error.fault is Fault.DENIED else ""
        outcome.unread = f"{error}{denied}"
    return outcome


def _write(adapter: Cluster, topic: str, command: WorkerCommand, system: System) -> None:
    written = [ProducerRecord(command.to_json(), command.key)]
    try:
        with explaining_denied(f"to give commands, allow this login WRITE on topic {topic}"):
            write_all(adapter, topic, written, system, compression="none")  # any client must be able to read it
    except BrokerError as error:
        if error.fault is not Fault.UNAVAILABLE:
            raise
        raise BrokerError(
            f"{error}: the command may be given: give it again, or look at flux status", error.fault
        ) from None


def _answers(
    adapter: Cluster, starts: Mapping[TopicPartition, int], id: str, until: float, system: System
) -> Iterator[CommandAnswer | None]:
    """Each answer as it comes, and None from time to time. Raises BrokerError."""
    positions = dict(starts)
    reader = adapter.reader(positions)
    try:
        while system.monotonic() < until:
            try:
                records = [record for batch in reader.poll(500, _POLL).batches for record in batch.records]
            except BrokerError as error:
                if error.fault is not Fault.UNAVAILABLE:
                    raise
                reader.close()
                system.sleep(_POLL)
                reader, records = adapter.reader(positions), []
            positions |= {TopicPartition(each.topic(), each.partition()): each.offset() + 1 for each in records}
            found = [CommandAnswer.from_json(record.value()) for record in records]
            yield from [answer for answer in found if answer is not None and answer.id == id]
            yield None
    finally:
        reader.close()
