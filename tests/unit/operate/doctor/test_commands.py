"""What the doctor says of the topics of commands."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from flux.core.ports import Permissions, TopicInfo
from flux.operate.audit import TOPIC_CONFIG as AUDIT_CONFIG
from flux.operate.doctor import Facts, Finding
from flux.operate.doctor.collect import collect_facts
from flux.operate.doctor.commands import commands
from flux.operate.doctor.facts import CommandTopic
from flux.processes.command_topics import ANSWERS_CONFIG, COMMANDS_CONFIG
from unit.support.operate_support import OperateKit, policy

SOUND = CommandTopic(
    "flux-commands",
    {"cleanup.policy": "compact", "min.compaction.lag.ms": "604800000"},
    ("READ", "DESCRIBE"),
    TopicInfo(1, 3),
    False,
    {"cleanup.policy": "compact", "min.compaction.lag.ms": "604800000"},
    frozenset({"READ", "DESCRIBE"}),
)


def found(**changes: Any) -> list[Finding]:
    return list(commands(Facts("Billing", policy(), (), command_topics=(attrs.evolve(SOUND, **changes),))))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"allowed": None},
        {"allowed": frozenset({"ALL"})},
        {"config": None},
        {"config": {"cleanup.policy": "compact", "min.compaction.lag.ms": "999999999999"}},
        {"wanted": {"retention.ms": "86400000"}, "config": {"retention.ms": "-1"}},
    ],
)
def test_what_is_as_flux_makes_it_or_not_known_is_no_finding(changes: dict[str, Any]) -> None:
    assert found(**changes) == []


@pytest.mark.parametrize(
    ("changes", "about", "problem", "remedy"),
    [
        ({"info": None}, "flux-commands", "there is no such topic", "1 partition and cleanup.policy=compact"),
        ({"info": TopicInfo(2, 3)}, "flux-commands", "has 2 partitions", "with 1"),
        (
            {"config": {"cleanup.policy": "delete", "min.compaction.lag.ms": "0"}},
            "flux-commands",
            "has cleanup.policy=delete, min.compaction.lag.ms=0",
            "--control --fix, or kafka-configs.sh",
        ),
        (
            {"wanted": {"retention.ms": "-1"}, "config": {"retention.ms": "5"}},
            "flux-commands",
            "has retention.ms=5",
            "retention.ms=-1",
        ),
        ({"allowed": frozenset({"DESCRIBE"})}, "topic flux-commands", "this login lacks READ", "grant it READ on"),
        ({"info": None, "hidden": True, "allowed": None}, "topic flux-commands", "lacks READ and DESCRIBE", "grant"),
    ],
)
def test_each_finding_names_the_topic_and_the_remedy(
    changes: dict[str, Any], about: str, problem: str, remedy: str
) -> None:
    [finding] = found(**changes)
    assert finding.about == about
    assert problem in finding.problem
    assert remedy in finding.remedy


def test_only_settings_of_a_topic_that_exists_are_fixable() -> None:
    assert not found(info=None)[0].fixable
    [wrong] = found(config={"cleanup.policy": "delete", "min.compaction.lag.ms": "604800000"})
    assert wrong.settings == {"cleanup.policy": "compact"}


def test_the_facts_are_collected_only_if_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    kit = OperateKit()
    monkeypatch.setattr(
        "flux.adapters.memory.admin.MemoryAdmin.permissions",
        lambda self, topics, groups, timeout: Permissions(dict.fromkeys(topics, frozenset({"READ"})), {}, None),
    )
    kit.broker.create_topic("flux-commands", 2, COMMANDS_CONFIG)
    kit.broker.create_topic("flux-commands-answers", 1, {**ANSWERS_CONFIG, "cleanup.policy": "compact"})
    kit.broker.create_topic("flux-audit", 1, AUDIT_CONFIG)
    assert collect_facts("Billing", policy(), kit.admin, system=kit.system).command_topics == ()
    facts = collect_facts("Billing", policy(), kit.admin, control=True, system=kit.system)
    assert [(each.about, each.problem) for each in commands(facts)] == [
        ("flux-commands", "has 2 partitions, so that workers may read commands in another order"),
        ("topic flux-commands", "this login lacks DESCRIBE"),
        ("flux-commands-answers", "has cleanup.policy=compact"),
        ("topic flux-commands-answers", "this login lacks WRITE"),
    ]
