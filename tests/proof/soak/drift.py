"""Whether a measured series grows. Pure.

The slope is Theil and Sen's: the median slope of all pairs of points, which outages and other outliers do not move. Its
bounds are Sen's (1968), from the variance of Kendall's tau. A series grows if even the lower bound of its growth
exceeds what matters, and the second half grows at least half as fast as the whole: so neither noise nor a start that
levels off is a leak.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

import attrs

LEAST = 120
"""Points below which nothing is decided."""
_BLOCKS = 24
"""Points are taken together in blocks, by their medians: neighbours depend on each other, and Sen's bounds assume that
points do not."""
_Z = 3.29  # bounds that hold in 99.9 % of cases


@attrs.frozen
class Slope:
    """Per second, with the bounds."""

    middle: float
    low: float
    high: float


@attrs.frozen
class Drift:
    """`growth`, `low`: over the whole series, and the least that the noise allows; in the series' unit."""

    growth: float
    low: float
    grows: bool


def slope(points: Sequence[tuple[float, float]]) -> Slope:
    """Of (time, value); needs at least three times."""
    size = max(1, len(points) // _BLOCKS)
    blocks = [points[at : at + size] for at in range(0, len(points) - size + 1, size)]
    taken = [(median(time for time, _ in block), median(value for _, value in block)) for block in blocks]
    slopes = sorted(
        (later[1] - earlier[1]) / (later[0] - earlier[0])
        for number, earlier in enumerate(taken)
        for later in taken[number + 1 :]
    )
    count = len(taken)
    spread = _Z * math.sqrt(count * (count - 1) * (2 * count + 5) / 18)
    low = max(0, math.floor((len(slopes) - spread) / 2))
    high = min(len(slopes) - 1, math.ceil((len(slopes) + spread) / 2))
    return Slope(median(slopes), slopes[low], slopes[high])


def drift(points: Sequence[tuple[float, float]], share: float, least: float) -> Drift | None:
    """`share` of the median value, and at least `least`, is what growth has to exceed. None: too few points."""
    if len(points) < LEAST:
        return None
    matters = max(least, share * median(value for _, value in points))
    (growth, low), (late, _) = (_over(part) for part in (points, points[len(points) // 2 :]))
    return Drift(growth, low, low > matters and late > growth / 4)


def _over(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    found, seconds = slope(points), points[-1][0] - points[0][0]
    return found.middle * seconds, found.low * seconds
