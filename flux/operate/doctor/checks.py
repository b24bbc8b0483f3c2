"""All checks by name, and the fixes that are safe: missing topics, settings of topics that only flux writes to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

from flux.consuming.topic_setup import REQUEST_TIMEOUT, Spreading, create_topics, plan_topics
from flux.core.policy import Policy
from flux.core.ports import AdminPort
from flux.operate.doctor import cluster, commands, keys, schedules, topics
from flux.operate.doctor.facts import Facts, Finding
from flux.system import SYSTEM

Check = Callable[[Facts], Iterable[Finding]]

CHECKS: Mapping[str, Check] = {
    "login": cluster.login,
    "topics": topics.missing,
    "names": topics.names,
    "partitions": topics.partitions,
    "replication": topics.replication,
    "retention": topics.retention,
    "expiry": topics.expiry,
    "message size": topics.message_size,
    "large records": topics.large_records,
    "compression": topics.compression,
    "held back": topics.held_back,
    "timestamps": topics.timestamps,
    "committed offsets": cluster.committed_offsets,
    "permissions": cluster.permissions,
    "transactions": cluster.transactions,
    "commands": commands.commands,
    "keys": keys.keys,
    "held keys": keys.held,
    "members": cluster.members,
    "schedules": schedules.overdue,
    "clock": cluster.clock,
}
"""By the name that its findings have."""


def examine(facts: Facts) -> list[Finding]:
    """All findings, in the order of `CHECKS`."""
    if facts.refused:
        return list(cluster.login(facts))
    return [finding for check in CHECKS.values() for finding in check(facts)]


def fix_findings(findings: Sequence[Finding], policy: Policy, admin: AdminPort) -> Iterator[str]:
    """Yields a line after each fix. Raises BrokerError at the first one that the cluster refuses."""
    if any(finding.create for finding in findings):
        missing, _ = plan_topics(policy, admin)
        create_topics(policy, admin, missing)
        yield from (f"created topic {topic.name}" for topic in missing)
    for topic, wanted in _settings(findings).items():
        admin.set_topic_config(topic, wanted, REQUEST_TIMEOUT)
        yield f"set {', '.join(f'{name}={value}' for name, value in wanted.items())} on topic {topic}"
        Spreading(SYSTEM).until(partial(_has, admin, topic, wanted))


def _settings(findings: Sequence[Finding]) -> dict[str, dict[str, str]]:
    """All settings of each topic."""
    whole: dict[str, dict[str, str]] = {}
    for finding in findings:
        if finding.settings:
            whole.setdefault(finding.about, {}).update(finding.settings)
    return whole


def _has(admin: AdminPort, topic: str, settings: Mapping[str, str]) -> bool:
    return settings.items() <= admin.topic_config(topic, REQUEST_TIMEOUT).items()
