"""What a stage of the proof is, and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import attrs

Cell = str | int | float


@attrs.frozen
class Table:
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]


@attrs.frozen
class Curve:
    """A measured series; `points`: (seconds, value)."""

    title: str
    unit: str
    points: Sequence[tuple[float, float]]


@attrs.frozen
class Outcome:
    """`problems`: what was found wrong; none is a pass. `figures`: how much was tried, by name."""

    problems: Sequence[str]
    figures: Mapping[str, Cell]
    tables: Sequence[Table] = ()
    notes: Sequence[str] = ()
    seconds: float = 0.0
    curves: Sequence[Curve] = ()


@attrs.frozen
class Stage:
    """`run(scale, directory)`: `scale` 1 is a night's, CI's is far below; `directory` is for logs."""

    name: str
    summary: str
    run: Callable[[float, Path], Outcome]
