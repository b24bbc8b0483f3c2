"""Values as JSON, and as instances of attrs classes or dataclasses: `deserializer = model_deserializer(Order)`.

Models need the extra `models` (cattrs), which is imported when a function for them is first called.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable, Iterator, Set
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, get_args, get_origin, is_typeddict

import attrs

from flux.core.error_text import members_of
from flux.core.errors import ConfigurationError
from flux.core.validation import shown
from flux.serde.typed import AS_THEY_ARE, OUTCOMES, type_name

if TYPE_CHECKING:
    from cattrs import Converter

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def json_serializer(value: Any) -> bytes:
    """UTF-8 JSON without spaces. Raises TypeError or ValueError for values that JSON cannot hold or that could not be
    read again: NaN, infinities, lone surrogates, too deep nesting."""
    try:
        return _encode(value).encode()
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


_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_decode = json.JSONDecoder(parse_constant=_refuse, parse_float=_finite).decode

M = TypeVar("M")
_MISSING = 'models need a package: pip install "super-flux[models]"'


def model_converter() -> Converter:
    """cattrs' converter for JSON, without implicit conversions: null is not the str "None", 3.7 not the int 3, "ab" not
    the list ["a", "b"]; but an int is accepted as a float. Fields that the class lacks are ignored, and missing ones
    get their default, so that records from before and after a change can be read.

    Register hooks for your own types on it, and pass it to the functions below. Raises ConfigurationError when cattrs
    is not installed."""
    try:
        from cattrs.preconf.json import make_converter
    except ImportError as error:
        raise ConfigurationError(_MISSING) from error
    return _strict(make_converter())


def _strict(converter: Converter) -> Converter:
    for kind in (str, int, bool):
        converter.register_structure_hook(kind, _exactly(kind))
    number = _exactly(float, int)
    converter.register_structure_hook(float, lambda value, _: float(number(value, float)))
    converter.register_structure_hook_factory(_is_array, _array)
    return converter


def model_serializer(model: type[M], converter: Converter | None = None) -> Callable[[M | None], bytes | None]:
    """instance -> JSON in UTF-8. The serializer raises TypeError for a value that is no instance of `model`, and
    TypeError or ValueError for values that JSON cannot hold. This function raises ConfigurationError."""
    used = CattrsModel(_checked(model), converter)

    def serialize(value: M | None) -> bytes | None:
        if value is None:
            return None
        if not isinstance(value, model):
            raise TypeError(f"an instance of {model.__name__} was expected, not of {type(value).__name__}")
        return used.to_json(value)

    return serialize


def model_deserializer(model: type[M], converter: Converter | None = None) -> Callable[[bytes | None], M | None]:
    """JSON -> instance; None for a tombstone. The deserializer raises ValueError for data that is no JSON or does not
    fit `model`; it names the fields, but none of their values. This function raises ConfigurationError."""
    used = CattrsModel(_checked(model), converter)
    return lambda data: None if data is None else used.from_json(data)


def _checked(model: type) -> type:
    if not (isinstance(model, type) and (attrs.has(model) or dataclasses.is_dataclass(model))):
        raise ConfigurationError(f"a model is an attrs class or a dataclass, not {shown(model)}")
    return model


class CattrsModel:
    """An attrs class, a dataclass, a TypedDict, or a type that contains them."""

    def __init__(self, kind: Any, converter: Converter | None = None) -> None:
        self._kind, self._name = kind, type_name(kind)
        self._converter = model_converter() if converter is None else converter
        self._of_object = attrs.has(kind) or dataclasses.is_dataclass(kind) or is_typeddict(kind)
        try:
            self._converter.get_structure_hook(kind)
        except Exception as error:
            raise ConfigurationError(f"{self._name} cannot be read: {error}") from error

    def to_json(self, value: Any) -> bytes:
        return json_serializer(self.to_plain(value))

    def from_json(self, data: bytes) -> Any:
        return self.from_plain(json_deserializer(data))

    def to_plain(self, value: Any) -> Any:
        return self._converter.unstructure(value)

    def from_plain(self, value: Any) -> Any:
        if self._of_object and not isinstance(value, dict):
            raise ValueError(f"no {self._name}: a JSON object was expected, not {type(value).__name__}")
        try:
            return self._converter.structure(value, self._kind)
        except Exception as error:
            decided = next(_decided(error), None)
            if decided is not None:
                raise decided from None
            raise ValueError(f"no {self._name}: {'; '.join(_faults(error, None, '$'))}") from None


def plain_converter() -> Converter:
    """For values that a schema describes: dates, decimals and others stay what they are. Raises ConfigurationError."""
    try:
        from cattrs import Converter
    except ImportError as error:
        raise ConfigurationError(_MISSING) from error

    converter = _strict(Converter(unstruct_collection_overrides={Set: list}))
    for kind in AS_THEY_ARE:
        converter.register_structure_hook(kind, _exactly(kind))
    return converter


def _decided(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, OUTCOMES):
        yield error
    for each in members_of(error):
        yield from _decided(each)


def _faults(error: BaseException, expected: Any, path: str) -> Iterator[str]:
    """As cattrs' `transform_error`, without parts of the input: its messages quote users' errors, and its paths the
    keys of mappings."""
    from cattrs.errors import ClassValidationError, ForbiddenExtraKeysError, IterableValidationError

    if isinstance(error, ClassValidationError):
        named, others = error.group_exceptions()
        for each, field in named:
            yield from _faults(each, field.type, f"{path}.{field.name}")
    elif isinstance(error, IterableValidationError):
        indexed, others = error.group_exceptions()
        for each, item in indexed:
            place = item.index if isinstance(item.index, int) else "…"
            yield from _faults(each, item.type, f"{path}[{place}]")
    else:
        if isinstance(error, KeyError):
            what = "required field missing"
        elif isinstance(error, ForbiddenExtraKeysError):
            what = "unknown fields"
        else:
            what = "invalid value" if expected is None else f"invalid value for type, expected {type_name(expected)}"
        yield f"{what} @ {path}"
        return
    for each in others:
        yield from _faults(each, None, path)


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
