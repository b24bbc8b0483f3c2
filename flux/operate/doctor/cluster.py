"""Whether brokers keep positions, let the login work and agree about the time; and who else is in the groups."""

from __future__ import annotations

from collections.abc import Iterator

from flux.core.backoff import in_words
from flux.core.stage import Role
from flux.operate.doctor.facts import Facts, Finding

CLOCK = 1.0
"""Seconds: waits are shortened or lengthened by as much as clocks differ."""

_TOPIC_NEEDS = {
    Role.MAIN: ("READ", "DESCRIBE"),
    Role.RETRY: ("READ", "WRITE", "DESCRIBE"),
    Role.DEAD: ("WRITE", "DESCRIBE"),
}


def login(facts: Facts) -> Iterator[Finding]:
    if facts.refused:
        problem, _, remedy = facts.refused.rpartition(": ")
        if not problem:
            problem, remedy = facts.refused, "correct the adapter's login"
        yield Finding("login", "the cluster", problem, remedy)


def positions(facts: Facts) -> Iterator[Finding]:
    """A group without members forgets its positions after that time, and starts over."""
    longest = max((facts.policy.waits.longest(topic.stage.number) for topic in facts.topics[1:-1]), default=0.0)
    for number, config in sorted((facts.brokers or {}).items()):
        minutes = config.get("offsets.retention.minutes", "")
        if minutes.isdecimal() and int(minutes) * 60 < longest:
            yield Finding(
                "positions",
                f"broker {number}",
                f"forgets a group's positions {in_words(int(minutes) * 60)} after its last member left, and records"
                f" wait up to {in_words(longest)}",
                f"set offsets.retention.minutes={round(2 * longest / 60)} on all brokers",
            )


def permissions(facts: Facts) -> Iterator[Finding]:
    """What a worker needs. Idempotent writes need nothing more since Kafka 2.8 (KIP-679)."""
    if facts.permissions is None:
        return
    for topic in facts.topics:
        allowed = facts.permissions.topics.get(topic.name)
        needs = _TOPIC_NEEDS[topic.stage.role]
        if allowed is None and topic.hidden:
            allowed = frozenset()
        yield from _lacking(f"topic {topic.name}", needs, allowed)
    for topic in facts.topics[:-1]:
        group = topic.stage.group
        yield from _lacking(f"group {group}", ("READ",), facts.permissions.groups.get(group))


def _lacking(about: str, needs: tuple[str, ...], allowed: frozenset[str] | None) -> Iterator[Finding]:
    if allowed is None or "ALL" in allowed:
        return
    lacking = " and ".join(operation for operation in needs if operation not in allowed)
    if lacking:
        yield Finding("permissions", about, f"this login lacks {lacking}", f"grant it {lacking} on {about}")


def members(facts: Facts) -> Iterator[Finding]:
    for topic in facts.topics[:-1]:
        group = topic.stage.group
        protocol = facts.protocols.get(group)
        if protocol is not None and protocol.used and protocol.used not in protocol.ours:
            yield Finding(
                "members",
                f"group {group}",
                f"its members use the protocol {protocol.used}, and this adapter's {' or '.join(protocol.ours)}",
                "use the same client for all, and stop all members before you change it",
            )


def clock(facts: Facts) -> Iterator[Finding]:
    if facts.clock is not None and abs(facts.clock.ahead) - facts.clock.error > CLOCK:
        off = f"{abs(facts.clock.ahead):.1f} s {'ahead of' if facts.clock.ahead > 0 else 'behind'} the broker's"
        yield Finding(
            "clock",
            "this machine",
            f"its clock is {off}, and waits are off by that much",
            "synchronize both with NTP",
        )
