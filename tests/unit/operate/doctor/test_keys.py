"""What the doctor says of the topic of keys, and of keys that are held."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from flux.core.ports import TopicInfo
from flux.operate.doctor import Facts, Finding, fix_findings
from flux.operate.doctor.collect import collect_facts
from flux.operate.doctor.facts import CommandTopic, Unknown
from flux.operate.doctor.keys import held, keys
from flux.operate.held_keys import HeldKey, HeldKeys
from unit.support.operate_support import OperateKit, policy

KEYS = "orders-billing-keys"
COMPACT = {"cleanup.policy": "compact"}
SOUND = CommandTopic(KEYS, COMPACT, ("READ", "WRITE"), TopicInfo(1, 3), False, COMPACT, frozenset({"READ", "WRITE"}))
ORDERED = policy(retry_order="key", on_dead="hold")


def found(**changes: Any) -> list[Finding]:
    return list(keys(Facts("Billing", ORDERED, (), keys_topic=attrs.evolve(SOUND, **changes))))


def of_held(*first: HeldKey) -> list[str]:
    facts = Facts("Billing", ORDERED, (), held_keys=HeldKeys(len(first), 0, 0, first), at=200_000.0)
    return [str(each) for each in held(facts)]


@pytest.mark.parametrize("changes", [{}, {"allowed": None}, {"allowed": frozenset({"ALL"})}, {"config": None}])
def test_what_is_as_flux_makes_it_or_not_known_is_no_finding(changes: dict[str, Any]) -> None:
    assert found(**changes) == []


@pytest.mark.parametrize(
    ("changes", "problem", "remedy"),
    [
        ({"info": None}, "there is no such topic", "flux doctor --load FILE Billing --fix"),
        ({"info": TopicInfo(2, 3)}, "has 2 partitions", "delete it and let flux create it"),
        (
            {"config": {"cleanup.policy": "delete"}},
            "has cleanup.policy=delete, which deletes",
            "--fix, or kafka-configs",
        ),
        ({"allowed": frozenset({"READ"})}, "this login lacks WRITE", f"grant it WRITE on topic {KEYS}"),
        ({"info": None, "hidden": True, "config": None}, "this login lacks READ and WRITE", "grant it"),
    ],
)
def test_each_fault_is_a_finding_with_its_remedy(changes: dict[str, Any], problem: str, remedy: str) -> None:
    [finding] = found(**changes)
    assert problem in finding.problem
    assert remedy in finding.remedy


def test_keys_that_are_held_for_more_than_a_day_are_findings() -> None:
    young = HeldKey(b"a", 0, 1, 3, 199_000_000, True, 2)
    old = HeldKey(b"b", 0, 2, 3, 20_000_000, True, 2)
    late = HeldKey(b"c", 1, 7, 1, 27_200_000, False, 0)
    assert of_held() == of_held(young) == []
    assert of_held(young, old, late) == [
        "Billing: 1 key held by a dead letter: one for 2.1 days, behind 0:2: replay or reject it:"
        " flux dlq list --load FILE Billing; if it was deleted: flux dlq reject --load FILE Billing --deleted",
        "Billing: 1 key held by a record that is due: one for 2.0 days, behind 1:7: start workers of all its stages",
    ]


def test_the_topic_is_looked_at_and_created() -> None:
    yard = OperateKit()
    yard.policy = ORDERED

    def facts() -> Facts:
        return collect_facts(
            "Billing",
            yard.policy,
            yard.admin,
            clock=Unknown("clock", ""),
            adapter=yard.adapter,
            system=yard.system,
        )

    [missing] = keys(facts())
    assert [*fix_findings([missing], yard.policy, yard.admin)] == [f"created topic {KEYS}"]
    assert list(keys(facts())) == []
    assert facts().held_keys == HeldKeys()
    yard.policy = policy()
    assert facts().keys_topic is None
