"""The kit's `run`: everything that is due, in this thread, as production would work it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import flux
from flux.core.errors import BrokerError, Fault
from flux.testing import Kit, ProcessVanished, Stuck, Summary, kit


class Orders(flux.Producer):
    topic = "orders"


class Bills(flux.Producer):
    topic = "bills"


class Billing(flux.Task):
    topic = "orders"
    group_id = "billing"
    retries = 2
    wait = [10, 60]
    seen: list[tuple[Any, int]] = []

    def call(self, message: flux.Message) -> None:
        self.seen.append((message.value, message.stage))
        if message.value == b"reject":
            raise flux.Reject("no such customer")
        if message.value == b"broken" or (message.value == b"flaky" and message.attempt == 1):
            raise TimeoutError(message.value)
        Bills.produce(b"bill for " + message.value, key=message.key)


class Mailing(flux.Task):
    topic = "bills"
    group_id = "mailing"
    seen: list[Any] = []

    def call(self, message: flux.Message) -> None:
        self.seen.append(message.value)


@pytest.fixture(autouse=True)
def nothing_seen() -> Iterator[None]:
    yield
    Billing.seen.clear()
    Mailing.seen.clear()


def test_everything_due_is_worked_in_this_thread(flux_kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []
    starting: list[int] = []
    start = threading.Thread.start

    class Here(flux.Task):
        topic = "orders"
        group_id = "here"

        def call(self, message: flux.Message) -> None:
            threads.append(threading.get_ident())

    def noted(thread: threading.Thread) -> None:
        starting.append(threading.get_ident())  # what others start is not the run's
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", noted)
    Orders.produce(b"one")
    Orders.produce(b"two")
    assert flux_kit.run(Here) == Summary(done=2)
    assert threads == [threading.get_ident()] * 2
    assert threading.get_ident() not in starting


def test_what_is_done_is_not_worked_again_by_the_next_run(flux_kit: Kit) -> None:
    Orders.produce(b"one")
    flux_kit.run(Billing)
    Orders.produce(b"two")
    assert flux_kit.run(Billing).done == 1
    assert [value for value, _ in Billing.seen] == [b"one", b"two"]


def test_a_call_that_raises_waits_for_its_next_stage(flux_kit: Kit) -> None:
    Orders.produce(b"flaky", key="ada")
    now = flux_kit.clock.now()
    assert flux_kit.run(Billing) == Summary(failed=1, retried=1, waiting=1)
    assert flux_kit.clock.now() == now, "a run takes no time"
    assert flux_kit.run(Billing) == Summary(waiting=1)

    flux_kit.clock.advance(9.999)
    assert flux_kit.run(Billing).done == 0
    flux_kit.clock.advance(0.001)
    assert flux_kit.run(Billing) == Summary(done=1)
    assert Billing.seen == [(b"flaky", 0), (b"flaky", 1)]


def test_failures_can_be_seen(flux_kit: Kit) -> None:
    Orders.produce(b"flaky")
    flux_kit.run_to_the_end(Billing)
    (failure,) = flux_kit.failures
    assert isinstance(failure.error, TimeoutError)
    assert (failure.task, failure.message.value, failure.message.stage) == ("Billing", b"flaky", 0)
    assert "Billing: <Message orders[0]@0 stage 0 attempt 1>: TimeoutError" in repr(failure)


def test_to_the_end_the_clock_moves_from_due_time_to_due_time(flux_kit: Kit) -> None:
    Orders.produce(b"broken")
    Orders.produce(b"flaky")
    before = flux_kit.clock.now()
    assert flux_kit.run_to_the_end(Billing) == Summary(done=1, failed=4, retried=3, dead=1)
    assert flux_kit.clock.now() - before == pytest.approx(70, abs=0.01)


def test_waiting_through_25_days_takes_no_time(flux_kit: Kit) -> None:
    calls: list[float] = []

    class Patient(flux.Task):
        topic = "orders"
        group_id = "patient"
        retries = 25

        def call(self, message: flux.Message) -> None:
            calls.append(flux_kit.clock.now())
            raise ConnectionError("still away")

    for number in range(10):
        Orders.produce(b"%d" % number)
    began = time.perf_counter()
    summary = flux_kit.run_to_the_end(Patient)
    assert time.perf_counter() - began < 100  # of 25 days
    assert summary == Summary(failed=260, retried=250, dead=10)
    assert 20 * 86400 < calls[-1] - calls[0] < 30 * 86400


def test_the_same_seed_gives_the_same_waits() -> None:
    class Waiting(flux.Task):
        topic = "orders"
        group_id = "waiting"

        def call(self, message: flux.Message) -> None:
            raise ConnectionError

    def waits(seed: int) -> list[float]:
        with kit(seed=seed, start=1_000_000.0) as each:
            Orders.produce(b"x")
            each.run_to_the_end(Waiting)
            return [failure.message.timestamp for failure in each.failures]

    assert waits(1) == waits(1)
    assert len({tuple(waits(seed)) for seed in range(5)}) > 1


def test_what_a_call_produces_goes_to_the_other_tasks_of_the_run(flux_kit: Kit) -> None:
    Orders.produce(b"one", key="ada")
    assert flux_kit.run(Mailing, Billing).done == 2
    assert Mailing.seen == [b"bill for one"]


def test_what_a_call_need_not_acknowledge_goes_there_too(flux_kit: Kit) -> None:
    class Careless(Billing):
        group_id = "careless"
        acknowledge_produced = False

    Orders.produce(b"one")
    flux_kit.run(Mailing, Careless)
    assert Mailing.seen == [b"bill for one"]


def test_a_delivery_that_is_refused_fails_its_call(flux_kit: Kit) -> None:
    Orders.produce(b"one")
    flux_kit.broker().fail_writes(lambda topic, *_: BrokerError("no", Fault.DENIED) if topic == "bills" else None)
    assert flux_kit.run(Billing) == Summary(failed=1, retried=1, waiting=1)


def test_setup_and_close_are_called_once(flux_kit: Kit) -> None:
    told: list[str] = []

    class Careful(flux.Task):
        topic = "orders"
        group_id = "careful"

        def setup(self) -> None:
            told.append("setup")

        def call(self, message: flux.Message) -> None:
            told.append("call")

        def close(self) -> None:
            told.append("close")

    Orders.produce(b"one")
    Orders.produce(b"two")
    flux_kit.run(Careful)
    assert told == ["setup", "call", "call", "close"]


def test_an_error_in_setup_comes_out(flux_kit: Kit) -> None:
    class Careless(Billing):
        def setup(self) -> None:
            raise LookupError("no password")

    with pytest.raises(LookupError, match="no password"):
        flux_kit.run(Careless)


def test_calls_that_are_coroutines_share_one_event_loop(flux_kit: Kit) -> None:
    loops: list[Any] = []

    class Awaited(flux.Task):
        topic = "orders"
        group_id = "awaited"
        retries = 1

        async def setup(self) -> None:
            loops.append(asyncio.get_running_loop())

        async def call(self, message: flux.Message) -> None:
            await asyncio.sleep(0)
            loops.append(asyncio.get_running_loop())
            if message.attempt == 1:
                raise TimeoutError
            await Bills.aproduce(b"bill")

        async def close(self) -> None:
            loops.append(asyncio.get_running_loop())

    Orders.produce(b"one")
    assert flux_kit.run_to_the_end(Awaited) == Summary(done=1, failed=1, retried=1)
    assert len(loops) == 4
    assert len(set(loops)) == 1
    assert [type(failure.error) for failure in flux_kit.failures] == [TimeoutError]
    flux_kit.assert_produced("bills", value="bill")


def test_in_a_running_event_loop_a_run_is_awaited(flux_kit: Kit) -> None:
    loops: list[Any] = []

    class Awaited(flux.Task):
        topic = "orders"
        group_id = "awaited"
        wait = 5

        async def call(self, message: flux.Message) -> None:
            loops.append(asyncio.get_running_loop())
            if message.attempt == 1:
                raise TimeoutError

    async def test() -> None:
        Orders.produce(b"one")
        assert (await flux_kit.arun(Awaited)).waiting == 1
        assert (await flux_kit.arun_to_the_end(Awaited)).done == 1
        assert loops == [asyncio.get_running_loop()] * 2

    asyncio.run(test())


def test_in_a_running_event_loop_the_other_run_says_so(flux_kit: Kit) -> None:
    class Awaited(flux.Task):
        topic = "orders"
        group_id = "awaited"

        async def call(self, message: flux.Message) -> None:
            raise AssertionError("not called")

    async def test() -> None:
        Orders.produce(b"one")
        with pytest.raises(flux.ConfigurationError, match=r"await kit\.arun"):
            flux_kit.run(Awaited)

    asyncio.run(test())


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt, SystemExit])
def test_a_failure_of_the_process_comes_out_and_moves_no_record(flux_kit: Kit, error: type[BaseException]) -> None:
    fails = [True]

    class Dying(flux.Task):
        topic = "orders"
        group_id = "dying"

        def call(self, message: flux.Message) -> None:
            if message.value == b"two" and fails.pop():
                raise error

    Orders.produce(b"one")
    Orders.produce(b"two")
    with pytest.raises(error):
        flux_kit.run(Dying)
    assert flux_kit.waiting(Dying) == []
    fails.append(False)
    assert flux_kit.run(Dying).done == 1, "only what was not done is delivered again"


def test_a_failed_assertion_of_pytest_in_a_call_fails_the_test(flux_kit: Kit) -> None:
    class Failing(flux.Task):
        topic = "orders"
        group_id = "failing"

        async def call(self, message: flux.Message) -> None:
            pytest.fail("here")

    Orders.produce(b"one")
    with pytest.raises(pytest.fail.Exception, match="here"):
        flux_kit.run(Failing)


def test_chosen_stages_alone_are_worked(flux_kit: Kit) -> None:
    Orders.produce(b"flaky")
    flux_kit.run(Billing, stages="0")
    flux_kit.clock.advance(10)
    Orders.produce(b"one")
    assert flux_kit.run(Billing, stages="1-2") == Summary(done=1)
    assert Billing.seen == [(b"flaky", 0), (b"flaky", 1)]


def test_a_dead_letter_can_have_one_more_try(flux_kit: Kit) -> None:
    Orders.produce(b"reject")
    flux_kit.run(Billing)
    assert flux_kit.run_to_the_end(Billing, stages="3") == Summary(failed=1)
    assert len(flux_kit.dead_letters(Billing)) == 1


def test_what_the_cluster_takes_late_is_tried_again(flux_kit: Kit) -> None:
    refusals = [BrokerError("away", Fault.UNAVAILABLE)] * 3

    def refuse(topic: str, *_: object) -> BrokerError | None:
        return refusals.pop() if refusals and topic == "orders-billing-try-1" else None

    Orders.produce(b"flaky")
    flux_kit.topic("orders")
    flux_kit.broker().fail_writes(refuse)
    assert flux_kit.run(Billing) == Summary(failed=1, retried=1, waiting=1)


def test_a_forward_that_is_refused_for_ever_is_told(flux_kit: Kit) -> None:
    Orders.produce(b"flaky")
    flux_kit.topic("orders")
    flux_kit.broker().fail_writes(lambda *_: BrokerError("no", Fault.DENIED))
    with pytest.raises(Stuck, match="no progress for"):
        flux_kit.run(Billing)
    flux_kit.broker().fail_writes(None)
    assert flux_kit.run_to_the_end(Billing).done == 1


def test_tasks_that_feed_each_other_for_ever_are_told(flux_kit: Kit) -> None:
    class Endless(flux.Task):
        topic = "orders"
        group_id = "endless"

        def call(self, message: flux.Message) -> None:
            Orders.produce(message.value)

    Orders.produce(b"one")
    with pytest.raises(Stuck, match="more than 50 calls"):
        flux_kit.run(Endless, at_most=50)


def test_a_cluster_that_is_away_is_told(flux_kit: Kit) -> None:
    flux_kit.broker().available = False
    with pytest.raises(BrokerError, match="is unavailable"):
        flux_kit.run(Billing)


def test_a_task_that_cannot_work_is_told_as_by_a_worker(flux_kit: Kit) -> None:
    class Nameless(flux.Task):
        group_id = "nameless"

    with pytest.raises(flux.ConfigurationError, match="Nameless has no topic"):
        flux_kit.run(Nameless)


def test_partitions_and_order_are_kept() -> None:
    with kit(partitions=4) as each:
        for number in range(40):
            Orders.produce(b"%d" % number, key=str(number % 5))
        each.run(Billing)
        for key in range(5):
            own = [int(value) for value, _ in Billing.seen if int(value) % 5 == key]
            assert own == sorted(own)
            assert len(own) == 8
        assert {record.partition for record in each.topic("orders")} > {0}


@pytest.mark.parametrize("kind", ["sync", "async", "batch"])
def test_a_record_that_ends_its_process_is_dead_after_three_and_all_others_are_done(flux_kit: Kit, kind: str) -> None:
    done: set[bytes | None] = set()

    def work(*messages: flux.Message) -> None:
        for message in messages:
            if message.value == b"7":
                raise ProcessVanished
        done.update(message.value for message in messages)

    async def work_async(message: flux.Message) -> None:
        work(message)

    class Batched(flux.BatchTask):
        topic, group_id, max_batch, max_wait, max_crashes = "orders", "g", 4, 0, 2

        def call(self, messages: Any) -> None:
            work(*messages)

    def work_one(message: flux.Message) -> None:
        work(message)

    decorate = flux.task(topic="orders", group_id="g", max_crashes=2)
    task: Any = Batched if kind == "batch" else decorate(work_async) if kind == "async" else decorate(work_one)
    for number in range(20):
        flux_kit.produce("orders", str(number))
    for _ in range(3):
        with pytest.raises(ProcessVanished):
            flux_kit.run(task)
    flux_kit.run(task)
    assert done == {str(number).encode() for number in range(20)} - {b"7"}
    dead = flux_kit.dead_letters(task).one()
    assert (dead.value, dead.reason) == (b"7", "crashed")
