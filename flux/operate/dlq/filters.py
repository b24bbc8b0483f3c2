"""Chooses dead letters."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from fnmatch import translate
from functools import lru_cache
from typing import Any

import attrs

from flux.operate.dlq.causes import cause_of
from flux.operate.dlq.dead_letters import DeadLetter
from flux.operate.formatting import moment

_NAMES = {
    "since_ms": "s",
    "reason": "r",
    "error": "e",
    "key": "k",
    "cause": "c",
    "until_ms": "u",
    "headers": "h",
}
_NUMBERS = ("s", "u")


@attrs.frozen
class Filter:
    """A dead letter matches when every given criterion does; an empty filter matches all."""

    since_ms: int | None = None
    """Became a dead letter at that time or later, in milliseconds since the epoch."""
    reason: str | None = None
    error: str | None = None
    """A glob (*, ?, [...]) for the error's type, with or without its module, or for `type: message`. Case does not
    matter."""
    key: str | None = None
    """The key as UTF-8."""
    cause: str | None = None
    """A cause's id, or its first digits."""
    until_ms: int | None = None
    """Became a dead letter before that time."""
    headers: tuple[tuple[str, str | None], ...] = ()
    """Each of these headers of the record's own, with that value as UTF-8, or with any where it is None."""
    only: frozenset[tuple[int, int]] | None = None
    """Only those at these places: partition and offset."""

    @property
    def takes_all(self) -> bool:
        return self == ALL

    @property
    def places(self) -> tuple[str, ...]:
        """`PARTITION:OFFSET` of those that are chosen."""
        return tuple(f"{partition}:{offset}" for partition, offset in sorted(self.only or ()))

    @property
    def by_partition(self) -> dict[int, list[int]]:
        """The offsets of `only`."""
        found: dict[int, list[int]] = {}
        for partition, offset in sorted(self.only or ()):
            found.setdefault(partition, []).append(offset)
        return found

    def matches(self, dead_letter: DeadLetter) -> bool:
        if self.only is not None and (dead_letter.partition, dead_letter.offset) not in self.only:
            return False
        if self.since_ms is not None and dead_letter.written_at < self.since_ms:
            return False
        if self.until_ms is not None and dead_letter.written_at >= self.until_ms:
            return False
        if self.reason is not None and dead_letter.reason != self.reason:
            return False
        if self.key is not None and dead_letter.message.key != _bytes(self.key):
            return False
        if self.headers and not all(_has(dead_letter, *each) for each in self.headers):
            return False
        if self.error is not None and not self._matches_error(dead_letter):
            return False
        return self.cause is None or cause_of(dead_letter).id.startswith(self.cause)

    def in_words(self, key: str | None = None) -> str:
        """`key`: in its place, such as redacted."""
        parts = [f"cause {self.cause}"] if self.cause else []
        parts += [f"key {self.key if key is None else key}"] if self.key is not None else []
        parts += [f"header {name}" + ("" if value is None else f"={value}") for name, value in self.headers]
        parts += [f"reason {self.reason}"] if self.reason else []
        parts += [f"error {self.error}"] if self.error else []
        parts += [f"since {moment(self.since_ms)}"] if self.since_ms is not None else []
        parts += [f"until {moment(self.until_ms)}"] if self.until_ms is not None else []
        parts += [f"{len(self.only):,} chosen"] if self.only is not None else []
        return ", ".join(parts) or "all"

    def _matches_error(self, dead_letter: DeadLetter) -> bool:
        assert self.error is not None
        wanted, kind = _compiled(self.error), dead_letter.error_type
        return any(wanted.match(text) for text in (kind, kind.rpartition(".")[2], dead_letter.error))

    def to_json(self) -> dict[str, Any]:
        """With short names, as it is stored in commit metadata; without `only`."""
        values = {short: getattr(self, name) for name, short in _NAMES.items()}
        return {short: value for short, value in values.items() if value not in (None, ())}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Filter:
        """Raises ValueError for what `to_json` never returns."""
        long = {short: name for name, short in _NAMES.items()}
        if not data.keys() <= long.keys():
            raise ValueError(f"a filter has no {json.dumps(sorted(data.keys() - long.keys()))}")
        values = {**data, "h": _headers(data["h"])} if "h" in data else data
        for short, value in values.items():
            if short != "h" and type(value) is not (int if short in _NUMBERS else str):
                raise ValueError(f"a filter's {short} is not {value!r}")
        return cls(**{long[short]: value for short, value in values.items()})


ALL = Filter()


def _has(dead_letter: DeadLetter, name: str, wanted: str | None) -> bool:
    own = [value for key, value in dead_letter.message.headers if key == name]
    return bool(own) if wanted is None else _bytes(wanted) in own


def _headers(data: object) -> tuple[tuple[str, str | None], ...]:
    if isinstance(data, list) and all(isinstance(each, list) and len(each) == 2 for each in data):
        pairs = tuple((name, value) for name, value in data)
        if pairs and all(type(name) is str and (value is None or type(value) is str) for name, value in pairs):
            return pairs
    raise ValueError(f"a filter's headers are not {data!r}")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


@lru_cache(maxsize=100)
def _compiled(glob: str) -> re.Pattern[str]:
    return re.compile(translate(glob), re.IGNORECASE)
