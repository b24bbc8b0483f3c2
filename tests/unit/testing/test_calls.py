"""The kit with what a task uses beyond retries: pauses, tries in place, age, rate, time limits, batches, schedules."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flux
from flux.core.errors import BrokerError, Fault
from flux.testing import Kit, kit

START = 1_800_000_000.0


@pytest.fixture
def flux_kit_options() -> dict[str, Any]:
    return {"start": START}


class Mailing(flux.Task):
    """Fails as often as a test says; its calls are noted with the kit's time."""

    topic = "mails"
    group_id = "mailing"
    retries = 2
    wait = 60
    kit: Kit
    errors: list[BaseException] = []
    calls: list[tuple[bytes, int, float]] = []

    def call(self, message: flux.Message) -> Any:
        self.calls.append((message.value, message.attempt, round(self.kit.clock.now() - START, 3)))
        if self.errors:
            raise self.errors.pop(0)


class AsyncMailing(Mailing):
    async def call(self, message: flux.Message) -> None:
        await asyncio.sleep(0)
        super().call(message)


@pytest.fixture(params=[Mailing, AsyncMailing], ids=["sync", "async"])
def mailing(request: pytest.FixtureRequest, flux_kit: Kit) -> Any:
    """A task class of the test's own, with `set(name=…)` for its settings."""
    return type("Mailing", (request.param,), {"kit": flux_kit, "errors": [], "calls": []})


def produce(kit: Kit, *values: bytes, topic: str = "mails") -> None:
    for value in values:
        kit.produce(topic, value, key=value)


# ---- pauses


def test_a_run_ends_at_a_pause_and_nothing_has_moved(flux_kit: Kit, mailing: Any) -> None:
    mailing.errors = [flux.Pause()]
    produce(flux_kit, b"a", b"b")
    summary = flux_kit.run(mailing)
    assert (summary.done, summary.failed, summary.retried) == (0, 0, 0)
    assert flux_kit.clock.now() == START
    assert [str(failure.error) for failure in flux_kit.failures] == ["paused"]
    assert flux_kit.run(mailing).done == 2
    assert mailing.calls == [(b"a", 1, 0), (b"a", 1, 0), (b"b", 1, 0)]


def test_a_run_to_the_end_moves_the_clock_on_to_each_probe(flux_kit: Kit, mailing: Any) -> None:
    mailing.pause_on = (ConnectionError,)
    mailing.errors = [ConnectionError("away"), ConnectionError("still away")]
    produce(flux_kit, b"a", b"b")
    assert flux_kit.run_to_the_end(mailing).done == 2
    times = [at for _, _, at in mailing.calls]
    assert [attempt for _, attempt, _ in mailing.calls] == [1, 1, 1, 1]
    assert 1 <= times[1] <= 1.2
    assert 2 <= times[2] - times[1] <= 2.3
    assert times[3] == times[2]


def test_a_pause_of_a_known_length_is_as_long(flux_kit: Kit, mailing: Any) -> None:
    mailing.errors = [flux.Pause(seconds=90)]
    produce(flux_kit, b"a")
    assert flux_kit.run_to_the_end(mailing).done == 1
    assert mailing.calls[1][2] == pytest.approx(90, abs=0.01)


def test_a_topic_that_takes_nothing_pauses_a_task_whose_calls_produce_to_it(flux_kit: Kit) -> None:
    attempts: list[int] = []

    class Receipts(flux.Producer):
        topic = "receipts"

    class Billing(flux.Task):
        topic = "mails"
        group_id = "billing"
        pause_on = (flux.DeliveryError,)

        def call(self, message: flux.Message) -> None:
            attempts.append(message.attempt)
            Receipts.produce(message.value)

    refused = [BrokerError("read-only", Fault.DENIED)]
    flux_kit.broker().fail_writes(
        lambda topic, partition, one: refused.pop() if topic == "receipts" and refused else None
    )
    produce(flux_kit, b"a")
    summary = flux_kit.run_to_the_end(Billing)
    assert (summary.done, summary.failed, summary.retried) == (1, 0, 0)
    assert attempts == [1, 1]
    flux_kit.assert_produced("receipts", count=1)


# ---- tries in place


def test_a_run_passes_the_time_of_tries_in_place(flux_kit: Kit, mailing: Any) -> None:
    mailing.in_place_retries, mailing.in_place_wait = 2, 0.5
    mailing.errors = [ValueError("1"), ValueError("2")]
    produce(flux_kit, b"a")
    summary = flux_kit.run(mailing)
    assert (summary.done, summary.failed, summary.retried) == (1, 2, 0)
    assert mailing.calls == [(b"a", 1, 0), (b"a", 2, 0.5), (b"a", 3, 1.5)]


def test_attempts_in_place_are_counted_in_the_next_stage(flux_kit: Kit, mailing: Any) -> None:
    mailing.in_place_retries = 1
    mailing.errors = [ValueError("1"), ValueError("2")]
    produce(flux_kit, b"a")
    assert flux_kit.run(mailing).retried == 1
    [waiting] = flux_kit.waiting(mailing)
    assert waiting.record.attempts == 2
    flux_kit.clock.advance(61)
    assert flux_kit.run(mailing).done == 1
    assert mailing.calls[-1][:2] == (b"a", 3)


# ---- age


def test_work_that_is_too_old_is_a_dead_letter_and_not_called(flux_kit: Kit, mailing: Any) -> None:
    mailing.give_up_after = 3600
    produce(flux_kit, b"old")
    flux_kit.clock.advance(3601)
    produce(flux_kit, b"new")
    assert flux_kit.run(mailing).done == 1
    letter = flux_kit.dead_letters(mailing).one()
    assert (letter.value, letter.reason, letter.attempts) == (b"old", "expired", 0)
    assert [value for value, _, _ in mailing.calls] == [b"new"]


def test_work_does_not_wait_for_longer_than_it_may_take(flux_kit: Kit, mailing: Any) -> None:
    mailing.give_up_after = 100
    mailing.errors = [ValueError("1"), ValueError("2")]
    produce(flux_kit, b"a")
    flux_kit.run_to_the_end(mailing)
    letter = flux_kit.dead_letters(mailing).one()
    assert (letter.reason, letter.attempts, letter.error_message) == ("expired", 2, "2")
    assert flux_kit.clock.now() == START + 60


# ---- rate and time limits


def test_a_run_passes_the_time_that_a_rate_takes(flux_kit: Kit, mailing: Any) -> None:
    mailing.rate_limit = 2
    produce(flux_kit, b"a", b"b", b"c", b"d")
    assert flux_kit.run(mailing).done == 4
    assert [at for _, _, at in mailing.calls] == pytest.approx([0, 0.5, 1, 1.5], abs=0.02)


def test_a_run_lets_others_pass_a_name_that_is_at_its_rate(flux_kit: Kit, mailing: Any) -> None:
    mailing.rate_limit = 2
    mailing.rate_limit_key = lambda message: message.value[:1]
    produce(flux_kit, b"a1", b"a2", b"a3", b"b1", b"b2")
    assert flux_kit.run(mailing).done == 5
    assert [value for value, _, _ in mailing.calls] == [b"a1", b"b1", b"a2", b"b2", b"a3"]
    assert [at for _, _, at in mailing.calls] == pytest.approx([0, 0, 0.5, 0.5, 1], abs=0.02)


def test_an_async_call_that_takes_too_long_fails(flux_kit: Kit) -> None:
    class Slow(flux.Task):
        topic = "mails"
        group_id = "slow"
        timeout = 0.02

        async def call(self, message: flux.Message) -> None:
            await asyncio.Event().wait()

    produce(flux_kit, b"a")
    assert flux_kit.run(Slow).retried == 1
    [failure] = flux_kit.failures
    assert str(failure.error) == "the call took longer than timeout = 0.02 s"


# ---- middleware


@pytest.mark.parametrize("awaited", [False, True], ids=["sync", "async"])
def test_middleware_is_around_each_call_and_sees_how_it_ends(flux_kit: Kit, awaited: bool) -> None:
    passed: list[str] = []

    def around(message: flux.Message, call_next: Any) -> Any:
        passed.append("in")
        try:
            return call_next(message)
        finally:
            passed.append("out")

    async def around_async(message: flux.Message, call_next: Any) -> Any:
        passed.append("in")
        try:
            return await call_next(message)
        finally:
            passed.append("out")

    class Surrounded(flux.Task):
        topic = "mails"
        group_id = "surrounded"
        middleware = (around_async,) if awaited else (around,)

        def call(self, message: flux.Message) -> None:
            passed.append("call")
            raise ValueError("bad")

    if awaited:

        async def call(self: Any, message: flux.Message) -> None:
            passed.append("call")
            raise ValueError("bad")

        Surrounded.call = call  # type: ignore[assignment]
    produce(flux_kit, b"a")
    assert flux_kit.run(Surrounded).retried == 1
    assert passed == ["in", "call", "out"]


# ---- batches


class Storing(flux.BatchTask):
    topic = "rows"
    group_id = "storing"
    retries = 1
    wait = 60
    max_batch = 3
    max_wait = 10.0
    kit: Kit
    bad: dict[bytes, BaseException] = {}
    batches: list[tuple[list[bytes], float]] = []

    def call(self, messages: Sequence[flux.Message]) -> Any:
        self.batches.append(([message.value for message in messages], round(self.kit.clock.now() - START, 3)))
        failed = {message: self.bad.pop(message.value) for message in messages if message.value in self.bad}
        if failed:
            raise flux.BatchFailure(failed)


class AsyncStoring(Storing):
    async def call(self, messages: Sequence[flux.Message]) -> None:
        await asyncio.sleep(0)
        super().call(messages)


@pytest.fixture(params=[Storing, AsyncStoring], ids=["sync", "async"])
def storing(request: pytest.FixtureRequest, flux_kit: Kit) -> Any:
    return type("Storing", (request.param,), {"kit": flux_kit, "bad": {}, "batches": []})


def test_a_run_passes_the_time_that_a_batch_waits_for_more(flux_kit: Kit, storing: Any) -> None:
    produce(flux_kit, b"a", b"b", b"c", b"d", topic="rows")
    assert flux_kit.run(storing).done == 4
    assert storing.batches == [([b"a", b"b", b"c"], 0), ([b"d"], 10)]


@pytest.mark.parametrize("seconds", [0.01, 0.1, 0.3])
def test_a_batch_that_waits_a_moment_is_called(flux_kit: Kit, storing: Any, seconds: float) -> None:
    storing.max_wait = seconds
    produce(flux_kit, b"a", topic="rows")
    assert flux_kit.run(storing).done == 1
    assert storing.batches == [([b"a"], seconds)]


STARTS = st.one_of(st.sampled_from([0.0, 0.1, START, START + 0.1]), st.floats(0, 2e9))
SPANS = st.one_of(st.sampled_from([0.05, 0.1, 1 / 3, 0.7]), st.floats(0.001, 300))


@settings(max_examples=30, deadline=None)
@given(STARTS, SPANS)
def test_whatever_a_batch_waits_it_is_called_then(start: float, seconds: float) -> None:
    task: Any = type("Task", (Storing,), {"max_wait": seconds, "batches": [], "bad": {}})
    with kit(start=start) as flux_kit:
        task.kit = flux_kit
        produce(flux_kit, b"a", topic="rows")
        began = flux_kit.clock.now()
        assert flux_kit.run(task).done == 1
        assert flux_kit.clock.now() - began == pytest.approx(seconds, abs=0.002)


@settings(max_examples=30, deadline=None)
@given(STARTS, SPANS, SPANS)
def test_a_record_is_due_when_the_clock_was_moved_by_its_wait(start: float, before: float, seconds: float) -> None:
    task: Any = type("Task", (Mailing,), {"wait": seconds, "calls": [], "errors": [ValueError(), ValueError()]})
    with kit(start=start) as flux_kit:
        task.kit = flux_kit
        flux_kit.clock.advance(before)
        produce(flux_kit, b"a")
        for _ in range(2):
            assert flux_kit.run(task).done == 0
            flux_kit.clock.advance(seconds)
        assert flux_kit.run(task).done == 1


@settings(max_examples=30, deadline=None)
@given(STARTS, SPANS)
def test_scheduled_work_is_due_when_the_clock_was_moved_by_its_delay(start: float, seconds: float) -> None:
    task: Any = type("Task", (Mailing,), {"calls": [], "errors": []})
    with kit(start=start) as flux_kit:
        task.kit = flux_kit
        task.enqueue(b"a", delay=seconds).result(10)
        assert flux_kit.run(task).done == 0
        flux_kit.clock.advance(seconds)
        assert flux_kit.run(task).done == 1


def test_a_batch_is_of_one_partition(flux_kit: Kit, storing: Any) -> None:
    flux_kit.broker().create_topic("rows", 2)
    for partition, value in ((0, b"a"), (1, b"b"), (0, b"c")):
        flux_kit.produce("rows", value, partition=partition)
    assert flux_kit.run(storing).done == 3
    assert sorted(values for values, _ in storing.batches) == [[b"a", b"c"], [b"b"]]


def test_one_record_of_a_batch_fails_alone_and_comes_back_in_a_batch_of_what_is_due(
    flux_kit: Kit, storing: Any
) -> None:
    storing.bad = {b"a": ValueError("bad a"), b"c": ValueError("bad c")}
    produce(flux_kit, b"a", b"b", b"c", topic="rows")
    summary = flux_kit.run(storing)
    assert (summary.done, summary.failed, summary.retried) == (1, 2, 2)
    assert [(failure.message.value, str(failure.error)) for failure in flux_kit.failures] == [
        (b"a", "bad a"),
        (b"c", "bad c"),
    ]
    assert flux_kit.run_to_the_end(storing).done == 2
    assert storing.batches[-1][0] == [b"a", b"c"]


def test_any_other_exception_moves_the_whole_batch_and_is_noted_for_each_record(flux_kit: Kit) -> None:
    class Failing(Storing):
        def call(self, messages: Sequence[flux.Message]) -> None:
            raise ValueError("all")

    produce(flux_kit, b"a", b"b", b"c", topic="rows")
    assert flux_kit.run(Failing).retried == 3
    assert [(failure.message.value, str(failure.error)) for failure in flux_kit.failures] == [
        (value, "all") for value in (b"a", b"b", b"c")
    ]


def test_a_batch_that_finds_an_outage_is_called_again_as_it_was(flux_kit: Kit) -> None:
    seen: list[list[tuple[bytes, int]]] = []

    class Storing(flux.BatchTask):
        topic = "rows"
        group_id = "outage"

        def call(self, messages: Sequence[flux.Message]) -> None:
            seen.append([(message.value, message.attempt) for message in messages])
            if len(seen) == 1:
                raise flux.Pause()

    produce(flux_kit, b"a", b"b", topic="rows")
    assert flux_kit.run_to_the_end(Storing).done == 2
    assert seen == [[(b"a", 1), (b"b", 1)]] * 2


# ---- schedules


def test_enqueued_work_is_done_at_its_time(flux_kit: Kit, mailing: Any) -> None:
    mailing.enqueue(b"later", delay=timedelta(hours=1).total_seconds())
    mailing.enqueue(b"then", at=datetime.fromtimestamp(START + 7200, UTC))
    mailing.enqueue(b"now")
    assert flux_kit.run(mailing).done == 1
    assert [(each.record.value, each.seconds) for each in flux_kit.waiting(mailing)] == [
        (b"later", 3600),
        (b"then", 7200),
    ]
    assert flux_kit.run_to_the_end(mailing).done == 2
    assert mailing.calls == [(b"now", 1, 0), (b"later", 1, 3600), (b"then", 1, 7200)]


def test_enqueued_work_is_no_other_groups(flux_kit: Kit, mailing: Any) -> None:
    class Auditing(flux.Task):
        topic = "mails"
        group_id = "auditing"

        def call(self, message: flux.Message) -> None:
            raise AssertionError("not mine")

    mailing.enqueue(b"a", delay=5)
    assert flux_kit.run_to_the_end(mailing, Auditing).done == 1


def test_the_age_of_enqueued_work_counts_from_when_it_was_to_be_done(flux_kit: Kit, mailing: Any) -> None:
    mailing.give_up_after = 100
    mailing.enqueue(b"a", delay=3600)
    assert flux_kit.run_to_the_end(mailing).done == 1


def test_all_of_it_in_a_running_event_loop(flux_kit: Kit) -> None:
    task: Any = type(
        "Mailing", (AsyncMailing,), {"kit": flux_kit, "errors": [flux.Pause(), ValueError("x")], "calls": []}
    )
    task.in_place_retries = 1
    task.rate_limit = 10

    async def test() -> None:
        task.enqueue(b"later", delay=60)
        produce(flux_kit, b"a")
        assert (await flux_kit.arun(task)).done == 0
        assert (await flux_kit.arun_to_the_end(task)).done == 2

    asyncio.run(test())
    assert [(value, attempt) for value, attempt, _ in task.calls] == [(b"a", 1), (b"a", 1), (b"a", 2), (b"later", 1)]


@pytest.mark.parametrize("awaited", [False, True])
def test_calls_in_transactions_are_seen_once_and_failed_ones_not_at_all(flux_kit: Kit, awaited: bool) -> None:
    class Out(flux.Producer):
        topic = "out"

    def handle(message: flux.Message) -> None:
        Out.produce(message.value)
        if message.value == b"late" and message.stage == 0:
            raise ValueError("not yet")
        if message.value == b"never":
            raise flux.Reject("never")

    async def handle_async(message: flux.Message) -> None:
        handle(message)

    function = handle_async if awaited else handle
    task = flux.task(topic="in", group_id="exact", wait=60, exactly_once=True)(function)
    for value in (b"now", b"late", b"never"):
        flux_kit.produce(task, value)

    flux_kit.run(task)
    assert [record.value for record in flux_kit.topic("out")] == [b"now"]
    assert [record.value for record in flux_kit.dead_letters(task)] == [b"never"]

    flux_kit.clock.advance(60)
    flux_kit.run(task)
    assert [record.value for record in flux_kit.topic("out")] == [b"now", b"late"]


def test_outputs_of_a_key_are_in_order_through_retries(flux_kit: flux.testing.Kit) -> None:
    class Out(flux.Producer):
        topic = "out"

    def handle(message: flux.Message) -> None:
        Out.produce(message.value, key=message.key)
        if message.value == b"first" and message.attempt < 3:
            raise ValueError("not yet")

    exact = flux.task(topic="in", group_id="ordered", wait=60, retries=2, exactly_once=True, retry_order="key")
    task = exact(handle)
    for key, value in ((b"k", b"first"), (b"k", b"second"), (b"other", b"passes")):
        flux_kit.produce(task, value, key=key)

    flux_kit.run(task)
    assert [record.value for record in flux_kit.topic("out")] == [b"passes"]
    flux_kit.run_to_the_end(task)
    assert [record.value for record in flux_kit.topic("out")] == [b"passes", b"first", b"second"]
