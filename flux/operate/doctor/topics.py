"""Checks of topics: that they exist, keep records long enough, and accept what flux writes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from flux.consuming.topic_setup import config_for
from flux.core.backoff import in_words
from flux.core.errors import ConfigurationError
from flux.core.policy import DAY
from flux.core.stage import Role, check_apart
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
                f"{facts.flux('topics')} --create",
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
            f"best while {topic.name} is empty: kafka-topics.sh --bootstrap-server {facts.brokers_at} --alter"
            f" --topic {grown} --partitions {to}",
        )


def replication(facts: Facts) -> Iterator[Finding]:
    wanted = min(_ENOUGH_REPLICAS, len(facts.brokers)) if facts.brokers is not None else 1
    for topic in facts.topics:
        if topic.info is not None:
            yield from _replicas(facts, topic, topic.info.replication_factor, wanted)
            yield from _in_sync(facts, topic, topic.info.replication_factor)


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


def _in_sync(facts: Facts, topic: TopicFacts, replicas: int) -> Iterator[Finding]:
    least = topic.number("min.insync.replicas")
    if least is not None:
        best = max(1, replicas - 1)
        remedy = facts.set_config(topic.name, {"min.insync.replicas": str(best)})
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
            facts.set_config(topic.name, {"unclean.leader.election.enable": "false"}),
        )


CLOCKS_DIFFER = 300.0
"""Seconds by which clocks differ in practice: topics should accept timestamps that are off by that much."""


def message_size(facts: Facts) -> Iterator[Finding]:
    for topic in facts.topics[1:]:
        max_bytes = topic.number("max.message.bytes")
        wanted = config_for(facts.policy, topic.stage, facts.message_bytes)["max.message.bytes"]
        if max_bytes is None or max_bytes >= int(wanted) or facts.main.config is None:
            continue
        if max_bytes < facts.message_bytes:
            problem = (
                f"takes {max_bytes:,} bytes and {facts.main.name} {facts.message_bytes:,}: a large record does not fit"
            )
        else:
            problem = (
                f"takes {max_bytes:,} bytes: no room for flux's headers on a record as large as {facts.main.name} takes"
            )
        settings = {"max.message.bytes": wanted}
        yield Finding("message size", topic.name, problem, _fixed(facts, topic, settings), settings=settings)


def compression(facts: Facts) -> Iterator[Finding]:
    for topic in facts.topics:
        for codec, remedy in topic.unreadable.items():
            problem = f"its records are compressed with {codec}, which this client cannot read here"
            yield Finding("compression", topic.name, problem, remedy)
    if facts.unwritable:
        problem, _, remedy = facts.unwritable.rpartition(": ")
        yield Finding("compression", "ProducerOptions", problem, remedy)


def large_records(facts: Facts) -> Iterator[Finding]:
    for each in facts.large:
        size = f"{each.size:,} bytes, and {each.target} takes {each.max_bytes:,}"
        problem = f"unfinished for {in_words(each.seconds)}; {size}: its copy may not fit"
        yield Finding("large records", f"{each.at}@{each.offset}", problem, each.remedy)


def held_back(facts: Facts) -> Iterator[Finding]:
    for each in facts.held_back:
        yield Finding("held back", str(each.at), each.problem, each.remedy)


def timestamps(facts: Facts) -> Iterator[Finding]:
    """A forwarded copy has the time of its writing, by the worker's clock."""
    kind = "message.timestamp.type"
    for topic in facts.topics[1:]:
        config = topic.config or {}
        if config.get(kind) == "LogAppendTime":
            if (facts.main.config or {}).get(kind) == "CreateTime":
                yield Finding(
                    "timestamps",
                    topic.name,
                    f"{kind}=LogAppendTime, and {facts.main.name} has CreateTime: a record gets times of two clocks",
                    f"{facts.set_config(topic.name, {kind: 'CreateTime'})}, or LogAppendTime on {facts.main.name}",
                )
            continue
        for setting in ("message.timestamp.after.max.ms", "message.timestamp.before.max.ms"):
            window = topic.number(setting)
            if window is not None and window < CLOCKS_DIFFER * 1000:
                off = in_words(window / 1000)
                yield Finding(
                    "timestamps",
                    topic.name,
                    f"{setting}={window}: it refuses records from a machine whose clock is off by {off}",
                    facts.set_config(topic.name, {setting: "3600000"}),
                )


DOWNTIME = DAY
"""Seconds to keep records beyond their longest wait: workers may be down meanwhile."""
MIN_DEAD_LETTERS = 30 * DAY
"""Seconds to keep dead letters at least: somebody has to look at them."""


def retention(facts: Facts) -> Iterator[Finding]:
    """Without the main topic, whose owner decides: see `expiry`."""
    for topic in facts.topics[1:]:
        if topic.config is None:
            continue
        kept = config_for(facts.policy, topic.stage, facts.message_bytes)["retention.ms"]
        for problem, settings in _problems(facts, topic, topic.config, kept):
            yield Finding("retention", topic.name, problem, _fixed(facts, topic, settings), settings=settings)


def _fixed(facts: Facts, topic: TopicFacts, settings: Mapping[str, str]) -> str:
    return f"{facts.flux('doctor')} --fix, or {facts.set_config(topic.name, settings)}"


def _problems(
    facts: Facts, topic: TopicFacts, config: Mapping[str, str], kept: str
) -> Iterator[tuple[str, dict[str, str]]]:
    """Problems with the settings that fix each. `kept`: the retention.ms that flux gives new topics."""
    policy, size = config.get("cleanup.policy", "delete"), config.get("retention.bytes", "-1")
    if policy != "delete":
        problem = f"cleanup.policy={policy} deletes a record when a later one has the same key"
        yield problem, {"cleanup.policy": "delete", "retention.ms": kept}  # which had no effect before
    if size != "-1":
        yield f"retention.bytes={size} deletes records even if they still have to wait", {"retention.bytes": "-1"}
    too_short = _too_short(facts, topic)
    if too_short:
        yield too_short, {"retention.ms": kept}


def _too_short(facts: Facts, topic: TopicFacts) -> str:
    kept = topic.retention
    if kept is None:
        return ""
    deleted = f"records are deleted after {in_words(kept)}"
    if topic.stage.role is Role.DEAD:
        return f"{deleted}, even dead letters that nobody has looked at" if kept < MIN_DEAD_LETTERS else ""
    longest, most = facts.policy.waits.longest(topic.stage.number), facts.policy.max_delay
    if kept < longest:
        return f"{deleted}, and they wait up to {in_words(longest)} here: some are never retried"
    if kept < longest + DOWNTIME:
        return f"{deleted}, and they wait up to {in_words(longest)} here, longer when workers are down"
    if kept < most + DOWNTIME:
        return f"{deleted}, and Retry(after=) may wait up to {in_words(most)}, the max_delay"
    return ""


def expiry(facts: Facts) -> Iterator[Finding]:
    for topic in facts.topics:
        kept = topic.retention
        if not topic.old or kept is None:
            continue
        if topic.stage.role is Role.DEAD:
            what, remedy = (
                many(topic.old, "dead letter"),
                f"{facts.flux('dlq replay')}, or {facts.set_config(topic.name, {'retention.ms': '-1'})}",
            )
        else:
            what, remedy = f"{many(topic.old, 'record')} not done yet", "start workers, or raise its retention.ms now"
        yield Finding("expiry", topic.name, f"about to be deleted: {what} (kept for {in_words(kept)})", remedy)
