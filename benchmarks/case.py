"""What a case is: a comparison of contestants by some figures."""

from __future__ import annotations

from typing import Any

import attrs


@attrs.frozen
class Contestant:
    name: str
    does: str
    """module:function in benchmarks/work."""
    options: dict[str, Any] = attrs.field(factory=dict)
    needs: str = "flux"
    """The module that must be there."""
    count: int | None = None
    """Instead of the case's."""
    topic: str | None = None
    """Likewise."""


@attrs.frozen
class Case:
    name: str
    title: str
    figures: tuple[str, ...]
    """The first is compared."""
    contestants: tuple[Contestant, ...]
    count: int
    topic: str = "empty"
    """A key of TOPICS."""
    seconds: float = 3.0
    """The longest that is measured, at full scale."""
    limit: float = 60.0
    """Seconds until a process is given up."""
    note: str = ""


@attrs.frozen
class Topic:
    partitions: int
    records: int


TOPICS = {
    "main": Topic(4, 4_000_000),
    "wide": Topic(10, 200_000),
    "many": Topic(1000, 2_000_000),
    "storm": Topic(4, 500_000),
    "empty": Topic(4, 0),
}

FIGURES = {
    "rate": "records/s",
    "cpu_us": "CPU µs/record",
    "peak_mb": "peak MB",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "earliest_ms": "earliest ms",
    "idle_cpu": "idle CPU %",
    "seconds": "seconds",
    "repeated": "calls repeated per kill",
    "calls": "calls in all",
    "cpu_ms": "CPU ms",
}
