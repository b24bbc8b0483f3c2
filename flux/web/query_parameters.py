"""Reads URLs and forms."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import parse_qsl, urlencode

from starlette.exceptions import HTTPException
from starlette.requests import Request

from flux.core.errors import ConfigurationError
from flux.operate.dlq.filters import Filter
from flux.web.auth import Sessions

AGES = {"15m": "15 minutes", "1h": "an hour", "6h": "6 hours", "1d": "a day", "7d": "a week", "30d": "30 days"}
REASONS = ("error", "exhausted", "rejected", "undecodable", "tombstone", "expired", "crashed", "skipped")
_AGE = re.compile(r"([0-9]{1,6})([smhdw])\Z")
_SIZES = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_PLACE = re.compile(r"([0-9]{1,9}):([0-9]{1,18})\Z")
_CAUSE = re.compile(r"[0-9a-f]{4,8}\Z")
_MAX_TEXT = 1_000


def filter_of(fields: Mapping[str, str], now_ms: int) -> Filter:
    """From the fields `since` (an age) or `since_ms`, `reason`, `error`, `key`, `cause`, `header` (NAME[=VALUE]) and
    `only` (places); empty ones are ignored. Raises ConfigurationError."""
    cause = _text(fields, "cause")
    if cause is not None and not _CAUSE.match(cause):
        raise ConfigurationError(f"{cause!r} is not a cause: choose one of the list")
    name, equals, value = (_text(fields, "header") or "").partition("=")
    only = fields.get("only", "")
    return Filter(
        since_of(fields, now_ms),
        _text(fields, "reason"),
        _text(fields, "error"),
        _text(fields, "key"),
        cause,
        headers=((name, value if equals else None),) if name else (),
        only=frozenset(map(place_of, only.split(","))) if only else None,
    )


def query_fields(request: Request) -> dict[str, str]:
    """Of a page's address; the places that were chosen as one field, the last value of each other."""
    chosen = request.query_params.getlist("only")
    return {**request.query_params, **({"only": ",".join(chosen)} if chosen else {})}


def since_of(fields: Mapping[str, str], now_ms: int) -> int | None:
    """In milliseconds since the epoch. Raises ConfigurationError."""
    exact = number_of(fields, "since_ms", 0, 10**15)
    if exact is not None:
        return exact
    text = _text(fields, "since")
    if text is None:
        return None
    match = _AGE.match(text)
    if match is None:
        raise ConfigurationError(f"{text!r} is not an age such as 90s, 30m, 2h or 3d")
    return max(0, now_ms - int(match[1]) * _SIZES[match[2]] * 1000)


def number_of(fields: Mapping[str, str], name: str, least: int, most: int) -> int | None:
    """Raises ConfigurationError."""
    text = _text(fields, name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 18 and least <= int(text) <= most):
        raise ConfigurationError(f"{name} = {text!r}: give a whole number from {least:,} to {most:,}")
    return int(text)


def place_of(text: str) -> tuple[int, int]:
    """Raises ConfigurationError."""
    match = _PLACE.match(text.strip())
    if match is None:
        raise ConfigurationError(f"{text!r} is not PARTITION:OFFSET, such as 0:17")
    return int(match[1]), int(match[2])


def places_of(text: str) -> dict[int, int]:
    """From "0:17,1:4". Raises ConfigurationError."""
    return dict(place_of(part) for part in text.split(",")) if text else {}


def as_places(places: Mapping[int, int]) -> str:
    return ",".join(f"{number}:{offset}" for number, offset in sorted(places.items()))


def query_of(criteria: Filter, **more: str) -> str:
    """The filter as a query string."""
    return urlencode({**fields_of(criteria), **more})


def fields_of(criteria: Filter) -> dict[str, str]:
    found = {"cause": criteria.cause, "reason": criteria.reason, "error": criteria.error, "key": criteria.key}
    found["since_ms"] = None if criteria.since_ms is None else str(criteria.since_ms)
    found["header"] = next((name if value is None else f"{name}={value}" for name, value in criteria.headers), None)
    found["only"] = None if criteria.only is None else ",".join(criteria.places)
    return {name: value for name, value in found.items() if value is not None}


def _text(fields: Mapping[str, str], name: str) -> str | None:
    text = fields.get(name, "").strip()
    if len(text) > _MAX_TEXT:
        raise ConfigurationError(f"{name} is longer than {_MAX_TEXT:,} characters")
    return text or None


MAX_BYTES = 65_536
MAX_FIELDS = 50
PROOF = "proof"


async def form(request: Request, sessions: Sessions) -> dict[str, str]:
    """The fields of a form with a valid proof; the last value of each. Raises HTTPException."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BYTES:
            raise HTTPException(413, "the form is too large")
    try:
        fields = dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MAX_FIELDS))
    except ValueError:
        raise HTTPException(400, "the form cannot be read") from None
    if not sessions.proves(request.state.visitor, fields.get(PROOF, "")):
        raise HTTPException(403, "the form is too old: go back, load the page again, and repeat it")
    return fields
