"""Which calls are recorded, asked before there is a span: one that is not recorded costs none.

Only where the answer is certain: of the tracer of OpenTelemetry's SDK, with the SDK's own samplers. Whatever else
decides is asked for a span."""

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
"""A whole `traceparent` that says so."""


class Sampling:
    """What is to become of calls. Thread-safe."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._known = self._learn()

    def decide(self, headers: Headers) -> Unrecorded | tuple[Tracer, Context, bool]:
        """Of the call with a record that has these headers: its context, without a span; or where to begin one (the
        tracer, the context of whoever produced the record), and whether there is such a context."""
        known = self._known
        tracer, bounds = known.tracer, known.bounds
        if propagate.get_global_textmap() is not known.propagator or (
            tracer.sampler is not known.sampler if bounds is not None else _real(self._tracer) is not tracer
        ):  # somebody has set another one since
            known = self._learn()
            tracer, bounds = known.tracer, known.bounds
        if bounds is None or (known.is_on is not None and not known.is_on()):
            return self._tracer, *(extracted(headers) if headers else (Context(), False))
        context, asked_for = None, known.asked_for
        asked, parents, said = asked_for is None, 0, None
        if headers and asked_for is not None:
            for name, value in headers:
                if name in asked_for:
                    asked = True
                    if name == "traceparent":
                        parents, said = parents + 1, value
        if headers and asked:
            if parents == 1 and known.is_w3c and said is not None and _unsampled(said):
                bound = bounds.parent_not_sampled
                if not bound or int(said[19:35], 16) >= bound:
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
            trace_id = low = getrandbits(64)  # what decides; the other half is drawn for those that ask
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
            _asked_by(propagator),
            TraceContextTextMapPropagator in map(type, parts) and _W3C.issuperset(map(type, parts)),
            bounds is not None and _is_random(tracer),
        )
        return known


[SPAN] = trace.set_span_in_context(trace.INVALID_SPAN, Context())
"""The name of a context's span."""


class Unrecorded(Context):
    """The context of a call that is not recorded: its span, of which nothing is kept, is made when somebody looks."""

    # Almost each call has one, and hardly anybody looks. So nothing is put into it before.

    __slots__ = ("way",)

    way: tuple[Any, int, Headers | None] | None
    """Its place in a trace: the tracer, the trace's id (or the lower half of one, see `_whole`), and the headers that
    name its parent, if there is one. None: its span is there."""

    def within(self, outer: Context) -> None:
        """It has what the context around it has, but for the span."""
        dict.update(self, outer)
        dict.pop(self, SPAN, None)

    def get(self, key: str, default: Any = None) -> Any:
        if self.way is not None:
            self.look()
        return dict.get(self, key, default)

    def look(self) -> None:
        """Has its span made."""
        from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

        way = self.way
        if way is not None:
            tracer, trace_id, parent = way
            like = _of_trace(tracer, _whole(tracer, trace_id))
            like.sampler = ALWAYS_OFF
            span = like.start_span("process", extracted(parent)[0] if parent else Context(), SpanKind.CONSUMER)
            dict.setdefault(self, SPAN, span)  # one for all threads that look at the same time
            self.way = None


def _looking(name: str) -> Callable[..., Any]:
    method = getattr(dict, name)

    def looking(self: Unrecorded, *given: Any) -> Any:
        self.look()
        return method(self, *given)

    return looking


for _name in (
    *("__contains__", "__eq__", "__getitem__", "__iter__", "__len__", "__ne__", "__or__", "__repr__"),
    *("__reversed__", "__ror__", "copy", "items", "keys", "values"),
):
    setattr(Unrecorded, _name, _looking(_name))


def _unrecorded(tracer: Any, trace_id: int, parent: Headers | None) -> Unrecorded:
    context = Unrecorded()
    context.way = tracer, trace_id, parent
    return context


def _whole(tracer: Any, trace_id: int) -> int:
    """An id from its lower half, which has decided: the other one is random, and drawn for those that are asked for."""
    return getrandbits(64) << 64 | trace_id if _is_random(tracer) else trace_id


def _is_random(tracer: Any) -> bool:
    """Whether its traces have ids of 128 random bits, by the SDK's own generator."""
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

    return type(tracer.id_generator) is RandomIdGenerator


def extracted(headers: Headers) -> tuple[Context, bool]:
    """The context of whoever produced a record, and whether there is one."""
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
    """The traces that a sampler records are those whose lower 64 bits are below a bound, by what their parent says."""

    root: int
    parent_sampled: int
    parent_not_sampled: int


@attrs.frozen
class _Known:
    tracer: Any
    sampler: Any
    bounds: _Bounds | None
    """None: nobody knows without asking for a span."""
    is_on: Callable[[], bool] | None
    propagator: TextMapPropagator
    asked_for: frozenset[str] | None
    """A record with none of these headers has no context; None: nobody knows."""
    is_w3c: bool
    is_random: bool
    """Whether any 128 bits are a trace's id."""


def _real(tracer: Tracer) -> Any:
    """A tracer that was made before its provider was set stands for another one."""
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


def _asked_by(propagator: TextMapPropagator) -> frozenset[str] | None:
    """What it asks for in a record without headers: to one that has none of these headers it does the same."""
    asking = _Asking()
    try:
        context = propagator.extract(NOTHING, Context(), asking)
    except Exception:
        return None
    return None if asking.for_all or context else frozenset(asking.names)


NOTHING = Headers()


class _Asking(Getter[Headers]):
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
    """The same tracer; its root spans are of that trace, of which the decision was made."""
    like = copy.copy(tracer)
    like.id_generator = _Given(tracer.id_generator, trace_id)
    return like


class _Given:
    def __init__(self, generator: Any, trace_id: int) -> None:
        self._generator = generator
        self._trace_id = trace_id

    def generate_trace_id(self) -> int:
        return self._trace_id

    def __getattr__(self, name: str) -> Any:
        return getattr(self._generator, name)
