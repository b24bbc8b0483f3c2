"""The in-memory broker against a model that is a few dicts: whatever is done to it, it delivers what was written, in
order, from where it was told, and raises nothing but BrokerError."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from flux.adapters.memory import MemoryAdapter, forget
from flux.adapters.memory.consumer import MemoryConsumer
from flux.core.errors import BrokerError, Fault
from flux.core.ports import (
    BEGINNING,
    END,
    CommittedOffset,
    ConsumerSettings,
    ProducerRecord,
    ProducerSettings,
    TopicPartition,
)
from flux.core.producing.partitioner import partition_for_key
from unit.support.memory_support import ScriptedSystem

TOPIC = "t"
INTERVAL = 300.0
METADATA = ["", "m", "ä" * 4096, "x" * 4097, "\U0001f600" * 2049, "\ud800"]
"""The last three are too long, counted in UTF-16, or no text."""

numbers = st.integers(0, 3)
offsets = st.one_of(st.integers(-2, 12), st.sampled_from([BEGINNING, END]))


def at(partition: int) -> TopicPartition:
    return TopicPartition(TOPIC, partition)


class Reader:
    """A member of the group, and what the model knows of it: where it is in each partition that it owns."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.places: dict[int, int] = {}
        self.paused: set[int] = set()
        self.told: set[int] = set()
        """Out of range, and said so."""
        self.polled: float | None = None
        """When it last polled; None: it is no member yet."""
        self.client: MemoryConsumer = model.adapter.consumer(ConsumerSettings(TOPIC, "g"), self)

    @property
    def late(self) -> bool:
        """The group has put it out, or will before it does anything else."""
        return self.polled is None or self.model.system.time - self.polled >= INTERVAL

    def assigned(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        offsets = self.client.committed(partitions, 1)
        starts = {p: position.offset if position else BEGINNING for p, position in offsets.items()}
        for partition, start in starts.items():
            number = partition.partition
            owners = [each for each in self.model.readers if each is not self and number in each.places]
            assert all(owner.late for owner in owners), "two own one partition"
            assert number not in self.places
            position = self.model.offsets.get(number)
            assert (position and position.offset) == (start if start != BEGINNING else None)
            self.places[number] = self.model.resolve(number, start)
        return starts

    def revoked(self, partitions: Sequence[TopicPartition]) -> None:
        if self.model.commits_when_revoked:
            own = {p: CommittedOffset(max(self.places[p.partition], 0), "r") for p in partitions}
            self.client.commit_now(own, 1)
            self.model.offsets.update({p.partition: position for p, position in own.items()})
        self.drop(partitions)

    def lost(self, partitions: Sequence[TopicPartition]) -> None:
        self.drop(partitions)

    def drop(self, partitions: Sequence[TopicPartition]) -> None:
        for partition in partitions:
            del self.places[partition.partition]
            self.paused.discard(partition.partition)
            self.told.discard(partition.partition)


class Model(RuleBasedStateMachine):
    @initialize(partitions=st.integers(1, 3), commits=st.booleans())
    def begin(self, partitions: int, commits: bool) -> None:
        forget("fuzz")
        self.system = ScriptedSystem()
        self.adapter = MemoryAdapter("fuzz", system=self.system, max_poll_interval=INTERVAL)
        self.broker = self.adapter.broker
        self.broker.create_topic(TOPIC, partitions)
        self.producer = self.adapter.producer(ProducerSettings())
        self.commits_when_revoked = commits
        self.logs: list[dict[int, bytes]] = [{} for _ in range(partitions)]
        self.lows = [0] * partitions
        self.highs = [0] * partitions
        self.offsets: dict[int, CommittedOffset] = {}
        self.readers: list[Reader] = []
        self.written = 0

    def resolve(self, partition: int, offset: int) -> int:
        return {BEGINNING: self.lows[partition], END: self.highs[partition]}.get(offset, offset)

    def refused(self, ask: Callable[[], object], fault: Fault | None = None) -> None:
        with pytest.raises(BrokerError) as refusal:
            ask()
        assert fault in (None, refusal.value.fault)

    # -- the log

    @rule(key=st.none() | st.binary(max_size=2), partition=st.none() | st.integers(-1, 4), count=st.integers(1, 3))
    def produce(self, key: bytes | None, partition: int | None, count: int) -> None:
        batch = [ProducerRecord(b"%d" % (self.written + n), key, partition=partition) for n in range(count)]
        self.written += count
        ends: list[tuple[BrokerError | None, TopicPartition, int, bytes]] = []
        taken = self.producer.write(
            TOPIC,
            batch,
            lambda error, r: ends.append((error, at(r.partition()), r.offset(), r.value() or b"")),
        )
        assert taken == count == len(ends)
        for (error, where, offset, value), one in zip(ends, batch, strict=True):
            assert value == one.value
            number = where.partition
            if partition is not None and not 0 <= partition < len(self.logs):
                assert error is not None
                assert error.fault is Fault.UNKNOWN_TOPIC
                continue
            assert error is None
            if partition is not None:
                assert number == partition
            elif key is not None:
                assert number == partition_for_key(key, len(self.logs))
            assert offset == self.highs[number]
            self.logs[number][offset] = value
            self.highs[number] += 1

    @rule(partition=numbers, before=st.integers(0, 15))
    def delete_records(self, partition: int, before: int) -> None:
        if partition >= len(self.logs):
            self.refused(lambda: self.broker.delete_records(at(partition), before), Fault.UNKNOWN_TOPIC)
        elif before > self.highs[partition]:
            self.refused(lambda: self.broker.delete_records(at(partition), before))
        else:
            self.broker.delete_records(at(partition), before)
            self.lows[partition] = max(self.lows[partition], before)
            self.logs[partition] = {o: v for o, v in self.logs[partition].items() if o >= before}

    @rule(partition=numbers, count=st.integers(1, 3))
    def leave_a_gap(self, partition: int, count: int) -> None:
        if partition < len(self.logs):
            self.broker.skip_offsets(at(partition), count)
            self.highs[partition] += count

    @precondition(lambda self: len(self.logs) < 5)
    @rule(more=st.integers(0, 1))
    def grow(self, more: int) -> None:
        count = len(self.logs) + more
        if not more:
            self.refused(lambda: self.broker.grow_topic(TOPIC, count))
            return
        self.broker.grow_topic(TOPIC, count)
        self.logs.append({})
        self.lows.append(0)
        self.highs.append(0)

    # -- the group

    @precondition(lambda self: len(self.readers) < 4)
    @rule()
    def join(self) -> None:
        self.readers.append(Reader(self))

    @precondition(lambda self: self.readers)
    @rule(which=numbers, again=st.booleans())
    def leave(self, which: int, again: bool) -> None:
        reader = self.readers[which % len(self.readers)]
        reader.client.close()
        assert not reader.places
        self.readers.remove(reader)
        if again:
            reader.client.close()
            self.refused(lambda: reader.client.poll(1, 0), Fault.FATAL)
            self.refused(lambda: reader.client.committed([at(0)], 1), Fault.FATAL)
            self.refused(lambda: reader.client.commit_now({at(0): CommittedOffset(0)}, 1), Fault.FATAL)

    @precondition(lambda self: self.readers)
    @rule(which=numbers, most=st.integers(1, 5))
    def poll(self, which: int, most: int) -> None:
        self.polls(self.readers[which % len(self.readers)], most)

    def polls(self, reader: Reader, most: int) -> None:
        if reader.late:
            reader.polled = None  # before the listener hears of it
        polled = reader.client.poll(most, 0)
        reader.polled = self.system.time
        records = [record for batch in polled.batches for record in batch.records]
        assert len(records) <= most
        for partition in polled.out_of_range:
            number = partition.partition
            assert not self.lows[number] <= reader.places[number] <= self.highs[number]
            assert number not in reader.told | reader.paused
            reader.told.add(number)
        for batch in polled.batches:
            number = batch.partition.partition
            assert number not in reader.told | reader.paused
            place = reader.places[number]
            expected = sorted((o, v) for o, v in self.logs[number].items() if o >= place)[: len(batch.records)]
            assert [(r.offset(), r.value()) for r in batch.records] == expected
            reader.places[number] = expected[-1][0] + 1
        if len(records) < most:
            for number, place in reader.places.items():
                if number not in reader.told | reader.paused:
                    assert not [o for o in self.logs[number] if o >= place], "not all that there was room for"
                    reader.places[number] = self.highs[number]

    @precondition(lambda self: self.readers)
    @rule(which=numbers, partition=numbers, offset=offsets)
    def seek(self, which: int, partition: int, offset: int) -> None:
        reader = self.readers[which % len(self.readers)]
        if partition not in reader.places:
            self.refused(lambda: reader.client.seek(at(partition), offset))
            return
        reader.client.seek(at(partition), offset)
        reader.places[partition] = self.resolve(partition, offset)
        reader.told.discard(partition)

    @precondition(lambda self: self.readers)
    @rule(which=numbers, partitions=st.sets(st.integers(0, 5)), pausing=st.booleans())
    def pause_or_resume(self, which: int, partitions: set[int], pausing: bool) -> None:
        reader = self.readers[which % len(self.readers)]
        if pausing:
            reader.client.pause(map(at, partitions))
            reader.paused |= partitions & reader.places.keys()
        else:
            reader.client.resume(map(at, partitions))
            reader.paused -= partitions

    @precondition(lambda self: self.readers)
    @rule(which=numbers, partition=numbers, metadata=st.sampled_from(METADATA), waits=st.booleans())
    def commit(self, which: int, partition: int, metadata: str, waits: bool) -> None:
        reader = self.readers[which % len(self.readers)]
        position = CommittedOffset(max(reader.places.get(partition, 0), 0), metadata)
        expected = None
        if reader.late:
            expected = Fault.FENCED
        elif partition >= len(self.logs):
            expected = Fault.UNKNOWN_TOPIC
        elif metadata in METADATA[3:]:
            expected = Fault.METADATA
        if expected is None:
            self.offsets[partition] = position
        if waits and expected is None:
            reader.client.commit_now({at(partition): position}, 1)
        elif waits:
            self.refused(lambda: reader.client.commit_now({at(partition): position}, 1), expected)
        else:
            ends: list[BrokerError | None] = []
            reader.client.commit({at(partition): position}, ends.append)
            self.polls(reader, 1)
            assert [end and end.fault for end in ends] == [expected]

    @rule(partition=numbers, offset=st.integers(0, 12))
    def an_operator_sets_a_position(self, partition: int, offset: int) -> None:
        if partition < len(self.logs):
            self.broker.set_committed_offset("g", at(partition), CommittedOffset(offset, "o"))
            self.offsets[partition] = CommittedOffset(offset, "o")

    @rule(seconds=st.sampled_from([1.0, 299.0, 301.0]))
    def time_passes(self, seconds: float) -> None:
        self.system.time += seconds

    # -- what always holds

    @invariant()
    def the_log_is_what_was_written(self) -> None:
        if not hasattr(self, "logs"):
            return
        held = [(r.partition(), r.offset(), r.value()) for r in self.broker.records(TOPIC)]
        assert held == [(p, o, v) for p, log in enumerate(self.logs) for o, v in sorted(log.items())]
        marks = self.adapter.admin().watermarks(TOPIC, 1)
        assert {p: (m.low, m.high) for p, m in marks.items()} == {
            p: (self.lows[p], self.highs[p]) for p in range(len(self.logs))
        }
        assert self.broker.committed_offsets("g", TOPIC) == self.offsets

    def teardown(self) -> None:
        if not hasattr(self, "readers"):
            return
        # Faults have stopped: every member polls, and everything that is held has one owner.
        for _ in range(4):
            for reader in self.readers:
                self.polls(reader, 5)
        if self.readers:
            owned = [number for reader in self.readers for number in reader.places]
            assert sorted(owned) == list(range(len(self.logs)))
            sizes = [len(reader.places) for reader in self.readers]
            assert max(sizes) - min(sizes) <= 1
        forget("fuzz")


TestMemory = Model.TestCase
TestMemory.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
