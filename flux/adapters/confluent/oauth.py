"""Tokens for librdkafka, from the user's `oauth_cb`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flux.adapters.authentication import Authentication
from flux.adapters.secrets import Mask
from flux.adapters.tokens import Tokens, is_token, no_token, no_token_yet, provider_failed, provider_gave
from flux.core.errors import BrokerError
from flux.core.ports import System
from flux.system import forks

START_TIMEOUT = 10.0  # seconds that the provider may take when a client is made
_REFRESH_TIMEOUT = 3.0  # the same when librdkafka refreshes a token: a client that closes waits for it
_CHECK_INTERVAL = 0.2

_REFRESH = 20.0
"""Seconds after which librdkafka requests a token again, so that a refused one is soon replaced."""

_REPORT_DELAY = 1.0
"""Seconds in which a reported refusal may be of the previous token: librdkafka reports it by the same queue as its
request for a new token, and may have waited there."""

Token = tuple[Any, ...]
"""What `oauth_cb` returns: the token, when it expires (seconds since the epoch), and perhaps a principal and
extensions."""


class TokenSource:
    """Calls the user's callback on its own thread, when half of a token's life is over. Thread-safe, for all clients of
    an adapter. `config`: `sasl.oauthbearer.config`, which is passed to the callback."""

    def __init__(
        self,
        provider: Callable[[str | None], Any],
        config: str | None,
        authentication: Authentication,
        mask: Mask,
        system: System,
    ) -> None:
        self._provider = provider
        self._authentication = authentication
        self._config = config
        self._mask = mask
        self._system = system
        self._tokens: Tokens[Token] = Tokens(system.monotonic)
        self._changed = system.condition()
        self._requesting = False

    def token(self, timeout: float, *, patience: float = 0.0) -> Token:
        """Waits for the callback; if it fails, also for its next calls, for `patience` seconds in all. Raises
        BrokerError (UNAVAILABLE) when there is no token."""
        now = self._system.monotonic()
        until, patient_until = now + timeout, now + min(timeout, patience)
        with self._changed:
            while True:
                now = self._system.monotonic()
                left = until - now
                try:
                    held = self._tokens.held()
                except BrokerError:
                    if now >= patient_until:
                        raise
                    self._changed.wait(min(patient_until - now, _CHECK_INTERVAL))
                    continue
                if held is not None:
                    return held
                if not self._requesting:
                    self._requesting = True
                    self._system.spawn("flux-token", self._request)
                if left <= 0:
                    last = self._tokens.last_good()
                    if last is None:
                        raise no_token_yet(timeout)
                    return last
                self._changed.wait(left)

    def refused(self, token: Token) -> None:
        with self._changed:
            self._tokens.refused(token)

    def why_none(self) -> BrokerError | None:
        """Why there is no token to use."""
        with self._changed:
            return self._tokens.why_none()

    def _request(self) -> None:
        """Runs on its own thread: the user's callback may take any time."""
        failure: BrokerError | None = None
        token: Token = ()
        try:
            token = self._checked(forks.calling(self._provider, self._config))
        except BrokerError as error:
            failure = error
        except BaseException as error:
            failure = provider_failed(error, self._mask)
        if failure is not None:
            failure = BrokerError(self._mask(str(failure)), failure.fault)
            self._authentication.warn(no_token(failure))
        with self._changed:
            self._requesting = False
            if failure is None:
                left = token[1] - self._system.now()
                self._tokens.took(token, left / 2, left)
            else:
                self._tokens.failed(failure)
            self._changed.notify_all()

    def _checked(self, given: Any) -> Token:
        if not isinstance(given, tuple) or not 2 <= len(given) <= 4:
            raise provider_gave("no (token, time of expiry in seconds since the epoch)")
        token, expiry = given[:2]
        if not is_token(token):
            raise provider_gave("a token that cannot be sent: it must be a text without spaces")
        self._mask.add_token(token)
        if not isinstance(expiry, int | float) or isinstance(expiry, bool):
            raise provider_gave("no time of expiry, in seconds since the epoch")
        if not self._system.now() < expiry < 2**40:
            raise provider_gave("a token that has expired" if expiry < 2**40 else "an invalid time of expiry")
        if len(given) > 2 and not isinstance(given[2], str):
            raise provider_gave("a principal that is not a str")
        if len(given) > 3 and not _are_texts(given[3]):
            raise provider_gave("extensions that are not a dict of str")
        return given


class TokenCallback:
    """Replaces the user's callback, for one client. librdkafka would hide what that raises, and fail when it returns no
    token."""

    def __init__(self, source: TokenSource, system: System) -> None:
        self.source = source
        self._now = system.now
        self._monotonic = system.monotonic
        self._given: Token | None = None
        self._given_at = 0.0

    def __call__(self, config: str | None) -> Token:
        """Called by librdkafka, which reports an exception as "failed to acquire" and calls again 10 s later."""
        given = self.source.token(_REFRESH_TIMEOUT, patience=_REFRESH_TIMEOUT)
        if given != self._given:
            self._given, self._given_at = given, self._monotonic()
        token, expiry, *rest = given
        # A session ends with its token, and a broker refuses to renew one after less than a second.
        left = (expiry - self._now()) / 2
        return (token, self._now() + min(left, _REFRESH), *rest)

    def refused(self) -> None:
        """The broker refused the client's login with its current token."""
        if self._given is not None and self._monotonic() - self._given_at >= _REPORT_DELAY:
            self.source.refused(self._given)


def _are_texts(given: Any) -> bool:
    return isinstance(given, dict) and all(isinstance(each, str) for pair in given.items() for each in pair)
