"""`Producer`: a class per topic, whose records are buffered and flushed by themselves."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any, ClassVar, Concatenate, Generic, ParamSpec, TypeVar

import attrs

from flux import config
from flux.config import AdapterChoice, ProducerOptions
from flux.core.errors import BrokerError, BufferFull, ConfigurationError, DeliveryError, FailedRecord
from flux.core.partitioner import partition_for_key
from flux.core.ports import Outgoing
from flux.runtime.delivery import Delivery, Tracked
from flux.runtime.encoding import HeadersLike, check_number, encode, encode_headers
from flux.runtime.outbox import Outbox
from flux.runtime.outboxes import OUTBOXES
from flux.runtime.produced import CURRENT

_P = ParamSpec("_P")
_R = TypeVar("_R")
_current = CURRENT.get
_tuple = tuple.__new__


class _OnBoth(Generic[_P, _R]):
    """A method that is called on a class or on an instance, and gets whichever it was."""

    def __init__(self, function: Callable[Concatenate[Any, _P], _R]) -> None:
        self.__func__ = function
        self.__doc__ = function.__doc__

    def __get__(self, instance: object, owner: type) -> Callable[_P, _R]:
        return MethodType(self.__func__, owner if instance is None else instance)


@attrs.define(slots=True, eq=False)
class _Route:
    """Where a class's records go, and what that was decided by."""

    outbox: Outbox
    adapter: object
    options: object
    topic: object
    settings: config.Settings


class Producer:
    """Subclass it with a `topic`, and call its methods on the class, or on an instance that has its own `adapter` or
    `options`. The first record boots it; it flushes by interval, by size and at exit; all of it is thread-safe. A
    forked child boots its own and leaves what its parent has buffered to the parent.

    A record's `value` and `key` are bytes, str (written in UTF-8) or None; the class's `serializer` turns any other
    value into bytes (it is not called for None, which is a tombstone). `headers`: a mapping, or pairs, of str and
    str, bytes or None. `partition_key` places the record as if it were the key, and is not stored; `partition` names
    the partition. `timestamp`: milliseconds since the epoch, by default now.

    ConfigurationError is raised, before anything is buffered, for what cannot be a record.
    """

    topic: ClassVar[str | None] = None
    adapter: AdapterChoice = None
    """The cluster, or its URL; None: the process's."""
    options: ProducerOptions | None = None
    """None: the process's."""
    serializer: ClassVar[Any] = None
    """value -> bytes or None."""

    def __init__(self, *, adapter: AdapterChoice = None, options: ProducerOptions | None = None) -> None:
        if adapter is not None:
            self.adapter = config.as_adapter(adapter)
        if options is not None:
            self.options = options

    @classmethod
    def on_error(cls, error: DeliveryError) -> None:
        """Override it (as a class or static method) to hear of records that failed when no caller was left to hear.
        Called on any thread, even the client's: be quick, and do not wait for a delivery."""

    @_OnBoth
    def produce(
        self,
        value: Any,
        *,
        key: str | bytes | None = None,
        headers: HeadersLike | None = None,
        partition_key: str | bytes | None = None,
        partition: int | None = None,
        timestamp: int | None = None,
    ) -> None:
        """Takes a record and returns at once. While the client's queue and the buffer are full it waits up to
        `delivery_timeout` and then raises DeliveryError; inside a running event loop it raises BufferFull at once."""
        try:
            route = OUTBOXES.routes[self]
        except (KeyError, TypeError):
            route = None
        if (
            route is None
            or route.adapter is not self.adapter
            or route.options is not self.options
            or route.topic is not self.topic
            or route.settings is not config.current
        ):
            route = _route(self)
        if type(value) is not bytes or self.serializer is not None:
            value = _value(self, value)
        size = 0 if value is None else len(value)
        if key is not None:
            if type(key) is not bytes:
                key = encode(key, "a key")
            size += len(key)
        pairs = () if headers is None else encode_headers(headers)
        if partition_key is not None or partition is not None or timestamp is not None:
            partition = _place(route.outbox, partition_key, partition, timestamp)
        scope = _current()
        if scope is None:
            route.outbox.put(_tuple(Outgoing, (value, key, pairs, partition, timestamp)), size)
        else:
            _track(route.outbox, Tracked(value, key, pairs, partition, timestamp), size, None)  # type: ignore[arg-type]

    @_OnBoth
    def send(
        self,
        value: Any,
        *,
        key: str | bytes | None = None,
        headers: HeadersLike | None = None,
        partition_key: str | bytes | None = None,
        partition: int | None = None,
        timestamp: int | None = None,
    ) -> Delivery:
        """`produce`, flushed at once. The future's `result(timeout)`, and `await`, give the RecordMetadata of where it
        landed or raise DeliveryError."""
        outbox, record, size = _record(self, value, key, headers, partition_key, partition, timestamp)
        delivery = Delivery(outbox.report)
        _track(outbox, record, size, delivery)
        outbox.flush()
        return delivery

    @_OnBoth
    async def aproduce(
        self,
        value: Any,
        *,
        key: str | bytes | None = None,
        headers: HeadersLike | None = None,
        partition_key: str | bytes | None = None,
        partition: int | None = None,
        timestamp: int | None = None,
    ) -> None:
        """`produce` for an event loop, which goes on while this waits for room, up to `delivery_timeout`. Raises
        DeliveryError."""
        if partition_key is not None and partition is None:
            outbox = await asyncio.to_thread(lambda: _route(self).outbox)
            partition = await asyncio.to_thread(_place, outbox, partition_key, None, None)
            partition_key = None
        outbox, record, size = _record(self, value, key, headers, partition_key, partition, timestamp)
        now = OUTBOXES.system.now
        deadline = now() + outbox.settings.delivery_timeout
        while True:
            try:
                return _track(outbox, record, size, None)
            except BufferFull as full:
                if now() >= deadline:
                    raise DeliveryError(full.failed) from None
            await outbox.room()

    @_OnBoth
    def deliver(self, timeout: float | None = None) -> None:
        """Flushes, and waits up to `timeout` seconds (None: until the client has given up on the last record). Raises
        DeliveryError, which names what failed, earlier failures that nobody heard of included, and what is still
        under way when the time is over: that may yet arrive."""
        _route(self).outbox.deliver(timeout)

    @_OnBoth
    async def adeliver(self, timeout: float | None = None) -> None:
        """`deliver` for an event loop."""
        outbox = await asyncio.to_thread(lambda: _route(self).outbox)
        await outbox.adeliver(timeout)

    @_OnBoth
    def shutdown(self, timeout: float | None = None) -> None:
        """`deliver`, and closes the client unless other producers use it; `timeout` None: somewhat more than
        `delivery_timeout`. Happens at exit by itself. The next record boots it again. Raises DeliveryError."""
        OUTBOXES.shutdown(_route(self).outbox, timeout)

    @_OnBoth
    async def ashutdown(self, timeout: float | None = None) -> None:
        """`shutdown` for an event loop."""
        await asyncio.to_thread(lambda: OUTBOXES.shutdown(_route(self).outbox, timeout))


def _route(target: Any) -> _Route:
    owner = _class_of(target)
    topic = target.topic
    if not topic or not isinstance(topic, str):
        raise ConfigurationError(f'{owner.__qualname__} has no topic: give it a class attribute topic = "…"')
    before = OUTBOXES.routes.get(target) if target is owner else None
    settings = config.current
    options = settings.producer if target.options is None else target.options
    if not isinstance(options, ProducerOptions):
        raise ConfigurationError(f"{owner.__qualname__}.options must be a flux.ProducerOptions")
    adapter = config.resolve_adapter(target.adapter)
    name = (owner.__module__, owner.__qualname__)
    outbox = OUTBOXES.outbox(name, adapter, topic, options.settings, options.limits)
    outbox.on_error = _on_error(target)
    route = _Route(outbox, target.adapter, target.options, topic, settings)
    if before is not None and before.outbox is not outbox:
        before.outbox.flush()
    if target is owner:
        OUTBOXES.routes[target] = route
    return route


def _class_of(target: Any) -> type[Producer]:
    return target if isinstance(target, type) else type(target)


def _plain(target: Any, name: str) -> Any:
    """An attribute that holds a function, which an instance must not turn into a method."""
    if target is not _class_of(target) and name in vars(target):
        return vars(target)[name]
    return getattr(_class_of(target), name)


def _on_error(target: Any) -> Callable[[DeliveryError], object] | None:
    hook = _plain(target, "on_error")
    if hook is None or getattr(hook, "__func__", None) is Producer.on_error.__func__:  # type: ignore[attr-defined]
        return None
    if isinstance(hook, FunctionType | MethodType):
        try:
            inspect.signature(hook).bind(None)
        except TypeError:
            raise ConfigurationError(
                f"{_class_of(target).__qualname__}.on_error must take the error alone: make it a classmethod"
            ) from None
    return hook  # type: ignore[no-any-return]


def _value(target: Any, value: Any) -> bytes | None:
    serializer = _plain(target, "serializer")
    if serializer is None or value is None:
        name = _class_of(target).__qualname__
        return encode(value, f"a value for {name}", f": give {name} a serializer, such as flux.serde.json_serializer")
    return encode(serializer(value), "what a serializer returns")


def _place(outbox: Outbox, partition_key: Any, partition: int | None, timestamp: int | None) -> int | None:
    if timestamp is not None:
        check_number(timestamp, "timestamp (milliseconds since the epoch)", 1)
    if partition is not None:
        check_number(partition, "partition", 0)
    if partition_key is None:
        return partition
    if partition is not None:
        raise ConfigurationError("give partition or partition_key, not both")
    data = encode(partition_key, "partition_key") or b""
    try:
        count = OUTBOXES.client(outbox).partitions(outbox.topic, outbox.settings.delivery_timeout)
    except BrokerError as error:
        raise DeliveryError([FailedRecord(outbox.topic, None, data, None, error)]) from error
    return partition_for_key(data, count)


def _record(
    target: Any,
    value: Any,
    key: str | bytes | None,
    headers: HeadersLike | None,
    partition_key: str | bytes | None,
    partition: int | None,
    timestamp: int | None,
) -> tuple[Outbox, Tracked, int]:
    outbox = _route(target).outbox
    value, data = _value(target, value), encode(key, "a key")
    pairs = () if headers is None else encode_headers(headers)
    partition = _place(outbox, partition_key, partition, timestamp)
    return outbox, Tracked(value, data, pairs, partition, timestamp), len(value or b"") + len(data or b"")


def _track(outbox: Outbox, record: Tracked, size: int, delivery: Delivery | None) -> None:
    scope = record.scope = _current()
    record.delivery = delivery
    if scope is None and delivery is None:
        outbox.put(record, size)
        return
    if scope is not None:
        scope.started(outbox.flush)
    try:
        outbox.put_tracked(record, size)
    except BaseException:
        if scope is not None:
            scope.ended(None)  # the caller hears
        raise
