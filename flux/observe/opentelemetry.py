"""Traces by OpenTelemetry: a span per produce and per call, by its conventions for messaging and Kafka
(https://opentelemetry.io/docs/specs/semconv/messaging/).

The context of whoever produced a record travels in its headers (W3C `traceparent`), stays there through all retries,
and is the parent of every attempt: one trace shows them all. A record that came without one is given that of its first
attempt when it moves on. A batch has many such contexts, and its span links to them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from opentelemetry import propagate, trace
from opentelemetry.context import Context, attach, detach, get_current
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, Tracer, TracerProvider

from flux import config
from flux._version import __version__
from flux.core.described import asked, brief, cause_of, error_name, text_of
from flux.core.hooks import Hooks, Where
from flux.core.message import Message
from flux.core.outcome import Failed, Pause
from flux.observe.sampling import Dropped, Sampling, extracted
from flux.producer import Producer
from flux.runtime import traces
from flux.runtime.encoding import HeadersLike, encode_headers
from flux.runtime.producing.delivery import Delivery

logger = logging.getLogger("flux.observe")

Attributes = dict[str, str | int | bool]

_PRODUCING = ("produce", "send", "aproduce")
_originals: dict[str, Any] = {}
_tracing: Tracing | None = None


def instrument(tracer_provider: TracerProvider | None = None) -> None:
    """From now on producers, and the workers made afterwards, make spans; beside the hooks that are configured already.
    Twice is once. `tracer_provider` None: OpenTelemetry's global one."""
    global _tracing
    if _tracing is not None:
        return
    _tracing = Tracing(tracer_provider)
    config.configure(hooks=[*config.current.hooks, _tracing])
    tracer = _tracing.tracer
    for name, traced in zip(_PRODUCING, (_traced(tracer), _traced_send(tracer), _traced_async(tracer)), strict=True):
        _originals[name] = Producer.__dict__[name]
        setattr(Producer, name, classmethod(traced))


def uninstrument() -> None:
    """Takes `instrument` back; workers that were made meanwhile keep their spans."""
    global _tracing
    if _tracing is None:
        return
    config.configure(hooks=[each for each in config.current.hooks if each is not _tracing])
    _tracing = None
    for name in _PRODUCING:
        setattr(Producer, name, _originals.pop(name))


class Tracing(Hooks):
    """A span around each call, of kind CONSUMER; `instrument` makes one for all tasks. One that found an outage has
    the event `flux.pause` and is no error."""

    def __init__(self, tracer_provider: TracerProvider | None = None) -> None:
        self.tracer = trace.get_tracer("flux", __version__, tracer_provider)
        self._sampling = Sampling(self.tracer)

    def around(self, where: Where, message: Message) -> _Scope:
        decided = self._sampling.decide(message.headers, where.topic)
        if isinstance(decided, Dropped):
            return _Scope(decided, () if decided.came_with_one else (message,))
        tracer, parent, came_with_one = decided
        span = _started(tracer, where, _of_call(where, message), parent)
        return _Recorded(span, () if came_with_one else (message,))

    def around_batch(self, where: Where, messages: Sequence[Message]) -> _Scope:
        contexts = [(message, *extracted(message.headers)) for message in messages]
        links = [
            Link(trace.get_current_span(context).get_span_context(), _of_link(message))
            for message, context, came_with_one in contexts
            if came_with_one
        ]
        span = _started(self.tracer, where, _of_batch(where, messages), None, links)
        return _Recorded(span, [message for message, _, came_with_one in contexts if not came_with_one])


def _started(
    tracer: Tracer, where: Where, attributes: Attributes, parent: Context | None, links: Sequence[Link] = ()
) -> Span:
    return tracer.start_span(f"process {where.topic}", parent, SpanKind.CONSUMER, attributes, links)


[_SPAN] = trace.set_span_in_context(trace.INVALID_SPAN, Context())
"""The name of a context's span."""


class _Scope:
    """Where a span is the current one. `messages`: those that came without a context take its own along when they move
    on."""

    __slots__ = ("_context", "_messages", "_span", "_token")

    def __init__(self, span: Span, messages: Sequence[Message]) -> None:
        self._span = span
        self._messages = messages

    def __enter__(self) -> None:
        outer = get_current()
        self._context = current = Context({**outer, _SPAN: self._span}) if outer else Context({_SPAN: self._span})
        self._token = attach(current)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        detach(self._token)
        for message in self._messages:
            message.carry_later(partial(_headers_of, self._context))


class _Recorded(_Scope):
    __slots__ = ()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        span = self._span
        try:
            if error is None or issubclass(type(error), GeneratorExit):
                return
            if issubclass(type(error), Pause):  # no record has failed
                cause = cause_of(error)
                cause = error if cause is None else cause
                span.add_event(
                    "flux.pause", {"exception.type": error_name(type(cause)), "exception.message": text_of(cause)}
                )
                return
            span.set_attribute("error.type", error_name(type(error)))
            _record(span, error)
        finally:
            super().__exit__(kind, error, trace)
            span.end()


def _record(span: Span, error: BaseException) -> None:
    attributes = {
        "exception.type": error_name(type(error)),
        "exception.message": text_of(error),
        "exception.stacktrace": traces.text_of(error),
    }
    if issubclass(type(error), Failed):
        span.set_attribute("flux.failed", len(asked(lambda: error.failures) or ()))  # type: ignore[attr-defined]
    span.add_event("exception", attributes)
    span.set_status(Status(StatusCode.ERROR, brief(error)))


def _headers_of(context: Context) -> list[tuple[str, bytes]]:
    """What carries it."""
    carrier: dict[str, str] = {}
    try:
        propagate.inject(carrier, context)
        return [(name, value.encode()) for name, value in carrier.items()]
    except Exception:
        logger.exception("a record moves on without the context of its trace")
        return []


def _of_call(where: Where, message: Message) -> Attributes:
    value = message.raw_value
    attributes = {
        **_of_place(where, message),
        **_of_link(message),
        "messaging.message.body.size": len(value or b""),
    }
    if value is None:
        attributes["messaging.kafka.message.tombstone"] = True
    return attributes


def _of_batch(where: Where, messages: Sequence[Message]) -> Attributes:
    return {**_of_place(where, messages[0]), "messaging.batch.message_count": len(messages)}


def _of_place(where: Where, message: Message) -> Attributes:
    return {
        "messaging.system": "kafka",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": message.topic,
        "messaging.destination.partition.id": str(message.partition),
        "messaging.consumer.group.name": where.group,
        "flux.task": where.task,
        "flux.stage": message.stage,
    }


def _of_link(message: Message) -> Attributes:
    """What is of one message."""
    attributes: Attributes = {
        "messaging.kafka.offset": message.offset,
        "flux.attempt": message.attempt,
        "flux.message.id": message.id,
    }
    if message.key is not None:
        attributes["messaging.kafka.message.key"] = message.key.decode("utf-8", "backslashreplace")
    return attributes


# ---- producing


def _traced(tracer: Tracer) -> Callable[..., None]:
    original = Producer.__dict__["produce"].__func__

    def produce(cls: type[Producer], value: Any, *, headers: HeadersLike | None = None, **given: Any) -> None:
        with _span(tracer, cls, value, given):
            original(cls, value, headers=_with_context(headers), **given)

    return produce


def _traced_async(tracer: Tracer) -> Callable[..., Any]:
    original = Producer.__dict__["aproduce"].__func__

    async def aproduce(cls: type[Producer], value: Any, *, headers: HeadersLike | None = None, **given: Any) -> None:
        with _span(tracer, cls, value, given):
            await original(cls, value, headers=_with_context(headers), **given)

    return aproduce


def _traced_send(tracer: Tracer) -> Callable[..., Delivery]:
    """Its span ends when the record is acknowledged, and knows where it is."""
    original = Producer.__dict__["send"].__func__

    def send(cls: type[Producer], value: Any, *, headers: HeadersLike | None = None, **given: Any) -> Delivery:
        with _span(tracer, cls, value, given, end_on_exit=False) as span:
            try:
                delivery: Delivery = original(cls, value, headers=_with_context(headers), **given)
            except BaseException:
                span.end()
                raise
        delivery.add_done_callback(lambda ended: _delivered(span, ended))
        return delivery

    return send


def _delivered(span: Span, delivery: Any) -> None:
    # not by its methods: who asks for a failure has heard of it, and a span has not
    landed, error = delivery._result, delivery._exception
    if error is not None:
        span.record_exception(error)
        span.set_attribute("error.type", error_name(type(error)))
        span.set_status(Status(StatusCode.ERROR, str(error)))
    elif landed is not None:
        span.set_attribute("messaging.destination.partition.id", str(landed.partition))
        span.set_attribute("messaging.kafka.offset", landed.offset)
    span.end()


@contextmanager
def _span(
    tracer: Tracer, producer: type[Producer], value: Any, given: Mapping[str, Any], end_on_exit: bool = True
) -> Iterator[Span]:
    topic, key = str(producer.topic), given.get("key")
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
    """The headers with the current span's context, in place of one that was copied from elsewhere."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    pairs = [] if headers is None else encode_headers(headers)
    return [pair for pair in pairs if pair[0] not in carrier] + [
        (name, text.encode()) for name, text in carrier.items()
    ]
