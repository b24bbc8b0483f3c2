"""What must hold for one process before, in and after an outage. Pure: measurements in, problems out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

AGAIN = 30.0
"""Seconds after an outage within which everything works again."""
CPU = 0.10
"""Share of a core in an outage, at most; more than usual where some records come through, and on a slow machine."""
BUSY_WAIT = 1.0
"""The same for librdkafka's broker threads, in cases in which its idempotent producer waits busily: while at least five
records of a partition are in flight and others are queued for longer than `linger.ms`, its thread polls with a timeout
of 0 (rd_kafka_toppar_producer_serve of 2.16). It may not go on afterwards."""
LINES = 20
"""Log lines in a minute of an outage, at most; a shorter outage may have as many."""
THREADS, DESCRIPTORS = 3, 8
"""How many more there may be afterwards: of a connection that is just being made or closed."""
MEMORY = 24 * 2**20
"""Bytes by which a process may grow: buffers that an outage fills, which the allocator keeps."""


@attrs.frozen
class Reading:
    """A process as /proc shows it. `at`: of the monotonic clock; `cpu`: seconds since its start; `memory`: resident
    bytes; `brokers`: CPU seconds of librdkafka's broker threads, by thread: some end when a cluster is known."""

    at: float
    cpu: float
    threads: int
    descriptors: int
    memory: int
    brokers: Mapping[int, float] = {}

    def __str__(self) -> str:
        return f"{self.threads}/{self.descriptors}/{self.memory / 2**20:.0f} MB"

    def share(self, before: Reading) -> float:
        """Of a core, since then."""
        return (self.cpu - before.cpu) / max(self.at - before.at, 1e-9)

    def brokers_share(self, before: Reading) -> float:
        spent = sum(seconds - before.brokers.get(thread, 0.0) for thread, seconds in self.brokers.items())
        return spent / max(self.at - before.at, 1e-9)

    def grown(self, before: Reading) -> list[str]:
        found = []
        if self.threads > before.threads + THREADS:
            found.append(f"{self.threads} threads, {before.threads} before")
        if self.descriptors > before.descriptors + DESCRIPTORS:
            found.append(f"{self.descriptors} descriptors, {before.descriptors} before")
        if self.memory > before.memory + MEMORY:
            found.append(f"{self.memory / 2**20:.0f} MB, {before.memory / 2**20:.0f} MB before")
        return found


@attrs.frozen
class Measured:
    """`outage`: seconds; `cpu`: share of a core in it; `brokers`: of that, librdkafka's broker threads; `lines`: of the
    log in it; `back`: seconds from its end until everything worked again, None: it did not; `usual`: share of a core
    before it; `is_total`: a process has nothing to do in it; `waits_busily`: see `BUSY_WAIT`; `brokers_after`: as
    `brokers`, when all works again; `named`: texts of which one line at least must have one, if any; `unharmed`: it did
    all of its work in an outage that should prevent that; `slowness`: see `watch.slowness`."""

    outage: float
    cpu: float
    brokers: float
    lines: Sequence[str]
    back: float | None
    before: Reading
    after: Reading
    usual: float = 0.0
    is_total: bool = True
    waits_busily: bool = False
    brokers_after: float = 0.0
    named: Sequence[str] = ()
    restarted: bool = False
    unharmed: bool = False
    slowness: float = 1.0

    @property
    def lines_a_minute(self) -> float:
        return len(self.lines) / max(1.0, self.outage / 60)

    def problems(self) -> list[str]:
        found = self.after.grown(self.before)
        if self.back is None or self.back > AGAIN:
            found.append(f"does not work again within {AGAIN:g} s")
        if self.unharmed:
            found.append("the fault had no effect")
        if self.restarted:
            found.append("the process has ended")
        own = self.cpu - self.brokers if self.waits_busily else self.cpu
        allowed = CPU * max(1.0, self.slowness)
        if own > allowed + (0 if self.is_total else self.usual):
            found.append(f"{own:.0%} of a core in the outage")
        if self.brokers > BUSY_WAIT:
            found.append(f"{self.brokers:.0%} of a core in librdkafka's broker threads")
        if self.brokers_after > allowed:
            found.append(f"{self.brokers_after:.0%} of a core in librdkafka's broker threads afterwards")
        if self.lines_a_minute > LINES:
            found.append(f"{self.lines_a_minute:.0f} log lines a minute, such as: {self.lines[-1]}")
        if self.named and not any(name in line for line in self.lines for name in self.named):
            found.append(f"no log line names what is unavailable ({' or '.join(self.named)})")
        return found


@attrs.frozen
class Produced:
    """What a producer's process says about its records: those that were given to it, those that were acknowledged or
    failed, and whether it has ended in good order; `waited`: those of which each has a future."""

    given: frozenset[int]
    waited: frozenset[int]
    acknowledged: frozenset[int]
    failed: frozenset[int]
    ended: bool

    def problems(self, stored: Sequence[int]) -> list[str]:
        """`stored`: what the topic holds."""
        found, there = [], set(stored)
        for what, numbers in (
            ("acknowledged but not in the topic", self.acknowledged - there),
            ("neither in the topic nor reported as failed", self.given - there - self.failed),
            ("without an outcome", self.waited - self.acknowledged - self.failed),
            ("given up before their time", self.failed),
            ("in the topic but never produced", there - self.given),
        ):
            if numbers:
                found.append(f"{len(numbers)} records {what}: {sorted(numbers)[:5]}")
        if not self.ended:
            found.append("the producer did not end in good order")
        return found

    def lost(self, stored: Sequence[int]) -> int:
        return len(self.given - set(stored))
