"""A dead letter as a document that people edit, and what they made of it.

    {"key": "c42", "value": {"json": {"amount": 7}}, "headers": [["trace", "1"], ["raw", {"base64": "/w=="}]]}

What is left as it is stays byte for byte: a value is shown as JSON only where that gives its bytes again.
"""

from __future__ import annotations

import json
import re
from typing import Any

import attrs

from flux.core import flux_headers
from flux.core.message import Message
from flux.operate.dlq.exchange import bytes_of, headers_of, shown
from flux.operate.dlq.replay_plan import Edit, own_headers

_STYLES: tuple[dict[str, Any], ...] = tuple(
    {"separators": separators, "ensure_ascii": ascii, "indent": indent}
    for indent in (None, 2, 4)
    for separators in ((",", ":"), (", ", ": "), (",", ": "))
    for ascii in (False, True)
)
"""How programs write JSON; the first one is for a value that was none before."""
_UNSEEN = re.compile(r"[\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that JSON leaves as they are, and that change how a text is shown."""
_FIELDS = {"key", "value", "headers"}


def unedited(message: Message) -> Edit:
    return Edit(message.key, message.raw_value, own_headers(message))


def to_document(message: Message) -> str:
    style = _style_of(message.raw_value)
    value = shown(message.raw_value)
    if style is not None and message.raw_value is not None:
        value = {"json": json.loads(message.raw_value)}
    data = {
        "key": shown(message.key),
        "value": value,
        "headers": [[name, shown(value)] for name, value in own_headers(message)],
    }
    text = json.dumps(data, ensure_ascii=False, indent=2) + "\n"
    return _UNSEEN.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def from_document(text: str | bytes, message: Message) -> Edit:
    """`message`: what the document was made of. Raises ValueError with what is wrong."""
    try:
        data = json.loads(text)
    except RecursionError:
        raise ValueError("not JSON: too deep") from None
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(data, dict) or data.keys() != _FIELDS:
        raise ValueError("expected an object with key, value and headers")
    headers = tuple(headers_of(data["headers"]))
    for name, _ in headers:
        _check_name(name)
    return Edit(bytes_of(data["key"], "key"), _value(data["value"], message.raw_value), headers)


def with_header(edit: Edit, name: str, value: str | None) -> Edit:
    """With one header of that name, in the place of the first; None: without any. Raises ValueError."""
    _check_name(name)
    others = [pair for pair in edit.headers if pair[0] != name]
    if value is not None:
        at = next((index for index, pair in enumerate(edit.headers) if pair[0] == name), len(others))
        others.insert(at, (name, value.encode("utf-8", "surrogateescape")))
    return attrs.evolve(edit, headers=tuple(others))


def changes(before: Edit, after: Edit) -> str:
    """`key, value`: what differs; empty when nothing."""
    return ", ".join(name for name in ("key", "value", "headers") if getattr(before, name) != getattr(after, name))


def _check_name(header: str) -> None:
    if header.startswith(flux_headers.PREFIX):
        raise ValueError(f"header {header!r}: names that begin with {flux_headers.PREFIX} are flux's own")


def _value(data: Any, before: bytes | None) -> bytes | None:
    if isinstance(data, dict) and data.keys() == {"json"}:
        return json.dumps(data["json"], **(_style_of(before) or _STYLES[0])).encode("utf-8", "surrogatepass")
    return bytes_of(data, "value")


def _style_of(value: bytes | None) -> dict[str, Any] | None:
    """How an object or array is written; None where it is something else, or no style gives the same bytes."""
    if value is None or not value.lstrip().startswith((b"{", b"[")):
        return None
    try:
        text = value.decode()
        data = json.loads(text)
        return next((style for style in _STYLES if json.dumps(data, **style) == text), None)
    except (ValueError, RecursionError):
        return None
