"""What a call produces is held until it has returned, within bounds, and for the cluster of its transaction only."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import flux
from flux.adapters.memory.producer import MemoryProducer
from flux.config import ProducerOptions
from flux.core.errors import BrokerError, Fault
from flux.producing.flusher import RETRY
from flux.producing.produced import Produced, Scope, Scopes
from flux.producing.producer_buffer import SOON
from flux.producing.scope import CURRENT
from unit.support.engine_support import message as engine_message
from unit.support.engine_support import record
from unit.support.producer_support import AwesomeProducer, World, names, world

__all__ = ["world"]

REFUSED = BrokerError("too large for the topic", Fault.TOO_LARGE)


class Bills(flux.Producer):
    topic = "bills"


@contextmanager
def within(scope: Scope) -> Iterator[None]:
    token = CURRENT.set(scope)
    try:
        yield
    finally:
        CURRENT.reset(token)


def returned(world: World, *scopes: Produced) -> list[Exception | None]:
    """The calls have returned, and a while later so have the results of their records."""
    ends: list[Exception | None] = []
    for scope in scopes:
        scope.when_done(ends.append)
    world.wait(SOON)
    return ends


# ---- held


def test_what_a_call_produces_leaves_when_it_has_returned_in_order(world: World) -> None:
    scope = Produced(hold=True)
    with within(scope):
        for number in range(7):  # more than fit into a buffer
            AwesomeProducer.produce(b"%d" % number, partition=0)
            Bills.produce(b"bill %d" % number, partition=0)
        AwesomeProducer.flush()
        assert (world.values(), world.values("bills")) == ([], [])
    assert returned(world, scope) == [None]
    assert world.values() == [b"%d" % number for number in range(7)]
    assert world.values("bills") == [b"bill %d" % number for number in range(7)]


def test_a_call_that_is_closed_leaves_nothing(world: World) -> None:
    scope = Produced(hold=True)
    with within(scope):
        AwesomeProducer.produce(b"never")
    scope.close()
    AwesomeProducer.flush()
    assert (world.values(), scope.held) == ([], [])


def test_without_hold_a_record_is_buffered_at_once(world: World) -> None:
    with within(Produced()):
        AwesomeProducer.produce(b"at once")
        AwesomeProducer.flush()
    assert world.values() == [b"at once"]


def test_send_leaves_at_once_and_before_what_is_held(world: World) -> None:
    scope = Produced(hold=True)
    with within(scope):
        AwesomeProducer.produce(b"held", partition=0)
        AwesomeProducer.send(b"sent", partition=0).result(0)
        assert world.values() == [b"sent"]
    assert returned(world, scope) == [None]
    assert world.values() == [b"sent", b"held"]


def test_what_is_held_is_dropped_when_what_was_sent_has_failed(world: World) -> None:
    world.broker.fail_writes(lambda topic, partition, record: REFUSED if record.value == b"bad" else None)
    scope = Produced(hold=True)
    with within(scope):
        AwesomeProducer.produce(b"held")
        AwesomeProducer.send(b"bad").exception(0)
    [error] = returned(world, scope)
    assert isinstance(error, flux.DeliveryError)
    assert world.values() == []


def test_a_held_record_that_is_not_delivered_fails_its_call(world: World) -> None:
    world.broker.fail_writes(lambda topic, partition, record: REFUSED if record.value == b"bad" else None)
    scope = Produced(hold=True)
    with within(scope):
        AwesomeProducer.produce(b"good")
        AwesomeProducer.produce(b"bad")
    [error] = returned(world, scope)
    assert isinstance(error, flux.DeliveryError)
    assert names(error) == [b"bad"]


def test_the_next_call_starts_with_nothing(world: World) -> None:
    scope = Scopes().new(lambda message: False)
    with within(scope):
        AwesomeProducer.produce(b"never")
    following = scope.successor()
    assert (following.held, following.touched, following.holds) == ([], False, True)
    assert following.owns is scope.owns


# ---- together


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[list[bytes | None]]:
    """The values of each write to the client."""
    found: list[list[bytes | None]] = []
    write = MemoryProducer.write

    def counted(client: MemoryProducer, topic: str, records: Any, acknowledged: Any) -> int:
        found.append([record.value for record in records])
        return write(client, topic, records, acknowledged)

    monkeypatch.setattr(MemoryProducer, "write", counted)
    return found


def calls(*values: bytes, hold: bool = True) -> list[Produced]:
    """A call for each value, which it produces."""
    scopes = [Produced(hold=hold) for _ in values]
    for scope, value in zip(scopes, values, strict=True):
        with within(scope):
            AwesomeProducer.produce(value, partition=0)
    return scopes


@pytest.mark.parametrize("hold", [True, False])
def test_what_calls_produce_that_end_together_leaves_in_one_write(
    world: World, writes: list[list[bytes | None]], hold: bool
) -> None:
    assert returned(world, *calls(b"1", b"2", hold=hold)) == [None, None]
    assert writes == [[b"1", b"2"]]


def test_a_failure_is_only_that_calls_which_produced_the_record(world: World) -> None:
    world.broker.fail_writes(lambda topic, partition, record: REFUSED if record.value == b"bad" else None)
    ends = returned(world, *calls(b"good", b"bad", b"too"))
    assert [error and names(error) for error in ends] == [None, [b"bad"], None]  # type: ignore[arg-type]
    AwesomeProducer.flush()  # which raises nothing: the call has got its failure


def test_a_full_buffer_of_what_calls_produced_leaves_at_once(world: World) -> None:
    for scope in calls(b"1", b"2", b"3"):
        assert world.values() == []
        scope.when_done(lambda error: None)
    assert world.values() == [b"1", b"2", b"3"]


def test_what_a_call_produces_makes_earlier_records_leave_with_it(world: World) -> None:
    AwesomeProducer.produce(b"earlier", partition=0)
    assert returned(world, *calls(b"of a call")) == [None]
    assert world.values() == [b"earlier", b"of a call"]


def test_records_that_no_call_waits_for_are_not_flushed_sooner(world: World) -> None:
    AwesomeProducer.produce(b"later")
    world.wait(SOON)
    assert world.values() == []


def test_the_next_flush_names_what_no_call_gets(world: World) -> None:
    world.broker.fail_writes(lambda topic, partition, record: REFUSED)
    AwesomeProducer.produce(b"of no call")
    assert None not in returned(world, *calls(b"of a call"))
    with pytest.raises(flux.DeliveryError) as raised:
        AwesomeProducer.flush()
    assert names(raised.value) == [b"of no call"]


def test_each_call_gets_its_own_result_when_the_client_takes_a_part_of_a_batch(world: World) -> None:
    class Narrow(flux.Producer):
        topic = "awesome"
        options = ProducerOptions(max_queue_bytes=1_000)

    world.broker.available = False
    scopes = [Produced(hold=True) for _ in range(3)]
    for scope, value in zip(scopes, (b"x" * 800, b"y" * 300, b"bad"), strict=True):
        with within(scope):
            Narrow.produce(value, partition=0)
    ends = returned(world, *scopes)
    world.broker.fail_writes(lambda topic, partition, record: REFUSED if record.value == b"bad" else None)
    assert ends == []
    world.recover()
    world.wait(RETRY)
    assert [error and names(error) for error in ends] == [None, None, [b"bad"]]  # type: ignore[arg-type]


def test_aproduce_is_held_too(world: World) -> None:
    scope = Produced(hold=True)

    async def call() -> None:
        await AwesomeProducer.aproduce(b"held", partition_key="k")
        assert world.values() == []

    with within(scope):
        asyncio.run(call())
    returned(world, scope)
    assert world.values() == [b"held"]


# ---- bounds


@pytest.mark.parametrize("awaited", [False, True])
def test_a_call_that_holds_too_much_gets_buffer_full(world: World, awaited: bool) -> None:
    class Small(flux.Producer):
        topic = "awesome"
        options = ProducerOptions(max_queue_bytes=1_000)

    def produce(value: bytes) -> None:
        if awaited:
            asyncio.run(Small.aproduce(value))
        else:
            Small.produce(value)

    with within(Produced(hold=True)):
        produce(b"x" * 500)
        with pytest.raises(flux.BufferFull, match="a call holds at most max_queue_bytes = 1000 until it returns"):
            produce(b"y" * 500)


def test_a_producer_without_room_is_waited_for_and_takes_nothing_of_a_call_that_gets_none(world: World) -> None:
    class Narrow(flux.Producer):
        topic = "awesome"
        options = ProducerOptions(max_buffer_size=1, max_queue_bytes=1_000)

    world.broker.available = False
    for _ in range(3):
        Narrow.produce(b"x" * 990, partition=0)
    scope = Produced(hold=True)
    with within(scope):
        asyncio.run(Narrow.aproduce(b"4", partition=0))  # no BufferFull in an event loop
        Narrow.produce(b"5", partition=0)
        with pytest.raises(flux.BufferFull, match="the producer's queue is full"):
            asyncio.run(_outside(Narrow))
    [(target, waiting)] = scope.without_room()
    assert (target.topic, waiting.value) == ("awesome", b"4")
    scope.fail(flux.DeliveryError([]))
    [error] = returned(world, scope)
    assert isinstance(error, flux.DeliveryError)
    world.recover()
    assert set(world.values()) == {b"x" * 990}


async def _outside(producer: type[flux.Producer]) -> None:
    CURRENT.set(None)
    producer.produce(b"refused")


# ---- batches


def message(offset: int) -> flux.Message:
    return engine_message(record(offset, value=b"%d" % offset))


def test_what_was_produced_for_a_failed_record_is_dropped_alone(world: World) -> None:
    good, bad = message(0), message(1)
    scope = Produced(hold=True)
    with within(scope):
        for each in (good, bad):
            with flux.producing(each):
                AwesomeProducer.produce(b"for " + each.value, partition=0)
        AwesomeProducer.produce(b"for all", partition=0)
    scope.drop({bad: ValueError()})
    assert returned(world, scope) == [None]
    assert world.values() == [b"for 0", b"for all"]


def test_a_message_of_another_call_is_refused(world: World) -> None:
    own, other = message(0), message(1)
    scope = Scopes().new({own}.__contains__)
    with within(scope):
        with flux.producing(own):
            pass
        for wrong in (other, "no message"):
            with pytest.raises(flux.ConfigurationError, match="of the running call"), flux.producing(wrong):  # type: ignore[arg-type]
                raise AssertionError
    scope.close()
    with within(scope), pytest.raises(flux.ConfigurationError), flux.producing(own):
        raise AssertionError


def test_outside_of_calls_nothing_is_attributed(world: World) -> None:
    with flux.producing(message(0)):
        AwesomeProducer.send(b"x").result(0)
    assert world.values() == [b"x"]


def test_a_carried_function_produces_for_the_same_record(world: World) -> None:
    bad = message(0)
    scope = Produced(hold=True)
    with within(scope), flux.producing(bad):
        carried = flux.carry(lambda: AwesomeProducer.produce(b"carried"))
    carried()  # as in another thread, whose context has no call
    [held] = scope.held
    assert held.message is bad
    scope.close()
    with pytest.raises(flux.ConfigurationError, match="runs after its call has ended"):
        carried()


# ---- transactions


def test_in_a_transaction_what_is_held_is_taken_and_released_by_nobody_else(world: World) -> None:
    scope = Scopes(transaction=world.adapter.cluster).new(lambda message: True)
    with within(scope):
        AwesomeProducer.produce(b"x", key="k", partition_key="p")
        with flux.producing(message(0)):
            AwesomeProducer.produce(None)
    assert (scope.touched, scope.without_room()) == (True, [])
    first, second = scope.take()
    assert (first.target.topic, first.record.value, first.record.key, first.message) == ("awesome", b"x", b"k", None)
    assert first.record.partition is not None
    assert second.message is not None
    assert returned(world, scope) == [None]
    assert world.values() == []


def test_another_cluster_cannot_be_part_of_a_transaction(world: World) -> None:
    class Elsewhere(flux.Producer):
        topic = "awesome"
        adapter = world.cluster("elsewhere")

    why = "topic awesome of memory://elsewhere cannot be part of an exactly-once call on memory://producing"
    with within(Produced(transaction=world.adapter.cluster)), pytest.raises(flux.ConfigurationError, match=why):
        Elsewhere.produce(b"x")


def test_send_is_refused_in_a_transaction(world: World) -> None:
    scope = Produced(transaction=world.adapter.cluster)
    why = "use produce: in an exactly-once call a record"
    with within(scope), pytest.raises(flux.ConfigurationError, match=why):
        AwesomeProducer.send(b"x")
    assert world.values() == []


def test_a_record_that_comes_after_its_transaction_is_an_ordinary_one(world: World, caplog: Any) -> None:
    scope = Produced(transaction=world.adapter.cluster)
    scope.close()
    with within(scope):
        AwesomeProducer.produce(b"late", partition=0)
        AwesomeProducer.send(b"later", partition=0)
    assert world.values() == [b"late", b"later"]
    assert "code that a call started produces after its end" in caplog.text
