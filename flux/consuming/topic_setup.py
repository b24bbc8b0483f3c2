"""Before a task runs: checks or creates its topics, reads how large their records may be, and chooses the stages."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

from flux.core.engine.new_topic import SPREAD
from flux.core.errors import BrokerError, ConfigurationError, Fault
from flux.core.policy import DAY, Policy
from flux.core.ports import AdminPort, NewTopic, System, TopicInfo
from flux.core.stage import Role, Stage, Stages, parse_stages
from flux.system import SYSTEM

logger = logging.getLogger("flux.worker")

T = TypeVar("T")

REQUEST_TIMEOUT = 10.0
"""Seconds for one request to a cluster."""
_ANNOUNCE = 10.0
_ROOM_FOR_HEADERS = 64 * 1024
DEFAULT_MESSAGE_BYTES = 1_048_588  # Kafka's default of max.message.bytes
_MOMENT = 3.0  # seconds between a topic's creation by others and a start that relies on it
_PASSING = {Fault.UNAVAILABLE, Fault.FENCED}
_LOOK = 0.2  # seconds between two requests


class Spreading:
    """Tolerates brokers that do not know a topic, for `seconds` in all from when it is made."""

    def __init__(self, system: System, seconds: float = SPREAD) -> None:
        self._system = system
        self._until = system.monotonic() + seconds

    def known(self, ask: Callable[[], T]) -> T:
        """The result of `ask`, repeated while it raises UNKNOWN_TOPIC. Raises BrokerError."""
        while True:
            try:
                return ask()
            except BrokerError as error:
                if error.fault is not Fault.UNKNOWN_TOPIC or not self._goes_on():
                    raise

    def until(self, there: Callable[[], bool]) -> bool:
        """Whether it becomes true in time. Requests are repeated while the cluster is unavailable; raises other
        BrokerErrors."""
        while True:
            try:
                if there():
                    return True
            except BrokerError as error:
                if error.fault not in (Fault.UNKNOWN_TOPIC, Fault.UNAVAILABLE):
                    raise
            if not self._goes_on():
                return False

    def _goes_on(self) -> bool:
        if self._system.monotonic() >= self._until:
            return False
        self._system.sleep(_LOOK)
        return True


def insist(
    ask: Callable[[], T],
    system: System,
    stopping: Callable[[], bool],
    cluster: str,
    on_unavailable: Callable[[BrokerError], None] = lambda error: None,
) -> T | None:
    """The result of `ask`, repeated while the cluster is unavailable, which is logged every 10 s. None: stopped
    meanwhile. Raises other errors, such as a refused login."""
    announced: float | None = None
    while not stopping():
        try:
            return ask()
        except BrokerError as error:
            if error.fault not in _PASSING:
                raise
            now = system.monotonic()
            if announced is None or now - announced >= _ANNOUNCE:
                announced = now
                logger.warning("%s cannot be reached (%s): trying again", cluster, error)
                on_unavailable(error)
            system.sleep(0.5)
    return None


def plan_topics(
    policy: Policy,
    admin: AdminPort,
    partitions: int | None = None,
    replication_factor: int | None = None,
    system: System = SYSTEM,
) -> tuple[list[NewTopic], dict[str, TopicInfo | None]]:
    """(missing topics of a task, all its topics as they are). By default new ones get the main topic's number of
    partitions and replication factor. Raises BrokerError."""
    stages = list(policy.stages)
    keys = [] if policy.retry_order is None else [policy.stages.keys_topic]
    existing = admin.topics([*(stage.topic for stage in stages), *keys], REQUEST_TIMEOUT)
    main = existing[policy.stages.topic]
    count = partitions or (main.partitions if main else -1)
    copies = replication_factor or (main.replication_factor if main else -1)
    limit = DEFAULT_MESSAGE_BYTES
    if main:
        # the broker that returns settings may not know the topic yet, although another one has listed it
        limit = Spreading(system, _MOMENT).known(lambda: max_message_bytes(admin, policy.stages.topic)) or limit
    missing = [
        NewTopic(stage.topic, count, copies, {} if stage.role is Role.MAIN else config_for(policy, stage, limit))
        for stage in stages
        if existing[stage.topic] is None
    ]
    missing += [NewTopic(name, 1, copies, {"cleanup.policy": "compact"}) for name in keys if existing[name] is None]
    return missing, existing


def missing_like(admin: AdminPort, configs: Mapping[str, Mapping[str, str]], like: str) -> list[NewTopic]:
    """Those of flux's own topics, by name with their settings, that do not exist: of one partition, with the
    replication factor of the topic `like`. Raises BrokerError."""
    found = admin.topics([*configs, like], REQUEST_TIMEOUT)
    main = found[like]
    copies = main.replication_factor if main else -1
    return [NewTopic(name, 1, copies, config) for name, config in configs.items() if found[name] is None]


def config_for(policy: Policy, stage: Stage, main_limit: int) -> dict[str, str]:
    """The settings of a new topic. A retry topic keeps records for twice the longest wait that a call may set, and a
    week more; dead letters are kept for ever."""
    kept = -1 if stage.role is Role.DEAD else round((2 * policy.max_delay + 7 * DAY) * 1000)
    return {
        "cleanup.policy": "delete",
        "retention.ms": str(kept),
        "retention.bytes": "-1",
        "max.message.bytes": str(main_limit + _ROOM_FOR_HEADERS),
    }


def create_topics(policy: Policy, admin: AdminPort, missing: Sequence[NewTopic], system: System = SYSTEM) -> None:
    """Creates the missing topics, the main one first, since the others take its number of partitions. Returns when the
    cluster lists them. Raises BrokerError."""
    spreading = Spreading(system)

    def made(topics: Sequence[NewTopic]) -> None:
        names = [topic.name for topic in topics]
        admin.create_topics(topics, REQUEST_TIMEOUT)
        spreading.until(lambda: None not in admin.topics(names, REQUEST_TIMEOUT).values())

    main = [topic for topic in missing if topic.name == policy.stages.topic]
    if main:
        made(main)
        missing, _ = plan_topics(policy, admin, system=system)
    if missing:
        made(missing)


def require_topics(name: str, policy: Policy, admin: AdminPort, create: bool, system: System = SYSTEM) -> None:
    """Creates missing topics if `create`, else raises ConfigurationError that names them. Raises BrokerError."""
    missing, existing = plan_topics(policy, admin, system=system)
    _check_keys_topic(name, policy, admin, existing, system)
    if not missing:
        return
    if not create:
        names_of = [policy.stages.topic, *policy.stages.written_topics(policy.retry_order is not None)]
        if Spreading(system, _MOMENT).until(lambda: None not in admin.topics(names_of, REQUEST_TIMEOUT).values()):
            return
        names = ", ".join(topic.name for topic in missing)
        raise ConfigurationError(
            f"{name}: missing topic(s) {names}: start with --create-topics, or create them with"
            f" `flux topics --load FILE {name} --create`"
        )
    create_topics(policy, admin, missing, system)
    logger.info("created %s", ", ".join(topic.name for topic in missing), extra={"task": name})


def _check_keys_topic(
    name: str, policy: Policy, admin: AdminPort, existing: Mapping[str, TopicInfo | None], system: System
) -> None:
    """Raises ConfigurationError if the topic of keys (`retry_order`) could lose entries, or their order."""
    topic = policy.stages.keys_topic if policy.retry_order is not None else ""
    found = existing.get(topic)
    if found is None:
        return
    if found.partitions != 1:
        raise ConfigurationError(f"{name}: {topic} has {found.partitions} partitions: make it anew with one")
    try:
        config = Spreading(system, _MOMENT).known(partial(admin.topic_config, topic, REQUEST_TIMEOUT))
    except BrokerError as error:
        if error.retriable:
            raise
        return  # without permission to read it
    if config.get("cleanup.policy", "compact") != "compact":
        raise ConfigurationError(
            f"{name}: {topic} has cleanup.policy = {config['cleanup.policy']}, which deletes what is outstanding:"
            " set it to compact"
        )


def max_message_bytes(admin: AdminPort, topic: str) -> int | None:
    """The largest record batch that a topic takes, in bytes; None without permission to read it. Raises BrokerError for
    a missing topic and in an outage."""
    try:
        value = admin.topic_config(topic, REQUEST_TIMEOUT).get("max.message.bytes")
    except BrokerError as error:
        if error.retriable or error.fault is Fault.UNKNOWN_TOPIC:
            raise
        return None
    return int(value) if value is not None and value.isdigit() else None


def choose_stages(task: str, stages: Stages, chosen: str | None, admin: AdminPort) -> Sequence[Stage]:
    """The stages to run: those of `chosen`, such as "0-3". None: 0 to `retries`, and retry topics that a larger
    `retries` has left, which the log names. Raises ConfigurationError, BrokerError."""
    if chosen is not None:
        return [stages[number] for number in parse_stages(chosen, stages.retries)]
    leftovers = stages.leftovers(admin.topic_names(REQUEST_TIMEOUT))
    if leftovers:
        logger.warning(
            "%s has retries = %d, but %s exists: its records are processed too, and failures become dead letters",
            task,
            stages.retries,
            ", ".join(stage.topic for stage in leftovers),
        )
    return [*(stages[number] for number in range(stages.retries + 1)), *leftovers]
