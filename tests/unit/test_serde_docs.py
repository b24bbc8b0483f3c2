"""What docs/how-to/values.md shows works as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from serde_support import Way, way

import flux

__all__ = ["way"]

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "values.md"
JSON, MODELS, CONVERTER, REGISTRY, OWN = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


def shown(code: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "shown"}
    exec(compile(code, str(PAGE), "exec", dont_inherit=True), names)
    return names


def printed(way: Way, names: dict[str, Any], *values: Any, capsys: pytest.CaptureFixture[str]) -> list[str]:
    orders = names["Orders"](adapter=way.adapter)
    for value in values:
        orders.produce(value)
    orders.shutdown(5)
    assert flux.Worker(names["Billing"], adapter=way.adapter, create_topics=True, exit_when_idle=0.01).run() == 0
    return capsys.readouterr().out.splitlines()


def test_json(way: Way, capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(way, shown(JSON), {"id": "4711"}, capsys=capsys) == ["4711"]
    assert way.records() == [b'{"id":"4711"}']


def test_own_classes(way: Way, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("cattrs")
    names = shown(MODELS)
    assert printed(way, names, names["Order"]("4711", 1990, ("gift",)), capsys=capsys) == ["1990"]
    with pytest.raises(TypeError, match="an instance of Order was expected, not of dict"):
        names["Orders"](adapter=way.adapter).produce({"id": "4711"})


def test_a_converter() -> None:
    pytest.importorskip("cattrs")
    shown(CONVERTER)


def test_a_schema_registry(way: Way, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("fastavro")
    assert printed(way, shown(REGISTRY), {"id": "4711", "cents": 1990}, capsys=capsys) == ["1990"]


def test_a_format_of_ones_own(way: Way) -> None:
    way.produce(None, b"4711,1990")
    assert way.work(shown(OWN)["read_csv"]) == [["4711", "1990"]]
