"""What the type parameter of a task or producer class means: `flux.Task[Order]`, `flux.Producer[Order]`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any

from flux.core.engine.verdicts import Tombstone
from flux.core.errors import ConfigurationError
from flux.core.validation import shown
from flux.serde.typed import type_argument, type_name, without_none
from flux.serde.values import Deserializer, Serializer, Values, of_type


class Parameter:
    """The type parameter of the class `name`, which `find` finds. `base`: Task or Producer."""

    def __init__(self, name: str, base: str, find: Callable[[], Any]) -> None:
        self._name, self._base, self._find = name, base, find

    @cached_property
    def _kind(self) -> tuple[Any, bool]:
        return without_none(self._find())

    @cached_property
    def values(self) -> Values[Any] | None:
        """None without a parameter. Raises ConfigurationError for a type that flux cannot read."""
        kind = self._kind[0]
        if kind is Any:
            return None
        try:
            return of_type(kind)
        except ConfigurationError as error:
            raise ConfigurationError(f"{self._name}: {error}") from error

    @property
    def with_none(self) -> str:
        """The class that takes None too; empty: this one does."""
        kind, takes_none = self._kind
        return "" if takes_none else f"flux.{self._base}[{type_name(kind)} | None]"


def parameter_of(owner: Any, base: type) -> Parameter:
    """The parameter of a class, or of an instance's class."""
    cls = owner if isinstance(owner, type) else type(owner)
    found: Parameter | None = cls.__dict__.get("_parameter")
    if found is None:
        found = Parameter(cls.__name__, base.__name__, partial(type_argument, cls, base))
        type.__setattr__(cls, "_parameter", found)  # past a producer's own, which makes all start anew
    return found


def serializer_of(owner: Any, base: type, topic: str) -> Serializer | None:
    """The one that is named, else that of `values`, else that of the type parameter; none of these for a deserializer
    that is named alone, since they may not write what it reads."""
    named = assigned(owner, "serializer")
    if named is None and assigned(owner, "deserializer") is None:
        values = _values(owner, base)
        return None if values is None else values.serializer(topic)
    return named  # type: ignore[no-any-return]


def deserializer_of(owner: Any, base: type, topic: str) -> Deserializer | None:
    """As `serializer_of`; it raises Tombstone for a record without a value if the type parameter is without None."""
    deserializer: Deserializer | None = assigned(owner, "deserializer")
    if deserializer is None:
        values = _values(owner, base)
        deserializer = None if values is None else values.deserializer(topic)
    parameter = parameter_of(owner, base)
    return _refusing_tombstones(deserializer, parameter.with_none) if parameter.with_none else deserializer


def _values(owner: Any, base: type) -> Values[Any] | None:
    values = owner.values
    if values is None:
        return parameter_of(owner, base).values
    if not isinstance(values, Values):
        raise ConfigurationError(
            f"{_name(owner)}: values = {shown(values)}: give flux.serde.json(…), avro(…), json_schema(…) or protobuf(…)"
        )
    return values


def _refusing_tombstones(deserializer: Deserializer | None, with_none: str) -> Deserializer:
    def deserialize(data: bytes | None) -> Any:
        if data is None:
            raise Tombstone(f"a tombstone: only a {with_none} takes records without a value")
        return data if deserializer is None else deserializer(data)

    return deserialize


def assigned(owner: object, name: str) -> Any:
    """An attribute that may be a function, as it was assigned: not bound to an instance or a class."""
    value = inspect.getattr_static(owner, name, None)
    return value.__func__ if isinstance(value, staticmethod | classmethod) else value


def _name(owner: Any) -> str:
    return str((owner if isinstance(owner, type) else type(owner)).__name__)
