"""Text from records is harmless to terminals and pages."""

from __future__ import annotations

from flux.core.text import escape, one_line


def test_control_characters_are_escaped_and_line_ends_stay() -> None:
    assert escape("a\x1b[31mb\tc\nd\x00\u202ee\ud800") == "a\\x1b[31mb\tc\nd\\x00\\u202ee\\ud800"


def test_one_line_has_single_spaces() -> None:
    assert one_line("  a\n\n b\t\x1b c ") == "a b \\x1b c"
