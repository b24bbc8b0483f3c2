"""Spans of `Producer.produce`, `send` and `aproduce`: each writes its span's context into the record's headers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from opentelemetry import propagate
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer

from flux.core.error_text import error_name
from flux.producer import Producer
from flux.producing.delivery import Delivery
from flux.producing.encoding import HeadersLike, encode_headers

Attributes = dict[str, str | int | bool]


def traced_produce(tracer: Tracer) -> Callable[..., None]:
    original = Producer.__dict__["produce"].__func__

    def produce(cls: type[Producer], value: Any, *, headers: HeadersLike | None = None, **options: Any) -> None:
        with _span(tracer, cls, value, options):
            original(cls, value, headers=_with_context(headers), **options)

    return produce


def traced_aproduce(tracer: Tracer) -> Callable[..., Any]:
    original = Producer.__dict__["aproduce"].__func__

    async def aproduce(cls: type[Producer], value: Any, *, headers: HeadersLike | None = None, **options: Any) -> None:
        with _span(tracer, cls, value, options):
            await original(cls, value, headers=_with_context(headers), **options)

    return aproduce


def traced_send(tracer: Tracer) -> Callable[..., Delivery]:
    """The span ends when the record is acknowledged, and has its partition and offset."""
    original = Producer.__dict__["send"].__func__

    def send(cls: type[Producer], value: Any, *, headers: HeadersLike | None = None, **options: Any) -> Delivery:
        with _span(tracer, cls, value, options, end_on_exit=False) as span:
            try:
                delivery: Delivery = original(cls, value, headers=_with_context(headers), **options)
            except BaseException:
                span.end()
                raise
        delivery.add_done_callback(lambda ended: _delivered(span, ended))
        return delivery

    return send


def _delivered(span: Span, delivery: Any) -> None:
    # Not by its methods: they would mark a failure as retrieved by the caller.
    written, error = delivery._result, delivery._exception
    if error is not None:
        span.record_exception(error)
        span.set_attribute("error.type", error_name(type(error)))
        span.set_status(Status(StatusCode.ERROR, str(error)))
    elif written is not None:
        span.set_attribute("messaging.destination.partition.id", str(written.partition))
        span.set_attribute("messaging.kafka.offset", written.offset)
    span.end()


@contextmanager
def _span(
    tracer: Tracer, producer: type[Producer], value: Any, options: Mapping[str, Any], end_on_exit: bool = True
) -> Iterator[Span]:
    topic, key = str(producer.topic), options.get("key")
    attributes: Attributes = {
        "messaging.system": "kafka",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": topic,
    }
    if value is None:
        attributes["messaging.kafka.message.tombstone"] = True
    if key is not None:
        attributes["messaging.kafka.message.key"] = (
            key.decode("utf-8", "backslashreplace") if isinstance(key, bytes) else str(key)
        )
    with tracer.start_as_current_span(
        f"send {topic}", kind=SpanKind.PRODUCER, attributes=attributes, end_on_exit=end_on_exit
    ) as span:
        try:
            yield span
        except Exception as error:
            span.set_attribute("error.type", error_name(type(error)))
            raise


def _with_context(headers: HeadersLike | None) -> HeadersLike:
    """The headers with the current span's context, which replaces one that was copied from elsewhere."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    pairs = [] if headers is None else encode_headers(headers)
    return [pair for pair in pairs if pair[0] not in carrier] + [
        (name, text.encode()) for name, text in carrier.items()
    ]
