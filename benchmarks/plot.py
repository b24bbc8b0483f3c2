"""The rates of some cases as bars, in an SVG written by hand: a plot needs no library here."""

from __future__ import annotations

from html import escape
from statistics import median

from benchmarks.case import Case
from benchmarks.cases import CASES
from benchmarks.runner import Results

_PLOTTED = ("consume", "produce", "slow")
_LABEL, _BAR, _FIGURE = 330, 420, 110
_ROW, _TITLE = 22, 44
_OURS, _OTHERS = "#2b6cb0", "#a0aec0"


def svg(results: Results) -> str:
    parts: list[str] = []
    top = 0
    for case in CASES:
        if case.name in _PLOTTED and results.get(case.name):
            drawn, top = _panel(case, results[case.name], top)
            parts += drawn
    width = _LABEL + _BAR + _FIGURE
    style = "text { font: 13px sans-serif; fill: #1a202c } .t { font-weight: bold }"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{top + 10}">',
            f'<style>{style}</style><rect width="100%" height="100%" fill="white"/>',
            *parts,
            "</svg>\n",
        ]
    )


def _panel(case: Case, rows: dict[str, list[dict[str, float]]], top: int) -> tuple[list[str], int]:
    parts = [f'<text class="t" x="10" y="{top + 30}">{escape(case.title)}: records a second</text>']
    y = top + _TITLE
    longest = max(figures["rate"] for rounds in rows.values() for figures in rounds)
    for each in case.contestants:
        rates = [figures["rate"] for figures in rows.get(each.name, [])]
        if not rates:
            continue
        middle, least, most = (_LABEL + value / longest * _BAR for value in (median(rates), min(rates), max(rates)))
        colour = _OURS if each.name.startswith("flux") else _OTHERS
        parts += [
            f'<text x="{_LABEL - 8}" y="{y + 15}" text-anchor="end">{escape(each.name)}</text>',
            f'<rect x="{_LABEL}" y="{y + 3}" width="{middle - _LABEL:.1f}" height="{_ROW - 6}" fill="{colour}"/>',
            f'<path d="M{least:.1f} {y + _ROW / 2} H{most:.1f}" stroke="#1a202c" stroke-width="1.5"/>',
            f'<text x="{most + 6:.1f}" y="{y + 15}">{median(rates):,.0f}</text>',
        ]
        y += _ROW
    return parts, y
