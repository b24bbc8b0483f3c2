"""However a call ends: what it has produced leaves if it returned, and never if not."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

import flux
from flux.adapters.memory import MemoryAdapter
from flux.core.errors import BrokerError, Fault
from flux.core.ports import ProducerSettings
from flux.testing import Kit
from unit.support.peers_support import Peer, wait_for

DENIED = BrokerError("not allowed", Fault.DENIED)


class Bills(flux.Producer):
    topic = "bills"


def made(awaited: bool, call: Callable[[flux.Message], Any], **settings: Any) -> flux.Task:
    async def call_async(message: flux.Message) -> None:
        call(message)

    settings = {"wait": 60, "retries": 2} | settings
    return flux.task(topic="orders", group_id="g", **settings)(call_async if awaited else call)


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def awaited(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def bills(kit: Kit) -> list[bytes | None]:
    return kit.topic("bills").values


# ---- in the kit


@pytest.mark.parametrize(
    "error",
    [ValueError(), flux.Retry(after=1), flux.Reject("no"), flux.Pause(), asyncio.CancelledError()],
    ids=lambda error: type(error).__name__,
)
def test_a_call_that_fails_leaves_nothing(flux_kit: Kit, awaited: bool, error: BaseException) -> None:
    def call(message: flux.Message) -> None:
        Bills.produce(b"bill for " + message.value)
        if message.value == b"bad":
            raise error

    for value in (b"first", b"bad", b"last"):
        flux_kit.produce("orders", value, key=value)
    flux_kit.run(made(awaited, call))
    assert set(bills(flux_kit)) == {b"bill for first", b"bill for last"} - (
        {b"bill for last"} if isinstance(error, flux.Pause) else set()
    )


def test_the_process_failure_of_a_call_leaves_nothing(flux_kit: Kit, awaited: bool) -> None:
    def call(message: flux.Message) -> None:
        Bills.produce(b"bill")
        raise MemoryError

    flux_kit.produce("orders", b"x")
    with pytest.raises(MemoryError):
        flux_kit.run(made(awaited, call))
    assert bills(flux_kit) == []


def test_each_try_starts_with_nothing(flux_kit: Kit, awaited: bool) -> None:
    tries: list[int] = []

    def call(message: flux.Message) -> None:
        tries.append(message.attempt)
        Bills.produce(b"attempt %d" % message.attempt)
        if len(tries) < 5:
            raise ValueError

    flux_kit.produce("orders", b"x")
    flux_kit.run_to_the_end(made(awaited, call, in_place_retries=1))
    assert tries == [1, 2, 3, 4, 5]
    assert bills(flux_kit) == [b"attempt 5"]


def test_what_middleware_produces_belongs_to_the_call(flux_kit: Kit, awaited: bool) -> None:
    def around(message: flux.Message, call_next: Callable[[flux.Message], Any]) -> None:
        Bills.produce(b"before")
        call_next(message)
        Bills.produce(b"after")

    async def around_async(message: flux.Message, call_next: Callable[[flux.Message], Any]) -> None:
        Bills.produce(b"before")
        await call_next(message)
        Bills.produce(b"after")

    def call(message: flux.Message) -> None:
        if message.stage == 0:
            raise ValueError

    flux_kit.produce("orders", b"x")
    flux_kit.run_to_the_end(made(awaited, call, middleware=[around_async if awaited else around]))
    assert bills(flux_kit) == [b"before", b"after"]


def test_what_is_sent_leaves_at_once(flux_kit: Kit, awaited: bool) -> None:
    def call(message: flux.Message) -> None:
        Bills.send(b"bill")
        if message.stage < 2:
            raise ValueError

    flux_kit.produce("orders", b"x")
    flux_kit.run_to_the_end(made(awaited, call))
    assert bills(flux_kit) == [b"bill"] * 3


@pytest.mark.parametrize("settings", [{"hold_produced": False}, {"acknowledge_produced": False}])
def test_where_nothing_is_held_a_failed_call_has_produced(
    flux_kit: Kit, awaited: bool, settings: dict[str, Any]
) -> None:
    def call(message: flux.Message) -> None:
        Bills.produce(b"bill")
        raise ValueError

    flux_kit.produce("orders", b"x")
    flux_kit.run(made(awaited, call, **settings))
    assert bills(flux_kit) == [b"bill"]


def test_hold_produced_is_a_switch() -> None:
    wrong: Any = 1
    with pytest.raises(flux.ConfigurationError, match="hold_produced = 1: give True or False"):
        flux.task(topic="t", group_id="g", hold_produced=wrong)(lambda message: None).policy()


def test_a_producer_that_gets_no_room_fails_the_call(awaited: bool) -> None:
    """Its event loop is not blocked, and `produce` does not raise in it."""
    peer, away = (
        Peer(),
        MemoryAdapter(f"without-room-{awaited}", default_partitions=1),
    )
    told: list[str] = []

    def errors(error: BaseException) -> str:
        told.append(str(error))
        return ""

    away.broker.create_topic("bills")

    class Narrow(flux.Producer):
        topic = "bills"
        adapter = away
        options = flux.ProducerOptions(max_buffer_size=1, max_queue_bytes=1_000, delivery_timeout=0.2)

    def call(message: flux.Message) -> None:
        if message.stage == 0:
            Narrow.produce(b"bill", partition=0)

    make = away.producer

    def full(settings: ProducerSettings) -> Any:
        client = make(settings)
        client.write = lambda *_: 0  # type: ignore[method-assign]  # for as long as the test takes
        return client

    away.producer = full  # type: ignore[method-assign]
    Narrow.produce(b"x", partition=0)
    task = peer.task(call if not awaited else _awaited(call), error_headers=errors)
    peer.write(b"x")
    try:
        with peer.working(task):
            wait_for(lambda: peer.values("t-g-try-1"), "the retry")
            wait_for(lambda: peer.position("t-g-try-1", "g-1") == 1, "its end")
        assert "the producer's queue is full" in told[0]
    finally:
        with pytest.raises(flux.DeliveryError):
            Narrow.close()
    assert b"bill" not in [record.value() for record in away.broker.records("bills")]


def _awaited(call: Callable[[flux.Message], None]) -> Any:
    async def call_async(message: flux.Message) -> None:
        call(message)

    return call_async


# ---- batches


class Storing(flux.BatchTask):
    topic = "orders"
    group_id = "storing"
    retries = 1
    max_wait = 0.0
    failures: Callable[[Sequence[flux.Message]], BaseException | None]

    def call(self, messages: Sequence[flux.Message]) -> Any:
        Bills.produce(b"summary")
        for message in messages:
            with flux.producing(message):
                Bills.produce(b"for " + message.value)
        error = type(self).failures(messages)
        if error is not None and messages[0].stage == 0:
            raise error


class AsyncStoring(Storing):
    async def call(self, messages: Sequence[flux.Message]) -> None:
        await asyncio.sleep(0)
        super().call(messages)


@pytest.fixture
def storing(awaited: bool) -> type[Storing]:
    return type("Storing", (AsyncStoring if awaited else Storing,), {})


def store(kit: Kit, task: type[Storing], failures: Callable[[Sequence[flux.Message]], BaseException | None]) -> None:
    task.failures = staticmethod(failures)
    for value in (b"a", b"b", b"c"):
        kit.produce("orders", value)
    kit.run(task)


def test_of_a_batch_only_what_was_produced_for_done_records_leaves(flux_kit: Kit, storing: type[Storing]) -> None:
    store(flux_kit, storing, lambda messages: flux.BatchFailure({messages[1 % len(messages)]: ValueError()}))
    assert bills(flux_kit) == [b"summary", b"for a", b"for c"]
    flux_kit.run_to_the_end(storing)
    assert bills(flux_kit) == [b"summary", b"for a", b"for c", b"summary", b"for b"]


@pytest.mark.parametrize(
    "failures",
    [
        lambda messages: ValueError(),
        lambda messages: flux.BatchFailure(dict.fromkeys(messages, ValueError())),
        lambda messages: flux.Pause(),
    ],
    ids=["raised", "each", "paused"],
)
def test_of_a_batch_that_fails_as_a_whole_nothing_leaves(
    flux_kit: Kit, storing: type[Storing], failures: Callable[[Sequence[flux.Message]], BaseException | None]
) -> None:
    store(flux_kit, storing, failures)
    assert bills(flux_kit) == []


def test_of_a_batch_that_ends_the_process_nothing_leaves(flux_kit: Kit, storing: type[Storing]) -> None:
    with pytest.raises(MemoryError):
        store(flux_kit, storing, lambda messages: flux.BatchFailure({messages[2]: MemoryError()}))
    assert bills(flux_kit) == []


def test_a_batch_and_a_call_know_their_own_messages(flux_kit: Kit, awaited: bool) -> None:
    seen: list[flux.Message] = []
    refused: list[flux.Message] = []

    def call(message: flux.Message) -> None:
        for each in seen:
            try:
                with flux.producing(each):
                    pass
            except flux.ConfigurationError:
                refused.append(each)
        seen.append(message)
        with flux.producing(message):
            Bills.produce(message.value)
        if message.value == b"bad" and message.stage == 0:
            raise ValueError

    for value in (b"1", b"bad", b"3"):
        flux_kit.produce("orders", value)
    flux_kit.run_to_the_end(made(awaited, call))
    assert bills(flux_kit) == [b"1", b"3", b"bad"]
    assert len(refused) == 1 + 2 + 3


# ---- in a worker


def test_a_cancelled_call_leaves_nothing_even_if_it_returns() -> None:
    peer = Peer()
    peer.broker.create_topic("bills")
    began = threading.Event()

    async def call(message: flux.Message) -> None:
        OnPeer.produce(b"bill")
        began.set()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            OnPeer.produce(b"after the cancellation")

    class OnPeer(flux.Producer):
        topic = "bills"
        adapter = peer.adapter

    task = peer.task(call, shutdown_timeout=0.2)
    peer.write(b"x")
    with peer.working(task):
        assert began.wait(60)
    OnPeer.close()
    assert peer.values("bills") == []
    assert peer.position() == 0


def test_an_abandoned_call_leaves_nothing_when_it_returns() -> None:
    peer = Peer()
    peer.broker.create_topic("bills")
    began, goes_on = threading.Event(), threading.Event()
    calls: list[threading.Thread] = []

    def call(message: flux.Message) -> None:
        calls.append(threading.current_thread())
        OnPeer.produce(b"bill")
        began.set()
        goes_on.wait(60)

    class OnPeer(flux.Producer):
        topic = "bills"
        adapter = peer.adapter

    task = peer.task(call, shutdown_timeout=0.2)
    peer.write(b"x")
    with peer.working(task, code=3):
        assert began.wait(60)
    goes_on.set()
    calls[0].join(60)
    OnPeer.close()
    assert peer.values("bills") == []
    assert peer.position() == 0


def test_a_call_whose_partition_was_lost_leaves_nothing() -> None:
    peer = Peer()
    peer.broker.create_topic("bills")
    began, goes_on = threading.Event(), threading.Event()
    calls: list[int] = []

    def call(message: flux.Message) -> None:
        calls.append(message.attempt)
        OnPeer.produce(b"bill %d" % len(calls))
        if len(calls) == 1:
            began.set()
            goes_on.wait(60)

    class OnPeer(flux.Producer):
        topic = "bills"
        adapter = peer.adapter

    task = peer.task(call)
    peer.write(b"x")
    with peer.working(task) as running:
        assert began.wait(60)
        [job] = running.worker.jobs
        assert job.coordinator is not None
        [runtime] = [each for each in job.coordinator.runtimes if each.engine.stage.number == 0]
        with job.coordinator.lock:
            runtime.engine.lost(runtime.engine.partitions)
        goes_on.set()
        wait_for(lambda: not runtime.engine.calls, "the end of the call")
    OnPeer.close()
    assert peer.values("bills") == []
