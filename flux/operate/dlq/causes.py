"""Groups dead letters by cause: a fingerprint of the error, computed when reading, so that a better one works on old
records too."""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import sha256

import attrs

from flux.operate.dlq.dead_letters import DeadLetter

MAX_CAUSES = 10_000
"""Causes that are kept apart; later ones are only counted together."""
MAX_TEXT = 200
"""Characters of a message that count: the rest is mostly data."""

_UUID = r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}"
_HEX = r"0[xX][0-9a-fA-F]+|[0-9a-fA-F]{8,}"
_QUOTED = re.compile(r"""(?<!\w)b?(?:'[^'\n]*'|"[^"\n]*"|`[^`\n]*`)(?!\w)""")
_VARIABLE = re.compile(rf"\b(?:{_UUID}|{_HEX})\b|[+-]?\b\w*\d\w*(?:[.,:+-]+\w*\d\w*)*")
_SEVERAL = re.compile(r"#(?:(?:, ?| )#)+")
_FRAME = re.compile(r'^ *File "([^"\n]*)", line \d+, in (\S+)', re.MULTILINE)
_SEPARATOR = re.compile(r"[/\\]")
_LIBRARY = re.compile(r"[/\\](?:site-packages|dist-packages|python3\.\d+)[/\\]|^<frozen ")


@attrs.frozen
class Cause:
    """What errors have in common: type, place in the code, and message with # for what varies. `id`: eight hexadecimal
    digits of a hash of all three."""

    id: str
    error_type: str
    place: str
    message: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.error_type, self.message) if part) or "(no error recorded)"


def cause_of(dead_letter: DeadLetter) -> Cause:
    kind, place, message = dead_letter.error_type, place_of(dead_letter.trace), fold(dead_letter.error_message)
    return Cause(_fingerprint(kind, place, message), kind, place, message)


def fold(text: str) -> str:
    """`text` in one line, with # for quoted strings, UUIDs, numbers and words with digits."""
    folded = " ".join(text.split())[: 10 * MAX_TEXT]
    folded = _VARIABLE.sub("#", _QUOTED.sub("#", folded))
    return _SEVERAL.sub("#", folded)[:MAX_TEXT].rstrip()


@lru_cache(maxsize=1000)
def place_of(trace: str) -> str:
    """`directory/file.py in function` of the innermost frame that is not a library's, else of the innermost one.
    Without the line number, which changes with every release. Empty without a trace."""
    frames = _FRAME.findall(trace)
    if not frames:
        return ""
    own = [frame for frame in frames if not _LIBRARY.search(frame[0])]
    path, function = (own or frames)[-1]
    file = "/".join(_SEPARATOR.split(path)[-2:]).lstrip("/")
    return f"{fold(file)} in {function}"


@lru_cache(maxsize=10_000)
def _fingerprint(*parts: str) -> str:
    return sha256("\0".join(parts).encode("utf-8", "replace")).hexdigest()[:8]


@attrs.define
class CauseCount:
    """How often a cause was seen, when (milliseconds since the epoch), and its latest dead letter."""

    cause: Cause
    count: int
    first_seen: int
    last_seen: int
    example: DeadLetter


class Causes:
    """Counts dead letters by cause, in bounded memory."""

    def __init__(self, most: int = MAX_CAUSES) -> None:
        self.total = 0
        self.others = 0
        """Dead letters of causes beyond the first `most`."""
        self._most = most
        self._counts: dict[str, CauseCount] = {}

    def add(self, dead_letter: DeadLetter) -> None:
        self.total += 1
        cause = cause_of(dead_letter)
        seen = dead_letter.failed_at
        counted = self._counts.get(cause.id)
        if counted is None:
            if len(self._counts) >= self._most:
                self.others += 1
                return
            self._counts[cause.id] = CauseCount(cause, 1, seen, seen, dead_letter)
            return
        counted.count += 1
        counted.first_seen = min(counted.first_seen, seen)
        if seen >= counted.last_seen:
            counted.last_seen, counted.example = seen, dead_letter

    def ranked(self) -> list[CauseCount]:
        """The most frequent first."""
        return sorted(self._counts.values(), key=lambda counted: (-counted.count, counted.cause.id))
