"""Records of topics, for the assertions of a test."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, overload

import attrs

from flux.core import flux_headers
from flux.core.message import Headers
from flux.core.ports import Record as Stored

_MOST_SHOWN = 20
_LONGEST_SHOWN = 120


class _Anything:
    def __repr__(self) -> str:
        return "anything"


ANYTHING: Any = _Anything()
"""Matches any part of a record."""


@attrs.frozen(repr=False)
class StoredRecord:
    """A record as the broker holds it: bytes, and `headers` in order. `timestamp` in milliseconds since the epoch."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp: int

    @classmethod
    def of(cls, stored: Stored) -> StoredRecord:
        return cls(
            stored.topic(),
            stored.partition(),
            stored.offset(),
            stored.key(),
            stored.value(),
            Headers(stored.headers() or ()),
            stored.timestamp()[1],
        )

    def text(self) -> str:
        """The value as UTF-8; empty for a tombstone. Raises UnicodeDecodeError."""
        return (self.value or b"").decode()

    def json(self) -> Any:
        """The value as JSON; None for a tombstone. Raises ValueError."""
        return None if self.value is None else json.loads(self.value)

    def header(self, name: str) -> str | None:
        """The last header of that name as text; None when there is none."""
        value = self.headers.get(name)
        return None if value is None else value.decode("utf-8", "replace")

    @property
    def reason(self) -> str | None:
        """Why flux forwarded it: `error`, `exhausted`, `rejected`, `undecodable`, `tombstone`, `expired`, `crashed`;
        None: it did not."""
        return self.header(flux_headers.REASON)

    @property
    def error_type(self) -> str | None:
        """The class of the last exception, with its module."""
        return self.header(flux_headers.ERROR_TYPE)

    @property
    def error_message(self) -> str | None:
        return self.header(flux_headers.ERROR_MESSAGE)

    @property
    def attempts(self) -> int:
        """The number of calls before it was forwarded; 0 in a main topic."""
        return int(self.header(flux_headers.ATTEMPTS) or 0)

    def __repr__(self) -> str:
        parts = [f"{self.topic}[{self.partition}]@{self.offset}", f"key={self.key!r}", f"value={shortened(self.value)}"]
        parts += [
            f"{name}={shortened(value)}" for name, value in self.headers if not name.startswith(flux_headers.PREFIX)
        ]
        if self.reason is not None:
            why = f"{self.error_type}: {self.error_message}" if self.error_message else self.error_type
            parts.append(f"({self.reason} after {self.attempts} attempt(s): {why})")
        return " ".join(parts)


class Records(Sequence[StoredRecord]):
    """Records of one topic by partition and offset. Shows them when an assertion fails."""

    def __init__(self, what: str, records: Iterable[StoredRecord]) -> None:
        self.what = what
        self._records = tuple(records)

    @property
    def keys(self) -> list[bytes | None]:
        return [record.key for record in self._records]

    @property
    def values(self) -> list[bytes | None]:
        return [record.value for record in self._records]

    def json(self) -> list[Any]:
        """All values as JSON. Raises ValueError."""
        return [record.json() for record in self._records]

    def one(self) -> StoredRecord:
        """The only record. Raises AssertionError when there is not exactly one."""
        __tracebackhide__ = True
        if len(self._records) != 1:
            raise AssertionError(f"one record was expected: {self!r}")
        return self._records[0]

    def matching(
        self, *, key: Any = ANYTHING, value: Any = ANYTHING, json: Any = ANYTHING, headers: Any = ANYTHING
    ) -> Records:
        """The matching records. `key`, `value`: bytes, str (in UTF-8) or None; `json`: the decoded value; `headers`: a
        mapping with a subset of the record's headers."""
        criteria = _Criteria(key, value, json, headers)
        return Records(self.what, filter(criteria.match, self._records))

    @overload
    def __getitem__(self, index: int) -> StoredRecord: ...
    @overload
    def __getitem__(self, index: slice) -> Records: ...
    def __getitem__(self, index: int | slice) -> StoredRecord | Records:
        if isinstance(index, slice):
            return Records(self.what, self._records[index])
        return self._records[index]

    def __len__(self) -> int:
        return len(self._records)

    def __eq__(self, other: object) -> bool:
        return list(self) == list(other) if isinstance(other, list | tuple | Records) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        if not self._records:
            return f"{self.what} holds no record"
        lines = [f"\n  {record!r}" for record in self._records[:_MOST_SHOWN]]
        if len(self._records) > _MOST_SHOWN:
            lines.append(f"\n  and {len(self._records) - _MOST_SHOWN} more")
        return f"{self.what} holds {len(self._records)} record(s):{''.join(lines)}"


@attrs.frozen
class _Criteria:
    key: Any
    value: Any
    json: Any
    headers: Mapping[str, Any] | Any

    def match(self, record: StoredRecord) -> bool:
        if self.key is not ANYTHING and record.key != _bytes(self.key):
            return False
        if self.value is not ANYTHING and record.value != _bytes(self.value):
            return False
        if self.headers is not ANYTHING and any(
            _bytes(value) not in record.headers.all(name) for name, value in self.headers.items()
        ):
            return False
        return self.json is ANYTHING or _json(record) == self.json


def describe(**parts: Any) -> str:
    """The criteria in one line."""
    criteria = [f"{name}={part!r}" for name, part in parts.items() if part is not ANYTHING]
    return f" with {', '.join(criteria)}" if criteria else ""


def shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}… ({len(text)} characters)"


def _bytes(value: Any) -> Any:
    return value.encode() if isinstance(value, str) else value


def _json(record: StoredRecord) -> Any:
    try:
        return record.json()
    except ValueError:
        return ANYTHING
