"""Tables in Markdown, written between markers: the text around them stays."""

from __future__ import annotations

import re
from collections.abc import Mapping
from statistics import median

from benchmarks.case import FIGURES, Case
from benchmarks.cases import CASES
from benchmarks.runner import Results


def table(case: Case, results: Results) -> str:
    """Medians with least and most; the first contestant is what the others are compared with."""
    rows = results.get(case.name, {})
    first = case.figures[0]
    compared = len(case.contestants) > 1
    head = ["", *([f"of {case.contestants[0].name}"] if compared else []), *(FIGURES[each] for each in case.figures)]
    lines = [f"| {' | '.join(head)} |", f"|---{'|---:' * (len(head) - 1)}|"]
    base = rows.get(case.contestants[0].name)
    for each in case.contestants:
        rounds = rows.get(each.name)
        if not rounds:
            continue
        cells = [each.name]
        if compared:
            cells.append(_ratio(rounds, base, first) if base else "")
        cells += [_spread([figures[name] for figures in rounds]) for name in case.figures]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, *(["", case.note] if case.note else [])])


def _ratio(rounds: list[dict[str, float]], base: list[dict[str, float]], name: str) -> str:
    """Round by round, since they were measured one after the other."""
    pairs = zip(rounds, base, strict=False)
    return _spread([ours[name] / theirs[name] for ours, theirs in pairs if theirs[name]], digits=2)


def _spread(values: list[float], digits: int | None = None) -> str:
    if not values:
        return ""
    places = digits if digits is not None else _places(median(values))
    middle, least, most = (f"{each:,.{places}f}" for each in (median(values), min(values), max(values)))
    return middle if len(values) == 1 else f"{middle} ({least} \u2013 {most})"


def _places(value: float) -> int:
    return 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2


def written(page: str, results: Results, about: str, left_out: Mapping[str, str]) -> str:
    """`page` with new tables for the cases in `results`. Raises ValueError for a page without a marker."""
    for case in CASES:
        if case.name in results:
            page = _between(page, case.name, table(case, results))
    page = _between(page, "plot", "![Records a second, flux and its peers](performance.svg)")
    missing = [f"- Left out: {name} ({reason.splitlines()[-1] if reason else ''})" for name, reason in left_out.items()]
    return _between(page, "about", "\n".join([about, *missing]))


def _between(page: str, name: str, text: str) -> str:
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    if not pattern.search(page):
        raise ValueError(f"the page has no {begin} … {end}")
    return pattern.sub(lambda _: f"{begin}\n{text}\n{end}", page)
