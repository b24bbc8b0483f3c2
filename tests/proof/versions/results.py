"""What pytest's reports say, as cells of a table."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

COLUMNS: Mapping[str, tuple[str, str]] = {
    "confluent": ("test_contract_confluent", "test_contract["),
    "confluent, KIP-848": ("test_contract_confluent", "test_contract_with_the_new_protocol["),
    "aiokafka": ("test_contract_aiokafka", ""),
    "main job": ("integration.job.", ""),
    "broker killed": ("chaos.test_chaos", ""),
    "adapters' unit tests": ("unit.adapters.", ""),
}
"""Title -> (part of the module's name, start of the test's name)."""
NOT_RUN = "-"


@attrs.define
class Cell:
    passed: int = 0
    skipped: int = 0
    again: int = 0
    """Of those that passed: at the second try."""
    failed: list[str] = attrs.field(factory=list)

    @property
    def ran(self) -> int:
        return self.passed + len(self.failed)

    def __str__(self) -> str:
        if self.failed:
            return f"{len(self.failed)} of {self.ran} FAILED"
        if not self.passed:
            return NOT_RUN
        more = {"skipped": self.skipped, "at the second try": self.again}
        return ", ".join([f"{self.passed} passed", *(f"{count} {what}" for what, count in more.items() if count)])


def cells(reports: Sequence[Path]) -> dict[str, Cell]:
    """By column. A file that is missing or empty counts as nothing."""
    found = {title: Cell() for title in COLUMNS}
    for report in reports:
        for (module, name), tries in _cases(report).items():
            for title, (part, start) in COLUMNS.items():
                if part in module and name.startswith(start):
                    _count(found[title], tries, name)
    return found


def _count(cell: Cell, tries: Sequence[ElementTree.Element], name: str) -> None:
    case = tries[-1]
    if case.find("failure") is not None or case.find("error") is not None:
        cell.failed.append(name)
    elif case.find("skipped") is not None:
        cell.skipped += 1
    else:
        cell.passed += 1
        cell.again += len(tries) > 1


def _cases(report: Path) -> dict[tuple[str, str], list[ElementTree.Element]]:
    """The tries of each test, by module and name."""
    found: dict[tuple[str, str], list[ElementTree.Element]] = {}
    for case in ElementTree.parse(report).iter("testcase") if report.exists() else ():
        found.setdefault((case.get("classname", ""), case.get("name", "")), []).append(case)
    return found
