"""The aiokafka adapter against a real Kafka, beyond the contract: what aiokafka alone does, and what would lose."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import pytest
from aiokafka import TopicPartition as Theirs
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from brokers.base import USERS

from flux.adapters.aiokafka import AiokafkaAdapter, from_url
from flux.adapters.aiokafka.connection import Connection
from flux.adapters.aiokafka.consumer import AiokafkaConsumer
from flux.core.errors import BrokerError, Fault
from flux.core.ports import (
    BEGINNING,
    CommittedOffset,
    ConsumerSettings,
    NewTopic,
    PollResult,
    ProducerRecord,
    ProducerSettings,
    Record,
    TopicPartition,
)
from flux.testing.contract.bench import brings_nothing

SECONDS = 60.0


class Listener:
    def __init__(self) -> None:
        self.calls: list[str] = []
        self.owned: list[TopicPartition] = []
        self.consumer: AiokafkaConsumer | None = None
        self.when_revoked: Callable[[], Awaitable[object]] | None = None
        self.when_assigned: Callable[[], Awaitable[object]] | None = None

    async def assigned(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        self.calls.append("assigned")
        if self.when_assigned is not None:
            await self.when_assigned()
        assert self.consumer is not None
        positions = await self.consumer.committed(partitions, SECONDS)
        self.owned = list(partitions)
        return {at: BEGINNING if found is None else found.offset for at, found in positions.items()}

    async def revoked(self, partitions: Sequence[TopicPartition]) -> None:
        self.calls.append("revoked")
        if self.when_revoked is not None:
            await self.when_revoked()
        self.owned = []

    async def lost(self, partitions: Sequence[TopicPartition]) -> None:
        self.calls.append("lost")
        self.owned = []


async def member(bootstrap: str, topic: str, group: str, **options: Any) -> tuple[AiokafkaConsumer, Listener]:
    listener = Listener()
    adapter = AiokafkaAdapter(bootstrap, consumer={"heartbeat_interval_ms": 200, **options})
    consumer = listener.consumer = await adapter.async_consumer(ConsumerSettings(topic, group), listener)
    return consumer, listener


async def take(consumer: AiokafkaConsumer, count: int, at_once: int = 500) -> list[Record]:
    got: list[Record] = []
    until = time.monotonic() + SECONDS
    while len(got) < count:
        assert time.monotonic() < until, f"{len(got)} of {count} records came"
        got += records_of(await consumer.poll(at_once, 0.2))
    return got


def records_of(polled: PollResult) -> list[Record]:
    return [record for batch in polled.batches for record in batch.records]


def write(bootstrap: str, topic: str, records: Sequence[ProducerRecord], **settings: Any) -> list[BrokerError | None]:
    producer = AiokafkaAdapter(bootstrap).producer(ProducerSettings(**settings))
    errors: list[BrokerError | None] = []
    assert producer.write(topic, records, lambda error, _: errors.append(error)) == len(records)
    producer.flush(SECONDS)
    producer.close(0)
    return errors


def write_raw(bootstrap: str, topic: str, codec: int, names: Sequence[bytes]) -> None:
    """One batch of a record for each name, which is its header's."""
    builder = DefaultRecordBatchBuilder(2, codec, 0, -1, -1, -1, 1 << 20)
    for i, name in enumerate(names):
        builder.append(i, 1000 + i, b"key", b"%d" % i, [("x" * len(name), b"v")])
    data = bytearray(builder.build())
    if codec == 0:
        for name in names:
            place = data.find(b"x" * len(name))
            data[place : place + len(name)] = name
        data = resealed(data)

    async def send() -> None:
        connection = Connection(AiokafkaAdapter(bootstrap)._client({}))
        client = await connection.client()
        await client.add_topic(topic)
        leader = client.cluster.leader_for_partition(Theirs(topic, 0))
        answer = await client.send(leader, ProduceRequest(None, -1, 5000, [(topic, [(0, bytes(data))])]))
        assert answer.topics[0][1][0][1] == 0, answer
        await connection.close()

    asyncio.run(send())


def resealed(data: bytearray) -> bytearray:
    """With the checksum of what it holds now."""
    from aiokafka.record.util import calc_crc32c

    data[17:21] = calc_crc32c(bytes(data[21:])).to_bytes(4, "big")
    return data


def test_a_header_without_a_readable_name_costs_no_record(bootstrap: str, make_topic: Any, group: str) -> None:
    topic = make_topic(2)
    assert write(bootstrap, topic, [ProducerRecord(b"before", None, (), 0)]) == [None]
    write_raw(bootstrap, topic, 0, [b"good", b"b\xffd\xfe", b"fine"])
    assert write(
        bootstrap, topic, [ProducerRecord(b"after", None, (), 0)] + [ProducerRecord(b"other", None, (), 1)] * 50
    )

    async def read(at_once: int) -> list[Record]:
        consumer, _ = await member(bootstrap, topic, f"{group}-{at_once}")
        got = await take(consumer, 55, at_once)
        assert brings_nothing(await consumer.poll(10, 0.2))
        await consumer.close()
        return got

    for at_once in (500, 2, 1):
        got = asyncio.run(read(at_once))
        zero = [record for record in got if record.partition() == 0]
        assert [r.value() for r in zero] == [b"before", b"0", b"1", b"2", b"after"]
        assert [r.offset() for r in zero] == [0, 1, 2, 3, 4]
        assert len(got) == 55
        assert list(zero[1].headers() or ()) == [("good", b"v")]
        with pytest.raises(UnicodeDecodeError):
            zero[2].headers()
        assert zero[2].timestamp() == (1, 1001)


def test_a_member_has_its_tasks_name_host_and_process(bootstrap: str, topic: str, group: str) -> None:
    async def name(task: str, **options: Any) -> str:
        adapter = AiokafkaAdapter(bootstrap, options)
        listener = Listener()
        settings = ConsumerSettings(topic, f"{group}-{len(options)}", task=task)
        consumer = listener.consumer = await adapter.async_consumer(settings, listener)
        until = time.monotonic() + SECONDS
        while not listener.owned:
            assert time.monotonic() < until
            await consumer.poll(10, 0.2)
        (found,) = await asyncio.to_thread(adapter.admin().members, settings.group, SECONDS)
        await consumer.close()
        return found.client_id

    assert asyncio.run(name("Billing")) == f"flux-Billing-{socket.gethostname()}-{os.getpid()}"
    assert asyncio.run(name("Billing", client_id="mine")) == "mine"


def test_what_was_written_in_an_aborted_transaction_is_not_read_where_that_is_asked(
    bootstrap: str, topic: str, group: str
) -> None:
    from confluent_kafka import Producer

    writer = Producer({"bootstrap.servers": bootstrap, "transactional.id": group})
    writer.init_transactions(SECONDS)
    for number, end in enumerate((writer.commit_transaction, writer.abort_transaction, writer.commit_transaction)):
        writer.begin_transaction()
        for i in range(3):
            writer.produce(topic, b"%d-%d" % (number, i))
        writer.flush(SECONDS)
        end(SECONDS)

    async def read(level: str, wanted: int) -> list[Any]:
        consumer, _ = await member(bootstrap, topic, f"{group}-{level}", isolation_level=level)
        got = await take(consumer, wanted)
        assert brings_nothing(await consumer.poll(10, 0.3))
        await consumer.close()
        return [(r.offset(), r.value()) for r in got]

    everything = [(number * 4 + i, b"%d-%d" % (number, i)) for number in range(3) for i in range(3)]
    assert asyncio.run(read("read_uncommitted", 9)) == everything
    assert asyncio.run(read("read_committed", 6)) == everything[:3] + everything[6:]

    async def reached() -> int | None:
        listener = Listener()
        settings = ConsumerSettings(topic, f"{group}-reached")
        consumer = listener.consumer = await AiokafkaAdapter(bootstrap).async_consumer(settings, listener)
        await take(consumer, 6)
        polled = await consumer.poll(10, 0.3)
        await consumer.close()
        return polled.reached.get(TopicPartition(topic, 0))

    assert asyncio.run(reached()) == 12, "beyond the last transaction's marker"


def test_a_cancelled_poll_loses_nothing_and_still_counts_as_one(bootstrap: str, topic: str, group: str) -> None:
    assert set(write(bootstrap, topic, [ProducerRecord(b"%d" % i) for i in range(3000)])) == {None}

    async def main() -> None:
        consumer, listener = await member(bootstrap, topic, group, max_poll_interval_ms=1500)
        got: list[Record] = []
        for attempt in range(20_000):
            poll = asyncio.ensure_future(consumer.poll(7, 0.05))
            for _ in range(attempt % 4):
                await asyncio.sleep(0)
            poll.cancel()
            try:
                got += records_of(await poll)
            except asyncio.CancelledError:
                continue
            if len(got) >= 3000:
                break
            if not attempt % 50:
                await asyncio.sleep(0.001)
        got += await take(consumer, 3000 - len(got))
        assert [r.value() for r in got] == [b"%d" % i for i in range(3000)]
        until = time.monotonic() + SECONDS
        while "lost" not in listener.calls:
            assert time.monotonic() < until, "a member that polls no more keeps its partitions"
            await asyncio.sleep(0.1)
        with pytest.raises(BrokerError) as caught:
            await consumer.commit_now({TopicPartition(topic, 0): CommittedOffset(1)}, 5)
        assert caught.value.fault is Fault.FENCED
        await consumer.close()

    asyncio.run(main())


def test_a_drain_may_outlast_the_session_and_still_commits(bootstrap: str, make_topic: Any, group: str) -> None:
    topic = make_topic(2)
    write(bootstrap, topic, [ProducerRecord(b"x", None, (), i % 2) for i in range(10)])

    async def main() -> None:
        session = {"session_timeout_ms": 6000}
        first, one = await member(bootstrap, topic, group, **session)
        await take(first, 10)

        async def drain() -> None:
            await asyncio.sleep(8)
            assert not two.owned, "taken over during the drain"
            await first.commit_now({at: CommittedOffset(5, "drained") for at in one.owned}, 5)

        one.when_revoked = drain
        second, two = await member(bootstrap, topic, group, **session)
        until = time.monotonic() + SECONDS
        while not two.owned:
            assert time.monotonic() < until
            for consumer in (first, second):
                assert records_of(await consumer.poll(10, 0.1)) == []
        assert one.calls[:3] == ["assigned", "revoked", "assigned"]
        one.when_revoked = None
        await first.close()
        await second.close()

    asyncio.run(main())


def test_nothing_is_delivered_before_the_listener_has_said_where(bootstrap: str, topic: str, group: str) -> None:
    write(bootstrap, topic, [ProducerRecord(b"x")] * 10)

    async def main() -> None:
        consumer, listener = await member(bootstrap, topic, group)
        polled: list[PollResult] = []
        listener.when_assigned = lambda: asyncio.sleep(1.5)
        while not listener.owned:
            polled.append(await consumer.poll(10, 0.1))
        assert polled[:-1] == [PollResult()] * (len(polled) - 1)
        await take(consumer, 10 - len(records_of(polled[-1])))
        await consumer.close()

    asyncio.run(main())


def test_an_error_of_the_listener_leaves_poll(bootstrap: str, topic: str, group: str) -> None:
    async def broken() -> None:
        raise LookupError("a bug")

    async def main() -> None:
        consumer, listener = await member(bootstrap, topic, group)
        listener.when_assigned = broken
        for _ in range(2):
            with pytest.raises(LookupError, match="a bug"):
                await take(consumer, 1)
        with pytest.raises(LookupError):
            await consumer.close()

    asyncio.run(main())


def test_a_cluster_that_is_away_raises_nothing(topic: str, group: str) -> None:
    async def main() -> None:
        consumer, _ = await member("127.0.0.1:1", topic, group)
        for _ in range(3):
            assert await consumer.poll(10, 0.3) == PollResult()
        for ask in (
            lambda: consumer.committed([TopicPartition(topic, 0)], 0.3),
            lambda: consumer.commit_now({TopicPartition(topic, 0): CommittedOffset(1)}, 0.3),
        ):
            with pytest.raises(BrokerError) as caught:
                await ask()
            assert caught.value.fault in (Fault.UNAVAILABLE, Fault.FENCED)
        began = time.monotonic()
        await consumer.close()
        assert time.monotonic() - began < 5

    asyncio.run(main())
    admin = AiokafkaAdapter("127.0.0.1:1").admin()
    with pytest.raises(BrokerError) as caught:
        admin.topic_names(1)
    assert caught.value.fault is Fault.UNAVAILABLE


def test_records_are_late_in_time_and_answered_when_the_producer_closes() -> None:
    errors: list[BrokerError | None] = []
    producer = AiokafkaAdapter("127.0.0.1:1").producer(ProducerSettings(delivery_timeout=1))
    assert producer.write("t", [ProducerRecord(b"x")] * 3, lambda error, _: errors.append(error)) == 3
    assert producer.flush(0.1) == 3
    assert producer.flush(10) == 0
    assert producer.write("t", [ProducerRecord(b"x")] * 3, lambda error, _: errors.append(error)) == 3
    assert producer.close(0.1) == 3
    assert [error and error.fault for error in errors] == [Fault.UNAVAILABLE] * 6


def test_one_large_record_of_a_batch_is_refused_alone_and_later_ones_are_taken(
    bootstrap: str, make_topic: Any, read_all: Any
) -> None:
    topic = make_topic(max_message_bytes=10_000)
    values = [b"%d" % i * (20_000 if i == 7 else 1) for i in range(20)]
    producer = AiokafkaAdapter(bootstrap).producer(ProducerSettings(linger=0.1))
    ends: dict[bytes | None, BrokerError | None] = {}

    def keep(error: BrokerError | None, record: Record) -> None:
        ends[record.value()] = error

    for _ in range(2):
        assert producer.write(topic, [ProducerRecord(value) for value in values], keep) == 20
        assert producer.flush(SECONDS) == 0
        assert {v: e.fault for v, e in ends.items() if e} == {values[7]: Fault.TOO_LARGE}
    producer.close(1)
    small = [value for value in values if len(value) < 10]
    assert [r.value() for r in read_all(topic)] == small * 2


def test_a_child_process_cannot_use_what_it_inherits_and_makes_its_own(bootstrap: str, topic: str) -> None:
    adapter = AiokafkaAdapter(bootstrap)
    producer = adapter.producer(ProducerSettings())
    assert producer.write(topic, [ProducerRecord(b"x")], lambda error, _: None) == 1
    assert producer.flush(SECONDS) == 0
    child = os.fork()
    if child == 0:
        code = 1
        try:
            try:
                producer.write(topic, [ProducerRecord(b"x")], lambda error, _: None)
            except BrokerError:
                own = adapter.producer(ProducerSettings())
                own.write(topic, [ProducerRecord(b"child")], lambda error, _: None)
                code = own.close(SECONDS)
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    producer.close(1)
    assert adapter.admin().watermarks(topic, SECONDS)[0].high == 2


# -- logins and permissions


def login(bootstrap: str, user: str, password: str) -> AiokafkaAdapter:
    return from_url(
        f"aiokafka://{quote(user, safe='')}:{quote(password, safe='')}@{bootstrap}"
        "?security_protocol=SASL_PLAINTEXT&sasl_mechanism=PLAIN"
    )


def refused(ask: Callable[[], object]) -> BrokerError:
    with pytest.raises(BrokerError) as caught:
        ask()
    return caught.value


def consumed(adapter: AiokafkaAdapter, topic: str, group: str) -> list[Record]:
    async def main() -> list[Record]:
        listener = Listener()
        consumer = listener.consumer = await adapter.async_consumer(ConsumerSettings(topic, group), listener)
        try:
            return await take(consumer, 1)
        finally:
            await consumer.close()

    return asyncio.run(main())


def produced(adapter: AiokafkaAdapter, topic: str, **settings: Any) -> BrokerError | None:
    errors: list[BrokerError | None] = []
    producer = adapter.producer(ProducerSettings(**settings))
    producer.write(topic, [ProducerRecord(b"x")], lambda error, _: errors.append(error))
    producer.flush(10)
    producer.close(0)
    [error] = errors
    return error


def test_a_login_works(secured: str, topic: str, group: str) -> None:
    boss = login(secured, "boss", USERS["boss"])
    assert produced(boss, topic) is None
    assert [r.value() for r in consumed(boss, topic, group)] == [b"x"]
    assert topic in boss.admin().topic_names(SECONDS)


def test_a_refused_login_is_told_at_once_and_the_password_never(
    secured: str, topic: str, group: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level("DEBUG")
    stranger = login(secured, "boss", "wr0ng-pass")
    began = time.monotonic()
    errors = [
        refused(lambda: consumed(stranger, topic, group)),
        refused(lambda: stranger.admin().topics([topic], 20)),
        refused(lambda: stranger.producer(ProducerSettings()).partitions(topic, 20)),
        produced(stranger, topic),
    ]
    assert [error and error.fault for error in errors] == [Fault.LOGIN] * 4
    assert time.monotonic() - began < 20
    said = caplog.text + "".join(capfd.readouterr()) + repr(stranger) + stranger.cluster + "".join(map(str, errors))
    assert "wr0ng-pass" not in said


def test_a_missing_permission_is_named(secured: str, topic: str, group: str, unique: Any) -> None:
    guest = login(secured, "guest", USERS["guest"])
    admin, new = guest.admin(), unique()
    for ask, needed in (
        (lambda: consumed(guest, topic, group), f"needs READ on topic {topic}"),
        (lambda: admin.topics([topic], SECONDS), f"needs DESCRIBE on topic {topic}"),
        (lambda: admin.topic_config(topic, SECONDS), f"needs DESCRIBE_CONFIGS on topic {topic}"),
        (lambda: admin.create_topics([NewTopic(new, 1, 1)], SECONDS), f"needs CREATE on topic {new}"),
        (lambda: admin.committed_offsets(group, topic, SECONDS), f"needs DESCRIBE on group {group}"),
    ):
        error = refused(ask)
        assert error.fault is Fault.DENIED
        assert needed in str(error)
    for acks in ("all", "1"):
        failed = produced(guest, topic, acks=acks)
        assert failed is not None
        assert failed.fault is Fault.DENIED
        assert "WRITE on" in str(failed)
