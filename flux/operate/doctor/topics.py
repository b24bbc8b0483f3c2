"""Checks that topics exist, under names of their own, with enough partitions and replicas."""

from __future__ import annotations

from collections.abc import Iterator

from flux.core.errors import ConfigurationError
from flux.core.stage import check_apart
from flux.operate.doctor.facts import Facts, Finding, TopicFacts
from flux.operate.formatting import many

_ENOUGH_REPLICAS = 3


def missing(facts: Facts) -> Iterator[Finding]:
    for topic in facts.topics:
        if topic.missing:
            yield Finding(
                "topics",
                topic.name,
                f"there is no such topic ({topic.stage})",
                f"create it with flux topics --create {facts.name}, or --fix",
                create=True,
            )


def names(facts: Facts) -> Iterator[Finding]:
    """Kafka creates no topic whose name differs from another's only in '.' and '_': both would have the same metrics.
    Source: Topic.hasCollision of Kafka's clients, KAFKA-2337."""
    folded = {name.replace(".", "_"): name for name in sorted(facts.names)}
    for topic in facts.topics:
        other = folded.get(topic.name.replace(".", "_"))
        if topic.missing and other is not None and other != topic.name:
            yield Finding(
                "names",
                topic.name,
                f"Kafka refuses it, as {other} differs only in '.' and '_'",
                "change topic, group_id or naming",
            )
    for name, stages in facts.others:
        try:
            check_apart([(facts.name, facts.policy.stages), (name, stages)])
        except ConfigurationError as error:
            problem, _, remedy = str(error).rpartition(": ")
            yield Finding("names", facts.name, problem, remedy)


def partitions(facts: Facts) -> Iterator[Finding]:
    """A forwarded copy goes to partition `p mod count` of the next topic."""
    if facts.main.info is None:
        return
    count = facts.main.info.partitions
    for topic in facts.topics[1:]:
        if topic.info is None or topic.info.partitions == count:
            continue
        fewer = topic.info.partitions < count
        grown, to = (topic.name, count) if fewer else (facts.main.name, topic.info.partitions)
        harm = "fewer workers share its work" if fewer else "some stay empty"
        yield Finding(
            "partitions",
            topic.name,
            f"has {many(topic.info.partitions, 'partition')} and {facts.main.name} has {count}: {harm}",
            f"kafka-topics.sh --alter --topic {grown} --partitions {to}, best while {topic.name} is empty",
        )


def replication(facts: Facts) -> Iterator[Finding]:
    wanted = min(_ENOUGH_REPLICAS, len(facts.brokers)) if facts.brokers is not None else 1
    for topic in facts.topics:
        if topic.info is not None:
            yield from _replicas(facts, topic, topic.info.replication_factor, wanted)
            yield from _in_sync(topic, topic.info.replication_factor)


def _replicas(facts: Facts, topic: TopicFacts, has: int, wanted: int) -> Iterator[Finding]:
    main = facts.main.info.replication_factor if facts.main.info is not None else 1
    remedy = f"give it {max(wanted, main)} with kafka-reassign-partitions.sh"
    if has < wanted:
        risk = "losing a broker loses its records" if has == 1 else "losing two brokers stops it or loses records"
        yield Finding(
            "replication", topic.name, f"has {many(has, 'replica')} on {wanted} brokers or more: {risk}", remedy
        )
    elif has < main:
        yield Finding("replication", topic.name, f"has {many(has, 'replica')} and {facts.main.name} has {main}", remedy)


def _in_sync(topic: TopicFacts, replicas: int) -> Iterator[Finding]:
    least = topic.number("min.insync.replicas")
    if least is not None:
        best = max(1, replicas - 1)
        remedy = f"set min.insync.replicas={best} on it"
        if least > replicas:
            harm = "older brokers refuse every write with acks=all, newer ones require all replicas"
            yield Finding(
                "replication",
                topic.name,
                f"min.insync.replicas={least} with {many(replicas, 'replica')}: {harm}",
                remedy,
            )
        elif least == replicas > 1:
            problem = f"min.insync.replicas={least} with {replicas} replicas: losing one broker stops all writes"
            yield Finding("replication", topic.name, problem, remedy)
        elif least == 1 and replicas >= _ENOUGH_REPLICAS:
            problem = "min.insync.replicas=1: records that only one broker has acknowledged are lost with it"
            yield Finding("replication", topic.name, problem, remedy)
    if (topic.config or {}).get("unclean.leader.election.enable") == "true":
        yield Finding(
            "replication",
            topic.name,
            "unclean.leader.election.enable=true: a lagging replica may become leader, which loses records",
            "set unclean.leader.election.enable=false on it",
        )
