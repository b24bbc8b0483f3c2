"""The topic of keys (`retry_order`): what keeps the order, and keys that wait for a person."""

from __future__ import annotations

from collections.abc import Iterator

from flux.operate.doctor.cluster import lacking
from flux.operate.doctor.facts import Facts, Finding
from flux.operate.formatting import lasting, many

LONG = 86_400.0
"""Seconds after which a held key is a finding."""


def keys(facts: Facts) -> Iterator[Finding]:
    topic = facts.keys_topic
    if topic is None:
        return
    if topic.info is None and not topic.hidden:
        remedy = f"{facts.flux('doctor')} --fix"
        yield Finding("keys", topic.name, "there is no such topic", remedy, create=True)
        return
    if topic.info is not None and topic.info.partitions != 1:
        problem = f"has {topic.info.partitions} partitions, so that workers refuse to start"
        yield Finding("keys", topic.name, problem, "when nothing is outstanding, delete it and let flux create it")
    wrong = {name: value for name, value in topic.wanted.items() if (topic.config or topic.wanted).get(name) != value}
    if wrong:
        has = ", ".join(f"{name}={(topic.config or {}).get(name, '')}" for name in wrong)
        remedy = f"{facts.flux('doctor')} --fix, or {facts.set_config(topic.name, wrong)}"
        yield Finding("keys", topic.name, f"has {has}, which deletes what is outstanding", remedy, settings=wrong)
    allowed = frozenset[str]() if topic.hidden else topic.allowed
    yield from lacking("keys", f"topic {topic.name}", topic.needs, allowed)


def held(facts: Facts) -> Iterator[Finding]:
    old = [each for each in (facts.held_keys.first if facts.held_keys else ()) if facts.at - each.due / 1000 > LONG]
    dead = [each for each in old if each.dead]
    for some, what, remedy in (
        (
            dead,
            "a dead letter",
            f"replay or reject it: {facts.flux('dlq list')}; if it was deleted: {facts.flux('dlq reject')} --deleted",
        ),
        ([each for each in old if not each.dead], "a record that is due", "start workers of all its stages"),
    ):
        if some:
            first = min(some, key=lambda each: each.due)
            problem = f"{many(len(some), 'key')} held by {what}: one for {lasting(facts.at - first.due / 1000)}"
            yield Finding("held keys", facts.name, f"{problem}, behind {first.place}", remedy)
