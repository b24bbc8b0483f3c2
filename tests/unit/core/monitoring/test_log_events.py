"""Log lines wait until a driver takes them."""

from __future__ import annotations

from flux.core.engine.commands import Level, Notice
from flux.core.monitoring.log_events import Notices
from unit.support.engine_support import P0


def test_lines_are_taken_once_and_in_order() -> None:
    notices = Notices()
    notices.add(Level.INFO, "one", about=P0, kind="kind")
    notices.tell(Notice(Level.ERROR, "two"))
    assert notices.take() == [Notice(Level.INFO, "one", P0, "kind"), Notice(Level.ERROR, "two")]
    assert notices.take() == []


def test_a_line_can_be_limited_to_its_first_time() -> None:
    notices = Notices()
    for text in ("one", "two"):
        notices.add(Level.INFO, text, once="headers")
    notices.add(Level.INFO, "three", once="wait")
    assert [notice.text for notice in notices.take()] == ["one", "three"]
    notices.add(Level.INFO, "four", once="wait")
    assert notices.take() == []
