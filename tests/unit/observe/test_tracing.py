"""Spans by OpenTelemetry's conventions, and one trace for all attempts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any

import pytest
from opentelemetry import baggage
from opentelemetry.context import Context, attach, detach, get_current
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import Sampler, TraceIdRatioBased
from opentelemetry.trace import SpanContext, SpanKind, StatusCode, get_current_span

import flux
from flux.core.errors import BrokerError, Fault
from flux.observe import opentelemetry
from flux.observe.sampling import SPAN
from flux.testing import Kit


class Orders(flux.Producer):
    topic = "orders"


class Bills(flux.Producer):
    topic = "bills"


class Billing(flux.Task):
    topic = "orders"
    group_id = "billing"
    retries = 2
    wait = 0

    def call(self, message: flux.Message) -> None:
        if message.value == b"bad":
            raise ValueError("bad")
        if message.value == b"flaky" and message.attempt < 3:
            raise ConnectionError("away")
        if message.value == b"bill":
            Bills.produce(b"bill", headers=message.headers)


class Spans:
    """What was exported, by name, in the order of their ends."""

    def __init__(self, sampler: Sampler | None = None) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(sampler)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = self.provider.get_tracer("tests")

    @property
    def all(self) -> list[ReadableSpan]:
        return list(self.exporter.get_finished_spans())

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.all if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        [span] = self.named(name)
        return span


@pytest.fixture
def spans(flux_kit: Kit) -> Iterator[Spans]:
    made = Spans()
    opentelemetry.instrument(made.provider)
    yield made
    opentelemetry.uninstrument()


def trace(span: ReadableSpan) -> int:
    assert span.context is not None
    return int(span.context.trace_id)


def is_child(span: ReadableSpan, of: ReadableSpan) -> bool:
    return span.parent is not None and of.context is not None and span.parent.span_id == of.context.span_id


def test_a_call_is_a_child_of_what_produced_its_record(flux_kit: Kit, spans: Spans) -> None:
    with spans.tracer.start_as_current_span("request"):
        Orders.produce(b"good", key="ada")
    flux_kit.run(Billing)
    request, sent, worked = spans.one("request"), spans.one("send orders"), spans.one("process orders")
    assert (sent.kind, worked.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER)
    assert is_child(sent, request)
    assert is_child(worked, sent)
    assert dict(sent.attributes or {}) == {
        "messaging.system": "kafka",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": "orders",
        "messaging.kafka.message.key": "ada",
    }
    assert dict(worked.attributes or {}) == {
        "messaging.system": "kafka",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "orders",
        "messaging.destination.partition.id": "0",
        "messaging.consumer.group.name": "billing",
        "messaging.kafka.offset": 0,
        "messaging.kafka.message.key": "ada",
        "messaging.message.body.size": 4,
        "flux.task": "Billing",
        "flux.stage": 0,
        "flux.attempt": 1,
        "flux.message.id": "orders/0/0",
    }
    assert worked.status.status_code is StatusCode.UNSET


def test_all_attempts_are_in_one_trace_and_the_failed_ones_say_why(flux_kit: Kit, spans: Spans) -> None:
    Orders.produce(b"flaky")
    flux_kit.run_to_the_end(Billing)
    sent = spans.one("send orders")
    attempts = [span for span in spans.all if span.kind is SpanKind.CONSUMER]
    assert [span.name for span in attempts] == [
        "process orders",
        "process orders-billing-try-1",
        "process orders-billing-try-2",
    ]
    assert all(is_child(span, sent) for span in attempts)
    assert [(span.attributes or {})["flux.attempt"] for span in attempts] == [1, 2, 3]
    assert [(span.attributes or {}).get("error.type") for span in attempts] == ["ConnectionError"] * 2 + [None]
    assert [span.status.status_code for span in attempts] == [StatusCode.ERROR] * 2 + [StatusCode.UNSET]
    assert attempts[0].events[0].name == "exception"


def test_a_record_without_a_context_gets_that_of_its_first_attempt(flux_kit: Kit, spans: Spans) -> None:
    flux_kit.produce("orders", b"bad", headers={"mine": "1"})
    flux_kit.run_to_the_end(Billing)
    first, second, third = (span for span in spans.all if span.kind is SpanKind.CONSUMER)
    assert first.parent is None
    assert is_child(second, first)
    assert is_child(third, first)
    dead = flux_kit.dead_letters(Billing).one()
    assert dead.header("mine") == "1"
    assert first.context is not None
    assert str(dead.header("traceparent")).startswith(f"00-{trace(first):032x}-{first.context.span_id:016x}-")


def test_the_context_that_a_record_came_with_stays_as_it_is(flux_kit: Kit, spans: Spans) -> None:
    came = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    flux_kit.produce("orders", b"bad", headers={"traceparent": came, "tracestate": "a=1"})
    flux_kit.run_to_the_end(Billing)
    assert {trace(span) for span in spans.all} == {0x0AF7651916CD43DD8448EB211C80319C}
    dead = flux_kit.dead_letters(Billing).one()
    assert [value for name, value in dead.headers if name.startswith("trace")] == [came.encode(), b"a=1"]


def test_what_a_call_produces_is_in_its_trace_even_with_copied_headers(flux_kit: Kit, spans: Spans) -> None:
    Orders.produce(b"bill")
    flux_kit.run(Billing)
    worked, sent = spans.one("process orders"), spans.one("send bills")
    assert is_child(sent, worked)
    [bill] = flux_kit.topic("bills")
    assert len([name for name, _ in bill.headers if name == "traceparent"]) == 1
    assert f"{trace(worked):032x}" in str(bill.header("traceparent"))


def test_coroutines_have_their_own_spans(flux_kit: Kit, spans: Spans) -> None:
    from opentelemetry import trace as current

    seen = []

    async def call(message: flux.Message) -> None:
        await asyncio.sleep(0)
        seen.append(current.get_current_span().get_span_context().span_id)

    Orders.produce(b"a")
    Orders.produce(b"b")
    flux_kit.run(flux.task(topic="orders", group_id="g")(call))
    assert seen == [span.context.span_id for span in spans.named("process orders") if span.context]
    assert not current.get_current_span().get_span_context().is_valid


def test_a_send_ends_with_its_acknowledgement_and_says_where_it_landed(flux_kit: Kit, spans: Spans) -> None:
    sent = Orders.send(b"x").result(60)
    attributes = spans.one("send orders").attributes or {}
    assert attributes["messaging.kafka.offset"] == sent.offset
    assert attributes["messaging.destination.partition.id"] == str(sent.partition)


def test_a_send_that_fails_says_so(flux_kit: Kit, spans: Spans) -> None:
    denied = BrokerError("not allowed", Fault.DENIED)
    flux_kit.broker().fail_writes(lambda *record: denied)
    delivery = Orders.send(b"x")
    with pytest.raises(flux.DeliveryError):
        delivery.result(60)
    span = spans.one("send orders")
    assert span.status.status_code is StatusCode.ERROR
    assert (span.attributes or {})["error.type"] == "flux.DeliveryError"


def test_what_cannot_be_a_record_is_refused_as_ever(flux_kit: Kit, spans: Spans) -> None:
    bad: Any = 5
    for method in (Orders.produce, Orders.send):
        with pytest.raises(flux.ConfigurationError):
            method(bad)
        with pytest.raises(flux.ConfigurationError):
            method(b"x", headers=bad)
    assert len(spans.named("send orders")) == 4


def test_a_tombstone_is_marked(flux_kit: Kit, spans: Spans) -> None:
    Orders.produce(None, key=b"\xff")
    flux_kit.run(Billing)
    for span in spans.all:
        assert (span.attributes or {})["messaging.kafka.message.tombstone"] is True
        assert (span.attributes or {})["messaging.kafka.message.key"] == "\\xff"


def test_coroutines_produce_with_spans(flux_kit: Kit, spans: Spans) -> None:
    asyncio.run(Orders.aproduce(b"x"))
    flux_kit.run(Billing)
    assert is_child(spans.one("process orders"), spans.one("send orders"))


def test_nothing_is_left_of_it_when_it_is_taken_back(flux_kit: Kit) -> None:
    before = flux.Producer.__dict__["produce"]
    spans = Spans()
    opentelemetry.instrument(spans.provider)
    opentelemetry.instrument(spans.provider)
    assert flux.Producer.__dict__["produce"] is not before
    opentelemetry.uninstrument()
    opentelemetry.uninstrument()
    assert flux.Producer.__dict__["produce"] is before
    Orders.produce(b"x")
    flux_kit.run(Billing)
    assert spans.all == []
    assert not flux_kit.topic("orders").one().headers


def test_a_call_that_finds_an_outage_has_an_event_and_is_no_error(flux_kit: Kit, spans: Spans) -> None:
    tries = iter([ConnectionError("no route"), flux.Pause(3, "maintenance")])

    def call(message: flux.Message) -> None:
        found = next(tries, None)
        if found is not None:
            raise found

    Orders.produce(b"x")
    flux_kit.run_to_the_end(flux.task(topic="orders", group_id="g", pause_on=(OSError,))(call))
    first, second, last = spans.named("process orders")
    for span, kind, text in ((first, "ConnectionError", "no route"), (second, "flux.Pause", "maintenance")):
        assert span.status.status_code is StatusCode.UNSET
        assert "error.type" not in (span.attributes or {})
        [event] = span.events
        assert event.name == "flux.pause"
        assert dict(event.attributes or {}) == {"exception.type": kind, "exception.message": text}
    assert (last.events, last.status.status_code) == ((), StatusCode.UNSET)
    assert all(is_child(span, spans.one("send orders")) for span in (first, second, last))


def test_tries_in_place_are_in_one_trace_with_the_retries_that_follow(flux_kit: Kit, spans: Spans) -> None:
    def call(message: flux.Message) -> None:
        raise ValueError("bad")

    flux_kit.produce("orders", b"x")
    task = flux.task(topic="orders", group_id="g", retries=1, wait=0, in_place_retries=1)(call)
    flux_kit.run_to_the_end(task)
    first, *others = (span for span in spans.all if span.kind is SpanKind.CONSUMER)
    assert [(span.attributes or {})["flux.attempt"] for span in others] == [2, 3, 4]
    assert all(is_child(span, first) for span in others)


class Loading(flux.BatchTask):
    topic = "orders"
    group_id = "loading"
    retries = 1
    wait = 0

    def call(self, messages: Any) -> None:
        bad = {message: ValueError("bad") for message in messages if message.value == b"bad"}
        if bad:
            raise flux.BatchFailure(bad)
        Bills.produce(b"loaded")


def test_a_batch_is_one_span_that_links_to_what_produced_its_records(flux_kit: Kit, spans: Spans) -> None:
    for key in ("ada", "bob"):
        with spans.tracer.start_as_current_span(f"request of {key}"):
            Orders.produce(b"good", key=key)
    flux_kit.produce("orders", b"from elsewhere")  # at once, and so before those
    flux_kit.run(Loading)
    worked, sent = spans.one("process orders"), spans.named("send orders")
    assert (worked.kind, worked.parent, worked.status.status_code) == (SpanKind.CONSUMER, None, StatusCode.UNSET)
    assert dict(worked.attributes or {}) == {
        "messaging.system": "kafka",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "orders",
        "messaging.destination.partition.id": "0",
        "messaging.consumer.group.name": "loading",
        "messaging.batch.message_count": 3,
        "flux.task": "Loading",
        "flux.stage": 0,
    }
    assert [link.context.span_id for link in worked.links] == [span.context.span_id for span in sent if span.context]
    assert [link.context.trace_id for link in worked.links] == [trace(span) for span in sent]
    assert dict(worked.links[1].attributes or {}) == {
        "messaging.kafka.offset": 2,
        "messaging.kafka.message.key": "bob",
        "flux.attempt": 1,
        "flux.message.id": "orders/0/2",
    }
    assert is_child(spans.one("send bills"), worked)


def test_a_batch_with_failures_is_an_error_and_says_how_many(flux_kit: Kit, spans: Spans) -> None:
    Orders.produce(b"good")
    flux_kit.produce("orders", b"bad")
    flux_kit.run_to_the_end(Loading)
    first, second = (span for span in spans.all if span.kind is SpanKind.CONSUMER)
    assert first.status.status_code is StatusCode.ERROR
    attributes = first.attributes or {}
    assert (attributes["error.type"], attributes["flux.failed"]) == ("flux.BatchFailure", 1)
    [link] = second.links
    assert first.context is not None
    assert link.context.span_id == first.context.span_id, (
        "a record without a context takes that of its first attempt along"
    )


def test_a_batch_that_finds_an_outage_is_no_error(flux_kit: Kit, spans: Spans) -> None:
    tries = iter([ConnectionError("no route")])

    class Away(Loading):
        pause_on = (OSError,)

        def call(self, messages: Any) -> None:
            for found in tries:
                raise found

    Orders.produce(b"x")
    flux_kit.run_to_the_end(Away)
    first, second = spans.named("process orders")
    assert ([event.name for event in first.events], first.status.status_code) == (["flux.pause"], StatusCode.UNSET)
    assert second.events == ()


def test_attempts_of_a_call_that_a_ratio_leaves_out_are_left_out_and_so_is_what_it_produces(flux_kit: Kit) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(TraceIdRatioBased(0.5))
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    opentelemetry.instrument(provider)
    try:
        for _ in range(40):
            flux_kit.produce("orders", b"bad")
        flux_kit.run_to_the_end(Billing)
    finally:
        opentelemetry.uninstrument()
    attempts: dict[int, int] = {}
    for span in exporter.get_finished_spans():
        attempts[trace(span)] = attempts.get(trace(span), 0) + 1
    assert 0 < len(attempts) < 40
    assert set(attempts.values()) == {3}
    told = [str(record.header("traceparent")) for record in flux_kit.dead_letters(Billing)]
    assert len({each.split("-")[1] for each in told}) == 40
    sampled = {each.split("-")[1] for each in told if int(each.split("-")[3], 16) & 1}
    assert sampled == {f"{each:032x}" for each in attempts}


def test_a_record_whose_parent_is_not_sampled_has_no_span_and_nor_has_what_its_call_produces(
    flux_kit: Kit, spans: Spans
) -> None:
    came = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
    flux_kit.produce("orders", b"bill", headers={"traceparent": came})
    flux_kit.run(Billing)
    assert spans.all == []
    [bill] = flux_kit.topic("bills")
    _, of, by, flags = str(bill.header("traceparent")).split("-")
    assert (of, int(flags, 16) & 1) == ("0af7651916cd43dd8448eb211c80319c", 0)
    assert by != "b7ad6b7169203331"


CAME = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"


@pytest.fixture
def left_out(flux_kit: Kit) -> Iterator[Spans]:
    """Tracing of which no call is recorded."""
    made = Spans(TraceIdRatioBased(0))
    opentelemetry.instrument(made.provider)
    yield made
    opentelemetry.uninstrument()


@pytest.mark.parametrize("headers", [None, {"traceparent": CAME}])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_what_a_call_that_is_not_recorded_begins_is_not_recorded_and_in_its_trace(
    flux_kit: Kit, left_out: Spans, headers: dict[str, str] | None, asynchronous: bool
) -> None:
    seen: list[SpanContext] = []
    for_all = Spans()

    def call(message: flux.Message) -> None:
        with for_all.tracer.start_as_current_span("own") as span:
            seen.append(span.get_span_context())
        seen.append(get_current_span().get_span_context())
        assert not get_current_span().is_recording()
        raise ValueError

    async def acall(message: flux.Message) -> None:
        call(message)

    for _ in range(2):
        flux_kit.produce("orders", b"x", headers=headers or {})
    task = flux.task(topic="orders", group_id="g", retries=0)(acall if asynchronous else call)
    flux_kit.run_to_the_end(task)
    assert left_out.all == []
    assert for_all.all == []
    assert [each.trace_flags.sampled for each in seen] == [False] * 4
    first, around, second, other = (each.trace_id for each in seen)
    assert (first, second) == (around, other)
    told = [str(record.header("traceparent")).split("-")[1] for record in flux_kit.dead_letters(task)]
    assert told == [f"{first:032x}", f"{second:032x}"]
    assert (first == second) == (headers is not None)
    assert not get_current_span().get_span_context().is_valid


def test_a_record_whose_call_returned_takes_its_context_along_when_what_it_produced_failed(
    flux_kit: Kit, left_out: Spans
) -> None:
    flux_kit.produce("orders", b"bill")
    denied = BrokerError("not allowed", Fault.DENIED)
    flux_kit.broker().fail_writes(lambda topic, partition, record: denied if topic == "bills" else None)
    flux_kit.run_to_the_end(Billing)
    ways = [str(record.header("traceparent")) for record in flux_kit.topic("orders-billing-try-1")]
    assert [way.endswith(("-00", "-02")) for way in ways] == [True]
    assert flux_kit.dead_letters(Billing).one().header("traceparent") == ways[0]


def test_a_context_that_is_not_recorded_is_like_any_other(flux_kit: Kit, left_out: Spans) -> None:
    ways: list[Callable[[Context], object]] = [
        lambda context: context.get(SPAN),
        lambda context: context[SPAN],
        lambda context: dict(context)[SPAN],
        lambda context: {**context}[SPAN],
        lambda context: context.copy()[SPAN],
        lambda context: dict(context.items())[SPAN],
        lambda context: dict(zip(context.keys(), context.values(), strict=True))[SPAN],
        lambda context: (context | {})[SPAN],
        lambda context: ({} | context)[SPAN],
        lambda context: SPAN in context and len(context) == 1 and list(context) == list(reversed(context)) == [SPAN],
        lambda context: bool(context) and context != {},
        lambda context: SPAN in repr(context),
    ]
    found: list[object] = []

    def call(message: flux.Message) -> None:
        context = get_current()
        found.append(ways[message.offset](context))
        span = get_current_span()
        assert found[-1] is span or found[-1] is True
        assert get_current_span() is span
        assert span.get_span_context().is_valid

    for _ in ways:
        flux_kit.produce("orders", b"x", partition=0)
    flux_kit.run(flux.task(topic="orders", group_id="g", retries=0)(call))
    assert len(found) == len(ways)
    assert not flux_kit.topic("orders-g-dlq")


def test_threads_that_look_at_once_see_one_span(flux_kit: Kit, left_out: Spans) -> None:
    def call(message: flux.Message) -> None:
        with ThreadPoolExecutor(8) as pool:
            contexts = [copy_context() for _ in range(8)]
            seen.append(
                {each.get_span_context().span_id for each in pool.map(lambda c: c.run(get_current_span), contexts)}
            )

    seen: list[set[int]] = []
    for _ in range(20):
        flux_kit.produce("orders", b"x")
    flux_kit.run(flux.task(topic="orders", group_id="g")(call))
    assert [len(each) for each in seen] == [1] * 20


class Baggage(flux.Hooks):
    @contextmanager
    def around(self, where: flux.StageInfo, message: flux.Message) -> Iterator[None]:
        token = attach(baggage.set_baggage("shop", "7"))
        try:
            yield
        finally:
            detach(token)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_what_is_around_a_call_stays_there(flux_kit: Kit, share: float) -> None:
    seen: list[object] = []
    spans = Spans(TraceIdRatioBased(share))

    def call(message: flux.Message) -> None:
        seen.append(baggage.get_baggage("shop"))
        seen.append(get_current_span().is_recording())
        raise ValueError

    flux_kit.produce("orders", b"x")
    task = flux.task(topic="orders", group_id="g", retries=0, hooks=[Baggage(), opentelemetry.Tracing(spans.provider)])(
        call
    )
    flux_kit.run_to_the_end(task)
    assert seen == ["7", share == 1.0]
    assert flux_kit.dead_letters(task).one().header("baggage") == "shop=7"
    assert dict(get_current()) == {}


def test_another_keeper_of_contexts_is_used_as_it_is_told_to_be(
    flux_kit: Kit, left_out: Spans, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    monkeypatch.setattr(opentelemetry, "_current", opentelemetry._Attached())
    flux_kit.produce("orders", b"x")
    call = flux.task(topic="orders", group_id="g")(
        lambda message: seen.append(get_current_span().get_span_context().is_valid)
    )
    flux_kit.run(call)
    assert seen == [True]
    assert not get_current_span().get_span_context().is_valid
