"""How numbers, times and the contents of records are written for people: in the command line and in the pages."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from flux.core.backoff import in_words

_MAX_TEXT = 100
_MAX_DUMPED = 256
_ROW = 16


def moment(ms: int | None) -> str:
    """In UTC, to the second; empty where it is not known."""
    if ms is None or ms <= 0:
        return ""
    try:
        return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return str(ms)


def many(count: int, one: str, more: str = "") -> str:
    """`1 record`, `2 records`. `more`: a plural that takes more than an s."""
    return f"{count:,} {one if count == 1 else more or f'{one}s'}"


def at_most(count: int, most: bool) -> str:
    """`12`; `≤ 12` where there may be fewer."""
    return f"{'≤ ' if most else ''}{count:,}"


def rate(per_second: float) -> str:
    return f"{per_second:,.0f}" if per_second >= 100 or per_second == 0 else f"{per_second:.1f}"


def lasting(seconds: float) -> str:
    """`2 minutes`; tenths below one second."""
    return in_words(round(seconds) if seconds >= 1 else round(max(seconds, 0.0), 1)).lstrip("~")


def coming(seconds: float) -> str:
    return f"in {lasting(seconds)}" if seconds >= 1 else "now"


def short(text: str, most: int = _MAX_TEXT) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 1]}…"


def key_of(data: bytes | None) -> str:
    return "" if data is None else text_of(data)


def text_of(data: bytes) -> str:
    """As UTF-8; other bytes as \\xNN."""
    return data.decode("utf-8", "backslashreplace")


def pretty(data: bytes | None) -> str:
    """A value: indented JSON, text, or a dump of its first bytes."""
    if data is None:
        return "(null: a tombstone)"
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return _dump(data)
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return text


def _dump(data: bytes) -> str:
    rows = [data[at : at + _ROW] for at in range(0, min(len(data), _MAX_DUMPED), _ROW)]
    lines = [
        f"{i * _ROW:08x}  {row.hex(' '):<{3 * _ROW}} {''.join(chr(b) if 32 <= b < 127 else '.' for b in row)}"
        for i, row in enumerate(rows)
    ]
    more = len(data) - _MAX_DUMPED
    return "\n".join(lines + ([f"… and {more:,} more bytes: see flux dlq export"] if more > 0 else []))
