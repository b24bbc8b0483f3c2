"""The two topics of commands to workers: their names, their settings, and which right is missing.

The commands' topic is compacted, so that a worker which starts later finds what still holds. Nothing in it is compacted
for a week, so that it also finds each record that was skipped meanwhile.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from flux.consuming.topic_setup import REQUEST_TIMEOUT, Spreading, missing_like
from flux.core.control.commands import ENVIRONMENT, SKIP_HOLDS, TOPIC, answers_topic
from flux.core.errors import BrokerError, ConfigurationError, Fault
from flux.core.ports import AdminPort, System
from flux.core.stage import check_topic

_DAY_MS = 24 * 3600 * 1000
COMMANDS_CONFIG = {
    "cleanup.policy": "compact",
    "min.compaction.lag.ms": str(int(SKIP_HOLDS * 1000)),
    "segment.ms": str(_DAY_MS),
    # The brokers' clock: those of the operator and of a worker may differ.
    "message.timestamp.type": "LogAppendTime",
}
ANSWERS_CONFIG = {"cleanup.policy": "delete", "retention.ms": str(_DAY_MS), "segment.ms": str(_DAY_MS // 24)}


def commands_topic() -> str:
    """The environment's choice, or the default. Raises ConfigurationError for a name that Kafka refuses."""
    name = os.environ.get(ENVIRONMENT) or TOPIC
    check_topic(name)
    check_topic(answers_topic(name))
    return name


def require_topics(admin: AdminPort, topic: str, like: str, system: System) -> None:
    """Creates what is missing, with the replication factor of the topic `like`. Raises BrokerError, and
    ConfigurationError without the right to create."""
    configs = {topic: COMMANDS_CONFIG, answers_topic(topic): ANSWERS_CONFIG}
    missing = missing_like(admin, configs, like)
    if not missing:
        return
    names = [each.name for each in missing]
    policies = " and ".join(f"{each.name} with cleanup.policy={each.config['cleanup.policy']}" for each in missing)
    with explaining_denied(f"create {policies}, of 1 partition, or allow this login CREATE on them"):
        admin.create_topics(missing, REQUEST_TIMEOUT)
    Spreading(system).until(lambda: None not in admin.topics(names, REQUEST_TIMEOUT).values())


@contextmanager
def explaining_denied(remedy: str) -> Iterator[None]:
    """A context in which a missing permission is a ConfigurationError with this remedy."""
    try:
        yield
    except BrokerError as error:
        if error.fault is Fault.DENIED:
            raise ConfigurationError(f"{error}: {remedy}") from None
        raise
