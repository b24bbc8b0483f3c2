"""When to request a token from the provider, and how long to use it. All clients of an adapter share it."""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections.abc import Callable
from typing import Generic, TypeVar

from flux.adapters.authentication import Problem
from flux.core.error_text import brief
from flux.core.errors import BrokerError, Fault
from flux.core.text import one_line

T = TypeVar("T")

_FIRST = 0.5  # seconds until the next request after a failure, doubled with each
_LONGEST = 10.0
_FORGOTTEN = 30.0  # seconds without a failure after which the back-off starts again
_TEXT = 300
_TOKEN = re.compile(r"[\x21-\x7e]+\Z")


class TokenRefused(BrokerError):
    """A broker refused the token a moment ago. The next token comes in some seconds."""


class Tokens(Generic[T]):
    """A token, and when to request the next. Makes no calls. `clock`: seconds since some moment. Used under its
    caller's lock."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._now = clock
        self._token: T | None = None
        self._fresh_until = -math.inf
        self._good_until = -math.inf
        self._failures = 0
        self._ask_at = -math.inf
        self._failure: BrokerError | None = None

    def held(self) -> T | None:
        """The token to use now. None: call the provider, then `took` or `failed`. Raises BrokerError (UNAVAILABLE) when
        there is none and it is too early for the next request."""
        now = self._now()
        if self._token is not None and now < self._fresh_until:
            return self._token
        if now >= self._ask_at:
            return None
        last = self.last_good()
        if last is None:
            raise self._failure or BrokerError("no token yet", Fault.UNAVAILABLE)
        return last

    def why_none(self) -> BrokerError | None:
        """Why there is no token to use."""
        return self._failure if self.last_good() is None else None

    def took(self, token: T, fresh: float, good: float) -> None:
        """The provider returned a token. `fresh`: seconds until the next request; `good`: seconds for which it may be
        used when the provider fails."""
        self._token = token
        self._fresh_until, self._good_until = self._now() + fresh, self._now() + good

    def failed(self, error: BrokerError) -> None:
        """The provider failed: `held` raises `error`, unless the last token is still good."""
        self._back_off(error)

    def last_good(self) -> T | None:
        """The last token, if it may still be used."""
        return self._token if self._now() < self._good_until else None

    def refused(self, token: T | None = None) -> None:
        """A broker refused the token: it is not used again, and the next comes after a while. None: the current one."""
        if self._token is not None and (token is None or token == self._token):
            ended, self._token = self.last_good() is None, None
            if not ended:
                self._back_off(TokenRefused("the broker refused the last token", Fault.UNAVAILABLE))

    def _back_off(self, error: BrokerError) -> None:
        now = self._now()
        if now - self._ask_at > _FORGOTTEN:
            self._failures = 0
        self._failure = error
        self._ask_at = now + min(_FIRST * 2.0 ** min(self._failures, 16), _LONGEST)
        self._failures += 1


def provider_failed(error: BaseException, masked: Callable[[str], str]) -> BrokerError:
    """A token provider that raises counts as unavailable, as a cluster may be."""
    return BrokerError(f"the token provider failed: {one_line(masked(brief(error)))[:_TEXT]}", Fault.UNAVAILABLE)


def provider_gave(what: str) -> BrokerError:
    """For a return value that is no token."""
    return BrokerError(f"the token provider gave {what}", Fault.UNAVAILABLE)


def no_token(why: BrokerError) -> Problem:
    return Problem("no token", f"cannot get a token: {why}", Fault.UNAVAILABLE)


def no_token_yet(seconds: float) -> BrokerError:
    return BrokerError(f"the token provider has not answered for {seconds:g} s", Fault.UNAVAILABLE)


def is_token(given: object) -> bool:
    """Whether it can be sent: printable ASCII without spaces (RFC 6750)."""
    return isinstance(given, str) and bool(_TOKEN.match(given))


def expiry_of(token: str) -> float | None:
    """When a JSON web token expires, in seconds since the epoch; None: not known, or another kind of token."""
    parts = token.split(".")
    if len(parts) < 2:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        return float(claims["exp"])
    except (binascii.Error, ValueError, TypeError, KeyError, RecursionError, OverflowError):
        return None


def refused_token(challenge: str) -> Problem:
    """`challenge`: the broker's answer, JSON if it follows RFC 7628."""
    try:
        answer = json.loads(challenge)
        said = str(answer["status"])
        if answer.get("scope"):
            said += f" (it wants the scope {answer['scope']})"
    except (ValueError, KeyError, TypeError, AttributeError):
        said = challenge or "it does not say why"
    remedy = "check what the token provider gives (it may have expired, or be for others)"
    return Problem("token refused", f"the broker refused the token: {said}: {remedy}")
