"""Values as JSON: `serializer = flux.serde.json_serializer` on a producer class."""

from __future__ import annotations

import json
from typing import Any


def json_serializer(value: Any) -> bytes:
    """UTF-8 JSON without spaces. Raises TypeError or ValueError for what JSON cannot hold, NaN included."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def json_deserializer(data: bytes | None) -> Any:
    """What a value holds; None for a tombstone. Raises ValueError when it is not JSON in UTF-8."""
    return None if data is None else json.loads(data)
