"""Values of msgspec structs, as JSON."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from flux.core.errors import ConfigurationError
from flux.serde.typed import AS_THEY_ARE, OUTCOMES, type_name

_FAULT = re.compile(r"(?P<what>.*?)(?: - at (?:`key` in )?`(?P<place>[^`]*)`)?\Z", re.DOTALL)
_WITHOUT_VALUES = (
    "Expected ",
    "Object missing required field ",
    "Number out of range",
    "JSON is malformed",
    "Input data",
)


class MsgspecModel:
    """A struct, or a type that contains structs."""

    def __init__(self, kind: Any) -> None:
        self._name = type_name(kind)
        self.to_json = msgspec.json.Encoder().encode
        try:
            self._decode = msgspec.json.Decoder(kind).decode
            self._convert = partial(msgspec.convert, type=kind, builtin_types=AS_THEY_ARE)
        except Exception as error:
            raise ConfigurationError(f"msgspec cannot read {self._name}: {error}") from error

    def to_plain(self, value: Any) -> Any:
        return msgspec.to_builtins(value, builtin_types=AS_THEY_ARE)

    def from_json(self, data: bytes) -> Any:
        return self._read(self._decode, data)

    def from_plain(self, data: Any) -> Any:
        return self._read(self._convert, data)

    def _read(self, read: Callable[[Any], Any], data: Any) -> Any:
        try:
            return read(data)
        except OUTCOMES:
            raise
        except msgspec.MsgspecError as error:
            raise ValueError(f"no {self._name}: {_fault(error)}") from None
        except Exception as error:
            raise ValueError(f"no {self._name}: {type(error).__name__}") from None


def _fault(error: Exception) -> str:
    """msgspec's message, unless it may quote the input, or is that of an error in the user's `__post_init__`."""
    found = _FAULT.fullmatch(str(error))
    what, place = ("", None) if found is None else found.group("what", "place")
    if error.__cause__ is not None or not what.startswith(_WITHOUT_VALUES):
        what = "invalid value"
    return f"{what} @ {place or '$'}"
