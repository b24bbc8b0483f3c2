"""Figures of the pages: numbers and times as text, with a dash for what is not known, and charts.

Charts are inline SVG, coloured by CSS classes, as the Content-Security-Policy forbids inline styles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

import attrs
from markupsafe import Markup

from flux.operate import formatting
from flux.operate.formatting import many, moment
from flux.web.sampler import Point, thinned

_UNKNOWN = "—"


def count(number: float | None) -> str:
    return _UNKNOWN if number is None else f"{number:,.0f}"


def rate(per_second: float | None) -> str:
    return _UNKNOWN if per_second is None else formatting.rate(per_second)


def lasting(seconds: float | None) -> str:
    return _UNKNOWN if seconds is None else formatting.lasting(seconds)


def ago(seconds: float | None) -> str:
    return _UNKNOWN if seconds is None else "now" if seconds < 1 else f"{lasting(seconds)} ago"


def coming(seconds: float | None) -> str:
    return _UNKNOWN if seconds is None else formatting.coming(seconds)


def size(number: int | None) -> str:
    if number is None:
        return _UNKNOWN
    return f"{number / 1_000_000:,.0f} MB" if number >= 1_000_000 else f"{number / 1000:,.0f} kB"


FILTERS: dict[str, Callable[..., str]] = {
    each.__name__: each for each in (count, rate, lasting, ago, coming, size, moment, many, formatting.at_most)
}

WIDTH, HEIGHT = 600.0, 120.0
_SPARK = (120.0, 28.0)
_MAX_POINTS = 180
_MAX_SPARK = 60
_ROOM = 1.08
"""Room above the highest point, for the upper label."""
_GAP = 6
"""Multiple of the usual distance of two points beyond which the line is interrupted."""

_SVG = Markup(
    '<svg class="{css}" viewBox="0 0 {width:g} {height:g}" preserveAspectRatio="none" role="img" aria-label="{label}"'
    "{more}>{inside}</svg>"
)
_SCALE = Markup(' data-top="{top:g}" data-seconds="{seconds:g}"')
"""Scales, for the tooltip."""
_PATH = Markup('<path class="{css}" d="{way}"/>')
_NAMED = Markup('<path class="{css}" d="{way}" data-name="{name}"/>')
_RULE = Markup('<line class="rule" x1="0" x2="{width:g}" y1="{y:g}" y2="{y:g}"/>')
_BAR = Markup('<rect class="{css}" x="0" y="0" width="{width:.1f}" height="10"/>')


@attrs.frozen
class Line:
    """`css`: its class, which sets its colour."""

    name: str
    css: str
    points: Sequence[Point]

    @property
    def last(self) -> float | None:
        return self.points[-1].value if self.points else None


@attrs.frozen
class Chart:
    """`top`: the value at the upper edge; `since`: the age of the left edge."""

    title: str
    svg: Markup
    top: str
    since: str
    lines: Sequence[Line]
    per_second: bool

    def formatted(self, value: float | None) -> str:
        return rate(value) if self.per_second else count(value)


def chart(title: str, lines: Sequence[Line], per_second: bool = False) -> Chart:
    shown = [attrs.evolve(line, points=thinned(line.points, _MAX_POINTS)) for line in lines]
    start, end = _times(shown)
    top = nice(_ROOM * highest(shown))
    rules = Markup("").join(_RULE.format(width=WIDTH, y=HEIGHT * part) for part in (0.02, 0.5))
    paths = _paths(shown, start, end, top, WIDTH, HEIGHT)
    format_value = rate if per_second else count
    values = "; ".join(f"{line.name} {format_value(line.last)}" for line in lines)
    label = f"{title} over {lasting(end - start)}: now {values}; at most {format_value(highest(shown))}"
    scale = _SCALE.format(top=top, seconds=end - start)
    svg = _SVG.format(css="chart", width=WIDTH, height=HEIGHT, label=label, more=scale, inside=rules + paths)
    return Chart(title, svg, format_value(top), lasting(end - start), lines, per_second)


def spark(name: str, css: str, points: Sequence[Point]) -> Markup:
    """A small chart without axes."""
    line = Line(name, css, thinned(points, _MAX_SPARK))
    start, end = _times([line])
    top = nice(_ROOM * highest([line]))
    label = f"{name} over {lasting(end - start)}, at most {rate(highest([line]))}"
    width, height = _SPARK
    inside = _paths([line], start, end, top, width, height)
    return _SVG.format(css="spark", width=width, height=height, label=label, more="", inside=inside)


def bar(value: float, most: float, css: str) -> Markup:
    """A bar beside its number; hidden from screen readers, as the number says the same."""
    part = 0.0 if most <= 0 else 100 * value / most
    inside = _BAR.format(css=css, width=max(part, 0.8 if value else 0.0))
    return Markup(
        '<svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">{inside}</svg>'
    ).format(inside=inside)


def highest(lines: Iterable[Line]) -> float:
    return max((point.value or 0.0 for line in lines for point in line.points), default=0.0)


def nice(value: float) -> float:
    """The next of 1, 2, 5, 10, 20, 50 …"""
    size = 1.0
    while True:
        for step in (1, 2, 5):
            if value <= step * size:
                return step * size
        size *= 10


def _times(lines: Sequence[Line]) -> tuple[float, float]:
    times = [point.time for line in lines for point in line.points]
    return (min(times), max(times)) if times else (0.0, 0.0)


def _paths(lines: Sequence[Line], start: float, end: float, top: float, width: float, height: float) -> Markup:
    """Fills the area below the first line."""
    across, edge = max(end - start, 1e-9), 2.0
    found = []
    for number, line in enumerate(lines):
        for part in _parts(line.points):
            points = [
                (width * (point.time - start) / across, edge + (height - 2 * edge) * (1 - (point.value or 0.0) / top))
                for point in part
            ]
            if len(points) == 1:
                (x, y) = points[0]
                points = [(max(x - 2, 0.0), y), (max(x, 2.0), y)]
            way = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
            if number == 0:
                ground = f"{way}L{points[-1][0]:.1f} {height:g}L{points[0][0]:.1f} {height:g}Z"
                found.append(_PATH.format(css=f"area {line.css}", way=ground))
            found.append(_NAMED.format(css=f"line {line.css}", way=way, name=line.name))
    return Markup("").join(found)


def _parts(points: Sequence[Point]) -> list[list[Point]]:
    """Drops unknown values, and splits where points are missing."""
    steps = sorted(b.time - a.time for a, b in pairwise(points))
    usual = steps[len(steps) // 2] if steps else 0.0
    parts: list[list[Point]] = [[]]
    for point in points:
        if point.value is None or (parts[-1] and point.time - parts[-1][-1].time > _GAP * max(usual, 0.001)):
            parts.append([])
        if point.value is not None:
            parts[-1].append(point)
    return [part for part in parts if part]
