"""What README.md and docs/ show is so: each sample runs, each command can be given, each link leads somewhere."""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import inspect
import json
import pkgutil
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner

from flux.cli.main import cli
from flux.config import reset
from flux.testing import Kit, kit
from unit.support.docs_support import PAGES, ROOT, Sample, flux_commands, samples, understand

MOST_NOT_RUN = 6
BILLING = ROOT / "examples" / "billing.py"
"""What commands name on pages that have no file of that name."""
RUN = {"backoff", "dlq", "doctor", "produce", "skip", "status", "topics", "trace"}
BY_HAND = {"flux_kafka": "tests/integration/test_testing_kafka.py"}
"""Fixtures that need a real Kafka, and where the samples that have them are run."""
MADE_BY_PYTEST = ("capsys", "caplog")
NOT_PYTHON = r"flux\.(calls|control|kafka|report|watchdog|attempt|failed|pause|stage|message\.id)"
"""Loggers, and attributes and events of spans."""


def of(language: str) -> list[Sample]:
    return [each for page in PAGES for each in samples(page) if each.language == language]


def languages(page: Path) -> set[str]:
    return {each.language for each in samples(page)}


def writes(page: Path, file: str) -> bool:
    return any(each.file == file for each in samples(page))


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """In a folder of its own, from which modules are imported; what they configure and import is forgotten."""
    monkeypatch.delitem(sys.modules, "billing", raising=False)  # another test's
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    reset()
    yield
    reset()
    for name, module in list(sys.modules.items()):
        if Path(getattr(module, "__file__", None) or "/").is_relative_to(tmp_path):
            del sys.modules[name]


class Played:
    """The samples of a page, run so far."""

    def __init__(self, page: Path, folder: Path, made: Kit) -> None:
        self.names: dict[str, Any] = {"__name__": page.stem.replace("-", "_"), "flux_kit": made}
        self._folder = folder

    def run(self, sample: Sample) -> None:
        if sample.file is None or not sample.shown:
            padded = "\n" * (sample.line - 1) + sample.code  # so that a traceback names the page's line
            exec(compile(padded, str(sample.page), "exec", dont_inherit=True), self.names)
            return
        path = self._folder / sample.file
        path.write_text((path.read_text() if path.exists() else "") + sample.code)
        if path.stem.startswith("test_"):
            return  # pytest's
        sys.modules.pop(path.stem, None)
        importlib.invalidate_caches()
        found = importlib.import_module(path.stem)
        self.names |= {name: value for name, value in vars(found).items() if not name.startswith("__")}

    @property
    def tests(self) -> dict[str, Callable[..., Any]]:
        own = {self.names["__name__"], *(path.stem for path in self._folder.glob("*.py"))}
        named = {name: value for name, value in self.names.items() if name.startswith(("test_", "check_"))}
        return {name: value for name, value in named.items() if value.__module__ in own}


def give(sample: Sample) -> None:
    """Raises for a command that flux would refuse. Those that look or write once are run, on the kit's broker: 1 is for
    what is not there."""
    for line in sample.commands:
        for words in flux_commands(line):
            try:
                understand(words)
            except click.ClickException as error:
                raise AssertionError(f"{sample}: flux {' '.join(words)}: {error.format_message()}") from error
            if words[0] in RUN and not {"--watch", "--adapter"} & {*words}:
                ended = CliRunner().invoke(cli, words)
                assert ended.exit_code in (0, 1), f"{sample}: flux {' '.join(words)}: {ended.output}"
                assert isinstance(ended.exception, SystemExit | None), f"{sample}: {ended.exception!r}"
                if to := re.search(r"> (\S+)$", line):
                    Path(to[1]).write_text(ended.stdout)


def call(test: Callable[..., Any], request: pytest.FixtureRequest) -> None:
    """A test of a page, as pytest would call it; one that is parametrized with its first values."""
    wanted = set(inspect.signature(test).parameters)
    if BY_HAND.keys() & wanted:
        return
    with kit() as made, pytest.MonkeyPatch.context() as patch:
        given: dict[str, Any] = {"flux_kit": made, "monkeypatch": patch}
        for mark in getattr(test, "pytestmark", []):
            names, values = mark.args
            given |= {names: next(iter(values))}
        given |= {name: request.getfixturevalue(name) for name in MADE_BY_PYTEST if name in wanted}
        result = test(**{name: given[name] for name in wanted})
        if inspect.iscoroutine(result):
            asyncio.run(result)


def run_pytest(folder: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.parametrize("page", [page for page in PAGES if {*languages(page)} & {"python", "console"}], ids=name_of)
def test_the_samples_of_a_page_run(page: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    (tmp_path / "billing.py").write_text("" if writes(page, "billing.py") else BILLING.read_text())
    with kit() as made:
        played = Played(page, tmp_path, made)
        for sample in samples(page):
            if sample.language == "python" and sample.kept is None:
                played.run(sample)
            elif sample.language == "console" and sample.kept is None:
                give(sample)
    for test in played.tests.values():
        call(test, request)
    if any(tmp_path.glob("test_*.py")):
        run_pytest(tmp_path)


@pytest.mark.parametrize(
    ("language", "parse"),
    [("json", json.loads), ("toml", tomllib.loads), ("yaml", lambda text: list(yaml.safe_load_all(text)))],
)
def test_what_is_to_be_copied_parses(language: str, parse: Callable[[str], Any]) -> None:
    for sample in of(language):
        try:
            parse(sample.code)
        except ValueError as error:
            raise AssertionError(f"{sample}: {error}") from error


def test_few_samples_are_not_run() -> None:
    kept = [f"{each}: {each.kept}" for page in PAGES for each in samples(page) if each.kept]
    assert len(kept) <= MOST_NOT_RUN, kept


def test_every_sample_says_what_it_is() -> None:
    assert [str(each) for each in of("")] == []


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_names_of_flux_in_its_text_exist(page: Path) -> None:
    for name in re.findall(r"`(flux(?:\.\w+)+)", page.read_text("utf-8")):
        if not re.fullmatch(NOT_PYTHON, name):
            pkgutil.resolve_name(name)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_its_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M)):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), target


def test_every_page_has_its_place_in_the_navigation() -> None:
    named = re.findall(r"^ +- .+: (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(named) == sorted(str(page.relative_to(ROOT / "docs")) for page in PAGES[1:])


@pytest.mark.parametrize(
    ("page", "least"), [("docs/where.md", 40), ("docs/architecture.md", 20), ("CONTRIBUTING.md", 10)]
)
def test_the_files_that_a_page_names_are_there(page: str, least: int) -> None:
    named = set(re.findall(r"`((?:flux|tests)/[^`]+)`", (ROOT / page).read_text("utf-8")))
    assert len(named) > least
    assert [path for path in sorted(named) if not list(ROOT.glob(path.rstrip("/")))] == []


def test_the_map_for_contributors_names_every_folder() -> None:
    folders = {
        str(each.relative_to(ROOT))
        for top in ("flux", "tests")
        for each in (ROOT / top).iterdir()
        if each.is_dir() and any(each.rglob("*.py"))
    }
    assert len(folders) > 15
    named = set(re.findall(r"^\| `([^`]+)` \|", (ROOT / "CONTRIBUTING.md").read_text("utf-8"), re.MULTILINE))
    assert folders - named == set()


def test_the_tests_that_the_page_on_reliability_names_are_there() -> None:
    page = (ROOT / "docs" / "reliability.md").read_text("utf-8")
    missing, file, found = [], "", 0
    for named, test in re.findall(r"`((?:tests|flux)/[\w/]+\.py|…)::(\w+)", page):
        file = file if named == "…" else named
        found += 1
        if not (ROOT / file).exists() or f"def {test}(" not in (ROOT / file).read_text("utf-8"):
            missing.append(f"{file}::{test}")
    assert found > 100
    assert missing == []


def test_the_diagrams_are_drawn_from_their_sources() -> None:
    sources = sorted((ROOT / "docs" / "images").glob("*.d2"))
    assert len(sources) == 4
    for source in sources:
        digest = hashlib.sha256(source.read_bytes()).hexdigest()
        assert digest in source.with_suffix(".svg").read_text(), f"make pictures: {source.name} has changed"


def test_the_diagram_of_the_layers_has_those_that_are_held() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(each["layers"] for each in contracts if each["name"] == "Imports point inward")
    named = re.findall(r'"(flux/\w+)', (ROOT / "docs" / "images" / "layers.d2").read_text())
    assert named == re.findall(r"flux/\w+", "\n".join(layers).replace(".", "/"))
