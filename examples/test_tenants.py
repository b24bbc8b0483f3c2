from __future__ import annotations

from typing import Any

import pytest
import tenants
from tenants import Export

from flux.testing import Kit


@pytest.fixture
def down() -> set[str]:
    return set()


@pytest.fixture
def posted(flux_kit: Kit, monkeypatch: pytest.MonkeyPatch, down: set[str]) -> list[tuple[float, str]]:
    made: list[tuple[float, str]] = []

    def post(to: str, event: dict[str, Any]) -> None:
        if to in down:
            raise ConnectionError(f"{to} is down")
        made.append((flux_kit.clock.now(), to))

    monkeypatch.setattr(tenants, "post", post)
    return made


def produce(kit: Kit, to: str, events: int) -> None:
    for number in range(events):
        kit.produce("events", json={"number": number}, headers={"tenant": to})


def test_a_small_tenant_does_not_wait_for_a_large_one(flux_kit: Kit, posted: list[tuple[float, str]]) -> None:
    produce(flux_kit, "large", 100)
    produce(flux_kit, "small", 3)
    began = flux_kit.clock.now()
    flux_kit.run(Export)
    assert max(at for at, to in posted if to == "small") - began < 1
    assert max(at for at, to in posted if to == "large") - began > 4  # 20 a second


def test_a_system_that_is_down_holds_up_nobody_else(
    flux_kit: Kit, posted: list[tuple[float, str]], down: set[str]
) -> None:
    down.add("large")
    produce(flux_kit, "large", 60)
    produce(flux_kit, "small", 60)
    flux_kit.run(Export)
    assert [to for _, to in posted] == ["small"] * 60
    assert len(flux_kit.failures) < 20
    down.clear()
    flux_kit.run_to_the_end(Export)
    assert len(posted) == 120
