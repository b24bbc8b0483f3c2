"""Decides whether a call is recorded before its span is made, so that a call that is not recorded costs no span.

It does so only where the result is certain: for tracers of OpenTelemetry's SDK with the SDK's own samplers. Any other
tracer is called for each span."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from random import getrandbits
from typing import Any

import attrs
from opentelemetry import propagate, trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import Getter, TextMapPropagator
from opentelemetry.trace import SpanKind, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from flux.core.message import Headers

_ALL = 1 << 64
_LOW = _ALL - 1
_WITHOUT_COUNTERS = frozenset({"NoneType", "NoOpTracerMetrics"})
_W3C = {TraceContextTextMapPropagator, W3CBaggagePropagator}
_unsampled = re.compile(rb"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f][02468ace]").fullmatch
"""Matches a `traceparent` without the sampled flag."""


class Sampling:
    """Thread-safe."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._known = self._learn()

    def decide(self, headers: Headers) -> Unrecorded | tuple[Tracer, Context, bool]:
        """For a call with a record that has these headers: its context without a span; or the tracer and the parent
        context for a span, and whether the record has such a context."""
        known = self._known
        tracer, bounds = known.tracer, known.bounds
        if propagate.get_global_textmap() is not known.propagator or (
            tracer.sampler is not known.sampler if bounds is not None else _real(self._tracer) is not tracer
        ):  # it was replaced since
            known = self._learn()
            tracer, bounds = known.tracer, known.bounds
        if bounds is None or (known.is_on is not None and not known.is_on()):
            return self._tracer, *(extracted(headers) if headers else (Context(), False))
        context, read_headers = None, known.read_headers
        has_context, parents, traceparent = read_headers is None, 0, None
        if headers and read_headers is not None:
            for name, value in headers:
                if name in read_headers:
                    has_context = True
                    if name == "traceparent":
                        parents, traceparent = parents + 1, value
        if headers and has_context:
            if parents == 1 and known.is_w3c and traceparent is not None and _unsampled(traceparent):
                bound = bounds.parent_not_sampled
                if not bound or int(traceparent[19:35], 16) >= bound:
                    return _unrecorded(tracer, 0, headers)
            context, has_one = extracted(headers)
            if has_one:
                parent = trace.get_current_span(context).get_span_context()
                bound = bounds.parent_sampled if parent.trace_flags.sampled else bounds.parent_not_sampled
                if not parent.is_remote or parent.trace_id & _LOW < bound:
                    return tracer, context, True
                return _unrecorded(tracer, 0, headers)
        bound = bounds.root
        if known.is_random:
            trace_id = low = getrandbits(64)  # decides; the other half is drawn when it is needed
        else:
            trace_id = tracer.id_generator.generate_trace_id()
            low = trace_id & _LOW
        if low >= bound:
            return _unrecorded(tracer, trace_id, None)
        if bound == _ALL:
            return tracer, context or Context(), False
        return _of_trace(tracer, _whole(tracer, trace_id)), context or Context(), False

    def _learn(self) -> _Known:
        tracer, propagator = _real(self._tracer), propagate.get_global_textmap()
        parts = getattr(propagator, "_propagators", [propagator])
        bounds = _bounds(tracer)
        self._known = known = _Known(
            tracer,
            getattr(tracer, "sampler", None),
            bounds,
            getattr(tracer, "_is_enabled", None),
            propagator,
            _headers_read_by(propagator),
            TraceContextTextMapPropagator in map(type, parts) and _W3C.issuperset(map(type, parts)),
            bounds is not None and _is_random(tracer),
        )
        return known


[SPAN] = trace.set_span_in_context(trace.INVALID_SPAN, Context())
"""The name of a context's span."""


class Unrecorded(Context):
    """The context of a call that is not recorded. Its span, which keeps nothing, is made when the context is read,
    which is rare."""

    __slots__ = ("way",)

    way: tuple[Any, int, Headers | None] | None
    """Its place in a trace: the tracer, the trace id (or its lower half, see `_whole`), and the headers with its
    parent, if there is one. None: the span is made."""

    def within(self, outer: Context) -> None:
        """Copies the values of the surrounding context, except the span."""
        dict.update(self, outer)
        dict.pop(self, SPAN, None)

    def get(self, key: str, default: Any = None) -> Any:
        if self.way is not None:
            self.make_span()
        return dict.get(self, key, default)

    def make_span(self) -> None:
        """Makes the span."""
        from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

        way = self.way
        if way is not None:
            tracer, trace_id, parent = way
            like = _of_trace(tracer, _whole(tracer, trace_id))
            like.sampler = ALWAYS_OFF
            span = like.start_span("process", extracted(parent)[0] if parent else Context(), SpanKind.CONSUMER)
            dict.setdefault(self, SPAN, span)  # one for all threads that read at the same time
            self.way = None


def _with_span(name: str) -> Callable[..., Any]:
    method = getattr(dict, name)

    def method_with_span(self: Unrecorded, *arguments: Any) -> Any:
        self.make_span()
        return method(self, *arguments)

    return method_with_span


for _name in (
    *("__contains__", "__eq__", "__getitem__", "__iter__", "__len__", "__ne__", "__or__", "__repr__"),
    *("__reversed__", "__ror__", "copy", "items", "keys", "values"),
):
    setattr(Unrecorded, _name, _with_span(_name))


def _unrecorded(tracer: Any, trace_id: int, parent: Headers | None) -> Unrecorded:
    context = Unrecorded()
    context.way = tracer, trace_id, parent
    return context


def _whole(tracer: Any, trace_id: int) -> int:
    """A trace id from its lower half, which has decided; the other half is random."""
    return getrandbits(64) << 64 | trace_id if _is_random(tracer) else trace_id


def _is_random(tracer: Any) -> bool:
    """Whether its trace ids are 128 random bits of the SDK's own generator."""
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

    return type(tracer.id_generator) is RandomIdGenerator


def extracted(headers: Headers) -> tuple[Context, bool]:
    """The producer's context in a record's headers, and whether there is one."""
    context = propagate.extract(headers, getter=_FROM_HEADERS)
    return context, trace.get_current_span(context).get_span_context().is_valid


class _FromHeaders(Getter[Headers]):
    def get(self, carrier: Headers, key: str) -> list[str] | None:
        found = [value.decode("utf-8", "replace") for value in carrier.all(key) if value is not None]
        return found or None

    def keys(self, carrier: Headers) -> list[str]:
        return [name for name, _ in carrier]


_FROM_HEADERS = _FromHeaders()


@attrs.frozen
class _Bounds:
    """A sampler records traces whose lower 64 bits are below a bound, which depends on the parent."""

    root: int
    parent_sampled: int
    parent_not_sampled: int


@attrs.frozen
class _Known:
    tracer: Any
    sampler: Any
    bounds: _Bounds | None
    """None: only the tracer itself can decide."""
    is_on: Callable[[], bool] | None
    propagator: TextMapPropagator
    read_headers: frozenset[str] | None
    """A record with none of these headers has no context; None: not known."""
    is_w3c: bool
    is_random: bool
    """Whether any 128 bits are a valid trace id."""


def _real(tracer: Tracer) -> Any:
    """The tracer behind a proxy: one that was made before its provider was set is a proxy."""
    return getattr(tracer, "_tracer", tracer)


def _bounds(tracer: Any) -> _Bounds | None:
    try:
        from opentelemetry.sdk.trace import Tracer as Own
        from opentelemetry.sdk.trace.sampling import ParentBased
    except ImportError:
        return None
    if type(tracer) is not Own or type(getattr(tracer, "_tracer_metrics", None)).__name__ not in _WITHOUT_COUNTERS:
        return None
    sampler: Any = tracer.sampler
    parts = [sampler] * 3
    if getattr(type(sampler), "should_sample", None) is ParentBased.should_sample:
        names = ("_root", "_remote_parent_sampled", "_remote_parent_not_sampled")
        parts = [getattr(sampler, name, None) for name in names]
    root, sampled, unsampled = map(_bound, parts)
    return None if root is None or sampled is None or unsampled is None else _Bounds(root, sampled, unsampled)


def _bound(sampler: Any) -> int | None:
    from opentelemetry.sdk.trace.sampling import Decision, StaticSampler, TraceIdRatioBased

    if getattr(type(sampler), "should_sample", None) is StaticSampler.should_sample:
        return 0 if sampler.should_sample(Context(), 1, "process").decision is Decision.DROP else _ALL
    if type(sampler) is TraceIdRatioBased and sampler.TRACE_ID_LIMIT == _LOW:
        return sampler.bound
    return None


def _headers_read_by(propagator: TextMapPropagator) -> frozenset[str] | None:
    """The headers that it reads; a record with none of these has no context. None: it reads all."""
    getter = _RecordingGetter()
    try:
        context = propagator.extract(NOTHING, Context(), getter)
    except Exception:
        return None
    return None if getter.for_all or context else frozenset(getter.names)


NOTHING = Headers()


class _RecordingGetter(Getter[Headers]):
    def __init__(self) -> None:
        self.names: set[str] = set()
        self.for_all = False

    def get(self, carrier: Headers, key: str) -> list[str] | None:
        self.names.add(key)
        return None

    def keys(self, carrier: Headers) -> list[str]:
        self.for_all = True
        return []


def _of_trace(tracer: Any, trace_id: int) -> Any:
    """The same tracer, whose root spans get this trace id, for which the decision was made."""
    like = copy.copy(tracer)
    like.id_generator = _FixedTraceId(tracer.id_generator, trace_id)
    return like


class _FixedTraceId:
    def __init__(self, generator: Any, trace_id: int) -> None:
        self._generator = generator
        self._trace_id = trace_id

    def generate_trace_id(self) -> int:
        return self._trace_id

    def __getattr__(self, name: str) -> Any:
        return getattr(self._generator, name)
