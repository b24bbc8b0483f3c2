"""What was seen over the last hour, in a memory of fixed size."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import NamedTuple

MOST = 720
"""Points: an hour, at one every 5 s."""


class At(NamedTuple):
    """`value` None: not known then. `time`: seconds since the epoch."""

    time: float
    value: float | None


class History:
    def __init__(self, most: int = MOST) -> None:
        self._points: deque[tuple[float, Mapping[str, float | None]]] = deque(maxlen=most)

    def add(self, time: float, values: Mapping[str, float | None]) -> None:
        self._points.append((time, values))

    def of(self, name: str) -> list[At]:
        return [At(time, values.get(name)) for time, values in self._points]

    def __len__(self) -> int:
        return len(self._points)


def thinned(points: Sequence[At], most: int) -> list[At]:
    """At most so many, each the highest of its neighbours: a peak is what one looks for."""
    if len(points) <= most:
        return list(points)
    step = -(-len(points) // most)
    found = []
    for start in range(0, len(points), step):
        some = points[start : start + step]
        values = [point.value for point in some if point.value is not None]
        found.append(At(some[-1].time, max(values, default=None)))
    return found
