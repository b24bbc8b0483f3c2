"""Records, policies and engines as values: what the tests of the core share. Time is a number that a test passes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

from flux.core import flux_headers
from flux.core.backoff import Waits
from flux.core.engine import Engine
from flux.core.engine.assignment import Assignment
from flux.core.engine.commands import Turn
from flux.core.engine.forwards import Failure
from flux.core.engine.runs import Run
from flux.core.engine.slices import Entry
from flux.core.engine.verdicts import Move
from flux.core.errors import BrokerError, Fault
from flux.core.limits.call_limits import CallLimits
from flux.core.limits.dispatch_mode import CHECK_INTERVAL
from flux.core.message import Message
from flux.core.policy import Policy
from flux.core.ports import Batch, CommittedOffset, Headers, PollResult, TopicPartition
from flux.core.stage import Stage, Stages

T0 = 1_700_000_000.0
T0_MS = int(T0 * 1000)
STAGES = Stages("t", "g", 2)
P0 = TopicPartition("t", 0)
P1 = TopicPartition("t", 1)
DAY = 86400.0

AWAY = BrokerError("not now", Fault.UNAVAILABLE)
DENIED = BrokerError("not allowed", Fault.DENIED)
TOO_LARGE = BrokerError("too large", Fault.TOO_LARGE)


@attrs.define(eq=False, repr=False)
class FakeRecord:
    """A record whose fields are what a test says."""

    at: int
    the_key: bytes | None = b"k"
    the_value: bytes | None = b"v"
    the_headers: Headers | None = None
    the_timestamp: int = T0_MS
    the_topic: str = "t"
    the_partition: int = 0

    def topic(self) -> str:
        return self.the_topic

    def partition(self) -> int:
        return self.the_partition

    def offset(self) -> int:
        return self.at

    def key(self) -> bytes | None:
        return self.the_key

    def value(self) -> bytes | None:
        return self.the_value

    def headers(self) -> Headers | None:
        return self.the_headers

    def timestamp(self) -> tuple[int, int]:
        return (1, self.the_timestamp)

    def __repr__(self) -> str:
        return f"{self.the_topic}[{self.the_partition}]@{self.at}"


def record(offset: int, key: bytes | None = b"k", partition: TopicPartition = P0, **fields: Any) -> FakeRecord:
    renamed = {f"the_{name}": value for name, value in fields.items()}
    return FakeRecord(offset, key, the_topic=partition.topic, the_partition=partition.partition, **renamed)


def polled(*records: FakeRecord) -> PollResult:
    """One poll; a batch for each partition, in the order in which they first occur."""
    batches: dict[TopicPartition, Batch] = {}
    for one in records:
        partition = TopicPartition(one.topic(), one.partition())
        batches.setdefault(partition, Batch(partition, [])).records.append(one)
    return PollResult(list(batches.values()))


def message(one: FakeRecord, stage: int = 0) -> Message:
    return Message.of(
        one,
        one.value(),
        flux_headers.of_main_topic() if stage == 0 else flux_headers.read(one.headers() or (), stage, T0_MS, 0),
    )


def assignment(start: int = 0, partition: TopicPartition = P0, max_metadata: int = 4095) -> Assignment:
    return Assignment(partition, start, [], None, 0, max_metadata)


def entry(owner: Assignment, offset: int, key: bytes | None = b"k", due: int = 0) -> Entry:
    made = Entry(owner, message(record(offset, key, owner.partition)), offset, offset + 1)
    made.due = due
    return made


def policy(**settings: Any) -> Policy:
    return Policy(**{"stages": STAGES, "waits": Waits(10.0, 30 * DAY), **settings})


class Driver:
    """An engine with the calls that a driver makes, one at a time. It decides nothing."""

    def __init__(
        self,
        stage: int | Stage = 0,
        limits: dict[str, int] | None = None,
        call_limits: CallLimits | None = None,
        **settings: Any,
    ) -> None:
        self.policy = policy(**settings)
        self.stage = self.policy.stages[stage] if isinstance(stage, int) else stage
        self.engine = Engine(self.policy, self.stage, limits, call_limits)
        self.now = T0
        self.p0, self.p1 = (TopicPartition(self.stage.topic, n) for n in (0, 1))

    def assign(self, *positions: CommittedOffset | int | None, chosen: Sequence[TopicPartition] = ()) -> dict[Any, int]:
        """Partitions 0, 1, … at these positions."""
        given = {
            TopicPartition(self.stage.topic, number): CommittedOffset(at) if isinstance(at, int) else at
            for number, at in enumerate(positions)
        }
        return self.engine.assigned(given, dict.fromkeys(given, 0), self.now, chosen)

    def record(self, offset: int, key: bytes | None = b"k", partition: int = 0, **fields: Any) -> FakeRecord:
        return record(offset, key, TopicPartition(self.stage.topic, partition), **fields)

    def poll(self, *records: FakeRecord | int) -> None:
        """Numbers are records of partition 0 with a key of their own."""
        made = [self.record(r, str(r).encode()) if isinstance(r, int) else r for r in records]
        self.engine.polled(polled(*made), self.now)

    def take(self, polling: bool = True) -> Run:
        run = self.engine.take(polling, self.now)
        assert run is not None
        return run

    def nothing_to_take(self) -> bool:
        return self.engine.take(True, self.now) is None

    def message(self, run: Run, index: int) -> Message:
        return message_at(run, index)

    def fail(self, run: Run, error: BaseException | None = None, trace: str = "") -> Move:
        """The call that the run is at raises; the caller has not gone on yet."""
        failure = Failure(error or ValueError("bad"), trace)
        return self.engine.failed(run, run.index, self.message(run, run.index), failure, self.now)

    def work(self, run: Run, *failing: int) -> list[int]:
        """All calls of a run, those of offsets `failing` raising; returns the offsets called."""
        offsets = []
        while run.index < run.limit:
            offsets.append(self.message(run, run.index).offset)
            if offsets[-1] in failing:
                self.fail(run)
            run.index += 1
        self.engine.finished(run, self.now)
        return offsets

    def work_all(self, *failing: int) -> list[int]:
        """Runs until there is none; returns the offsets called, in order."""
        offsets = []
        while (run := self.engine.take(True, self.now)) is not None:
            offsets += self.work(run, *failing)
        return offsets

    def look(self) -> list[Run]:
        """A watcher that is on time looks twice; returns the runs that it found stuck."""
        self.now += CHECK_INTERVAL
        before = self.engine.checked(self.now)
        self.now += CHECK_INTERVAL
        return before + self.engine.checked(self.now)

    def commit(self, after: float = 10.0) -> dict[int, CommittedOffset]:
        """What is committed by now, by partition number; the commit succeeds."""
        self.now += after
        positions = self.engine.commit(self.now)
        if positions:
            self.engine.committed(positions, None, self.now)
        return {partition.partition: position for partition, position in (positions or {}).items()}

    def turn(self, after: float = 0.0) -> Turn:
        self.now += after
        return self.engine.turn(self.now)

    def write(self, error: BrokerError | None = None) -> list[int]:
        """Writes what is to be written; returns the offsets."""
        offsets = []
        for forward in self.engine.writes(self.now):
            offsets.append(forward.entry.offset)
            if error is None:
                self.engine.written(forward, self.now)
            else:
                self.engine.unwritten(forward, error, self.now)
        return offsets

    def log_events(self) -> str:
        return "\n".join(log_event.text for log_event in self.engine.log_events())


def message_at(run: Run, index: int) -> Message:
    """What a caller hands to its handler for call `index`."""
    if run.messages is not None:
        return run.messages[index]
    return message(run.records[index]) if run.records is not None else run.entries[index].message  # type: ignore[index]


def offsets(run: Run) -> list[int]:
    """Of the calls that a run may make."""
    return [message_at(run, index).offset for index in range(run.limit)]
