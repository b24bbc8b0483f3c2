"""Which options hold secrets, and how they are kept out of every repr, error and log line."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping
from typing import Any

HIDDEN = "***"

_SECRET = re.compile(
    r"passw|passphrase|secret|credential|jaas|(^|[._])(token|key)$|keyfile|[._]pem$|oauthbearer\.config$",
    re.IGNORECASE,
)
_PATH = re.compile(r"(file|location)$", re.IGNORECASE)
"""Names of files that hold a secret: they may be shown."""

_PLAIN = (str, int, float, bool, type(None))
_LOGIN = re.compile(r"(?<=://)[^/@\s]+(?=@)")
_TOKEN = re.compile(r"\beyJ[\w-]{8,}(?:\.[\w-]*){1,4}|(?<=\bBearer )[\w.~+/=-]{6,}")
"""A JSON web token, or a token after the name of its scheme."""

_SHORTEST = 6
"""Characters. A shorter secret occurs in too many words, and hiding it would make a text unreadable."""

_TOKENS = 8


def shown(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options as they may be printed."""
    return {name: _shown(name, value) for name, value in options.items()}


def _shown(name: str, value: Any) -> Any:
    if _is_secret(name) or not isinstance(value, _PLAIN):
        return HIDDEN  # an object's repr may show anything
    return _LOGIN.sub(HIDDEN, value) if isinstance(value, str) else value


def _is_secret(name: str) -> bool:
    return bool(_SECRET.search(name)) and not _PATH.search(name)


class Mask:
    """Hides the values of secret options, and tokens, in texts. Thread-safe."""

    def __init__(self, *options: Mapping[str, Any]) -> None:
        secrets = {str(value) for given in options for name, value in given.items() if _is_secret(name)}
        # Longest first: one secret may be part of another.
        self._secrets = sorted((each for each in secrets if len(each) >= _SHORTEST), key=len, reverse=True)
        self._tokens: deque[str] = deque(maxlen=_TOKENS)

    def add_token(self, token: str) -> None:
        """A token of the provider; the last few are hidden."""
        if len(token) >= _SHORTEST and token not in self._tokens:
            self._tokens.append(token)

    def __call__(self, text: str) -> str:
        for secret in (*tuple(self._tokens), *self._secrets):
            text = text.replace(secret, HIDDEN)
        return _TOKEN.sub(HIDDEN, text)
