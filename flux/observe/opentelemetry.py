"""Traces by OpenTelemetry: a span for each produced record and each call, by its conventions for messaging and Kafka
(https://opentelemetry.io/docs/specs/semconv/messaging/).

The producer's context is in the record's headers (W3C `traceparent`), stays there through all retries, and is the
parent of every attempt, so one trace shows them all. A record without one gets that of its first attempt when it is
forwarded. The span of a batch links to the contexts of its records.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextvars import Token
from functools import partial
from typing import Any

from opentelemetry import context as context_api
from opentelemetry import propagate, trace
from opentelemetry.context import Context, attach, detach, get_current
from opentelemetry.context.contextvars_context import ContextVarsRuntimeContext
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, Tracer, TracerProvider

from flux import config
from flux._version import __version__
from flux.consuming.hook_dispatch import AroundCalls
from flux.core.engine.verdicts import BatchFailure, Pause
from flux.core.error_text import brief, cause_of, error_name, guarded, text_of
from flux.core.hooks import StageInfo
from flux.core.message import Message
from flux.observe.producer_spans import Attributes, traced_aproduce, traced_produce, traced_send
from flux.observe.sampling import SPAN, Sampling, Unrecorded, extracted
from flux.producer import Producer
from flux.producing.scope import CURRENT
from flux.system import tracebacks as traces

logger = logging.getLogger("flux.observe")

_PRODUCING = ("produce", "send", "aproduce")
_originals: dict[str, Any] = {}
_tracing: Tracing | None = None


def instrument(tracer_provider: TracerProvider | None = None) -> None:
    """Makes producers, and workers that are made afterwards, create spans; other configured hooks stay. A second call
    does nothing. `tracer_provider` None: OpenTelemetry's global one."""
    global _tracing
    if _tracing is not None:
        return
    _tracing = Tracing(tracer_provider)
    config.configure(hooks=[*config.current.hooks, _tracing])
    tracer = _tracing.tracer
    for name, traced in zip(
        _PRODUCING, (traced_produce(tracer), traced_send(tracer), traced_aproduce(tracer)), strict=True
    ):
        _originals[name] = Producer.__dict__[name]
        setattr(Producer, name, classmethod(traced))


def uninstrument() -> None:
    """Reverts `instrument`; workers that were made meanwhile keep creating spans."""
    global _tracing
    if _tracing is None:
        return
    config.configure(hooks=[each for each in config.current.hooks if each is not _tracing])
    _tracing = None
    for name in _PRODUCING:
        setattr(Producer, name, _originals.pop(name))


class Tracing(AroundCalls):
    """A span of kind CONSUMER around each call; `instrument` makes one for all tasks. The span of a call that pauses
    the task has the event `flux.pause` and no error."""

    def __init__(self, tracer_provider: TracerProvider | None = None) -> None:
        self.tracer = trace.get_tracer("flux", __version__, tracer_provider)
        self._sampling = Sampling(self.tracer)

    def enter(self, place: Callable[[int], StageInfo], message: Message) -> Entered:
        decided = self._sampling.decide(message.headers)
        if isinstance(decided, Unrecorded):
            outer = _current.get()
            if outer:
                decided.within(outer)
            carries = message if decided.way is None or decided.way[2] is None else None
            return _current.set(decided), carries, decided
        tracer, parent, came_with_one = decided
        where = place(message.stage)
        span = _started(tracer, where, _of_call(where, message), parent)
        recorded = _Recorded(span, () if came_with_one else (message,))
        recorded.__enter__()
        return recorded

    def leave(self, entered: Entered) -> None:
        if isinstance(entered, _Recorded):
            entered.__exit__(None, None, None)
            return
        token, message, context = entered
        _current.reset(token)
        # The record can still be forwarded only if the call has produced records, whose delivery may fail.
        if message is not None and getattr(_scope(), "touched", False):
            message.carry_later(partial(_headers_of, context))

    def leave_failed(self, entered: Entered, error: BaseException) -> None:
        if isinstance(entered, _Recorded):
            entered.__exit__(type(error), error, None)
            return
        token, message, context = entered
        detach(token)  # works in another context too, such as that of an abandoned coroutine
        if message is not None:
            message.carry_later(partial(_headers_of, context))

    def around_batch(self, where: StageInfo, messages: Sequence[Message]) -> _Recorded:
        contexts = [(message, *extracted(message.headers)) for message in messages]
        links = [
            Link(trace.get_current_span(context).get_span_context(), _of_link(message))
            for message, context, came_with_one in contexts
            if came_with_one
        ]
        span = _started(self.tracer, where, _of_batch(where, messages), None, links)
        return _Recorded(span, [message for message, _, came_with_one in contexts if not came_with_one])


def _started(
    tracer: Tracer, where: StageInfo, attributes: Attributes, parent: Context | None, links: Sequence[Link] = ()
) -> Span:
    return tracer.start_span(f"process {where.topic}", parent, SpanKind.CONSUMER, attributes, links)


class _Attached:
    """OpenTelemetry's current context, by its API."""

    get, set, reset = staticmethod(get_current), staticmethod(attach), staticmethod(detach)


_kept = getattr(context_api, "_RUNTIME_CONTEXT", None)
_current: Any = _kept._current_context if type(_kept) is ContextVarsRuntimeContext else _Attached()
"""By default OpenTelemetry's context variable itself, which costs half as much as the API around it."""
_scope = CURRENT.get


class _Recorded:
    """A context manager in which a span is current. `messages` came without a context: they get the span's when they
    are forwarded."""

    __slots__ = ("_context", "_messages", "_span", "_token")

    def __init__(self, span: Span, messages: Sequence[Message]) -> None:
        self._span = span
        self._messages = messages

    def __enter__(self) -> None:
        self._context = Context({**get_current(), SPAN: self._span})
        self._token = attach(self._context)

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
            detach(self._token)
            for message in self._messages:
                message.carry_later(partial(_headers_of, self._context))
            span.end()


Entered = _Recorded | tuple[Token[Context], Message | None, Unrecorded]
"""A call until it is left, with a span or without. Without: also the message that gets the context when it is
forwarded, if it came with none."""


def _record(span: Span, error: BaseException) -> None:
    attributes = {
        "exception.type": error_name(type(error)),
        "exception.message": text_of(error),
        "exception.stacktrace": traces.text_of(error),
    }
    if issubclass(type(error), BatchFailure):
        span.set_attribute("flux.failed", len(guarded(lambda: error.failures) or ()))  # type: ignore[attr-defined]
    span.add_event("exception", attributes)
    span.set_status(Status(StatusCode.ERROR, brief(error)))


def _headers_of(context: Context) -> list[tuple[str, bytes]]:
    """The headers that carry the context."""
    carrier: dict[str, str] = {}
    try:
        propagate.inject(carrier, context)
        return [(name, value.encode()) for name, value in carrier.items()]
    except Exception:
        logger.exception("a record is forwarded without the context of its trace")
        return []


def _of_call(where: StageInfo, message: Message) -> Attributes:
    value = message.raw_value
    attributes = {
        **_of_place(where, message),
        **_of_link(message),
        "messaging.message.body.size": len(value or b""),
    }
    if value is None:
        attributes["messaging.kafka.message.tombstone"] = True
    return attributes


def _of_batch(where: StageInfo, messages: Sequence[Message]) -> Attributes:
    return {**_of_place(where, messages[0]), "messaging.batch.message_count": len(messages)}


def _of_place(where: StageInfo, message: Message) -> Attributes:
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
    """Attributes of one message."""
    attributes: Attributes = {
        "messaging.kafka.offset": message.offset,
        "flux.attempt": message.attempt,
        "flux.message.id": message.id,
    }
    if message.key is not None:
        attributes["messaging.kafka.message.key"] = message.key.decode("utf-8", "backslashreplace")
    return attributes
