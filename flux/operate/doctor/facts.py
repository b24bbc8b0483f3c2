"""What is known of a task's cluster, and findings: values."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from flux.consuming.open_transactions import HeldBack
from flux.consuming.topic_setup import DEFAULT_MESSAGE_BYTES
from flux.core.policy import Policy
from flux.core.ports import GroupProtocol, Permissions, TopicInfo
from flux.core.stage import Stage, Stages
from flux.operate.held_keys import HeldKeys
from flux.operate.status.blockers import LargeRecord
from flux.operate.status.schedules import ScheduleStatus

OLD = 0.8
"""The share of its retention after which a record counts as about to be deleted."""


@attrs.frozen
class TopicFacts:
    """One stage's topic. `info`: None where it does not exist or is forbidden (`hidden`). `config`: with the brokers'
    defaults; None where it is forbidden. `old`: unfinished offsets, or dead letters, that are about to be deleted.
    `unreadable`: compressions of its records that the client cannot read, and how to fix each."""

    stage: Stage
    info: TopicInfo | None = None
    config: Mapping[str, str] | None = None
    old: int = 0
    hidden: bool = False
    unreadable: Mapping[str, str] = attrs.field(factory=dict)

    @property
    def name(self) -> str:
        return self.stage.topic

    @property
    def missing(self) -> bool:
        return self.info is None and not self.hidden

    def number(self, setting: str) -> int | None:
        """The value of a setting; None where it is not known."""
        text = (self.config or {}).get(setting, "")
        return int(text) if text.removeprefix("-").isdecimal() else None

    @property
    def retention(self) -> float | None:
        """Seconds that records are kept; None: forever, or not known."""
        kept = self.number("retention.ms")
        deletes = "delete" in (self.config or {}).get("cleanup.policy", "delete")
        return None if kept is None or kept < 0 or not deletes else kept / 1000


@attrs.frozen
class ClockDifference:
    """`ahead`: seconds that this machine's clock is ahead of the broker's, give or take `error` seconds."""

    ahead: float
    error: float


@attrs.frozen
class Unknown:
    """What could not be checked, and why."""

    what: str
    why: str

    def __str__(self) -> str:
        return f"{self.what}: {self.why}"


@attrs.frozen
class CommandTopic:
    """One of commands, their answers, the audit or held keys. `info`: None where it does not exist, or is forbidden
    (`hidden`). `wanted`: its settings as flux creates it; `config`: those it has, None where it is forbidden. `needs`:
    operations of a worker; `allowed`: those of this login, None: not known."""

    name: str
    wanted: Mapping[str, str]
    needs: tuple[str, ...] = ()
    info: TopicInfo | None = None
    hidden: bool = False
    config: Mapping[str, str] | None = None
    allowed: frozenset[str] | None = None


@attrs.frozen
class Facts:
    """`topics`: by stage, the main one first, the dead letters last. `names`: all topics of the cluster. `brokers`:
    configurations by broker. `protocols`: of groups, where known. `others`: (name, stages) of other tasks on the
    cluster. `large`: records that block committed offsets and may not fit into the next topic. `unwritable`: why a
    producer with the process's options cannot be created. `transaction_log`: replicas and `min.insync.replicas` of
    `__transaction_state`, where it exists. `untransactional`: why a transactional producer cannot start."""

    name: str
    policy: Policy
    topics: tuple[TopicFacts, ...]
    names: frozenset[str] = frozenset()
    brokers: Mapping[int, Mapping[str, str]] | None = None
    permissions: Permissions | None = None
    protocols: Mapping[str, GroupProtocol] = attrs.field(factory=dict)
    others: tuple[tuple[str, Stages], ...] = ()
    large: tuple[LargeRecord, ...] = ()
    clock: ClockDifference | None = None
    unknown: tuple[Unknown, ...] = ()
    refused: str = ""
    """Why the cluster refuses the login; then nothing else is known."""
    unwritable: str = ""
    transaction_log: tuple[int, int] | None = None
    untransactional: str = ""
    held_back: tuple[HeldBack, ...] = ()
    command_topics: tuple[CommandTopic, ...] = ()
    """Empty: they are not checked."""
    task: str = ""
    """How commands of flux name the task: `--load FILE TASK`."""
    brokers_at: str = "HOST:PORT"
    """The brokers' addresses."""
    schedules: tuple[ScheduleStatus, ...] = ()
    at: float = 0.0
    """When the schedules and the held keys were read, in seconds since the epoch."""
    keys_topic: CommandTopic | None = None
    """With `retry_order`."""
    held_keys: HeldKeys | None = None

    def flux(self, command: str) -> str:
        """A command line that can be pasted."""
        return f"flux {command} {self.task or f'--load FILE {self.name}'}"

    def set_config(self, topic: str, settings: Mapping[str, str]) -> str:
        """A command line that sets them on a topic."""
        named = ",".join(f"{name}={value}" for name, value in settings.items())
        tool = f"kafka-configs.sh --bootstrap-server {self.brokers_at}"
        return f"{tool} --alter --topic {topic} --add-config {named}"

    @property
    def main(self) -> TopicFacts:
        return self.topics[0]

    @property
    def message_bytes(self) -> int:
        """The largest batch that the main topic accepts."""
        return self.main.number("max.message.bytes") or DEFAULT_MESSAGE_BYTES


@attrs.frozen
class Finding:
    """One thing that is wrong. `about`: a topic, a group, a broker, or the task. `create`: fixed by creating the topic;
    `settings`: fixed by setting these on it."""

    check: str
    about: str
    problem: str
    remedy: str
    create: bool = False
    settings: Mapping[str, str] = attrs.field(factory=dict)

    @property
    def fixable(self) -> bool:
        return self.create or bool(self.settings)

    def __str__(self) -> str:
        return f"{self.about}: {self.problem}: {self.remedy}"
