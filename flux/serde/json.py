"""Values as JSON: `serializer = flux.serde.json_serializer` on a producer class."""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def json_serializer(value: Any) -> bytes:
    """UTF-8 JSON without spaces. Raises TypeError or ValueError for values that JSON cannot hold or that could not be
    read again: NaN, infinities, lone surrogates, too deep nesting."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except RecursionError:
        raise ValueError("nested too deeply for JSON") from None


def json_deserializer(data: bytes | None) -> Any:
    """The decoded value; None for a tombstone. Raises ValueError for data that is not JSON in UTF-8, for NaN and
    numbers that a float cannot hold, for lone surrogates and for too deep nesting."""
    if data is None:
        return None
    try:
        value = _decode(str(data, "utf-8"))
        if _SURROGATE.search(data):
            json_serializer(value)
    except UnicodeEncodeError:
        raise ValueError("a lone surrogate, which no text can hold") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError("a number that is too large for a float")
    return number


_decode = json.JSONDecoder(parse_constant=_refuse, parse_float=_finite).decode
