"""How what a record holds is shown to people."""

from __future__ import annotations

import json
from datetime import UTC, datetime

_MOST = 100
_DUMPED = 256
_ROW = 16


def moment(ms: int | None) -> str:
    """In UTC, to the second; empty when not known."""
    if ms is None or ms <= 0:
        return ""
    try:
        return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return str(ms)


def many(count: int, one: str) -> str:
    return f"{count:,} {one}" + ("" if count == 1 else "s")


def short(text: str, most: int = _MOST) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 1]}…"


def key_of(data: bytes | None) -> str:
    return "" if data is None else text_of(data)


def text_of(data: bytes) -> str:
    """As UTF-8, what is none as \\xNN."""
    return data.decode("utf-8", "backslashreplace")


def pretty(data: bytes | None) -> str:
    """A value: indented where it is JSON, text where it is text, else a dump of its beginning."""
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
    rows = [data[at : at + _ROW] for at in range(0, min(len(data), _DUMPED), _ROW)]
    lines = [
        f"{i * _ROW:08x}  {row.hex(' '):<{3 * _ROW}} {''.join(chr(b) if 32 <= b < 127 else '.' for b in row)}"
        for i, row in enumerate(rows)
    ]
    more = len(data) - _DUMPED
    return "\n".join(lines + ([f"… and {more:,} bytes more: see flux dlq export"] if more > 0 else []))
