"""Values of Pydantic models, as JSON."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from typing import Any

from pydantic import TypeAdapter, ValidationError

from flux.core.errors import ConfigurationError
from flux.serde.typed import OUTCOMES, type_name


class PydanticModel:
    """A model, or a type that contains models. Fields are written under their aliases, which are read again."""

    def __init__(self, kind: Any) -> None:
        self._name = type_name(kind)
        try:
            self._adapter: TypeAdapter[Any] = TypeAdapter(kind)
            self._names = set(_names(dict(self._adapter.core_schema)))  # a copy, since an unfinished one raises
        except Exception as error:
            raise ConfigurationError(f"Pydantic cannot read {self._name}: {str(error).splitlines()[0]}") from error

    def to_json(self, value: Any) -> bytes:
        data: bytes = self._write(self._adapter.dump_json, value)
        return data

    def to_plain(self, value: Any) -> Any:
        return _plain(self._write(self._adapter.dump_python, value))

    def _write(self, dump: Callable[..., Any], value: Any) -> Any:
        try:
            return dump(value, by_alias=True, warnings="error")
        except Exception as error:
            raise TypeError(f"a value does not fit {self._name}: {type(error).__name__}") from None

    def from_json(self, data: bytes) -> Any:
        return self._read(self._adapter.validate_json, data)

    def from_plain(self, data: Any) -> Any:
        return self._read(self._adapter.validate_python, data)

    def _read(self, validate: Callable[[Any], Any], data: Any) -> Any:
        try:
            return validate(data)
        except ValidationError as error:
            raise ValueError(f"no {self._name}: {self._faults(error)}") from None
        except OUTCOMES:
            raise
        except Exception as error:
            raise ValueError(f"no {self._name}: {type(error).__name__} in a validator") from None

    def _faults(self, error: ValidationError) -> str:
        """Pydantic's codes of errors, with their places. Its messages and its places contain parts of the input."""
        found = error.errors(include_url=False, include_context=False, include_input=False)
        return "; ".join(f"{each['type']} @ {self._place(each['loc'])}" for each in found)

    def _place(self, parts: tuple[int | str, ...]) -> str:
        return "$" + "".join(
            f"[{part}]" if isinstance(part, int) else f".{part}" if part in self._names else "[…]" for part in parts
        )


def _plain(value: Any) -> Any:
    """Without enums and sets, which schemas have not."""
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, dict):
        return {_plain(key): _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple | set | frozenset) else value


def _names(schema: Any) -> Iterator[str]:
    """The names of fields, their aliases, and tags in a core schema."""
    if isinstance(schema, list | tuple):
        for each in schema:
            yield from _names(each)
    elif isinstance(schema, dict):
        for key, value in schema.items():
            if key in ("fields", "choices") and isinstance(value, dict):
                yield from map(str, value)
            elif key in ("name", "validation_alias"):
                yield from _texts(value)
            if key != "metadata":
                yield from _names(value)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _texts(each)
