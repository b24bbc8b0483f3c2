"""Values as JSON, and as instances of attrs classes or dataclasses: `deserializer = model_deserializer(Order)`.

Models need the extra `models` (cattrs), which is imported when a function for them is first called.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, get_args, get_origin

import attrs

from flux.core.errors import ConfigurationError

if TYPE_CHECKING:
    from cattrs import Converter

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

M = TypeVar("M")


def model_converter() -> Converter:
    """cattrs' converter for JSON, without implicit conversions: null is not the str "None", 3.7 not the int 3, "ab" not
    the list ["a", "b"]; but an int is accepted as a float. Fields that the class lacks are ignored, and missing ones
    get their default, so that records from before and after a change can be read.

    Register hooks for your own types on it, and pass it to the functions below. Raises ConfigurationError when cattrs
    is not installed."""
    try:
        from cattrs.preconf.json import make_converter
    except ImportError as error:
        raise ConfigurationError('models need a package: pip install "super-flux[models]"') from error
    converter = make_converter()
    for kind in (str, int, bool):
        converter.register_structure_hook(kind, _exactly(kind))
    number = _exactly(float, int)
    converter.register_structure_hook(float, lambda value, _: float(number(value, float)))
    converter.register_structure_hook_factory(_is_array, _array)
    return converter


def model_serializer(model: type[M], converter: Converter | None = None) -> Callable[[M | None], bytes | None]:
    """instance -> JSON in UTF-8. The serializer raises TypeError for a value that is no instance of `model`, and
    TypeError or ValueError for values that JSON cannot hold. This function raises ConfigurationError."""
    used = _checked(model, converter)

    def serialize(value: M | None) -> bytes | None:
        if value is None:
            return None
        if not isinstance(value, model):
            raise TypeError(f"an instance of {model.__name__} was expected, not of {type(value).__name__}")
        return json_serializer(used.unstructure(value))

    return serialize


def model_deserializer(model: type[M], converter: Converter | None = None) -> Callable[[bytes | None], M | None]:
    """JSON -> instance; None for a tombstone. The deserializer raises ValueError for data that is no JSON or does not
    fit `model`; it names the fields, but none of their values. This function raises ConfigurationError."""
    used = _checked(model, converter)
    from cattrs import transform_error

    def deserialize(data: bytes | None) -> M | None:
        if data is None:
            return None
        value = json_deserializer(data)
        if not isinstance(value, dict):
            raise ValueError(f"no {model.__name__}: a JSON object was expected, not {type(value).__name__}")
        try:
            return used.structure(value, model)
        except Exception as error:
            raise ValueError(f"no {model.__name__}: {'; '.join(transform_error(error))}") from error

    return deserialize


def _checked(model: type[Any], converter: Converter | None) -> Converter:
    if not (isinstance(model, type) and (attrs.has(model) or dataclasses.is_dataclass(model))):
        raise ConfigurationError(f"a model is an attrs class or a dataclass, not {model!r}")
    used = model_converter() if converter is None else converter
    try:
        used.get_structure_hook(model)
    except Exception as error:
        raise ConfigurationError(f"{model.__name__} cannot be read from JSON: {error}") from error
    return used


def _exactly(*kinds: type[Any]) -> Callable[[Any, Any], Any]:
    def structure(value: Any, _: Any) -> Any:
        if type(value) not in kinds:
            raise TypeError(f"expected {kinds[0].__name__}, not {type(value).__name__}")
        return value

    return structure


def _is_array(kind: Any) -> bool:
    origin = get_origin(kind) or kind
    return origin in (list, set, frozenset) or (origin is tuple and get_args(kind)[1:] == (...,))


def _array(kind: Any, converter: Converter) -> Callable[[Any, Any], Any]:
    from cattrs.cols import list_structure_factory

    make = get_origin(kind) or kind
    exact = _exactly(list)
    listed: Any = list.__class_getitem__((get_args(kind) or (Any,))[0])
    items = list_structure_factory(listed, converter)
    return lambda value, _: make(items(exact(value, list), list))
