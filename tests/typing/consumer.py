"""Every public name, as a program that checks its types uses it: this file must pass `mypy --strict` and `pyright` in
strict mode, against the package as it is installed. Nothing here runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, assert_type

import flux
from flux import serde
from flux.adapters.aiokafka import AiokafkaAdapter
from flux.adapters.confluent import ConfluentAdapter
from flux.adapters.memory import MemoryAdapter
from flux.core.ports import Adapter, AsyncAdapter, TopicPartition
from flux.testing import Clock, HandlerFailure, Kit, Records, StoredRecord, Stuck, Summary, WaitingRecord, kit

assert_type(flux.__version__, str)


# ---- settings

confluent = ConfluentAdapter("localhost:9092", {"client.id": "billing"}, consumer={}, producer={})
aiokafka = AiokafkaAdapter("localhost:9092")
memory: Adapter = MemoryAdapter("here")
anything: Adapter | AsyncAdapter = flux.adapter_from_url("confluent://localhost:9092")
options = flux.ProducerOptions(max_buffer_size=10, flush_interval=0.5, compression="lz4", acks="all")
assert_type(options.compression, Literal["none", "gzip", "snappy", "lz4", "zstd"])
assert_type(options.delivery_timeout, float)


# ---- hearing


class Heard(flux.Hooks):
    def around(self, where: flux.StageInfo, message: flux.Message) -> AbstractContextManager[object]:
        return nullcontext()

    def on_success(self, where: flux.StageInfo, message: flux.Message, seconds: float) -> None:
        assert_type(where.task, str)
        assert_type(where.stage, int)

    def on_failure(
        self, where: flux.StageInfo, message: flux.Message, error: BaseException, seconds: float | None
    ) -> None: ...

    def on_calls(self, where: flux.StageInfo, report: flux.CallsReport) -> None:
        longest: float = max(report.seconds, default=0.0)
        print(longest, report.records, report.failures.get("ValueError", 0))

    def on_dead_letter(self, where: flux.StageInfo, message: flux.Message, reason: str, error: str) -> None: ...

    def on_commit(
        self, where: flux.StageInfo, offsets: Mapping[TopicPartition, int], error: Exception | None
    ) -> None: ...


flux.configure(adapter="kafka://localhost:9092", producer=options, hooks=[Heard()])
flux.configure(adapter=confluent)
flux.configure(adapter=aiokafka)
flux.configure(adapter=memory)


# ---- producing


class Orders(flux.Producer):
    topic = "orders"
    adapter = "kafka://elsewhere:9092"
    options = flux.ProducerOptions(acks="1")
    serializer = serde.json_serializer

    @classmethod
    def on_error(cls, error: flux.DeliveryError) -> None:
        assert_type(error.failed, tuple[flux.FailedRecord, ...])
        for failed in error.failed:
            assert_type(failed.key, bytes | None)
            assert_type(failed.error, Exception)


def produce() -> None:
    Orders.produce({"order": 1}, key="ada", headers={"trace": "1", "raw": b"\0", "none": None})
    Orders.produce(b"", key=b"ada", headers=[("trace", "1"), ("trace", "2")], partition=0, timestamp=1)
    Orders.produce(None, partition_key="ada")
    delivery = Orders.send({"order": 1})
    assert_type(delivery, flux.Delivery)
    future: Future[flux.RecordMetadata] = delivery
    landed = future.result(10)
    assert_type(delivery.result(), flux.RecordMetadata)
    assert_type(landed.topic, str)
    assert_type(landed.offset, int)
    assert_type(landed.timestamp, int | None)
    try:
        Orders.flush(10)
    except flux.BufferFull as full:
        assert_type(full.failed, tuple[flux.FailedRecord, ...])
    except (flux.DeliveryError, flux.BrokerError, flux.ConfigurationError) as error:
        root: flux.FluxError = error
        print(root)
    Orders.close()
    elsewhere = Orders(adapter=memory, options=options)
    elsewhere.produce(b"")


def in_other_threads(number: int) -> bool:
    return number > 0


carried: Callable[[int], bool] = flux.carry(in_other_threads)
assert_type(carried(1), bool)


async def produce_in_a_loop() -> None:
    await Orders.aproduce({"order": 1}, key="ada")
    assert_type(await Orders.send(b""), flux.RecordMetadata)
    await Orders.aflush(10)
    await Orders.aclose(10)


# ---- tasks


def timed(message: flux.Message, call_next: Callable[[flux.Message], Any]) -> Any:
    return call_next(message)


def named(topic: str, group: str, stage: int) -> tuple[str, str]:
    return f"shop.{topic}.{stage}", group


def minutes(stage: int) -> float:
    return stage * 60.0


def tenant(message: flux.Message) -> bytes | None:
    return message.headers.get("tenant")


class Billing(flux.Task):
    topic = "orders"
    group_id = "billing"
    retries = 3
    wait = [1, 60.5, 3600]
    max_delay = 86_400
    retry_on = (OSError,)
    reject_on = (ValueError, KeyError)
    pause_on = (ConnectionError,)
    pause_when = flux.FailureRate(0.5, of=100, within=30, by=tenant)
    in_place_retries = 2
    in_place_wait = 0.05
    give_up_after = 86_400
    max_crashes = 3
    concurrency = 4
    rate_limit = 100
    rate_limit_scope = "group"
    rate_limit_key = staticmethod(tenant)
    concurrency_key = tenant
    concurrency_per_key = 2
    timeout = 30
    middleware = (timed,)
    ordering = "partition"
    retry_order = None
    on_dead = "free"
    start_from = "latest"
    deserializer = serde.json_deserializer
    serializer = staticmethod(serde.json_serializer)
    error_headers = "type"
    hooks = (Heard(),)
    adapter = "kafka://elsewhere:9092"
    naming = staticmethod(named)

    def setup(self) -> None:
        self.paid: list[str] = []

    def call(self, message: flux.Message) -> None:
        assert_type(message.id, str)
        assert_type(message.delivery_id, str)
        assert_type(message.topic, str)
        assert_type(message.partition, int)
        assert_type(message.offset, int)
        assert_type(message.timestamp, int)
        assert_type(message.key, bytes | None)
        assert_type(message.raw_value, bytes | None)
        assert_type(message.stage, int)
        assert_type(message.attempt, int)
        assert_type(message.headers, flux.Headers)
        assert_type(message.headers.get("trace"), bytes | None)
        assert_type(message.headers.all("trace"), list[bytes | None])
        if message.attempt == 1:
            raise flux.Retry("later", after=60)
        if message.attempt == 2:
            raise flux.Pause(10, "the database is away")
        raise flux.Reject("no such customer")

    def close(self) -> None: ...


class Waits(flux.Task):
    topic = "orders"
    group_id = "waits"

    wait = staticmethod(minutes)

    async def setup(self) -> None: ...

    async def call(self, message: flux.Message) -> None: ...


class Mailing(flux.Task):
    topic = "mails"
    group_id = "mailing"

    async def resources(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as self.group:
            yield

    async def call(self, message: flux.Message) -> None:
        assert_type(self.group, asyncio.TaskGroup)
        await Orders.aproduce(message.value)


class Load(flux.BatchTask):
    topic = "rows"
    group_id = "load"
    max_batch = 500
    max_wait = 0.5

    def call(self, messages: Sequence[flux.Message]) -> None:
        failures: dict[flux.Message, BaseException] = {message: ValueError() for message in messages}
        with flux.producing(messages[0]):
            Orders.produce(b"")
        raise flux.BatchFailure(failures)


class LoadInALoop(flux.BatchTask):
    topic = "rows"
    group_id = "load"

    async def call(self, messages: Sequence[flux.Message]) -> None: ...


@flux.task(topic="orders", group_id="audit", retries=0)
def audit(message: flux.Message) -> None: ...


task_of_a_function: flux.Task = audit
assert_type(audit(flux.Message()), None)


Billing.every("0 2 * * *", timezone="Europe/Berlin", value={"order": 1}, name="nightly", max_late=60)
audit.every(seconds=300)


async def enqueue() -> None:
    delivery = Billing.enqueue({"order": 1}, key="ada", delay=60)
    assert_type(delivery, flux.Delivery)
    assert_type(await Billing.enqueue({}, at=datetime.now(UTC), headers={"trace": "1"}), flux.RecordMetadata)
    assert_type(Billing().enqueue({}, delay=60, id="invoice-1"), flux.Delivery)
    assert_type(Billing.cancel("invoice-1"), flux.Delivery)
    assert_type(Billing().cancel("invoice-1"), flux.Delivery)
    assert_type(flux.cancel(Billing, "invoice-1"), flux.Delivery)
    not_called: tuple[type[Exception], ...] = (flux.Expired, flux.Tombstone)
    unfinished: tuple[type[Exception], ...] = (flux.NotAwaited, flux.SubtaskCancelled)
    print(not_called, unfinished)


# ---- workers


def work() -> None:
    worker = flux.Worker(
        Billing, Mailing(), Load, stages="0-3", adapter=memory, concurrency=4, create_topics=True, exit_when_idle=1
    )
    assert_type(worker.run(), int)
    assert_type(worker.ready, bool)
    assert_type(worker.health().live, bool)
    assert_type(worker.stats()["Billing", 0].done, int)
    worker.stop()
    with worker as entered:
        assert_type(entered, flux.Worker)
        assert_type(entered.wait(10), bool)
    failure: BaseException | None = worker.failure
    failed: type[flux.FluxError] = flux.WorkerFailed
    print(failure, failed)


async def work_in_a_loop() -> None:
    assert_type(await flux.Worker(Billing, metrics_port=9464, report=True, control=True).run_async(), int)
    async with flux.Worker(Billing) as worker:
        await worker.wait_async()


# ---- values


class Model:
    """An attrs class or a dataclass."""


model_serializer = serde.model_serializer(Model)
model_deserializer = serde.model_deserializer(Model, serde.model_converter())
assert_type(model_serializer(Model()), bytes | None)
assert_type(model_deserializer(b""), Model | None)
assert_type(serde.json_serializer({}), bytes)
avro: Callable[[Any], bytes | None] = serde.registry.avro_serializer("http://localhost:8081", "{}", "orders")


# ---- tests


def check(flux_kit: Kit) -> None:
    Orders.produce({"order": 1})
    assert_type(flux_kit.run(Billing, Mailing(), stages="0"), Summary)
    assert_type(flux_kit.run_to_the_end(Billing).dead, int)
    assert_type(flux_kit.clock, Clock)
    flux_kit.provide(Mailing, group=None)
    flux_kit.clock.advance(timedelta(days=1))
    assert_type(flux_kit.clock.now(), float)
    assert_type(flux_kit.waiting(Billing), list[WaitingRecord])
    assert_type(flux_kit.failures, list[HandlerFailure])
    letters = flux_kit.dead_letters(Billing)
    assert_type(letters, Records)
    assert_type(letters.one(), StoredRecord)
    assert_type(letters.keys, list[bytes | None])
    assert_type(letters[0].reason, str | None)
    assert_type(flux_kit.assert_produced(Orders, key="ada", count=1), Records)
    assert_type(flux_kit.produce("orders", json={"order": 1}), StoredRecord)
    flux_kit.broker(Billing).create_topic("orders")


async def check_in_a_loop() -> None:
    with kit(partitions=3, seed=7, start=datetime.now(UTC)) as made:
        assert_type(made, Kit)
        try:
            summary: Awaitable[Summary] = made.arun(Mailing)
            assert_type(await summary, Summary)
        except Stuck as stuck:
            raise SystemExit from stuck
