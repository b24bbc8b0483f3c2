"""Sessions: a random name in a cookie, whether it has logged in, and the proof that a form came from this site."""

from __future__ import annotations

import hmac
import re
import secrets
from collections import OrderedDict

from flux.core.ports import System

LASTS = 12 * 3600.0
"""Seconds after which a visitor must log in again."""
MOST = 1_000
MAX_FAILURES = 20
"""Wrong tokens per minute, from all visitors, after which further ones are refused."""
_NAME = re.compile(r"[A-Za-z0-9_-]{43}\Z")
_MINUTE = 60.0


class Sessions:
    def __init__(self, token: str | None, system: System) -> None:
        self._token = token
        self._system = system
        self._secret = secrets.token_bytes(32)
        self._until: OrderedDict[str, float] = OrderedDict()
        self._failures: list[float] = []

    @staticmethod
    def new() -> str:
        return secrets.token_urlsafe(32)

    @staticmethod
    def is_name(text: str) -> bool:
        return _NAME.match(text) is not None

    def may(self, visitor: str, token: str | None = None) -> bool:
        """Whether a visitor has access. `token`: as a reverse proxy adds it to each request."""
        if self._token is None:
            return True
        if token is not None:
            return not self.locked and self._is_right(token)
        return self._until.get(visitor, 0.0) > self._system.monotonic()

    def log_in(self, token: str) -> str | None:
        """The visitor's new name; None: wrong token."""
        if not self._is_right(token):
            return None
        while len(self._until) >= MOST:
            self._until.popitem(last=False)
        visitor = self.new()
        self._until[visitor] = self._system.monotonic() + LASTS
        return visitor

    def log_out(self, visitor: str) -> None:
        self._until.pop(visitor, None)

    @property
    def locked(self) -> bool:
        now = self._system.monotonic()
        self._failures = [at for at in self._failures if 0 <= now - at < _MINUTE][-MAX_FAILURES:]
        return len(self._failures) >= MAX_FAILURES

    def proof(self, visitor: str) -> str:
        """A secret in each form of this visitor, which other sites can neither read nor guess."""
        return hmac.digest(self._secret, visitor.encode(), "sha256").hex()

    def proves(self, visitor: str, proof: str) -> bool:
        return hmac.compare_digest(self.proof(visitor).encode(), proof.encode("utf-8", "replace"))

    def _is_right(self, token: str) -> bool:
        """Counts wrong tokens."""
        right = self._token is not None and hmac.compare_digest(
            self._token.encode("utf-8", "replace"), token.encode("utf-8", "replace")
        )
        if not right:
            self._failures.append(self._system.monotonic())
        return right
