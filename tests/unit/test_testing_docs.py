"""The samples of docs/how-to/testing.md do what they say."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flux.testing import kit

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "testing.md"
SAMPLES = "\n".join(re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE))
NAMESPACE: dict[str, Any] = {"__name__": "billing"}
exec(compile(SAMPLES, str(PAGE), "exec"), NAMESPACE)
TESTS = {name: value for name, value in NAMESPACE.items() if name.startswith(("test_", "check_"))}


def parameters(test: Callable[..., None]) -> set[str]:
    return set(inspect.signature(test).parameters)


def test_the_page_has_samples() -> None:
    assert len(TESTS) == 5


@pytest.mark.parametrize("name", [name for name, test in TESTS.items() if "flux_kafka" not in parameters(test)])
def test_sample(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    test = TESTS[name]
    with kit() as made:
        given = {"flux_kit": made, "monkeypatch": monkeypatch}
        test(**{parameter: given[parameter] for parameter in parameters(test)})
