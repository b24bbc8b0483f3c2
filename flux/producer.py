"""`Producer`: a class per topic. Its records are buffered, and flushed in the background."""

from __future__ import annotations

import asyncio
from abc import ABCMeta
from collections.abc import Callable
from copy import deepcopy
from typing import Any, ClassVar, Generic, Self, SupportsIndex, cast

from flux import config
from flux.config import AdapterChoice, ProducerOptions
from flux.core.errors import BufferFull, ConfigurationError, DeliveryError
from flux.core.ports import ProducerRecord
from flux.core.type_variables import R, V
from flux.core.validation import Seconds, plain, seconds
from flux.processes.sigterm import handle_sigterm
from flux.producing.delivery import Delivery
from flux.producing.encoding import HeadersLike, encode, encode_headers, encode_value
from flux.producing.produced import Scope, Tracked
from flux.producing.producer_buffer import ProducerBuffer
from flux.producing.registry import PRODUCERS
from flux.producing.scope import CURRENT
from flux.serde.parameters import parameter_of, serializer_of
from flux.serde.values import Values
from flux.system.process_end import ending, refused

_current = CURRENT.get
_new = tuple.__new__
_CONFIGURATION = frozenset(["topic", "adapter", "options", "serializer", "values", "on_error"])


class _ProducerClass(ABCMeta):
    """Attributes that are set on a producer class take effect with the next record."""

    def __setattr__(cls, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        PRODUCERS.reroute()

    def __delattr__(cls, name: str) -> None:
        super().__delattr__(name)
        PRODUCERS.reroute()


class Producer(Generic[V], metaclass=_ProducerClass):
    """Subclass it with a `topic`, and call its methods on the class, or on an instance that has its own `adapter` or
    `options`. The first record starts it. It flushes by interval, by size and at exit. Thread-safe. A forked child
    starts its own, and leaves its parent's buffered records to the parent.

    A record's `value` and `key` are bytes, str (written in UTF-8) or None, a tombstone; the class's `serializer` turns
    other values into bytes. A `flux.Producer[Order]` writes an `Order` as JSON, and no tombstones: these need a
    `flux.Producer[Order | None]`. `headers`: a mapping, or pairs, of str and str, bytes or None. `partition_key` places
    the record as if it were the key, and is not stored. `timestamp`: milliseconds since the epoch, by default now.

    Methods raise ConfigurationError for an invalid record, before anything is buffered.
    """

    topic: ClassVar[str | None] = None
    adapter: AdapterChoice = None
    """The cluster, or its URL. The first set counts: instance, class, `--adapter`, FLUX_ADAPTER, `flux.configure`."""
    options: ProducerOptions | None = None
    """None: the process's."""
    serializer: ClassVar[Any] = None
    """value -> bytes or None."""
    values: Values[V] | None = None
    """Gives the serializer if that is None; None: the type parameter gives it."""

    _serialize: ClassVar[Any] = None
    _shared: ClassVar[type[Producer] | None] = None
    _own: ClassVar[dict[str, Any]] = {}

    def __init__(self, *, adapter: AdapterChoice = None, options: ProducerOptions | None = None) -> None:
        if adapter is not None:
            self.adapter = adapter
        if options is not None:
            self.options = options

    def __setattr__(self, name: str, value: Any) -> None:
        # The methods are class methods, which costs `produce` nothing. So an instance with its own configuration gets
        # its own class, on which they work unchanged, also in overrides that call super().
        if name in _CONFIGURATION:
            self.__class__ = _class_for(self._shared or type(self), {**self._own, name: value})
        else:
            super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        if name in self._own:
            left = {each: value for each, value in self._own.items() if each != name}
            self.__class__ = _class_for(self._shared or type(self), left)
        else:
            super().__delattr__(name)

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[Any, ...]:
        return _rebuild, (self._shared or type(self), self._own), self.__dict__ or None

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        copied = object.__new__(type(self))
        copied.__dict__.update(deepcopy(self.__dict__, memo))
        return copied

    @classmethod
    def on_error(cls, error: DeliveryError) -> None:
        """Called with delivery failures that no caller waits for. Override it as a class or static method. It is called
        on any thread, even the client's: return quickly, and do not wait for a delivery."""

    @classmethod
    def produce(
        cls,
        value: V,
        *,
        key: str | bytes | None = None,
        headers: HeadersLike | None = None,
        partition_key: str | bytes | None = None,
        partition: int | None = None,
        timestamp: int | None = None,
    ) -> None:
        """Buffers a record and returns at once. While the client's queue and the buffer are full, it waits up to
        `delivery_timeout` and then raises DeliveryError; inside a running event loop it raises BufferFull at once.

        In a task's call the record is held until the call has returned, and dropped if the call fails. Raises
        BufferFull when the call would hold more than `max_queue_bytes`."""
        buffer = PRODUCERS.routes.get(cls) or _route(cls)
        data: Any = value if type(value) is bytes and cls._serialize is None else _encoded(cls, value)
        size = 0 if data is None else len(data)
        if key is not None:
            if type(key) is not bytes:
                key = encode(key, "a key")
            size += len(key or b"")
        pairs = () if headers is None else encode_headers(headers)
        if partition_key is not None or partition is not None or timestamp is not None:
            partition = buffer.choose_partition(partition_key, partition, timestamp)
        if _current() is not None:
            _put(buffer, ProducerRecord(data, key, pairs, partition, timestamp), size)
            return
        record = _new(ProducerRecord, (data, key, pairs, partition, timestamp))
        filling = buffer.filling
        if filling.blocked:
            buffer.wait_for_room(record)
        if filling.add(record, size):
            buffer.added()

    @classmethod
    def send(
        cls,
        value: V,
        *,
        key: str | bytes | None = None,
        headers: HeadersLike | None = None,
        partition_key: str | bytes | None = None,
        partition: int | None = None,
        timestamp: int | None = None,
    ) -> Delivery:
        """As `produce`, but it leaves at once, also in a task's call that fails later. The future's `result(timeout)`,
        and `await`, return where the record was written, as RecordMetadata, or raise DeliveryError. Raises
        ConfigurationError in an exactly-once call."""
        buffer, record, _ = _record(cls, value, key, headers, partition_key, partition, timestamp)
        scope = _current()
        if scope is None or not _joins(scope, buffer):
            return buffer.send(record, None)
        return _in_scope(scope, lambda: buffer.send(record, scope))

    @classmethod
    async def aproduce(
        cls,
        value: V,
        *,
        key: str | bytes | None = None,
        headers: HeadersLike | None = None,
        partition_key: str | bytes | None = None,
        partition: int | None = None,
        timestamp: int | None = None,
    ) -> None:
        """`produce` for an event loop: awaits room in the buffer, up to `delivery_timeout`. Raises DeliveryError."""
        if partition_key is not None and partition is None:
            buffer = await asyncio.to_thread(_route, cls)
            partition = await asyncio.to_thread(buffer.choose_partition, partition_key, None, None)
            partition_key = None
        buffer, record, size = _record(cls, value, key, headers, partition_key, partition, timestamp)
        taken = _held(buffer, record, size)
        while not taken:
            try:
                _put_now(buffer, record, size)
                taken = True
            except BufferFull:
                await buffer.await_room(record)

    @classmethod
    def flush(cls, timeout: Seconds | None = None) -> None:
        """Flushes, and waits up to `timeout` seconds (None: until the client has given up the last record). What a
        running call of a task has produced stays held. Raises DeliveryError, which names the records that failed, also
        earlier ones that no caller got, and those still in flight after `timeout`, which may still arrive."""
        if not ending():  # the exit handler has delivered, or named, all records
            _route(cls).flush(seconds(timeout))

    @classmethod
    async def aflush(cls, timeout: Seconds | None = None) -> None:
        """`flush` for an event loop."""
        buffer = await asyncio.to_thread(_route, cls)
        await buffer.aflush(seconds(timeout))

    @classmethod
    def close(cls, timeout: Seconds | None = None) -> None:
        """`flush`, then closes the client unless other producers use it; `timeout` None: `delivery_timeout` and 5 s.
        Called at exit by itself. The next record starts it again. Raises DeliveryError."""
        if not ending():
            PRODUCERS.close(_route(cls), seconds(timeout))

    @classmethod
    async def aclose(cls, timeout: Seconds | None = None) -> None:
        """`close` for an event loop."""
        await asyncio.to_thread(lambda: PRODUCERS.close(_route(cls), seconds(timeout)))


def _class_for(shared: type[Producer], own: dict[str, Any]) -> type[Producer]:
    names = {"__module__": shared.__module__, "__qualname__": shared.__qualname__, "__doc__": shared.__doc__}
    made: Any = _ProducerClass(shared.__name__, (shared,), {**own, **names, "_shared": shared, "_own": own})
    return cast(type[Producer], made)


def _rebuild(shared: type[Producer], own: dict[str, Any]) -> Producer:
    return object.__new__(_class_for(shared, own) if own else shared)


def _route(producer: type[Producer]) -> ProducerBuffer:
    routes = PRODUCERS.routes  # replaced whenever the configuration changes
    name, topic = producer.__qualname__, plain(producer.topic)
    if not topic or not isinstance(topic, str):
        raise ConfigurationError(f'{name} has no topic: give it a class attribute topic = "…"')
    if ending():
        raise refused(topic)
    options = config.current.producer if producer.options is None else producer.options
    if not isinstance(options, ProducerOptions):
        raise ConfigurationError(f"{name}.options must be a flux.ProducerOptions")
    adapter = config.resolve_adapter(producer.adapter)
    buffer = PRODUCERS.buffer((producer.__module__, name), adapter, topic, options.settings, options.limits)
    buffer.unclaimed.set_on_error(producer.on_error, name)
    if config.current.flush_on_sigterm:
        handle_sigterm()
    type.__setattr__(producer, "_serialize", serializer_of(producer, Producer, topic))
    if not PRODUCERS.exited:  # after the exit, each record comes through here
        routes[producer] = buffer
    return buffer


def _encoded(producer: type[Producer], value: Any) -> bytes | None:
    with_none = parameter_of(producer, Producer).with_none if value is None else ""
    return encode_value(value, producer._serialize, producer.__qualname__, with_none)


def _record(
    producer: type[Producer],
    value: Any,
    key: str | bytes | None,
    headers: HeadersLike | None,
    partition_key: str | bytes | None,
    partition: int | None,
    timestamp: int | None,
) -> tuple[ProducerBuffer, ProducerRecord, int]:
    buffer = PRODUCERS.routes.get(producer) or _route(producer)
    value, data = _encoded(producer, value), encode(key, "a key")
    pairs = () if headers is None else encode_headers(headers)
    partition = buffer.choose_partition(partition_key, partition, timestamp)
    return buffer, ProducerRecord(value, data, pairs, partition, timestamp), len(value or b"") + len(data or b"")


def _put(buffer: ProducerBuffer, record: ProducerRecord, size: int) -> None:
    if not _held(buffer, record, size):
        _put_now(buffer, record, size)


def _held(buffer: ProducerBuffer, record: ProducerRecord, size: int) -> bool:
    """Whether the running call holds the record until it has returned."""
    scope = _current()
    return scope is not None and scope.holds and scope.hold(buffer, Tracked(*record), size)


def _put_now(buffer: ProducerBuffer, record: ProducerRecord, size: int) -> None:
    scope = _current()
    if scope is None or not _joins(scope, buffer):
        buffer.put(record, size)
        return
    tracked = Tracked(*record)
    tracked.scope = scope
    _in_scope(scope, lambda: buffer.put(tracked, size))


def _joins(scope: Scope, buffer: ProducerBuffer) -> bool:
    """Whether a record belongs to the call in whose context it is produced; not after the call's end."""
    if scope.started(buffer.pass_on_soon):
        return True
    buffer.log_late()
    return False


def _in_scope(scope: Scope, put: Callable[[], R]) -> R:
    try:
        return put()
    except BaseException:
        scope.ended(None)  # the caller gets the error
        raise
