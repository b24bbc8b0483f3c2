"""All checks by their names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from flux.operate.doctor import cluster, retention, settings, topics
from flux.operate.doctor.facts import Facts, Finding

Check = Callable[[Facts], Iterable[Finding]]

CHECKS: Mapping[str, Check] = {
    "login": cluster.login,
    "topics": topics.missing,
    "names": topics.names,
    "partitions": topics.partitions,
    "replication": topics.replication,
    "retention": retention.retention,
    "expiry": retention.expiry,
    "message size": settings.message_size,
    "large records": settings.large_records,
    "compression": settings.compression,
    "timestamps": settings.timestamps,
    "positions": cluster.positions,
    "permissions": cluster.permissions,
    "members": cluster.members,
    "clock": cluster.clock,
}
"""Each by the name that its findings have."""


def examine(facts: Facts) -> list[Finding]:
    """What is wrong, in the order of `CHECKS`."""
    if facts.refused:
        return list(cluster.login(facts))
    return [finding for check in CHECKS.values() for finding in check(facts)]
