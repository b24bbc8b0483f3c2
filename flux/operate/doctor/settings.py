"""Checks that topics accept what flux writes to them."""

from __future__ import annotations

from collections.abc import Iterator

from flux.consuming.topic_setup import config_for
from flux.core.backoff import in_words
from flux.operate.doctor.facts import Facts, Finding

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
        remedy = f"set max.message.bytes={wanted} on it, or --fix"
        yield Finding("message size", topic.name, problem, remedy, settings={"max.message.bytes": wanted})


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
                    f"set {kind}=CreateTime on it, or LogAppendTime on {facts.main.name}",
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
                    f"set {setting}=3600000 on it",
                )
