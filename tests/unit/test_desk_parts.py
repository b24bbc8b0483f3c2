"""The parts of what the drivers of one task share."""

from __future__ import annotations

from typing import Any, cast

import pytest
from engine_support import Driver

from flux.runtime import desk as desks
from flux.runtime import forks
from flux.runtime.desk import Desk
from flux.system import OperatingSystem


@pytest.mark.parametrize("name", desks._ENTRANCES.split())
def test_in_a_forked_child_nobody_comes_back_to_an_entrance(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ends: list[Any] = []
    monkeypatch.setattr(forks, "end_of_child", lambda *given: ends.append(given))
    driver = Driver()
    desk = Desk(driver.policy, [driver.engine], cast(Any, None), OperatingSystem())
    assert callable(getattr(Desk, name))
    desk.forked()
    getattr(desk, name)("what", "it", "is", "told")
    assert ends == [("what", "it", "is", "told")]
