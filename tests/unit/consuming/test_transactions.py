"""A worker with `exactly_once` over the in-memory broker: what is visible together, and what is never visible."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

import flux
from flux.adapters.memory import MemoryAdapter, forget
from flux.consuming import transaction_writer
from flux.consuming.coordinator.sealing import Part
from flux.consuming.transaction_writer import TransactionWriter
from flux.core.engine.transactions import Sealed
from flux.core.errors import BrokerError, Fault
from flux.core.ports import (
    CommittedOffset,
    InDoubt,
    ProducerRecord,
    ProducerSettings,
    TopicPartition,
    TransactionSettings,
)
from flux.producing.registry import PRODUCERS
from flux.system import SYSTEM

AWAY = BrokerError("the broker is away", Fault.UNAVAILABLE)


@pytest.fixture
def adapter() -> Iterator[MemoryAdapter]:
    name = uuid.uuid4().hex
    adapter = MemoryAdapter(name)
    adapter.broker.create_topic("t", 2)
    adapter.broker.create_topic("out", 2)
    yield adapter
    PRODUCERS.reset(SYSTEM)
    forget(name)


def write(adapter: MemoryAdapter, *values: bytes, topic: str = "t") -> None:
    producer = adapter.producer(ProducerSettings())
    producer.write(topic, [ProducerRecord(value, value) for value in values], lambda error, record: None)
    producer.close(5)


def task_of(adapter: MemoryAdapter, call: Any, **settings: Any) -> type[flux.Task]:
    body = {"topic": "t", "group_id": "g", "wait": 0, "exactly_once": True, "adapter": adapter, "call": call}
    body["offset_commit_interval"] = 0.02
    return type("Exact", (flux.Task,), {**body, **settings})


def run(*tasks: type[flux.Task]) -> int:
    return flux.Worker(*tasks, create_topics=True, exit_when_idle=0.1).run()


def seen(adapter: MemoryAdapter, topic: str) -> list[bytes | None]:
    return sorted((record.value() for record in adapter.broker.records(topic)), key=str)


def committed(adapter: MemoryAdapter, group: str = "g", topic: str = "t") -> int:
    return sum(each.offset for each in adapter.broker.committed_offsets(group, topic).values())


def out_of(adapter: MemoryAdapter, topic: str = "out") -> type[flux.Producer]:
    made: Any = type("Out", (flux.Producer,), {"topic": topic, "adapter": adapter})
    return cast(type[flux.Producer], made)


def test_what_calls_produce_and_how_far_they_are_become_visible(adapter: MemoryAdapter) -> None:
    out = out_of(adapter)
    write(adapter, *[b"%d" % number for number in range(20)])

    def call(self: flux.Task, message: flux.Message) -> None:
        out.produce(message.value, key=message.key)

    assert run(task_of(adapter, call)) == 0

    assert seen(adapter, "out") == sorted(b"%d" % number for number in range(20))
    assert committed(adapter) == 20


def test_a_call_that_fails_leaves_nothing_and_its_record_goes_on(adapter: MemoryAdapter) -> None:
    out = out_of(adapter)
    write(adapter, b"bad", b"good")

    def call(self: flux.Task, message: flux.Message) -> None:
        out.produce(b"%d %b" % (message.stage, message.value))
        if message.value == b"bad" and message.stage < 2:
            raise ValueError("not yet")

    assert run(task_of(adapter, call, retries=2)) == 0

    assert seen(adapter, "out") == [b"0 good", b"2 bad"]
    beyond_the_marker = 2
    assert committed(adapter) == 2
    assert committed(adapter, "g-1", "t-g-try-1") == beyond_the_marker
    assert committed(adapter, "g-2", "t-g-try-2") == beyond_the_marker


def test_dead_letters_are_written_in_transactions(adapter: MemoryAdapter) -> None:
    write(adapter, b"a", b"b")

    def call(self: flux.Task, message: flux.Message) -> None:
        raise flux.Reject("never")

    assert run(task_of(adapter, call)) == 0

    assert seen(adapter, "t-g-dlq") == [b"a", b"b"]
    assert committed(adapter) == 2


@pytest.mark.parametrize("step", ["begin", "write", "add_offsets", "commit"])
def test_a_transaction_that_fails_is_written_again_and_seen_once(adapter: MemoryAdapter, step: str) -> None:
    out = out_of(adapter)
    write(adapter, *[b"%d" % number for number in range(10)])
    left = [3]

    def fault(at: str, *_: Any) -> BrokerError | None:
        if at == step and left[0]:
            left[0] -= 1
            return AWAY
        return None

    adapter.broker.fail_transactions(fault)

    def call(self: flux.Task, message: flux.Message) -> None:
        out.produce(message.value)
        if message.value == b"3" and message.stage == 0:
            raise ValueError("once")

    assert run(task_of(adapter, call)) == 0

    assert seen(adapter, "out") == sorted(b"%d" % number for number in range(10))
    assert committed(adapter) == 10


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("retriable", [True, False])
def test_a_commit_whose_end_is_not_known_is_found_out(adapter: MemoryAdapter, stored: bool, retriable: bool) -> None:
    out = out_of(adapter)
    write(adapter, *[b"%d" % number for number in range(10)])
    left = [2]

    def fault(at: str, *_: Any) -> BrokerError | None:
        if at == "commit" and left[0]:
            left[0] -= 1
            return InDoubt("the connection broke", Fault.UNAVAILABLE if retriable else Fault.FATAL)
        return None

    adapter.broker.fail_transactions(fault, stored=stored)

    def call(self: flux.Task, message: flux.Message) -> None:
        out.produce(message.value)

    assert run(task_of(adapter, call)) == 0

    assert seen(adapter, "out") == sorted(b"%d" % number for number in range(10))
    assert committed(adapter) == 10


@pytest.mark.parametrize("reported", [True, False])
def test_a_commit_in_doubt_waits_until_lost_partitions_are_reported(
    adapter: MemoryAdapter, reported: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transaction_writer, "_LOST", 0.5)
    at, left = TopicPartition("t", 0), [3]
    adapter.broker.set_committed_offset("g", at, CommittedOffset(9))  # by the next owner
    adapter.broker.fail_transactions(lambda step, *_: InDoubt("no answer", Fault.FATAL) if step == "commit" else None)

    class Lost:
        def owned(self, part: object) -> dict[TopicPartition, tuple[CommittedOffset, CommittedOffset | None]]:
            left[0] -= 1
            return {} if reported and left[0] < 0 else {at: (CommittedOffset(5), CommittedOffset(1))}

    stage = SimpleNamespace(group="g", topic="t")
    runtime: Any = SimpleNamespace(engine=SimpleNamespace(stage=stage))
    part = Part(cast(Any, Lost()), runtime, b"", Sealed([], [], {}, {}, []))
    settings = TransactionSettings("id")
    writer = TransactionWriter(adapter, settings, lambda: "other", lambda topic: None, SYSTEM, lambda: True)

    with pytest.raises(BrokerError) as caught:
        writer.write([part], lambda: None)

    assert isinstance(caught.value, InDoubt) is not reported
    assert caught.value.fault is (Fault.FENCED if reported else Fault.FATAL)
    writer.close()


def test_a_client_whose_start_failed_is_replaced(adapter: MemoryAdapter) -> None:
    steps: list[str] = []

    def fault(at: str, *_: Any) -> BrokerError | None:
        steps.append(at)
        return AWAY if len(steps) == 1 else None

    adapter.broker.fail_transactions(fault)
    settings = TransactionSettings("id")
    writer = TransactionWriter(adapter, settings, lambda: "other", lambda topic: None, SYSTEM, lambda: True)
    with pytest.raises(BrokerError):
        writer.warm_up()

    writer.warm_up()

    assert steps == ["start", "start"]
    writer.close()


def test_tasks_of_a_process_share_transactions(adapter: MemoryAdapter) -> None:
    out = out_of(adapter)
    adapter.broker.create_topic("u", 1)
    write(adapter, b"a")
    write(adapter, b"b", topic="u")

    def call(self: flux.Task, message: flux.Message) -> None:
        out.produce(message.value)

    first = task_of(adapter, call)
    second = task_of(adapter, call, topic="u", group_id="h")
    assert run(first, second) == 0

    assert seen(adapter, "out") == [b"a", b"b"]
    assert (committed(adapter), committed(adapter, "h", "u")) == (1, 1)


def test_an_event_loop_works_the_same(adapter: MemoryAdapter) -> None:
    out = out_of(adapter)
    write(adapter, b"a", b"b")

    async def call(self: flux.Task, message: flux.Message) -> None:
        await out.aproduce(message.value)
        if message.value == b"a" and message.stage == 0:
            raise ValueError("once")

    assert run(task_of(adapter, call)) == 0

    assert seen(adapter, "out") == [b"a", b"b"]


def test_a_batch_leaves_what_its_done_records_produced(adapter: MemoryAdapter) -> None:
    out = out_of(adapter)
    write(adapter, *[b"%d" % number for number in range(10)])

    def call(self: flux.Task, messages: list[flux.Message]) -> None:
        failures = {}
        for message in messages:
            with flux.producing(message):
                out.produce(message.value)
            if message.value == b"4" and message.stage == 0:
                failures[message] = ValueError("once")
        if failures:
            raise flux.BatchFailure(failures)

    body = {"topic": "t", "group_id": "g", "wait": 0, "exactly_once": True, "adapter": adapter, "call": call}
    assert run(type("Batches", (flux.BatchTask,), {**body, "max_wait": 0.05})) == 0

    assert seen(adapter, "out") == sorted(b"%d" % number for number in range(10))


def test_an_output_that_its_topic_refuses_fails_its_call_alone(adapter: MemoryAdapter) -> None:
    adapter.broker.create_topic("small", 1, {"max.message.bytes": "200"})
    small = out_of(adapter, "small")
    write(adapter, b"1", b"2", b"3")

    def call(self: flux.Task, message: flux.Message) -> None:
        small.produce(b"x" * 300 if message.value == b"2" and message.stage == 0 else message.value)

    assert run(task_of(adapter, call)) == 0

    assert seen(adapter, "small") == [b"1", b"2", b"3"]


@pytest.mark.parametrize("faults", [(Fault.TOO_LARGE, Fault.UNAVAILABLE), (Fault.TOO_LARGE, Fault.LOGIN)])
def test_a_record_that_an_unavailable_cluster_did_not_write_fails_no_call(
    adapter: MemoryAdapter, faults: tuple[Fault, ...]
) -> None:
    out = out_of(adapter)
    write(adapter, b"a")
    left, stages = list(faults), []

    def fault(topic: str, partition: int, record: ProducerRecord) -> BrokerError | None:
        return BrokerError("refused", left.pop(0)) if topic == "out" and left else None

    adapter.broker.fail_writes(fault)

    def call(self: flux.Task, message: flux.Message) -> None:
        stages.append(message.stage)
        out.produce(message.value)

    assert run(task_of(adapter, call)) == 0

    assert (seen(adapter, "out"), stages, left) == ([b"a"], [0], [])


def test_a_refused_record_of_one_task_holds_up_no_other(
    adapter: MemoryAdapter, caplog: pytest.LogCaptureFixture
) -> None:
    adapter.broker.create_topic("small", 1, {"max.message.bytes": "200"})
    adapter.broker.create_topic("u", 1)
    small, out = out_of(adapter, "small"), out_of(adapter)
    write(adapter, b"1")
    write(adapter, b"2", topic="u")

    def call_small(self: flux.Task, message: flux.Message) -> None:
        small.produce(b"x" * 300)

    def call_out(self: flux.Task, message: flux.Message) -> None:
        out.produce(message.value)

    first = task_of(adapter, call_small, retries=0)
    assert run(first, task_of(adapter, call_out, topic="u", group_id="h")) == 0

    assert (seen(adapter, "out"), seen(adapter, "t-g-dlq")) == ([b"2"], [b"1"])
    assert "was not committed" not in caplog.text


def test_a_producer_of_another_cluster_is_refused_in_the_call(adapter: MemoryAdapter) -> None:
    other = MemoryAdapter(uuid.uuid4().hex)
    elsewhere = out_of(other)
    write(adapter, b"a")
    errors: list[str] = []

    def call(self: flux.Task, message: flux.Message) -> None:
        try:
            elsewhere.produce(b"x")
        except flux.ConfigurationError as error:
            errors.append(str(error))

    assert run(task_of(adapter, call)) == 0
    assert "cannot be part of an exactly-once call" in errors[0]


def test_a_worker_that_stops_in_the_middle_repeats_nothing(adapter: MemoryAdapter) -> None:
    out = out_of(adapter)
    write(adapter, *[b"%d" % number for number in range(100)])
    some = threading.Event()

    def call(self: flux.Task, message: flux.Message) -> None:
        out.produce(message.value)
        if int(message.value) == 30:
            some.set()

    task = task_of(adapter, call, offset_commit_interval=60.0)
    worker = flux.Worker(task, create_topics=True)

    def stop() -> None:
        some.wait(60)
        worker.stop()

    threading.Thread(target=stop).start()
    assert worker.run() == 0
    at = committed(adapter)
    assert len(seen(adapter, "out")) == at

    assert run(task) == 0
    assert seen(adapter, "out") == sorted(b"%d" % number for number in range(100))


def test_a_client_without_transactions_is_refused_at_the_start(adapter: MemoryAdapter) -> None:
    class Plain:
        cluster = "plain://"
        shares_processes = False

        def __getattr__(self, name: str) -> Any:
            if name in ("transactions", "async_consumer"):
                raise AttributeError(name)
            return getattr(adapter, name)

    def call(self: flux.Task, message: flux.Message) -> None: ...

    with pytest.raises(flux.ConfigurationError, match="exactly_once needs confluent://"):
        run(task_of(Plain(), call))  # type: ignore[arg-type]


def test_settings_that_exclude_it_are_refused() -> None:
    class Loose(flux.Task):
        topic, group_id, exactly_once, hold_produced = "t", "g", True, False

        def call(self, message: flux.Message) -> None: ...

    with pytest.raises(flux.ConfigurationError, match="leave acknowledge_produced and hold_produced as they are"):
        Loose.policy()
