"""The report: a page and JSON, in build/proof/."""

from __future__ import annotations

import html
import json
import platform
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import attrs

from proof.stage import Curve, Outcome, Stage, Table

_STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1b1f24;
background:#fff}table{border-collapse:collapse;margin:.5rem 0 1.5rem}td,th{border-bottom:1px solid #d0d7de;
padding:.25rem .75rem;text-align:left}td.n{text-align:right;font-variant-numeric:tabular-nums}.ok{color:#116329}
.bad{color:#a40e26}figure{margin:.5rem 0 1rem}svg{width:100%;height:auto;border-bottom:1px solid #8c959f}
polyline{fill:none;stroke:#0969da;stroke-width:1.5}pre{white-space:pre-wrap;background:#f6f8fa;padding:.75rem}
@media(prefers-color-scheme:dark){body{color:#e6edf3;background:#0d1117}td,th{border-color:#30363d}pre{background:#161b22}
.ok{color:#3fb950}.bad{color:#ff7b72}polyline{stroke:#58a6ff}}"""


def written(directory: Path, outcomes: Mapping[str, Outcome], stages: Mapping[str, Stage], scale: float) -> Path:
    """Writes `report.json` and `index.html`; returns the page. Results of other stages in the file stay."""
    directory.mkdir(parents=True, exist_ok=True)
    data = directory / "report.json"
    known = json.loads(data.read_text()) if data.exists() else {}
    for name, outcome in outcomes.items():
        known[name] = {**attrs.asdict(outcome), "about": about(scale)}
    data.write_text(json.dumps(known, indent=1, default=str))
    page = directory / "index.html"
    page.write_text(_page(known, stages))
    return page


def about(scale: float) -> str:
    clients = ", ".join(f"{name} {version(name)}" for name in ("confluent-kafka", "aiokafka"))
    return f"{time.strftime('%Y-%m-%d')}, scale {scale:g}, Python {platform.python_version()}, {clients}"


def _page(known: Mapping[str, Mapping[str, object]], stages: Mapping[str, Stage]) -> str:
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>flux: proof</title><style>{_STYLE}</style>",
        "<h1>flux: proof</h1>",
    ]
    for name, found in known.items():
        outcome = Outcome(**{key: value for key, value in found.items() if key != "about"})  # type: ignore[arg-type]
        stage = stages.get(name)
        verdict = '<span class="bad">failed</span>' if outcome.problems else '<span class="ok">passed</span>'
        parts.append(f"<h2 id={html.escape(name)}>{html.escape(name)}: {verdict}</h2>")
        parts.append(f"<p>{html.escape(stage.summary if stage else '')}</p>")
        parts.append(f"<p>{html.escape(str(found['about']))}; {outcome.seconds:.0f} s</p>")
        parts += [f"<pre>{html.escape(problem)}</pre>" for problem in outcome.problems]
        parts.append(_table(Table("", ("", ""), list(outcome.figures.items()))))
        parts += [_table(table if isinstance(table, Table) else Table(**table)) for table in outcome.tables]
        parts += [_figure(curve if isinstance(curve, Curve) else Curve(**curve)) for curve in outcome.curves]
        parts += [f"<p>{html.escape(note)}</p>" for note in outcome.notes]
    return "\n".join(parts) + "\n"


def _table(table: Table) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in table.columns) if any(table.columns) else ""
    rows = "".join(
        "<tr>"
        + "".join(
            f"<td{'' if isinstance(cell, str) else ' class=n'}>"
            f"{html.escape(cell if isinstance(cell, str) else f'{cell:,}')}</td>"
            for cell in row
        )
        + "</tr>"
        for row in table.rows
    )
    title = f"<h3>{html.escape(table.title)}</h3>" if table.title else ""
    return f"{title}<table>{f'<tr>{head}</tr>' if head else ''}{rows}</table>"


_WIDTH, _HEIGHT = 800, 90


def _figure(curve: Curve) -> str:
    """The value from 0 up, over the time."""
    if len(curve.points) < 2:
        return ""
    most = max(value for _, value in curve.points)
    first, last = curve.points[0][0], curve.points[-1][0]
    across, up = _WIDTH / ((last - first) or 1), _HEIGHT / (most or 1)
    line = " ".join(f"{(time - first) * across:.1f},{_HEIGHT - value * up:.1f}" for time, value in curve.points)
    least = min(value for _, value in curve.points)
    text = f"{curve.title}: {least:,.5g} to {most:,.5g} {curve.unit} in {last - first:,.0f} s"
    return (
        f'<figure><figcaption>{html.escape(text)}</figcaption><svg viewBox="0 -2 {_WIDTH} {_HEIGHT + 4}" role="img" '
        f'aria-label="{html.escape(text)}"><polyline points="{line}"/></svg></figure>'
    )
