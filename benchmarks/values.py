"""`python -m benchmarks.values`: what it costs to write and read a value of each kind of type, in microseconds.

No broker: the serializers and deserializers alone, with a record of four fields. The quickest of several rounds counts.
"""

from __future__ import annotations

import timeit
from typing import Any, TypedDict

import attrs
import msgspec
from pydantic import BaseModel

from flux import serde

CALLS, ROUNDS = 1_000, 300  # short, so that some are not disturbed
FIELDS: dict[str, Any] = {"id": "4711", "customer": "ada@example.org", "cents": 1990, "lines": ["a-1", "b-2", "c-3"]}


class Model(BaseModel):
    id: str
    customer: str
    cents: int
    lines: list[str]


@attrs.frozen
class Attrs:
    id: str
    customer: str
    cents: int
    lines: list[str]


class Typed(TypedDict):
    id: str
    customer: str
    cents: int
    lines: list[str]


STRUCT: Any = msgspec.defstruct("Struct", [("id", str), ("customer", str), ("cents", int), ("lines", list[str])])
KINDS: dict[str, Any] = {
    "`dict`": dict,
    "a msgspec struct": STRUCT,
    "a Pydantic model": Model,
    "an attrs class or a dataclass": Attrs,
    "a TypedDict": Typed,
}


def main() -> None:
    print("| | write, µs | read, µs |\n|---|---:|---:|")
    for name, kind in KINDS.items():
        values = serde.json(kind)
        write: Any = values.serializer("orders")
        read: Any = values.deserializer("orders")
        value = kind(**FIELDS)
        print(f"| {name} | {quickest(write, value):.1f} | {quickest(read, write(value)):.1f} |")


def quickest(function: Any, argument: Any) -> float:
    return min(timeit.repeat(lambda: function(argument), number=CALLS, repeat=ROUNDS)) / CALLS * 1e6


if __name__ == "__main__":
    main()
