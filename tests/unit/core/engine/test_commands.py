"""A log line about a name says what has become of its calls, and is news for hooks."""

from __future__ import annotations

from flux.core.engine.commands import Level, LogEvent
from flux.core.limits.name_limits import NameResumed


def test_a_line_about_a_name_has_the_text_and_kind_of_its_news() -> None:
    news = NameResumed("acme", 5.0)
    assert LogEvent.of_name(Level.INFO, news) == LogEvent(Level.INFO, news.text, kind=news.kind, news=news)
