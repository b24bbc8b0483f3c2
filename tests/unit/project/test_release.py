"""What a release says of itself agrees."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import flux

ROOT = Path(__file__).parents[3]
CHANGELOG = (ROOT / "CHANGELOG.md").read_text()
CONSUMER = (ROOT / "tests" / "typing" / "consumer.py").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

KINDS = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"]
"""Of Keep a Changelog 1.1.0."""


def headings() -> list[str]:
    return re.findall(r"^## (.*)$", CHANGELOG, re.MULTILINE)


def test_the_version_is_semantic_and_the_changelogs_newest() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", flux.__version__)
    released = [each for each in headings() if each != "[Unreleased]"]
    assert released[0].startswith(f"[{flux.__version__}] - ")


def test_the_changelog_is_one_that_is_kept() -> None:
    first, *released = headings()
    assert first == "[Unreleased]"
    for each in released:
        assert re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d{2}-\d{2}", each), each
    versions = [tuple(map(int, each[1 : each.index("]")].split("."))) for each in released]
    assert versions == sorted(set(versions), reverse=True)
    assert set(re.findall(r"^### (.*)$", CHANGELOG, re.MULTILINE)) <= set(KINDS)


def test_the_typed_consumer_uses_every_public_name() -> None:
    unused = [name for name in flux.__all__ if not re.search(rf"\b(flux\.|import ){name}\b", CONSUMER)]
    assert unused == []


def test_each_supported_python_is_a_classifier() -> None:
    told = {each.rpartition(" ")[2] for each in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", each)}
    assert f"{min(map(minor, told))}" == PROJECT["requires-python"].removeprefix(">=3.")
    assert {"Development Status :: 5 - Production/Stable", "Typing :: Typed"} <= set(PROJECT["classifiers"])


def minor(version: str) -> int:
    return int(version.partition(".")[2])


def test_the_security_policy_names_the_versions_that_are_mended() -> None:
    policy = (ROOT / "SECURITY.md").read_text()
    assert f"{flux.__version__.partition('.')[0]}.x" in policy
