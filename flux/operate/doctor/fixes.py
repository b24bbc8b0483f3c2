"""Mends what is safe to mend: topics that are missing, and settings of the topics that only flux writes to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from flux.consuming.new_topics import Spreading
from flux.consuming.topic_setup import ASK, create_topics, plan_topics
from flux.core.policy import Policy
from flux.core.ports import AdminPort, System
from flux.operate.doctor.facts import Finding
from flux.system import SYSTEM


def mend(findings: Sequence[Finding], policy: Policy, admin: AdminPort, system: System = SYSTEM) -> Iterator[str]:
    """A line for each thing as soon as it is done. Raises BrokerError at the first one that the cluster refuses."""
    if any(finding.create for finding in findings):
        missing, _ = plan_topics(policy, admin)
        create_topics(policy, admin, missing, system)
        yield from (f"created topic {topic.name}" for topic in missing)
    for topic, settings in _settings(findings).items():
        admin.set_topic_config(topic, settings, ASK)
        yield f"set {', '.join(f'{name}={value}' for name, value in settings.items())} on topic {topic}"
        Spreading(system).until(partial(_has, admin, topic, settings))


def _settings(findings: Sequence[Finding]) -> dict[str, dict[str, str]]:
    """Of each topic, all together."""
    whole: dict[str, dict[str, str]] = {}
    for finding in findings:
        if finding.settings:
            whole.setdefault(finding.about, {}).update(finding.settings)
    return whole


def _has(admin: AdminPort, topic: str, settings: Mapping[str, str]) -> bool:
    return settings.items() <= admin.topic_config(topic, ASK).items()
