"""A histogram of one series that observes many values at once: prometheus-client's needs a microsecond for each."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate
from operator import sub

from flux.system import Lock


class Histogram:
    """`bounds`: the inclusive upper bounds of the buckets, ascending. Thread-safe."""

    __slots__ = ("_bounds", "_counts", "_lock", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = (*bounds, math.inf)
        self._counts = [0] * len(self._bounds)
        self._sum = 0.0
        self._lock = Lock()

    def observe(self, value: float) -> None:
        index = bisect_left(self._bounds, value)
        with self._lock:
            self._counts[index] += 1
            self._sum += value

    def observe_all(self, values: Sequence[float]) -> None:
        """`observe` for many values at once."""
        if len(values) < 2:
            for value in values:
                self.observe(value)
            return
        bounds, total = self._bounds, sum(values)
        low, high = bisect_left(bounds, min(values)), bisect_left(bounds, max(values))
        if low == high:
            numbers = [len(values)]
        else:
            ordered = sorted(values)
            below = [bisect_right(ordered, bound) for bound in bounds[low : high + 1]]
            numbers = [below[0], *map(sub, below[1:], below)]
        with self._lock:
            for index, number in enumerate(numbers, low):
                self._counts[index] += number
            self._sum += total

    def read(self) -> tuple[list[tuple[str, float]], float]:
        """Upper bounds, as text, with the number of values up to each; and the sum of all values."""
        with self._lock:
            counts, total = list(self._counts), self._sum
        ends = [*map(repr, map(float, self._bounds[:-1])), "+Inf"]
        return list(zip(ends, map(float, accumulate(counts)), strict=True)), total
