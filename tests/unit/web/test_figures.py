"""Charts and the memory behind them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux.web.figures import Line, ago, bar, chart, coming, count, lasting, nice, rate, size, spark
from flux.web.sampler import History, Point, thinned


def line(*values: float | None, step: float = 5.0) -> Line:
    return Line("records", "lag", [Point(1000 + step * number, value) for number, value in enumerate(values)])


def ways(svg: str) -> list[str]:
    return re.findall(r'class="line[^"]*" d="([^"]*)"', svg)


def test_the_memory_is_of_fixed_size_and_forgets_the_oldest() -> None:
    history = History(most=3)
    for number in range(5):
        history.add(number, {"lag": number})
    assert history.of("lag") == [Point(2, 2), Point(3, 3), Point(4, 4)]
    assert history.of("other") == [Point(2, None), Point(3, None), Point(4, None)]


@given(st.lists(st.one_of(st.none(), st.floats(0, 1e9)), max_size=500), st.integers(1, 100))
def test_thinning_keeps_the_peak_and_the_bound(values: list[float | None], most: int) -> None:
    points = [Point(float(number), value) for number, value in enumerate(values)]
    found = thinned(points, most)
    assert len(found) <= max(most, 0)
    known = [value for value in values if value is not None]
    assert max((p.value for p in found if p.value is not None), default=None) == max(known, default=None)


@pytest.mark.parametrize(("value", "top"), [(0, 1), (1, 1), (1.5, 2), (3, 5), (7, 10), (10, 10), (2001, 5000)])
def test_the_upper_edge_is_a_round_number(value: float, top: float) -> None:
    assert nice(value) == top


def test_a_line_is_interrupted_where_values_are_unknown_or_missing() -> None:
    assert len(ways(chart("Behind", [line(1, 2, None, 3, 4)]).svg)) == 2
    points = [Point(0, 1), Point(5, 1), Point(10, 1), Point(500, 1), Point(505, 1)]
    assert len(ways(chart("Behind", [Line("x", "lag", points)]).svg)) == 2


def test_a_chart_says_in_words_what_it_shows() -> None:
    found = chart("Calls a second", [line(10, 200, 30)], per_second=True)
    assert 'role="img"' in found.svg
    assert 'aria-label="Calls a second over 10 seconds: now records 30.0; at most 200"' in found.svg
    assert (found.top, found.since) == ("500", "10 seconds")


def test_nothing_known_is_an_empty_chart() -> None:
    for points in ([], [Point(0, None)], [Point(0, 5.0)]):
        assert "<svg" in chart("Behind", [Line("x", "lag", points)]).svg
        assert "<svg" in spark("Behind", "lag", points)


def test_what_names_a_chart_cannot_end_it() -> None:
    assert "<b>" not in chart("<b>", [line(1)]).svg
    assert '"><b>' not in spark('"><b>', '"><b>', [Point(0, 1)])


def test_a_bar_is_as_long_as_its_part_and_never_invisible() -> None:
    widths = [re.findall(r'width="([\d.]+)"', bar(value, 200, "dead"))[0] for value in (0, 0.1, 100, 200)]
    assert widths == ["0.0", "0.8", "50.0", "100.0"]
    assert 'width="0.0"' in bar(0, 0, "dead")


def test_what_is_not_known_is_a_dash_and_never_a_zero() -> None:
    assert [print_error_if_possible(None) for print_error_if_possible in (count, rate, lasting, ago, coming, size)] == [
        "—"
    ] * 6
    assert (rate(0), rate(0.04), rate(99.96), rate(1234.5)) == ("0", "0.0", "100.0", "1,234")
    assert (coming(0), coming(-3), coming(90)) == ("now", "now", "in 1.5 minutes")
    assert (size(900), size(54_200_000)) == ("1 kB", "54 MB")
