"""What a handler receives: a record and its stage. Each field is read from the client's record on first use."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import methodcaller
from typing import Any, Generic, Self

import attrs

from flux.core.flux_headers import FluxHeaders, UnreadHeaders
from flux.core.named_work import NamedWork
from flux.core.type_variables import V_co


class Headers(tuple[tuple[str, bytes | None], ...]):
    """A record's headers in order, repeats kept."""

    __slots__ = ()

    def get(self, name: str, default: bytes | None = None) -> bytes | None:
        """The last value of `name`, as Kafka's own `lastHeader`; `default` when there is none."""
        for key, value in reversed(self):
            if key == name:
                return value
        return default

    def all(self, name: str) -> list[bytes | None]:
        """Every value of `name`, in order."""
        return [value for key, value in self if key == name]


NO_HEADERS = Headers()
UNREAD: Any = ()
"""Stands for headers that were not read yet."""


class Message(Generic[V_co]):
    """One record in one stage of a task. `value` is the deserialized value, or bytes if the task has no deserializer;
    the other fields are as in Kafka. `Message[Order]` is a message whose value is an `Order`."""

    __slots__ = ("_flux_headers", "_headers", "_record", "value")

    value: V_co
    _record: Any
    _flux_headers: FluxHeaders | UnreadHeaders
    _headers: Headers | list[Any] | tuple[Headers, Callable[[], Iterable[tuple[str, bytes]]]] | None
    """UNREAD: not read yet; a list: as the client has them; a pair: some headers and a function that makes more; None:
    not readable."""

    # No __init__: it would cost more than everything else here. The executor sets the slots itself, as `of` does.

    @classmethod
    def of(cls, record: Any, value: Any, parsed: FluxHeaders | UnreadHeaders) -> Self:
        """Of a client's record. `value`: its deserialized value, or its value."""
        message = cls()
        message._record = record
        message.value = value
        message._flux_headers = parsed
        message._headers = UNREAD
        return message

    @property
    def topic(self) -> str:
        """The topic of this stage; `origin` has the main one."""
        return self._record.topic()  # type: ignore[no-any-return]

    @property
    def partition(self) -> int:
        return self._record.partition()  # type: ignore[no-any-return]

    @property
    def offset(self) -> int:
        return self._record.offset()  # type: ignore[no-any-return]

    @property
    def key(self) -> bytes | None:
        return self._record.key()  # type: ignore[no-any-return]

    @property
    def timestamp(self) -> int:
        """Milliseconds since the epoch, as Kafka holds it; -1 or 0 when there is none."""
        return self._record.timestamp()[1]  # type: ignore[no-any-return]

    @property
    def headers(self) -> Headers:
        """Empty if the client cannot read them: see `headers_readable`."""
        headers: Any = self._headers
        if type(headers) is not Headers:
            if headers is UNREAD:
                headers = self.read_headers()
            if type(headers) is list:
                headers = Headers(headers) if headers else NO_HEADERS
            elif type(headers) is tuple:
                held, make = headers
                headers = Headers((*held, *make()))
            self._headers = headers
        return NO_HEADERS if headers is None else headers

    def read_headers(self) -> list[tuple[str, bytes | None]] | None:
        """The record's own headers as the client has them; None if it cannot read them. To be called once, first."""
        # After a failure, a second read by confluent-kafka returns dangling pointers.
        try:
            read = _read_headers(self._record)
        except Exception:
            self._headers = None
            return None
        headers = self._headers = read if type(read) is list else list(read or ())
        return headers

    @property
    def headers_readable(self) -> bool:
        """False if a header's name is not UTF-8: then no Python client can read any header of the record."""
        return self.headers is not NO_HEADERS or self._headers is not None

    def carry(self, name: str, value: bytes) -> None:
        """Adds a header to the record's forwarded copies. Does nothing if its own headers cannot be read."""
        headers = self.headers
        if self._headers is not None:
            self._headers = Headers((*headers, (name, value)))

    def carry_later(self, make: Callable[[], Iterable[tuple[str, bytes]]]) -> None:
        """As `carry`, for headers that are made when they are first read, which most records never need. `make` must
        not raise."""
        headers = self._headers
        if type(headers) is not Headers:
            headers = self.headers
        if self._headers is not None:
            self._headers = headers, make

    @property
    def raw_value(self) -> bytes | None:
        """The value as in Kafka, not deserialized."""
        return self._record.value()  # type: ignore[no-any-return]

    def place(self, parsed: FluxHeaders | UnreadHeaders) -> None:
        """Sets its flux headers."""
        self._flux_headers = parsed

    @property
    def flux_headers(self) -> FluxHeaders:
        parsed = self._flux_headers
        if isinstance(parsed, UnreadHeaders):
            unread = parsed
            parsed = self._flux_headers = unread.read(self.headers)
            if parsed.ignored:
                unread.tell(self, parsed.ignored)
        return parsed

    @property
    def named(self) -> NamedWork | None:
        """What it names, if its call was not made in an earlier attempt."""
        parsed = self._flux_headers  # read already, if it has a name
        return None if isinstance(parsed, UnreadHeaders) or parsed.attempts else parsed.named

    @property
    def stage(self) -> int:
        """0 is the main topic, 1 … the retries, retries + 1 the dead letters."""
        return self._flux_headers.stage  # known before it is read

    @property
    def attempt(self) -> int:
        """The number of this call for the record, over all stages; the first is 1."""
        return self.flux_headers.attempts + 1

    @property
    def origin(self) -> tuple[str, int, int]:
        """(topic, partition, offset) of the record in the main topic; this record's own if that is not known."""
        record = self._record
        if self._flux_headers.stage == 0:  # known before it is read
            return record.topic(), record.partition(), record.offset()
        return self.flux_headers.origin or (record.topic(), record.partition(), record.offset())

    @property
    def origin_timestamp(self) -> int | None:
        """Timestamp of the record in the main topic, in milliseconds since the epoch; None if not known."""
        if self._flux_headers.stage == 0:
            return self._record.timestamp()[1]  # type: ignore[no-any-return]
        parsed = self.flux_headers
        if parsed.origin is None and parsed.origin_timestamp is None:
            return self.timestamp
        return parsed.origin_timestamp

    def again(self, failed_at: int) -> Message[Any]:
        """The message for one more call in place, which counts as an attempt. `failed_at`: milliseconds since the
        epoch."""
        record, parsed = self._record, self.flux_headers
        first = failed_at if parsed.first_failed_at is None else parsed.first_failed_at
        again = attrs.evolve(parsed, attempts=parsed.attempts + 1, first_failed_at=first)
        message = Message.of(record, record.value(), again)
        # headers that could not be read are not read again, and added headers are kept
        message._headers = self._headers if self.headers_readable else None
        return message

    @property
    def id(self) -> str:
        """Identifies the record through all retries: "topic/partition/offset" of the origin."""
        return "{}/{}/{}".format(*self.origin)

    @property
    def delivery_id(self) -> str:
        """`id`, stage and number of replays: identifies this delivery of the record."""
        return f"{self.id}/{self.stage}/{self.flux_headers.replays}"

    def __repr__(self) -> str:
        record = self._record
        return (
            f"<Message {record.topic()}[{record.partition()}]@{record.offset()}"
            f" stage {self.stage} attempt {self.attempt}>"
        )


_read_headers = methodcaller("headers")
"""A direct call does not notice that confluent-kafka failed, and returns dangling pointers: CPython's fast path for C
methods skips that check."""
