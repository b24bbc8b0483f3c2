"""The tables of README.md and docs/ are complete, and agree with the code and with each other."""

from __future__ import annotations

import re
from pathlib import Path

import attrs

import flux
from flux.core import flux_headers
from unit.support.docs_support import ROOT


def rows(page: Path) -> dict[str, list[str]]:
    """Of the table that compares, without its links."""
    plain = re.sub(r"\[([^\]]+)\](?:\[[^\]]+\]|\([^)]+\))", r"\1", page.read_text())
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in plain.splitlines() if line[:1] == "|"]
    return {first: rest for first, *rest in cells if len(rest) == 7}


def test_the_comparison_in_the_readme_agrees_with_the_whole_one() -> None:
    short, whole = rows(ROOT / "README.md"), rows(ROOT / "docs" / "comparison.md")
    assert len(short) > 5
    assert {name: whole.get(name) for name in short} == short


def test_each_source_that_is_named_is_given() -> None:
    text = (ROOT / "docs" / "comparison.md").read_text()
    assert set(re.findall(r"\]\[([\w-]+)\]", text)) == set(re.findall(r"^\[([\w-]+)\]: ", text, re.MULTILINE))


def test_every_setting_and_every_name_has_its_place_in_the_reference() -> None:
    reference = ROOT / "docs" / "reference"
    settings, api = (reference / "settings.md").read_text(), (reference / "api.md").read_text()
    methods = {"setup", "call", "close", "policy", "decoder"}
    named = {name for each in (flux.Task, flux.BatchTask) for name in vars(each) if name[0] != "_"} - methods
    named |= {each.name for each in attrs.fields(flux.ProducerOptions)}
    assert {name for name in named if f"`{name}" not in settings and f".{name}" not in settings} == set()
    public = set(flux.__all__) - {"__version__", "serde", "task"}
    assert {name for name in public if f"::: flux.{name}\n" not in api} == set()


def test_every_header_has_its_place_in_the_reference() -> None:
    page = (ROOT / "docs" / "reference" / "headers.md").read_text()
    rows = re.findall(r"^\| (`flux-.+?) \|", page, re.MULTILINE)
    told = {name for row in rows for name in names_in(row)}
    assert {
        value for value in vars(flux_headers).values() if isinstance(value, str) and value.startswith("flux-")
    } - told <= {flux_headers.PREFIX}


def names_in(row: str) -> list[str]:
    """ "`flux-error-type`, `-message`" has two."""
    first, *more = re.findall(r"`([\w-]+)`", row)
    return [first, *(each if each.startswith("flux") else first.rpartition("-")[0] + each for each in more)]


UNITS = {"days": 86_400, "MiB": 1024 * 1024}


def meant(told: str) -> object:
    """ "`None`", "10,000" or "64 MiB", as a table of settings says it."""
    number, _, unit = told.replace(",", "").partition(" ")
    if unit in UNITS:
        return float(number) * UNITS[unit]
    return float(number) if re.fullmatch(r"[\d.]+", number) else eval(told.strip("`"), {})


def test_the_defaults_in_the_reference_are_those_of_the_code() -> None:
    page = (ROOT / "docs" / "reference" / "settings.md").read_text().partition("## Message")[0]
    options = flux.ProducerOptions()
    checked: list[str] = []
    for cells in re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| ([^|]+) \|", page, re.MULTILINE):
        names, told = re.findall(r"\w+", cells[0]), re.split(r", (?![^(]*\))", cells[1].strip())
        for name, default in zip(names, told, strict=True) if told != ["required"] else ():
            holder = next(each for each in (flux.Task, flux.BatchTask, options) if hasattr(each, name))
            assert getattr(holder, name) == meant(default), name
            checked.append(name)
    assert len(checked) > 30
