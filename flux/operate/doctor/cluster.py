"""Checks of login, retention of committed offsets, permissions, group members and clocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from flux.core.backoff import in_words
from flux.core.ports import TransactionSettings
from flux.core.stage import Role
from flux.operate.doctor.facts import Facts, Finding

CLOCK = 1.0
"""Seconds by which clocks may differ: waits are off by that much."""

_ENOUGH_BROKERS = 3

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


def committed_offsets(facts: Facts) -> Iterator[Finding]:
    """Kafka deletes the committed offsets of a group without members after that time, and the group starts over."""
    longest = max((facts.policy.waits.longest(topic.stage.number) for topic in facts.topics[1:-1]), default=0.0)
    for number, config in sorted((facts.brokers or {}).items()):
        minutes = config.get("offsets.retention.minutes", "")
        if minutes.isdecimal() and int(minutes) * 60 < longest:
            yield Finding(
                "committed offsets",
                f"broker {number}",
                f"deletes a group's committed offsets {in_words(int(minutes) * 60)} after its last member left, and"
                f" records wait up to {in_words(longest)}",
                f"set offsets.retention.minutes={round(2 * longest / 60)} on all brokers",
            )


def permissions(facts: Facts) -> Iterator[Finding]:
    """What a worker needs. Since Kafka 2.8 idempotent writes need no more (KIP-679)."""
    if facts.permissions is None:
        return
    for topic in facts.topics:
        allowed = facts.permissions.topics.get(topic.name)
        needs = _TOPIC_NEEDS[topic.stage.role]
        if allowed is None and topic.hidden:
            allowed = frozenset()
        yield from lacking("permissions", f"topic {topic.name}", needs, allowed)
    for topic in facts.topics[:-1]:
        group = topic.stage.group
        yield from lacking("permissions", f"group {group}", ("READ",), facts.permissions.groups.get(group))


def lacking(check: str, about: str, needs: tuple[str, ...], allowed: frozenset[str] | None) -> Iterator[Finding]:
    """`allowed`: None where it is not known."""
    if allowed is None or "ALL" in allowed:
        return
    lacks = " and ".join(operation for operation in needs if operation not in allowed)
    if lacks:
        yield Finding(check, about, f"this login lacks {lacks}", f"grant it {lacks} on {about}")


def transactions(facts: Facts) -> Iterator[Finding]:
    """Of tasks with `exactly_once`. No broker reports permissions on transactional ids: a start shows them."""
    if not facts.policy.exactly_once:
        return
    if facts.untransactional:
        problem, _, remedy = facts.untransactional.rpartition(": ")
        yield Finding("transactions", "the cluster", problem or remedy, remedy)
    brokers = sorted((facts.brokers or {}).items())
    least = int(TransactionSettings("").timeout * 1000)
    for number, config in brokers:
        longest = config.get("transaction.max.timeout.ms", "")
        if longest.isdecimal() and int(longest) < least:
            yield Finding(
                "transactions",
                f"broker {number}",
                f"allows transactions of {longest} ms, and flux's may last {least}",
                f"set transaction.max.timeout.ms={least} or more on all brokers",
            )
    if len(brokers) >= _ENOUGH_BROKERS:
        replicas, in_sync = facts.transaction_log or _future_log(brokers[0][1])
        if replicas < 3 or in_sync < 2:
            yield Finding(
                "transactions",
                "topic __transaction_state",
                f"it has {replicas} replica(s) and min.insync.replicas={in_sync}: transactions are lost, or stop, with"
                " their brokers",
                "give it 3 replicas and min.insync.replicas=2; on new clusters set"
                " transaction.state.log.replication.factor=3 and transaction.state.log.min.isr=2",
            )


def _future_log(config: Mapping[str, str]) -> tuple[int, int]:
    """The topic is made with the first transaction. Kafka's defaults where a broker does not say."""
    names = {"transaction.state.log.replication.factor": 3, "transaction.state.log.min.isr": 2}
    found = [int(text) if (text := config.get(name, "")).isdecimal() else usual for name, usual in names.items()]
    return found[0], found[1]


def members(facts: Facts) -> Iterator[Finding]:
    for topic in facts.topics[:-1]:
        group = topic.stage.group
        protocol = facts.protocols.get(group)
        if protocol is not None and protocol.used and protocol.used not in protocol.ours:
            yield Finding(
                "members",
                f"group {group}",
                f"its members use the protocol {protocol.used}, and this adapter uses {' or '.join(protocol.ours)}",
                "use the same client everywhere, and stop all members before you switch",
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
