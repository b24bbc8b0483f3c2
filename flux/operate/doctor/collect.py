"""Queries a cluster for the facts. What it does not return is kept as unknown, so that no check passes by default."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TypeVar

import attrs

from flux.consuming.open_transactions import HeldBack, held_back, lasting, open_transactions
from flux.consuming.topic_setup import REQUEST_TIMEOUT
from flux.core.control.commands import answers_topic
from flux.core.errors import BrokerError, Fault
from flux.core.policy import Policy
from flux.core.ports import (
    AdminPort,
    Cluster,
    GroupProtocol,
    Permissions,
    System,
    TopicInfo,
    TopicPartition,
)
from flux.core.schedules import Schedule
from flux.core.stage import Role, Stage, Stages
from flux.operate.audit import TOPIC_CONFIG as AUDIT_CONFIG
from flux.operate.audit import audit_topic
from flux.operate.doctor.facts import OLD, ClockDifference, CommandTopic, Facts, TopicFacts, Unknown
from flux.operate.held_keys import HeldKeys, held_keys
from flux.operate.status.blockers import LargeRecord, large_records_in
from flux.operate.status.schedules import ScheduleStatus, schedules_of, waiting_ticks
from flux.operate.status.status import read_status
from flux.processes.command_topics import ANSWERS_CONFIG, COMMANDS_CONFIG, commands_topic
from flux.system import SYSTEM

T = TypeVar("T")

_TRANSACTION_LOG = "__transaction_state"
FATAL_FAULTS = {Fault.UNAVAILABLE, Fault.LOGIN}
"""Faults that end the examination; any other makes one fact unknown."""
NO_CLOCK = Unknown("the clocks' difference", "needs a temporary topic: run with --clock")


def collect_facts(
    name: str,
    policy: Policy,
    admin: AdminPort,
    *,
    others: Sequence[tuple[str, Stages]] = (),
    clock: ClockDifference | Unknown = NO_CLOCK,
    unwritable: str = "",
    untransactional: str = "",
    task: str = "",
    adapter: Cluster | None = None,
    control: bool = False,
    schedules: Sequence[Schedule] = (),
    system: System = SYSTEM,
) -> Facts:
    """What the checks need. `others`: other tasks on the cluster; `clock`: the measured difference, or why there is
    none; `unwritable` and `untransactional`: why the process's producers cannot be made; `task`: how commands name the
    task; `adapter`: reads the records at the committed offsets (None: they are not read); `control`: what workers with
    `--control` need too; `schedules`: those in the task's code. Raises BrokerError when the cluster is unavailable;
    where it refuses the login, the facts hold only that."""
    collector = _Collector(admin, policy, system)
    try:
        facts = collector.facts(name, others, clock, unwritable)
        large = collector.large(adapter) if adapter is not None and facts.names else ()
    except BrokerError as error:
        if error.fault is not Fault.LOGIN:
            raise
        return Facts(name, policy, (), others=tuple(others), refused=str(error))
    topics = [topic.name for topic in facts.topics[:-1] if topic.info is not None]
    held_back = collector.held_back(topics, "" if adapter is None else adapter.cluster)
    log = collector.transaction_log() if policy.exactly_once else None
    ticks = () if adapter is None else collector.schedules(adapter, schedules)
    keys_topic, held = collector.keys_topic(), None if adapter is None else collector.held_keys(adapter)
    return attrs.evolve(
        facts,
        large=large,
        held_back=tuple(held_back),
        transaction_log=log,
        command_topics=tuple(collector.command_topics()) if control else (),
        untransactional=untransactional,
        unknown=tuple(collector.unknown),
        task=task,
        brokers_at=_brokers_at(adapter),
        schedules=ticks,
        keys_topic=keys_topic,
        held_keys=held,
        at=system.now(),
    )


def _brokers_at(adapter: Cluster | None) -> str:
    scheme, _, brokers = ("" if adapter is None else adapter.cluster).partition("://")
    return brokers if scheme == "kafka" else "HOST:PORT"


@attrs.define
class _Collector:
    admin: AdminPort
    policy: Policy
    system: System
    unknown: list[Unknown] = attrs.field(factory=list)

    def facts(
        self, name: str, others: Sequence[tuple[str, Stages]], clock: ClockDifference | Unknown, unwritable: str
    ) -> Facts:
        stages = list(self.policy.stages)
        topics = self._topics(stages)
        groups = [stage.group for stage in stages[:-1]]
        names: set[str] = self._query("names of other topics", partial(self.admin.topic_names, REQUEST_TIMEOUT), set())
        brokers = self._query("settings of the brokers", partial(self.admin.broker_configs, REQUEST_TIMEOUT), None)
        permissions = self._permissions([topic for topic in topics if not topic.missing], groups)
        protocols = self._protocols(groups)
        if isinstance(clock, Unknown):
            self.unknown.append(clock)
        return Facts(
            name,
            self.policy,
            tuple(topics),
            names=frozenset(names),
            brokers=brokers,
            permissions=permissions,
            protocols=protocols,
            others=tuple(others),
            clock=clock if isinstance(clock, ClockDifference) else None,
            unknown=tuple(self.unknown),
            unwritable=unwritable,
        )

    def large(self, adapter: Cluster) -> tuple[LargeRecord, ...]:
        question = partial(read_status, adapter, self.admin, self.policy, None, system=self.system)
        found = self._query("records at the committed offsets", question, None)
        return () if found is None else tuple(large_records_in(found))

    def command_topics(self) -> list[CommandTopic]:
        commands = commands_topic()
        answers, audit = answers_topic(commands), audit_topic()
        wanted = {commands: COMMANDS_CONFIG, answers: ANSWERS_CONFIG, audit: AUDIT_CONFIG}
        return self._of_one_partition(wanted, {commands: ("READ", "DESCRIBE"), answers: ("WRITE",)})

    def keys_topic(self) -> CommandTopic | None:
        topic = self.policy.stages.keys_topic
        if self.policy.retry_order is None:
            return None
        return self._of_one_partition({topic: {"cleanup.policy": "compact"}}, {topic: ("READ", "WRITE")})[0]

    def held_keys(self, adapter: Cluster) -> HeldKeys | None:
        question = partial(held_keys, adapter, self.admin, self.policy, self.system)
        return self._query("held keys", question, None)

    def _of_one_partition(
        self, wanted: Mapping[str, Mapping[str, str]], needs: Mapping[str, tuple[str, ...]]
    ) -> list[CommandTopic]:
        infos, hidden = self._infos([*wanted])
        known = [name for name in wanted if infos.get(name) is not None]
        rights = self._query("permissions", partial(self.admin.permissions, known, (), REQUEST_TIMEOUT), None)
        found = []
        for name, settings in wanted.items():
            config = None
            if name in known:
                question = partial(self.admin.topic_config, name, REQUEST_TIMEOUT)
                config = self._query(f"settings of topic {name}", question, None)
            checked = {setting: value for setting, value in settings.items() if setting != "segment.ms"}
            allowed = None if rights is None else rights.topics.get(name)
            found.append(
                CommandTopic(name, checked, needs.get(name, ()), infos.get(name), name in hidden, config, allowed)
            )
        return found

    def schedules(self, adapter: Cluster, schedules: Sequence[Schedule]) -> tuple[ScheduleStatus, ...]:
        question = partial(waiting_ticks, adapter, self.admin, self.policy, schedules, self.system)
        found = self._query("ticks of schedules", question, None)
        return () if found is None else tuple(schedules_of(schedules, found, ()))

    def transaction_log(self) -> tuple[int, int] | None:
        what = f"topic {_TRANSACTION_LOG}"
        topics = partial(self.admin.topics, [_TRANSACTION_LOG], REQUEST_TIMEOUT)
        info = self._query(what, topics, dict[str, TopicInfo | None]()).get(_TRANSACTION_LOG)
        if info is None:
            return None
        config = self._query(what, partial(self.admin.topic_config, _TRANSACTION_LOG, REQUEST_TIMEOUT), None)
        return None if config is None else (info.replication_factor, int(config["min.insync.replicas"]))

    def held_back(self, topics: Sequence[str], cluster: str) -> list[HeldBack]:
        def look(topics: Iterable[str]) -> dict[TopicPartition, int]:
            found: dict[TopicPartition, int] = {}
            for topic in topics:
                question = partial(open_transactions, self.admin, [topic])
                found |= self._query(f"open transactions of topic {topic}", question, dict[TopicPartition, int]())
            return found

        stay_open = lasting(look(topics), look, self.system)
        return [held_back(self.admin, at, offset, cluster, self.system) for at, offset in stay_open.items()]

    def _query(self, what: str, question: Callable[[], T], otherwise: T) -> T:
        try:
            return question()
        except BrokerError as error:
            if error.fault in FATAL_FAULTS:
                raise
            self.unknown.append(Unknown(what, str(error)))
            return otherwise

    def _topics(self, stages: Sequence[Stage]) -> list[TopicFacts]:
        infos, hidden = self._infos([stage.topic for stage in stages])
        return [self._topic(stage, infos.get(stage.topic), stage.topic in hidden) for stage in stages]

    def _infos(self, names: Sequence[str]) -> tuple[dict[str, TopicInfo | None], set[str]]:
        """Of topics; and those that are forbidden."""
        infos: dict[str, TopicInfo | None] = {}
        hidden: set[str] = set()
        try:
            infos = self.admin.topics(names, REQUEST_TIMEOUT)
        except BrokerError as error:
            if error.fault in FATAL_FAULTS:
                raise
            for name in names:  # one that is forbidden hides the others
                try:
                    infos |= self.admin.topics([name], REQUEST_TIMEOUT)
                except BrokerError as refused:
                    if refused.fault in FATAL_FAULTS:
                        raise
                    hidden.add(name)
                    self.unknown.append(Unknown(f"topic {name}", str(refused)))
        return infos, hidden

    def _topic(self, stage: Stage, info: TopicInfo | None, hidden: bool) -> TopicFacts:
        if info is None:
            return TopicFacts(stage, hidden=hidden)
        question = partial(self.admin.topic_config, stage.topic, REQUEST_TIMEOUT)
        config = self._query(f"settings of topic {stage.topic}", question, None)
        unreadable = partial(self.admin.unreadable_codecs, stage.topic, REQUEST_TIMEOUT)
        facts = TopicFacts(stage, info, config, unreadable=self._query(f"compression of {stage.topic}", unreadable, {}))
        kept = facts.retention
        if kept is None:
            return facts
        old = self._query(f"age of the records in {stage.topic}", partial(self._old, stage, kept), 0)
        return attrs.evolve(facts, old=old)

    def _old(self, stage: Stage, kept: float) -> int:
        """By the time index, without reading."""
        since = self.admin.offsets_at(stage.topic, int((self.system.now() - OLD * kept) * 1000), REQUEST_TIMEOUT)
        done = (
            {} if stage.role is Role.DEAD else self.admin.committed_offsets(stage.group, stage.topic, REQUEST_TIMEOUT)
        )
        return sum(
            max(0, since.get(number, 0) - max(mark.low, done[number].offset if number in done else 0))
            for number, mark in self.admin.watermarks(stage.topic, REQUEST_TIMEOUT).items()
        )

    def _permissions(self, topics: Iterable[TopicFacts], groups: Sequence[str]) -> Permissions | None:
        names = [topic.name for topic in topics]
        found = self._query("permissions", partial(self.admin.permissions, names, groups, REQUEST_TIMEOUT), None)
        if found is not None:
            unknown_names = [f"topic {name}" for name in names if found.topics.get(name) is None]
            unknown_names += [f"group {group}" for group in groups if found.groups.get(group) is None]
            if unknown_names:
                self.unknown.append(
                    Unknown(f"permissions on {', '.join(unknown_names)}", "the broker does not return them")
                )
        return found

    def _protocols(self, groups: Iterable[str]) -> dict[str, GroupProtocol]:
        found: dict[str, GroupProtocol] = {}
        for group in dict.fromkeys(groups):
            protocol = self._query(
                f"members of group {group}", partial(self.admin.group_protocol, group, REQUEST_TIMEOUT), None
            )
            if protocol is not None:
                found[group] = protocol
        return found
