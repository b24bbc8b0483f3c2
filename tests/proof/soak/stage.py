"""The stage `soak`: one piece, its judgement, and the totals of all pieces."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from pathlib import Path
from statistics import median

from brokers.jars import node

from proof.soak.drift import drift
from proof.soak.part import Found, Part, Sample
from proof.soak.totals import REBALANCES, RECORDS, Piece, extend
from proof.stage import Cell, Curve, Outcome, Stage, Table

SECONDS = 1800.0
TOTALS = Path(__file__).parents[3] / "build" / "proof" / "soak.json"
_PARTS = (("confluent", False, 0.4), ("aiokafka", False, 0.4), ("confluent", True, 0.15), ("aiokafka", True, 0.05))
"""Adapter, whether at full speed, share of the time."""
_WARM_UP = 60.0
_SHARE_OF_WARM_UP = 1 / 3
_COLUMNS = ("part", "seconds", "records", "rebalances", "outages", "replayed", "repeated calls")
_SHOWN = 600  # points of a curve
_SETTLED = 30  # points from which on latencies are those of records, and not of a worker that starts
_BROKER = {
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    "log.retention.check.interval.ms": "1000",
    "offsets.topic.num.partitions": "4",
}

_JUDGED = {
    # series: title, unit, share of the median and least growth that matter, the most that is allowed: of latencies in
    # the median second, as an outage makes some long; of others at any time
    "memory": ("worker: memory", "MB", 0.02, 1.0, 600.0),
    "threads": ("worker: threads", "", 0.0, 0.5, 100.0),
    "descriptors": ("worker: descriptors", "", 0.0, 0.5, 300.0),
    "p50": ("from produce to call, median", "ms", 0.25, 5.0, 1000.0),
    "p99": ("from produce to call, 99th percentile", "ms", 0.25, 50.0, 5000.0),
    "guest_in_use": ("process that joins and leaves: memory in use", "MB", 0.0, 0.3, 300.0),
    "guest_memory": ("process that joins and leaves: memory", "MB", 0.0, math.inf, 600.0),  # see `memory.in_use`
    "guest_threads": ("process that joins and leaves: threads", "", 0.0, 0.5, 100.0),
    "guest_descriptors": ("process that joins and leaves: descriptors", "", 0.0, 0.5, 300.0),
}
_SHOWN_TOO = {
    "lag": ("records that are not done yet", ""),
    "calls": ("calls", ""),
    "failures": ("calls that failed", ""),
    "moves": ("assignments and revocations", ""),
}


def judge(found: Found) -> tuple[list[str], list[list[Cell]]]:
    """Problems, and a row for each series."""
    problems: list[str] = []
    rows: list[list[Cell]] = []
    end = found.samples[-1].at if found.samples else 0.0
    warm = [each for each in found.samples if each.at >= min(_WARM_UP, end * _SHARE_OF_WARM_UP)]
    for series, (title, unit, share, least, most) in _JUDGED.items():
        points = _points(warm, series)
        if not points:
            continue
        peak = max(value for _, value in points)
        reached = median(value for _, value in points) if unit == "ms" else peak
        if reached > most and (unit != "ms" or len(points) >= _SETTLED):
            problems.append(f"{found.name}: {title}: {reached:,.0f} {unit}, {most:,.0f} allowed")
        seen = drift(points, share, least)
        if seen is not None and seen.grows:
            problems.append(f"{found.name}: {title} grows by {seen.growth:,.2f} {unit} in {end:,.0f} s")
        growth = "too short" if seen is None else f"{seen.growth:+,.2f} (at least {seen.low:+,.2f})"
        rows.append([title, unit, round(points[0][1], 1), round(points[-1][1], 1), round(peak, 1), growth])
    return problems, rows


def _points(samples: Iterable[Sample], series: str) -> list[tuple[float, float]]:
    found = [(each.at, getattr(each, series)) for each in samples]
    return [(at, value) for at, value in found if value is not None]


def _curves(found: Found) -> list[Curve]:
    shown = {**{name: each[:2] for name, each in _JUDGED.items()}, **_SHOWN_TOO}
    curves = []
    for series, (title, unit) in shown.items():
        points = _points(found.samples, series)
        step = max(1, len(points) // _SHOWN)
        thinned = [(round(at, 1), round(value, 2)) for at, value in points[::step]]
        curves.append(Curve(f"{found.name}: {title}", unit, thinned))
    return [curve for curve in curves if len(curve.points) > 1]


def _run(scale: float, directory: Path) -> Outcome:
    began = time.monotonic()
    parts: list[Found] = []
    problems: list[str] = []
    tables: list[Table] = []
    curves: list[Curve] = []
    with node(_BROKER) as broker:
        for adapter, fast, share in _PARTS:
            found = Part(broker, adapter, fast, SECONDS * scale * share, directory).run()
            judged, rows = judge(found)
            problems += [*found.problems, *judged]
            parts.append(found)
            columns = ("series", "unit", "first", "last", "most", "growth")
            tables.append(Table(f"{found.name}, after the warm-up", columns, rows))
            curves += _curves(found)
    rebalances, records = sum(each.rebalances for each in parts), sum(each.records for each in parts)
    piece = Piece(time.strftime("%Y-%m-%d"), time.monotonic() - began, rebalances, records, len(problems))
    totals = extend(TOTALS, piece)
    figures: list[list[Cell]] = [
        [each.name, round(each.seconds), each.records, each.rebalances, each.outages, each.replayed, each.repeated]
        for each in parts
    ]
    return Outcome(
        problems,
        {
            "rebalances": rebalances,
            "records": records,
            "rebalances in all pieces": totals.rebalances,
            "records in all pieces": totals.records,
            "pieces": totals.pieces,
        },
        [Table("Parts", _COLUMNS, figures), *tables],
        [
            f"The goal: {REBALANCES:,} rebalances and {RECORDS:,} records. "
            + ("Reached." if totals.complete else f"As many more pieces such as these: {totals.needed or 'unknown'}.")
            + (f" {totals.failed} pieces had problems and are not counted." if totals.failed else "")
        ],
        curves=curves,
    )


SOAK = Stage(
    "soak",
    "Rebalances every few seconds, failures, outages and replays, then full speed: nothing is lost, nothing grows.",
    _run,
)
