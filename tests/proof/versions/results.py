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
    failed: list[str] = attrs.field(factory=list)

    @property
    def ran(self) -> int:
        return self.passed + len(self.failed)

    def __str__(self) -> str:
        if self.failed:
            return f"{len(self.failed)} of {self.ran} FAILED"
        if not self.passed:
            return NOT_RUN
        return f"{self.passed} passed" + (f", {self.skipped} skipped" if self.skipped else "")


def cells(reports: Sequence[Path]) -> dict[str, Cell]:
    """By column. A file that is missing or empty counts as nothing."""
    found = {title: Cell() for title in COLUMNS}
    for report in reports:
        for case in _cases(report):
            module, name = case.get("classname", ""), case.get("name", "")
            for title, (part, start) in COLUMNS.items():
                if part in module and name.startswith(start):
                    _count(found[title], case, name)
    return found


def _count(cell: Cell, case: ElementTree.Element, name: str) -> None:
    if case.find("failure") is not None or case.find("error") is not None:
        cell.failed.append(name)
    elif case.find("skipped") is not None:
        cell.skipped += 1
    else:
        cell.passed += 1


def _cases(report: Path) -> list[ElementTree.Element]:
    if not report.exists():
        return []
    return list(ElementTree.parse(report).iter("testcase"))
