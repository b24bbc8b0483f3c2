"""Encodes the parts of a record. Refuses what a client would crash on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from flux.core.errors import ConfigurationError
from flux.core.validation import is_whole, plain, shown

HeaderValue = str | bytes | None
HeadersLike = Mapping[str, HeaderValue] | Iterable[tuple[str, HeaderValue]]


def encode(value: Any, what: str, remedy: str = "") -> bytes | None:
    """Returns bytes and None as they are, str in UTF-8. Raises ConfigurationError for anything else."""
    if value is None or isinstance(value, bytes):
        return value
    if isinstance(value, str):
        try:
            return value.encode()
        except UnicodeEncodeError:
            raise ConfigurationError(f"{what} holds a lone surrogate: it cannot be written as UTF-8") from None
    raise ConfigurationError(f"{what} must be str, bytes or None, not {type(value).__name__}{remedy}")


def encode_value(
    value: Any, serializer: Callable[[Any], Any] | None, producer: str, with_none: str = ""
) -> bytes | None:
    """A record's value, by the serializer if there is one; None, a tombstone, as it is, unless only a producer
    `with_none` writes tombstones. Raises ConfigurationError, and what the serializer raises."""
    if value is None and with_none:
        raise ConfigurationError(f"a tombstone for {producer}: only a {with_none} writes them")
    if serializer is None or value is None:
        remedy = f": give {producer} a serializer, such as flux.serde.json_serializer"
        return encode(value, f"a value for {producer}", remedy)
    return encode(serializer(value), "what a serializer returns")


def encode_headers(headers: HeadersLike) -> list[tuple[str, bytes | None]]:
    """In order, repeats kept. Raises ConfigurationError."""
    items: Any = headers.items() if type(headers) is dict or isinstance(headers, Mapping) else headers
    pairs: list[tuple[str, bytes | None]] = []
    try:
        for name, value in items:
            if type(name) is not str or not name.isascii() or "\0" in name:
                name = _checked_name(name)
            if value is None or type(value) is bytes:
                pairs.append((name, value))
            elif type(value) is str and value.isascii():
                pairs.append((name, value.encode()))
            else:
                pairs.append((name, encode(value, f"header {name}")))
    except (TypeError, ValueError):
        raise ConfigurationError("headers must be a mapping, or pairs of a name and a value") from None
    return pairs


def _checked_name(name: Any) -> str:
    if not isinstance(name, str):
        raise ConfigurationError(f"a header's name must be str, not {type(name).__name__}")
    encode(name, "a header's name")
    if "\0" in name:
        raise ConfigurationError(f"a header's name must hold no NUL: {name!r}")
    return plain(name)  # type: ignore[no-any-return]


def check_number(number: object, what: str, least: int, most: int) -> None:
    if not is_whole(number, least, most):
        raise ConfigurationError(f"{what} must be a whole number from {least} to {most}, not {shown(number)}")
