"""Before a task is worked: its topics exist, or are made, and what they take is known."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

from flux.consuming.new_topics import Spreading
from flux.core.errors import BrokerError, ConfigurationError, Fault
from flux.core.policy import DAY, Policy
from flux.core.ports import AdminPort, NewTopic, System, TopicInfo
from flux.core.stage import Role, Stage, Stages, parse_stages
from flux.system import SYSTEM

T = TypeVar("T")
logger = logging.getLogger("flux.worker")

ASK = 10.0
_ANNOUNCE = 10.0
_ROOM_FOR_HEADERS = 64 * 1024
DEFAULT_MESSAGE_BYTES = 1_048_588  # Kafka's default of max.message.bytes
_MOMENT = 3.0  # seconds that a topic may have been made before a start which does not make it
_PASSING = {Fault.UNAVAILABLE, Fault.FENCED}


def insist(ask: Callable[[], T], system: System, stopping: Callable[[], bool], cluster: str) -> T | None:
    """What `ask` gives, however long the cluster is away; says so every 10 s. None: stopped meanwhile. Raises what
    is no outage, such as a refused login."""
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
            system.sleep(0.5)
    return None


def plan_topics(
    policy: Policy,
    admin: AdminPort,
    partitions: int | None = None,
    replication_factor: int | None = None,
    system: System = SYSTEM,
) -> tuple[list[NewTopic], dict[str, TopicInfo | None]]:
    """What is missing of a task's topics, and what is there. New ones have the main topic's partition count and
    replication unless told otherwise. Raises BrokerError."""
    stages = list(policy.stages)
    existing = admin.topics([stage.topic for stage in stages], ASK)
    main = existing[policy.stages.topic]
    count = partitions or (main.partitions if main else -1)
    copies = replication_factor or (main.replication_factor if main else -1)
    limit = DEFAULT_MESSAGE_BYTES
    if main:
        # the broker that is asked for settings may not know yet what another one has listed
        limit = Spreading(system, _MOMENT).known(lambda: max_message_bytes(admin, policy.stages.topic)) or limit
    missing = [
        NewTopic(stage.topic, count, copies, {} if stage.role is Role.MAIN else config_for(policy, stage, limit))
        for stage in stages
        if existing[stage.topic] is None
    ]
    return missing, existing


def config_for(policy: Policy, stage: Stage, main_limit: int) -> dict[str, str]:
    """A retry topic keeps a record for twice the longest wait that a task may ask for, and a week for somebody to
    come and look; dead letters are kept for ever."""
    kept = -1 if stage.role is Role.DEAD else round((2 * policy.max_delay + 7 * DAY) * 1000)
    return {
        "cleanup.policy": "delete",
        "retention.ms": str(kept),
        "retention.bytes": "-1",
        "max.message.bytes": str(main_limit + _ROOM_FOR_HEADERS),
    }


def create_topics(policy: Policy, admin: AdminPort, missing: Sequence[NewTopic], system: System = SYSTEM) -> None:
    """Makes the missing topics; the main one first, as the others take its partition count. Returns when the cluster
    tells of them. Raises BrokerError."""
    spreading = Spreading(system)

    def made(topics: Sequence[NewTopic]) -> None:
        names = [topic.name for topic in topics]
        admin.create_topics(topics, ASK)
        spreading.until(lambda: None not in admin.topics(names, ASK).values())

    main = [topic for topic in missing if topic.name == policy.stages.topic]
    if main:
        made(main)
        missing, _ = plan_topics(policy, admin, system=system)
    if missing:
        made(missing)


def require_topics(name: str, policy: Policy, admin: AdminPort, create: bool, system: System = SYSTEM) -> None:
    """Raises ConfigurationError naming what is missing, or makes it."""
    missing, _ = plan_topics(policy, admin, system=system)
    if not missing:
        return
    if not create:
        names_of = [stage.topic for stage in policy.stages]
        if Spreading(system, _MOMENT).until(lambda: None not in admin.topics(names_of, ASK).values()):
            return
        names = ", ".join(topic.name for topic in missing)
        raise ConfigurationError(
            f"{name}: missing topic(s) {names}: start with --create-topics, or create them with"
            f" `flux topics --load FILE {name} --create`"
        )
    create_topics(policy, admin, missing, system)
    logger.info("created %s", ", ".join(topic.name for topic in missing))


def max_message_bytes(admin: AdminPort, topic: str) -> int | None:
    """What a topic takes in one record batch; None when that may not be asked. Raises BrokerError for a topic that is
    not there, and in an outage."""
    try:
        value = admin.topic_config(topic, ASK).get("max.message.bytes")
    except BrokerError as error:
        if error.retriable or error.fault is Fault.UNKNOWN_TOPIC:
            raise
        return None
    return int(value) if value is not None and value.isdigit() else None


def choose_stages(task: str, stages: Stages, chosen: str | None, admin: AdminPort) -> Sequence[Stage]:
    """The stages to run: those of `chosen`, such as "0-3"; None: 0 to `retries`, and retry topics beyond that are left
    from a larger `retries`, which the log names. Raises ConfigurationError, BrokerError."""
    if chosen is not None:
        return [stages[number] for number in parse_stages(chosen, stages.retries)]
    leftovers = stages.leftovers(admin.topic_names(ASK))
    if leftovers:
        logger.warning(
            "%s has retries = %d, but there is %s: what is left there is worked too, failures become dead letters",
            task,
            stages.retries,
            ", ".join(stage.topic for stage in leftovers),
        )
    return [*(stages[number] for number in range(stages.retries + 1)), *leftovers]
