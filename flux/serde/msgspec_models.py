"""Values of msgspec structs, as JSON."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from flux.core.errors import ConfigurationError
from flux.serde.typed import OUTCOMES, type_name

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
        except Exception as error:
            raise ConfigurationError(f"msgspec cannot read {self._name}: {error}") from error

    def from_json(self, data: bytes) -> Any:
        try:
            return self._decode(data)
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
