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

_NAMES = {"since_ms": "s", "reason": "r", "error": "e", "key": "k", "cause": "c"}


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

    @property
    def takes_all(self) -> bool:
        return self == _ALL

    def matches(self, dead_letter: DeadLetter) -> bool:
        if self.since_ms is not None and dead_letter.written_at < self.since_ms:
            return False
        if self.reason is not None and dead_letter.reason != self.reason:
            return False
        if self.key is not None and dead_letter.message.key != self.key.encode("utf-8", "surrogateescape"):
            return False
        if self.error is not None and not self._matches_error(dead_letter):
            return False
        return self.cause is None or cause_of(dead_letter).id.startswith(self.cause)

    def _matches_error(self, dead_letter: DeadLetter) -> bool:
        assert self.error is not None
        wanted, kind = _compiled(self.error), dead_letter.error_type
        return any(wanted.match(text) for text in (kind, kind.rpartition(".")[2], dead_letter.error))

    def to_json(self) -> dict[str, Any]:
        """With short names, as it is stored in commit metadata."""
        values = attrs.asdict(self)
        return {short: values[name] for name, short in _NAMES.items() if values[name] is not None}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Filter:
        """Raises ValueError for what `to_json` never returns."""
        long = {short: name for name, short in _NAMES.items()}
        if not data.keys() <= long.keys():
            raise ValueError(f"a filter has no {json.dumps(sorted(data.keys() - long.keys()))}")
        for short, value in data.items():
            if type(value) is not (int if short == "s" else str):
                raise ValueError(f"a filter's {short} is not {value!r}")
        return cls(**{long[short]: value for short, value in data.items()})


_ALL = Filter()


@lru_cache(maxsize=100)
def _compiled(glob: str) -> re.Pattern[str]:
    return re.compile(translate(glob), re.IGNORECASE)
