"""A consumer group on one topic: its members, the owner of each partition, and the committed offsets.

Members of one group that read different topics never exchange partitions, so each topic of a group is a `Group` of
its own. Rebalances are cooperative: `target` is the next owner of a partition, `owner` the current one, and it moves
only when its owner has released it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable

import attrs

from flux.core.ports import CommittedOffset

_numbers = itertools.count(1)


@attrs.define(eq=False)
class Member:
    """One membership, from joining to leaving or eviction. Times in seconds."""

    max_poll_interval: float
    last_poll: float
    """While a poll waits: when it will return at the latest."""
    client_id: str = "memory"
    id: str = attrs.field(factory=lambda: f"member-{next(_numbers)}")
    generation: int = 0
    """Of the group, when this member last took part in a rebalance; 0: in none yet."""


@attrs.frozen
class MemoryMembership:
    """`flux.core.ports.Membership`."""

    group: str
    topic: str
    member: Member
    generation: int


class Group:
    """The caller holds the cluster's lock. `changed` is called when some member may have something to do."""

    def __init__(self, partitions: int, changed: Callable[[], None]) -> None:
        self._partitions = partitions
        self._changed = changed
        self.generation = 0
        self.members: list[Member] = []
        self.target: dict[int, Member] = {}
        self.owner: dict[int, Member] = {}
        self.committed: dict[int, CommittedOffset] = {}

    def join(self, member: Member) -> None:
        self.members.append(member)
        self._balance()

    def leave(self, member: Member) -> None:
        """Its partitions are free at once."""
        if member in self.members:
            self.members.remove(member)
            self.owner = {p: m for p, m in self.owner.items() if m is not member}
            self._balance()

    def expire(self, now: float) -> None:
        """Evicts the members that have not polled for longer than their interval."""
        for member in [m for m in self.members if m.last_poll + m.max_poll_interval <= now]:
            self.leave(member)

    def next_expiry(self, now: float) -> float:
        """The earliest time at which a member may be evicted, whatever polls end from now on."""
        return min((min(m.last_poll, now) + m.max_poll_interval for m in self.members), default=math.inf)

    def resize(self, partitions: int) -> None:
        self._partitions = partitions
        self._balance()

    def forget(self) -> None:
        """Forgets the owners and committed offsets of a deleted topic."""
        self.owner.clear()
        self.committed.clear()
        self.resize(0)

    def claim(self, member: Member) -> list[int]:
        """Assigns free partitions to the member and returns them."""
        new = [p for p, m in self.target.items() if m is member and p not in self.owner]
        self.owner.update(dict.fromkeys(new, member))
        return sorted(new)

    def release(self, member: Member, partitions: Iterable[int]) -> None:
        for partition in partitions:
            if self.owner.get(partition) is member:
                del self.owner[partition]
        self.generation += 1
        self._changed()

    def _balance(self) -> None:
        """Evenly, give or take one partition, moving as few as possible (as Kafka's cooperative-sticky assignor)."""
        held = {m: [p for p in range(self._partitions) if self.target.get(p) is m] for m in self.members}
        base, extra = divmod(self._partitions, len(self.members) or 1)
        kept: dict[Member, list[int]] = {}
        quotas: dict[Member, int] = {}
        for i, member in enumerate(sorted(held, key=lambda m: -len(held[m]))):
            quotas[member] = base + (i < extra)
            kept[member] = held[member][: quotas[member]]
        placed = {p for partitions in kept.values() for p in partitions}
        free = iter([p for p in range(self._partitions) if p not in placed])
        for member, partitions in kept.items():
            partitions += [next(free) for _ in range(quotas[member] - len(partitions))]
        self.target = {p: m for m, partitions in kept.items() for p in partitions}
        self.generation += 1
        self._changed()
