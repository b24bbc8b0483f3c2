"""`Values`: how the values of a type become bytes and back, for `values` of a task or a producer."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, Generic

from flux.core.type_variables import V, V_co
from flux.serde.models import CattrsModel, json_deserializer, json_serializer, plain_converter
from flux.serde.typed import bare, classes_of, instance_check, leaves

if TYPE_CHECKING:
    from typing import Protocol

    from typing_extensions import TypeForm

    class Model(Protocol):
        """What a library does with values of one type. Errors are ValueError or TypeError, and contain no values."""

        def to_json(self, value: Any, /) -> bytes: ...

        def from_json(self, data: bytes, /) -> Any: ...

        def to_plain(self, value: Any, /) -> Any:
            """dicts and lists, with dates, times, decimals, UUIDs and bytes as they are."""

        def from_plain(self, data: Any, /) -> Any: ...


Serializer = Callable[[Any], bytes | None]
Deserializer = Callable[[bytes | None], Any]
_PLAIN: tuple[Any, ...] = (dict, list, dict[str, Any], list[Any], dict[str, object], list[object])
_SHOWN: dict[type, str] = {dict: "object", list: "array"}


class Values(Generic[V_co]):
    """A pair of functions: main topic -> serializer, and main topic -> deserializer, each called once per topic."""

    def __init__(
        self, serializer: Callable[[str], Serializer | None], deserializer: Callable[[str], Deserializer | None]
    ):
        self.serializer = cache(serializer)
        self.deserializer = cache(deserializer)


def json(kind: TypeForm[V]) -> Values[V]:
    """Values of a type as JSON in UTF-8: Pydantic models, msgspec structs, attrs classes, dataclasses, TypedDicts,
    `dict`, `list`, and unions and containers of them. Raises ConfigurationError for a type that cannot be read."""
    model, check = model_of(kind), instance_check(kind)

    def serialize(value: Any) -> bytes | None:
        if value is None:
            return None
        check(value)
        return model.to_json(value)

    def deserialize(data: bytes | None) -> Any:
        return None if data is None else model.from_json(data)

    return Values(lambda _: serialize, lambda _: deserialize)


def of_type(kind: Any) -> Values[Any]:
    """The values of a task or producer whose type parameter is `kind`: bytes as they are, str in UTF-8, else JSON."""
    if bare(kind) is bytes:
        return Values(lambda _: None, lambda _: None)
    if bare(kind) is str:
        return Values(lambda _: None, lambda _: _text)
    return json(kind)


def _text(data: bytes | None) -> str | None:
    return None if data is None else str(data, "utf-8")


def model_of(kind: Any, of_schema: bool = False) -> Model:
    """`of_schema`: for `to_plain` and `from_plain`, else for JSON. Raises ConfigurationError."""
    if bare(kind) in _PLAIN:
        return PlainJson(kind)
    found = leaves(kind)
    if any(hasattr(each, "__pydantic_validator__") for each in found):
        from flux.serde.pydantic_models import PydanticModel

        return PydanticModel(kind)
    if any(hasattr(each, "__struct_fields__") for each in found):
        from flux.serde.msgspec_models import MsgspecModel

        return MsgspecModel(kind)
    return CattrsModel(kind, plain_converter() if of_schema else None)


class PlainJson:
    """`dict` or `list`, with anything in it."""

    def __init__(self, kind: Any) -> None:
        (self._class,) = classes_of(kind)
        self.to_json = json_serializer

    def to_plain(self, value: Any) -> Any:
        return value

    def from_json(self, data: bytes) -> Any:
        return self.from_plain(json_deserializer(data))

    def from_plain(self, value: Any) -> Any:
        if not isinstance(value, self._class):
            raise ValueError(f"a JSON {_SHOWN[self._class]} was expected, not {type(value).__name__}")
        return value
