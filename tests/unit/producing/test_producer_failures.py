"""No record of a producer is ever silently gone: it is written, or somebody hears of it."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from flux.core.errors import BrokerError, BufferFull, ConfigurationError, DeliveryError, Fault
from flux.core.ports import ProducerRecord, ProducerSettings
from flux.producer import Producer
from flux.producing.produced import Produced
from flux.producing.producer_buffer import SOON
from flux.producing.registry import PRODUCERS
from flux.producing.scope import CURRENT
from unit.support.producer_support import FULL_AT_ONCE, AwesomeProducer, Listening, World, names, world

__all__ = ["world"]

REFUSED = BrokerError("too large for the topic", Fault.TOO_LARGE)


def refuse(world: World, *values: bytes) -> None:
    world.broker.fail_writes(lambda topic, partition, outgoing: REFUSED if outgoing.value in values else None)


@pytest.fixture
def heard() -> list[DeliveryError]:
    Listening.heard = []
    return Listening.heard


class Narrow(Producer):
    topic = "awesome"
    options = FULL_AT_ONCE


def fill(world: World, producer: type[Producer] = Narrow) -> list[bytes]:
    """In an outage, until there is no room."""
    world.broker.available = False
    values = [b"held", b"pending", b"buffered"]
    for value in values:
        producer.produce(value, partition=0)
    return values


def test_deliver_names_what_failed_and_only_that(world: World, heard: list[DeliveryError]) -> None:
    refuse(world, b"bad")
    Listening.produce(b"good", partition=0)
    Listening.produce(b"bad", key=b"k", partition=0)
    with pytest.raises(DeliveryError) as raised:
        Listening.flush()
    [record] = raised.value.failed
    assert (record.topic, record.partition, record.key, record.value, record.error) == (
        "awesome",
        0,
        b"k",
        b"bad",
        REFUSED,
    )
    assert world.values() == [b"good"]
    assert heard == []
    Listening.flush()


def test_adeliver_names_what_failed(world: World) -> None:
    refuse(world, b"bad")
    AwesomeProducer.produce(b"bad")
    with pytest.raises(DeliveryError) as raised:
        asyncio.run(AwesomeProducer.aflush())
    assert names(raised.value) == [b"bad"]


def test_a_failure_without_a_caller_goes_to_the_log_to_on_error_and_to_the_next_deliver(
    world: World, heard: list[DeliveryError], caplog: pytest.LogCaptureFixture
) -> None:
    refuse(world, b"bad")
    Listening.produce(b"bad", key="K", partition=0)
    Listening.produce(b"fine", partition=0)
    world.wait(1)
    [record] = caplog.records
    assert (record.name, record.levelno) == ("flux.producer", logging.ERROR)
    assert record.getMessage() == (
        "memory://producing: 1 record(s) not delivered: <record for awesome[0], key b'K': too large for the topic>"
    )
    assert [names(error) for error in heard] == [[b"bad"]]
    with pytest.raises(DeliveryError) as raised:
        Listening.flush()
    assert names(raised.value) == [b"bad"]
    Listening.flush()


def test_an_on_error_that_raises_is_logged_and_stops_nothing(world: World, caplog: pytest.LogCaptureFixture) -> None:
    class Raising(AwesomeProducer):
        @staticmethod
        def on_error(error: DeliveryError) -> None:
            raise ZeroDivisionError

    refuse(world, b"bad")
    Raising.produce(b"bad")
    world.wait(1)
    assert "on_error of the producer for topic awesome failed" in caplog.text
    Raising.produce(b"good")
    world.wait(1)
    assert world.values() == [b"good"]


def test_an_on_error_may_produce_but_not_wait(world: World) -> None:
    class Bad(Producer):
        topic = "bad"
        seen: list[type[Exception]] = []

        @classmethod
        def on_error(cls, error: DeliveryError) -> None:
            AwesomeProducer.produce(b"told")
            cls.produce(b"again")
            try:
                AwesomeProducer.flush()
            except Exception as refused:
                cls.seen.append(type(refused))

    refuse(world, b"bad")
    Bad.produce(b"bad")
    world.wait(1)
    world.wait(1)
    assert (world.values(), world.values("bad"), Bad.seen) == ([b"told"], [b"again"], [ConfigurationError])


def test_an_on_error_that_cannot_take_the_error_is_refused_at_the_first_record(world: World) -> None:
    class Wrong(AwesomeProducer):
        def on_error(self, error: DeliveryError) -> None:  # type: ignore[override]
            pass

    with pytest.raises(ConfigurationError, match=r"Wrong\.on_error must take the error alone: make it a classmethod"):
        Wrong.produce(b"x")


def test_a_send_that_fails_tells_its_caller_alone(world: World, heard: list[DeliveryError]) -> None:
    refuse(world, b"bad")
    sent = Listening.send(b"bad")
    with pytest.raises(DeliveryError) as raised:
        sent.result(0)
    assert names(raised.value) == [b"bad"]
    del sent
    gc.collect()
    assert heard == []
    Listening.flush()


def test_a_failed_send_that_nobody_asks_about_is_heard_when_it_is_forgotten(
    world: World, heard: list[DeliveryError]
) -> None:
    refuse(world, b"bad")
    Listening.send(b"bad")
    gc.collect()
    assert [names(error) for error in heard] == [[b"bad"]]
    with pytest.raises(DeliveryError):
        Listening.flush()


def test_a_deliver_that_runs_out_of_time_names_what_is_under_way_and_its_end_is_still_heard(
    world: World, heard: list[DeliveryError]
) -> None:
    world.broker.available = False
    Listening.produce(b"slow")
    began = world.system.time
    with pytest.raises(DeliveryError, match="not acknowledged in time, but may still arrive") as raised:
        Listening.flush(timeout=2)
    assert names(raised.value) == [b"slow"]
    assert world.system.time - began == pytest.approx(2)
    world.wait(40)
    world.serve()
    assert [names(error) for error in heard] == [[b"slow"]]


def test_an_adeliver_that_is_cancelled_leaves_no_failure_unheard(world: World, heard: list[DeliveryError]) -> None:
    async def main() -> None:
        waiting = asyncio.ensure_future(Listening.aflush())
        while not PRODUCERS.routes or not next(iter(PRODUCERS.routes.values())).waits._watches:
            await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    world.broker.available = False
    Listening.produce(b"slow")
    asyncio.run(main())
    world.wait(40)
    world.serve()
    assert [names(error) for error in heard] == [[b"slow"]]


def test_with_no_room_produce_waits_until_there_is(world: World) -> None:
    values = fill(world)
    world.system.after(10, world.recover)
    began = world.system.time
    Narrow.produce(b"waited", partition=0)
    assert world.system.time - began == pytest.approx(10, abs=0.1)
    Narrow.flush()
    assert world.values() == [*values, b"waited"]


def test_with_no_room_for_the_delivery_timeout_produce_names_the_record_it_refuses(world: World) -> None:
    fill(world)
    world.wait(5)
    began = world.system.time
    with pytest.raises(DeliveryError) as raised:
        Narrow.produce(b"refused", key=b"k", partition=0)
    assert type(raised.value) is DeliveryError
    assert names(raised.value) == [b"refused", b"pending"]
    assert world.system.time - began == pytest.approx(25, abs=0.1)


def test_records_that_the_client_never_took_are_named_after_the_delivery_timeout(world: World) -> None:
    values = fill(world)
    for _ in range(70):
        world.wait(1)
        world.serve()
    with pytest.raises(DeliveryError) as raised:
        Narrow.flush()
    assert sorted(names(raised.value)) == sorted(values)
    world.broker.available = True
    Narrow.produce(b"after")
    Narrow.flush()
    assert world.values() == [b"after"]


def test_what_the_client_refused_at_first_is_written_once_and_in_order_when_it_has_room(world: World) -> None:
    values = fill(world)
    world.wait(0.05)
    world.wait(0.05)
    world.recover()
    world.wait(0.05)
    assert world.values() == values
    assert Narrow.produce(b"next", partition=0) is None
    assert world.values() == [*values, b"next"]


def test_with_no_room_produce_raises_at_once_in_an_event_loop(world: World) -> None:
    async def main() -> None:
        fill(world)
        began = world.system.time
        with pytest.raises(BufferFull) as raised:
            Narrow.produce(b"refused", partition=0)
        assert names(raised.value) == [b"refused"]
        assert world.system.time == began

    asyncio.run(main())


def test_aproduce_waits_for_room_while_the_loop_goes_on(world: World) -> None:
    async def main() -> list[str]:
        fill(world)
        order: list[str] = []

        async def produce() -> None:
            await Narrow.aproduce(b"waited", partition=0)
            order.append("produced")

        waiting = asyncio.ensure_future(produce())
        for _ in range(5):
            await asyncio.sleep(0)
        order.append("the loop goes on")
        world.recover()
        await waiting
        return order

    assert asyncio.run(main()) == ["the loop goes on", "produced"]
    Narrow.flush()
    assert world.values() == [b"held", b"pending", b"buffered", b"waited"]


def test_aproduce_gives_up_after_the_delivery_timeout(world: World) -> None:
    async def main() -> None:
        fill(world)
        waiting = asyncio.ensure_future(Narrow.aproduce(b"refused", partition=0))
        await asyncio.sleep(0)
        world.system.time += 30
        await waiting

    with pytest.raises(DeliveryError) as raised:
        asyncio.run(main())
    assert names(raised.value) == [b"refused", b"pending"]


def test_a_partition_key_needs_to_know_the_partitions(world: World) -> None:
    world.broker.available = False
    with pytest.raises(DeliveryError, match="awesome"):
        AwesomeProducer.produce(b"x", partition_key="k")


def test_at_exit_everything_is_delivered_and_failures_are_reported(world: World, heard: list[DeliveryError]) -> None:
    refuse(world, b"bad")
    Listening.produce(b"good", partition=0)
    Listening.produce(b"bad", partition=0)
    PRODUCERS.exit()
    assert world.values() == [b"good"]
    assert [names(error) for error in heard] == [[b"bad"]]
    Listening.produce(b"from a later exit handler", partition=0)
    assert world.values() == [b"good", b"from a later exit handler"]


def test_a_topic_that_acknowledges_nothing_is_named_once_a_minute(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.broker.available = False
    for _ in range(100):
        AwesomeProducer.produce(b"x", partition=0)
        world.wait(1.0)
    lines = [line for line in caplog.messages if "waited" in line]
    assert len(lines) == 2
    assert "records for topic awesome have waited 2" in lines[0]


def test_a_topic_that_acknowledges_is_not_named(world: World, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(100):
        AwesomeProducer.produce(b"x", partition=0)
        world.wait(1.0)
    assert caplog.messages == []


def test_a_forked_child_leaves_the_buffer_to_its_parent(world: World) -> None:
    AwesomeProducer.produce(b"the parent's", partition=0)
    parent = next(iter(PRODUCERS.routes.values()))
    PRODUCERS.reset(world.system)
    AwesomeProducer.produce(b"the child's", partition=0)
    AwesomeProducer.flush()
    assert world.values() == [b"the child's"]
    parent.pass_on()
    assert world.values() == [b"the child's", b"the parent's"]


class Scope(Produced):
    """A task's call, and what it hears."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[Any] = []

    def started(self, flush: Callable[[], None]) -> bool:
        self.events.append("started")
        return super().started(flush)

    def ended(self, error: Exception | None) -> None:
        self.events.append(error)
        super().ended(error)


@pytest.fixture
def scope() -> Any:
    made = Scope()
    token = CURRENT.set(made)
    yield made
    CURRENT.reset(token)


def test_a_task_s_call_hears_of_each_record_it_produced(world: World, scope: Scope) -> None:
    refuse(world, b"bad")
    AwesomeProducer.produce(b"good", partition=0)
    AwesomeProducer.produce(b"bad", partition=0)
    assert scope.events == ["started", "started"]
    done: list[Exception | None] = []
    scope.when_done(done.append)
    world.wait(SOON)
    assert scope.events[2] is None
    [error] = done
    assert isinstance(error, DeliveryError)
    assert names(error) == [b"bad"]
    assert world.values() == [b"good"]


def test_calls_that_share_a_producer_hear_of_their_own_records_only(world: World) -> None:
    refuse(world, b"bad")
    mine, its = Scope(), Scope()
    for scope, value in [(mine, b"1"), (its, b"bad"), (mine, b"2")]:
        token = CURRENT.set(scope)
        AwesomeProducer.produce(value, partition=0)
        CURRENT.reset(token)
    assert mine.events == ["started", "started", None, None]
    assert [type(event) for event in its.events] == [str, DeliveryError]
    assert world.values() == [b"1", b"2"]


def test_a_call_hears_of_what_it_sent_too(world: World, scope: Scope) -> None:
    AwesomeProducer.send(b"x").result(0)
    assert scope.events == ["started", None]


def test_a_record_that_was_not_taken_is_not_the_call_s(world: World) -> None:
    fill(world)
    scope = Scope()
    token = CURRENT.set(scope)
    try:
        with pytest.raises(DeliveryError):
            Narrow.produce(b"refused", partition=0)
    finally:
        CURRENT.reset(token)
    assert scope.events == ["started", None]


def test_a_failure_that_a_call_hears_is_logged_but_not_kept_for_deliver(
    world: World, scope: Scope, heard: list[DeliveryError]
) -> None:
    refuse(world, b"bad")
    Listening.produce(b"bad")
    world.wait(1)
    assert [names(error) for error in heard] == [[b"bad"]]
    Listening.flush()


class Breaking:
    """A cluster whose client ends after so many writes, and is made anew."""

    cluster = "breaking://"
    shares_processes = True

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.made = 0
        self.written: list[bytes | None] = []

    def producer(self, settings: ProducerSettings) -> Any:
        self.made += 1
        return BreakingPort(self, broken=self.made == 1)


class Landed:
    def __init__(self, record: ProducerRecord) -> None:
        self.record = record

    topic = staticmethod(lambda: "awesome")
    partition = offset = staticmethod(lambda: 0)

    def key(self) -> bytes | None:
        return self.record.key

    def value(self) -> bytes | None:
        return self.record.value


class BreakingPort:
    def __init__(self, adapter: Breaking, broken: bool) -> None:
        self.adapter = adapter
        self.broken = broken

    def write(self, topic: str, records: Sequence[ProducerRecord], acknowledged: Callable[[Any, Any], None]) -> int:
        if self.broken:
            raise self.adapter.error
        for record in records:
            self.adapter.written.append(record.value)
            acknowledged(None, Landed(record))
        return len(records)

    def close(self, timeout: float) -> int:
        return 0


def test_a_client_that_cannot_go_on_is_replaced_and_loses_nothing(world: World) -> None:
    adapter: Any = Breaking(BrokerError("fenced", Fault.FATAL))
    producer = AwesomeProducer(adapter=adapter)
    producer.produce(b"x")
    producer.produce(b"y")
    world.wait(1)
    world.wait(0.05)
    assert (adapter.made, adapter.written) == (2, [b"x", b"y"])
    producer.flush()


def test_a_bug_of_an_adapter_fails_the_records_it_had_in_hand(world: World, caplog: pytest.LogCaptureFixture) -> None:
    adapter: Any = Breaking(ZeroDivisionError("a bug"))
    producer = AwesomeProducer(adapter=adapter)
    producer.produce(b"x")
    with pytest.raises(DeliveryError, match="a bug") as raised:
        producer.flush()
    assert names(raised.value) == [b"x"]
    assert "a bug while writing" in caplog.text
