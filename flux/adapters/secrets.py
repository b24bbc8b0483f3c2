"""Which options hold secrets, and how they are kept out of every repr, error and log line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "***"

_SECRET = re.compile(
    r"pass|secret|token|[._]key$|keyfile|\.key\.|jaas|oauth|credential|assertion|ssl_context|\.pem$", re.IGNORECASE
)


def shown(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options as they may be printed."""
    return {name: HIDDEN if _SECRET.search(name) else value for name, value in options.items()}


class Mask:
    """Replaces the values of secret options in a text of the client's."""

    def __init__(self, *options: Mapping[str, Any]) -> None:
        secrets = {str(value) for given in options for name, value in given.items() if _SECRET.search(name) and value}
        # The longest first: one secret may be part of another.
        self._secrets = sorted(secrets, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        return text
