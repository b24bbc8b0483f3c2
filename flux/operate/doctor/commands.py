"""The topics of commands to workers, and of the audit: what a worker with `--control` needs, and what keeps commands in
order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from flux.operate.doctor.cluster import lacking
from flux.operate.doctor.facts import Facts, Finding

_NUMBERS = ("min.compaction.lag.ms", "retention.ms")
"""More is as good; -1: for ever."""


def commands(facts: Facts) -> Iterator[Finding]:
    for topic in facts.command_topics:
        if topic.info is None and not topic.hidden:
            settings = ", ".join(f"{name}={value}" for name, value in topic.wanted.items())
            yield Finding(
                "commands",
                topic.name,
                "there is no such topic",
                f"its first user creates it, if the login may; else create it with 1 partition and {settings}",
            )
            continue
        if topic.info is not None and topic.info.partitions > 1 and topic.wanted["cleanup.policy"] == "compact":
            yield Finding(
                "commands",
                topic.name,
                f"has {topic.info.partitions} partitions, so that workers may read commands in another order",
                "delete it, and let a worker create it with 1",
            )
        wrong = {name: value for name, value in topic.wanted.items() if not _is_met(name, value, topic.config)}
        if wrong:
            has = ", ".join(f"{name}={(topic.config or {}).get(name, '')}" for name in wrong)
            remedy = f"{facts.flux('doctor')} --control --fix, or {facts.set_config(topic.name, wrong)}"
            yield Finding("commands", topic.name, f"has {has}", remedy, settings=wrong)
        allowed = frozenset[str]() if topic.hidden else topic.allowed
        yield from lacking("commands", f"topic {topic.name}", topic.needs, allowed)


def _is_met(name: str, wanted: str, config: Mapping[str, str] | None) -> bool:
    found = wanted if config is None else config.get(name, wanted)
    if name not in _NUMBERS:
        return found == wanted
    return found == "-1" or (wanted != "-1" and int(found) >= int(wanted))
