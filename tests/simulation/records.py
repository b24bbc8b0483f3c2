"""Copies of records, calls of them, and who owned their partitions: the facts that the truth is made of."""

from __future__ import annotations

from typing import Any

import attrs

from flux.core.engine.offset_tracker import read_metadata
from flux.core.ports import CommittedOffset, TopicPartition
from simulation.machine import Process
from simulation.scenario import RecordPlan, TaskPlan

DEAD = 1000
"""The stage of dead letters, whatever `retries` is."""
PRODUCTS = "products"
SENT, OWN = b"s", b"o"
"""At the end of a product's key: it leaves at once; it is for its own record of a batch alone."""


class Violation(AssertionError):
    """A promise was broken."""


@attrs.define(eq=False)
class Copy:
    """A record on the broker, in any of a task's topics."""

    at: TopicPartition
    offset: int
    plan: RecordPlan
    stage: int
    record: Any
    attempts: int
    due: int
    stored_at: float
    born: int
    """When the work began, as its age counts: milliseconds since the epoch."""
    acked: bool = False
    deleted: bool = False
    replaced: bool = False
    """Whether a later record has its id."""
    calls: list[Call] = attrs.field(factory=list)
    source: Call | None = None
    """Whose forwarded copy it is; None: where the work began."""
    replays: int = 0

    @property
    def void(self) -> bool:
        """Whether nobody has to call it."""
        return self.deleted or self.replaced

    @property
    def root(self) -> Copy:
        return self if self.source is None else self.source.copy.root

    def __str__(self) -> str:
        return f"{self.at}@{self.offset} (r{self.plan.number})"


@attrs.define(eq=False)
class Call:
    number: int
    copy: Copy
    process: Process
    epoch: Epoch
    retries: int
    """Of the task, as the process knows it."""
    attempt: int
    tries: int = 0
    """In place, before it."""
    refused: bool = False
    """It was not made, as the work was too old."""
    batch: list[Call] | None = None
    """All calls that are made as one, with this."""
    began: int = 0
    """The machine's step."""
    began_at: float = 0.0
    """The machine's time."""
    ended_at: float = 0.0
    again: bool = False
    """It was called once more by the same owner."""
    ended: int | None = None
    """The machine's step."""
    outcome: str = ""
    """done, next, dead, pause, or stop."""
    after: float | None = None
    ended_ms: int = 0
    products: dict[bytes, str] = attrs.field(factory=dict)
    forward: str = ""
    """flying, refused or acked."""
    perhaps: bool = False
    """A forwarded copy without details was acknowledged that may be this call's, or one's that looks the same."""
    kept: int | None = None
    """The step at which its forwarded copy was refused."""
    settled_at: int = 0

    @property
    def superseded(self) -> bool:
        """Whether a later call by the same owner counts instead: one that found no outage."""
        return self.again and self.epoch.called[self.copy.offset].outcome != "pause"

    @property
    def may_be_tried_in_place(self) -> bool:
        return self.outcome == "next" and self.tries < self.epoch.task.settings.get("in_place_retries", 0)

    @property
    def running(self) -> bool:
        return self.ended is None and not self.process.dead

    @property
    def verdict(self) -> str:
        """With what it produced: done, next, dead, pause, stop, or nothing yet."""
        if self.outcome == "done" and self.products:
            if "failed" in self.products.values():
                return "next" if not {"flying"} & set(self.products.values()) or self.forward else ""
            return "done" if set(self.products.values()) == {"acked"} else ""
        return self.outcome

    @property
    def settled(self) -> bool:
        verdict = self.verdict
        if verdict == "done":
            return True
        if verdict in ("next", "dead"):
            return self.forward == "acked" or self.copy.stage == DEAD
        return False

    def __str__(self) -> str:
        return f"call {self.number} of {self.copy}"


def name_of(message: Any) -> str:
    """A name for a limit: one of three."""
    return name_of_number(int(message.raw_value[1:].split(b" ")[0]))


def name_of_number(number: int) -> str:
    return f"name {number % 3}"


def is_own(key: bytes, call: Call) -> bool:
    """Whether a product is for the record of `call` alone."""
    return key.endswith(OWN) and key.startswith(b"#%d;" % call.number)


@attrs.define(eq=False)
class Epoch:
    """One assignment of one partition, as the listener of one process hears of it."""

    process: Process
    group: str
    at: TopicPartition
    task: TaskPlan
    member: Any
    restored: CommittedOffset | None
    began: int
    delivered: dict[int, tuple[int, int]] = attrs.field(factory=dict)
    """Offset -> (due, number of the poll)."""
    called: dict[int, Call] = attrs.field(factory=dict)
    """Offset -> the last call."""
    came_at: dict[int, float] = attrs.field(factory=dict)
    """Offset -> the machine's time."""
    calls: list[Call] = attrs.field(factory=list)
    left_out: list[Call] = attrs.field(factory=list)
    """Records that are too old, of the batch that begins next."""
    polls: int = 0
    returned: int = 0
    """The step at which the last poll returned."""
    known: int = 0
    """What happened before this step was told to the engine before the last poll began."""
    revoking: float | None = None
    revoking_since: int = 0
    commit_failed: bool = False
    ended: str = ""
    ended_at: float = 0.0
    late: bool = False
    """It was given up although calls were in flight, as their time was over."""
    begun_late: int = 0
    written_late: int = 0

    def was_done(self, offset: int) -> bool:
        if self.restored is None:
            return False
        ranges = read_metadata(*self.restored) or [] if self.restored.metadata else []
        return offset < self.restored.offset or any(start <= offset < end for start, end in ranges)

    @property
    def alive(self) -> bool:
        return not self.ended and not self.process.dead
