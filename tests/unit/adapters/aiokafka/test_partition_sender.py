"""One partition's records on their way to a broker that is played by a script."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import errors as theirs

from flux.adapters.aiokafka import partition_sender as module
from flux.adapters.aiokafka.partition_sender import PartitionSender
from flux.adapters.aiokafka.produce_batch import BatchEntry, Identity
from flux.adapters.aiokafka.sender import Sender
from flux.core.errors import BrokerError, Fault
from flux.core.ports import ProducerRecord, ProducerSettings, Record
from flux.system import SYSTEM
from unit.support.aiokafka_support import run

NO_ERROR, UNKNOWN_TOPIC, TOO_LARGE, TIMED_OUT, OUT_OF_ORDER, DUPLICATE, DENIED = 0, 3, 10, 7, 45, 46, 29
Script = Callable[[bytes], Any]


class Broker:
    """The sender of one partition, its client and its broker. `script` answers each batch: a code, or an exception."""

    acks = -1
    codec = 0
    batch_bytes = 100_000
    request_bytes = 1_000_000
    request_timeout_ms = 1000
    linger = 0.0

    def __init__(self, script: Script) -> None:
        self.script = script
        self.time = 0.0
        self.sent: list[bytes] = []
        self.ends: list[tuple[bytes | None, int, Fault | None]] = []
        self.asked_for_fresh: list[bool] = []
        self.offset = 0
        self.leader: int | None = 1
        self.partitions: set[int] | None = {0}
        self.cluster = SimpleNamespace(
            leader_for_partition=lambda at: self.leader, partitions_for_topic=lambda topic: self.partitions
        )

    def now(self) -> float:
        self.time += 1.0
        return self.time

    async def client(self) -> Any:
        return self

    async def identity(self, fresh: bool) -> Identity:
        self.asked_for_fresh.append(fresh)
        return Identity(len(self.asked_for_fresh), 0)

    def acknowledge(self, entries: Sequence[BatchEntry], records: Sequence[Record], error: BrokerError | None) -> None:
        for entry, record in zip(entries, records, strict=True):
            assert record.value() == entry.record.value
            self.ends.append((record.value(), record.offset(), None if error is None else error.fault))

    async def ready(self, node: int) -> bool:
        return True

    def force_metadata_update(self) -> asyncio.Future[bool]:
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        done.set_result(True)
        return done

    async def send(self, node: int, request: Any) -> Any:
        [(topic, [(partition, data)])] = request._topics
        self.sent.append(data)
        code = self.script(data)
        if isinstance(code, BaseException):
            raise code
        offset = self.offset
        if code == NO_ERROR:
            self.offset += count(data)
        return SimpleNamespace(topics=[(topic, [(partition, code, offset, -1)])])

    def deliver(self, *values: bytes, deadline: float = 50.0) -> None:
        async def main() -> None:
            self.partition_sender = getattr(self, "partition_sender", None) or PartitionSender(self, "t", 0)
            for value in values:
                self.partition_sender.add(
                    BatchEntry(ProducerRecord(value), lambda error, record: None, self.time + deadline, 70 + len(value))
                )
            while self.partition_sender._task is not None:
                await asyncio.sleep(0)

        asyncio.run(main())


def count(data: bytes) -> int:
    return int(struct.unpack_from(">i", data, 57)[0])


def identity(data: bytes) -> tuple[int, int]:
    """(producer id, base sequence)"""
    producer, _, sequence = struct.unpack_from(">qhi", data, 43)
    return producer, sequence


@pytest.fixture(autouse=True)
def _no_real_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RETRY", 0)


def test_batches_are_numbered_by_their_records() -> None:
    broker = Broker(lambda data: NO_ERROR)
    broker.deliver(b"0", b"1", b"2")
    broker.deliver(b"3")
    assert [identity(data) for data in broker.sent] == [(1, 0), (1, 3)]
    assert broker.ends == [(b"%d" % i, i, None) for i in range(4)]
    assert broker.asked_for_fresh == [False]


def test_a_batch_without_an_answer_is_repeated_as_it_was() -> None:
    answers = iter([theirs.KafkaConnectionError("broken"), TIMED_OUT, NO_ERROR])
    broker = Broker(lambda data: next(answers))
    broker.deliver(b"0", b"1")
    assert len(broker.sent) == 3
    assert len(set(broker.sent)) == 1
    assert broker.ends == [(b"0", 0, None), (b"1", 1, None)]


def test_a_batch_that_is_there_already_is_acknowledged() -> None:
    answers = iter([theirs.KafkaConnectionError("broken"), DUPLICATE])
    broker = Broker(lambda data: next(answers))
    broker.deliver(b"0")
    assert broker.ends == [(b"0", -1, None)]


def test_after_a_batch_in_doubt_the_next_is_not_taken_for_it() -> None:
    broker = Broker(lambda data: theirs.KafkaConnectionError("broken"))
    broker.deliver(b"0", deadline=10)
    assert broker.ends == [(b"0", -1, Fault.UNAVAILABLE)]
    assert broker.sent
    broker.script = lambda data: NO_ERROR
    broker.deliver(b"1")
    assert identity(broker.sent[0]) == (1, 0)
    assert identity(broker.sent[-1]) == (2, 0)
    assert broker.asked_for_fresh == [False, True]


def test_a_batch_out_of_order_starts_again_under_a_new_identity() -> None:
    answers = iter([NO_ERROR, OUT_OF_ORDER, NO_ERROR])
    broker = Broker(lambda data: next(answers))
    broker.deliver(b"0")
    broker.deliver(b"1")
    assert [identity(data) for data in broker.sent] == [(1, 0), (1, 1), (2, 0)]
    assert broker.ends == [(b"0", 0, None), (b"1", 1, None)]


def test_a_refused_batch_takes_no_numbers() -> None:
    answers = iter([DENIED, NO_ERROR])
    broker = Broker(lambda data: next(answers))
    broker.deliver(b"0")
    broker.deliver(b"1")
    assert [identity(data) for data in broker.sent] == [(1, 0), (1, 0)]
    assert broker.ends == [(b"0", -1, Fault.DENIED), (b"1", 0, None)]


def test_one_large_record_is_found_and_refused_alone() -> None:
    broker = Broker(lambda data: TOO_LARGE if b"large" in data else NO_ERROR)
    broker.deliver(b"0", b"1", b"large", b"3", b"4")
    assert broker.ends == [
        (b"0", 0, None),
        (b"1", 1, None),
        (b"large", -1, Fault.TOO_LARGE),
        (b"3", 2, None),
        (b"4", 3, None),
    ]
    assert [identity(data)[1] for data in broker.sent if b"large" not in data] == [0, 2]


def test_what_is_none_for_kafka_is_refused_alone() -> None:
    broker = Broker(lambda data: NO_ERROR)

    async def main() -> None:
        partition_sender = PartitionSender(broker, "t", 0)
        for outgoing in (
            ProducerRecord(b"0"),
            ProducerRecord(b"1", None, (("\ud800", b""),)),
            ProducerRecord(b"2", "text"),  # type: ignore[arg-type]
            ProducerRecord(b"3", None, (), None, 2**80),
            ProducerRecord(b"4"),
        ):
            partition_sender.add(BatchEntry(outgoing, lambda error, record: None, 50.0, 100))
        while partition_sender._task is not None:
            await asyncio.sleep(0)

    asyncio.run(main())
    assert sorted(broker.ends) == [
        (b"0", 0, None),
        (b"1", -1, Fault.OTHER),
        (b"2", -1, Fault.OTHER),
        (b"3", -1, Fault.OTHER),
        (b"4", 1, None),
    ]


def test_a_topic_that_one_broker_does_not_know_yet_is_asked_for_again() -> None:
    codes = [UNKNOWN_TOPIC, NO_ERROR]
    broker = Broker(lambda _: codes.pop(0))
    broker.deliver(b"a")
    assert broker.ends == [(b"a", 0, None)]


@pytest.mark.parametrize("deleted", [False, True])
def test_a_topic_that_nobody_knows_is_told_as_such_long_before_the_record_is_late(deleted: bool) -> None:
    broker = Broker(lambda _: UNKNOWN_TOPIC)
    if deleted:
        broker.leader = broker.partitions = None
    broker.deliver(b"a", deadline=10_000.0)
    assert broker.ends == [(b"a", -1, Fault.UNKNOWN_TOPIC)]
    assert broker.time < 30


def test_a_partition_without_a_leader_is_waited_for() -> None:
    broker = Broker(lambda _: NO_ERROR)
    broker.leader = None
    broker.deliver(b"a", deadline=20.0)
    assert broker.ends == [(b"a", -1, Fault.UNAVAILABLE)]


def test_what_is_abandoned_is_answered_once() -> None:
    broker = Broker(lambda data: NO_ERROR)

    async def main() -> None:
        partition_sender = PartitionSender(broker, "t", 0)
        partition_sender.add(BatchEntry(ProducerRecord(b"0"), lambda error, record: None, 50.0, 100))
        partition_sender.add(BatchEntry(ProducerRecord(b"1"), lambda error, record: None, 50.0, 100))
        partition_sender.abandon(BrokerError("closed", Fault.UNAVAILABLE))
        await asyncio.sleep(0)

    asyncio.run(main())
    assert broker.ends == [(b"0", -1, Fault.UNAVAILABLE), (b"1", -1, Fault.UNAVAILABLE)]
    assert broker.sent == []


def test_a_bug_leaves_no_record_without_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(partition_sender: PartitionSender) -> list[BatchEntry]:
        raise AssertionError("a bug of flux")

    broker = Broker(lambda data: NO_ERROR)
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(PartitionSender, "_next_batch", broken)
        broker.deliver(b"0", b"1")
    broker.deliver(b"2")
    assert broker.ends == [(b"0", -1, Fault.OTHER), (b"1", -1, Fault.OTHER), (b"2", 0, None)]


@pytest.fixture
def _pauses(monkeypatch: pytest.MonkeyPatch, _no_real_time: None) -> None:
    monkeypatch.setattr(module, "_RETRY", 0.1)


class Slow(Broker):
    """Answers by time that passes at once. `takes`: seconds until each batch is answered; None: never."""

    def __init__(self, takes: Callable[[bytes], float | None], script: Script = lambda data: NO_ERROR) -> None:
        super().__init__(script)
        self.takes = takes
        self.ended: dict[bytes | None, float] = {}

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    async def send(self, node: int, request: Any) -> Any:
        [(_, [(_, data)])] = request._topics
        takes = self.takes(data)
        if takes is None:
            await asyncio.Event().wait()
        else:
            await asyncio.sleep(takes)
        return await super().send(node, request)

    def acknowledge(self, entries: Sequence[BatchEntry], records: Sequence[Record], error: BrokerError | None) -> None:
        super().acknowledge(entries, records, error)
        self.ended |= dict.fromkeys((record.value() for record in records), self.now())

    def write(self, given: Sequence[tuple[bytes, float]]) -> None:
        """Values and deadlines, in one batch."""

        async def main() -> None:
            partition_sender = PartitionSender(self, "t", 0)
            for value, deadline in given:
                partition_sender.add(
                    BatchEntry(ProducerRecord(value), lambda error, record: None, deadline, 70 + len(value))
                )
            while partition_sender._task is not None:
                await asyncio.sleep(0.1)

        run(main())


@pytest.mark.usefixtures("_pauses")
def test_each_record_of_a_batch_has_its_own_time() -> None:
    broker = Slow(lambda data: 12.0)
    broker.write([(b"old", 2.0), (b"older", 1.0), (b"young", 30.0), (b"younger", 31.0)])
    assert sorted(broker.ends) == [
        (b"old", -1, Fault.UNAVAILABLE),
        (b"older", -1, Fault.UNAVAILABLE),
        (b"young", 2, None),
        (b"younger", 3, None),
    ]
    assert {value: round(at) for value, at in broker.ended.items()} == {
        b"old": 2,
        b"older": 2,
        b"young": 12,
        b"younger": 12,
    }
    assert len(broker.sent) == 1  # never twice: without a producer id the broker would append it again


@pytest.mark.usefixtures("_pauses")
def test_the_numbers_of_a_batch_count_those_too_that_were_given_up() -> None:
    broker = Slow(lambda data: 5.0 if b"old" in data else 0.0)

    async def main() -> None:
        partition_sender = PartitionSender(broker, "t", 0)
        for value, deadline in ((b"old", 1.0), (b"young", 30.0)):
            partition_sender.add(BatchEntry(ProducerRecord(value), lambda error, record: None, deadline, 80))
        await asyncio.sleep(10)
        partition_sender.add(BatchEntry(ProducerRecord(b"next"), lambda error, record: None, 40.0, 80))
        await asyncio.sleep(1)

    run(main())
    assert [identity(data) for data in broker.sent] == [(1, 0), (1, 2)]


@pytest.mark.usefixtures("_pauses")
def test_what_was_never_sent_is_not_sent_once_it_has_failed() -> None:
    broker = Slow(lambda data: 0.0)
    broker.cluster.leader_for_partition = lambda at: 1 if broker.now() > 5 else None
    broker.write([(b"old", 2.0), (b"young", 30.0)])
    assert sorted(broker.ends) == [(b"old", -1, Fault.UNAVAILABLE), (b"young", 0, None)]
    assert [count(data) for data in broker.sent] == [1]


@pytest.mark.usefixtures("_pauses")
def test_records_wait_for_a_producer_id_each_as_long_as_it_may() -> None:
    broker = Slow(lambda data: 0.0)

    async def late_identity(fresh: bool) -> Identity:
        await asyncio.sleep(max(5 - broker.now(), 0))
        return Identity(1, 0)

    broker.identity = late_identity  # type: ignore[method-assign]
    broker.write([(b"old", 2.0), (b"young", 30.0)])
    assert sorted(broker.ends) == [(b"old", -1, Fault.UNAVAILABLE), (b"young", 0, None)]


@pytest.mark.usefixtures("_pauses")
def test_when_all_records_of_a_batch_have_been_given_up_the_next_is_not_taken_for_it() -> None:
    broker = Slow(lambda data: None if b"lost" in data else 0.0)

    async def main() -> None:
        partition_sender = PartitionSender(broker, "t", 0)
        partition_sender.add(BatchEntry(ProducerRecord(b"lost"), lambda error, record: None, 1.0, 80))
        await asyncio.sleep(0.5)
        partition_sender.add(BatchEntry(ProducerRecord(b"next"), lambda error, record: None, 40.0, 80))
        await asyncio.sleep(5)

    run(main())
    assert sorted(broker.ends) == [(b"lost", -1, Fault.UNAVAILABLE), (b"next", 0, None)]
    assert [identity(data) for data in broker.sent] == [(2, 0)]
    assert broker.ended == {b"lost": 1.0, b"next": pytest.approx(1.0)}


@pytest.mark.usefixtures("_pauses")
def test_a_topic_that_stays_unknown_is_named_so_after_a_while() -> None:
    broker = Slow(lambda data: 0.0, lambda data: 3)
    broker.write([(b"0", 30.0)])
    assert broker.ends == [(b"0", -1, Fault.UNKNOWN_TOPIC)]
    assert broker.ended[b"0"] < 10


def test_a_bug_in_finding_partitions_leaves_no_record_without_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*given: object) -> None:
        raise AssertionError("a bug of flux")

    ends: list[BrokerError | None] = []

    async def main() -> None:
        options = {"max_batch_size": 1000, "max_request_size": 1000}
        sender = Sender({}, options, ProducerSettings(), lambda entries, records, error: ends.append(error), SYSTEM)
        sender.add("t", [BatchEntry(ProducerRecord(b"0"), lambda error, record: None, 50.0, 100)])
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        sender.add("t", [BatchEntry(ProducerRecord(b"1"), lambda error, record: None, 50.0, 100)])
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    monkeypatch.setattr(Sender, "_look_up", broken)
    asyncio.run(main())
    assert [error and error.fault for error in ends] == [Fault.OTHER, Fault.OTHER]
