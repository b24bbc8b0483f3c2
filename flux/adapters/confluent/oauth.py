"""Tokens for librdkafka, from the user's `oauth_cb`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flux.adapters.authentication import Authentication
from flux.adapters.secrets import Mask
from flux.adapters.tokens import Tokens, is_token, no_token, no_token_yet, provider_failed, provider_gave
from flux.core.errors import BrokerError
from flux.core.ports import System

PATIENCE = 10.0  # seconds that the provider may take when a client is made
_BRIEFLY = 3.0  # and when librdkafka asks: a client that closes waits for that

_LOOK = 0.2

_REFRESH = 20.0
"""Seconds for which librdkafka keeps a token before it asks again, here: so one that a broker refused is soon
replaced."""

_ON_ITS_WAY = 1.0
"""Seconds in which a refusal that librdkafka tells of may be of the token before: it is told by the same queue as the
wish for a new token, whose answer it may have waited for."""

Token = tuple[Any, ...]
"""What `oauth_cb` gives: the token, when it expires (seconds since the epoch), and perhaps a principal and
extensions."""


class TokenSource:
    """Asks the user's callback on a thread of its own, when half of a token's life is over. Thread-safe, for all
    clients of an adapter. `config`: `sasl.oauthbearer.config`, which the callback gets."""

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
        self._asking = False

    def token(self, timeout: float, *, patient: bool = False) -> Token:
        """Waits for the callback's answer; where that has just failed, for another one if `patient`. Raises BrokerError
        (UNAVAILABLE) where there is none."""
        until = self._system.monotonic() + timeout
        with self._changed:
            while True:
                left = until - self._system.monotonic()
                try:
                    held = self._tokens.held()
                except BrokerError:
                    if not patient or left <= 0:
                        raise
                    self._changed.wait(min(left, _LOOK))
                    continue
                if held is not None:
                    return held
                if not self._asking:
                    self._asking = True
                    self._system.spawn("flux-token", self._ask)
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
        """Why there is no token that may be used."""
        with self._changed:
            return self._tokens.why_none()

    def _ask(self) -> None:
        """On a thread of its own: it is the user's, and nobody waits for ever."""
        failure: BrokerError | None = None
        token: Token = ()
        try:
            token = self._checked(self._provider(self._config))
        except BrokerError as error:
            failure = error
        except BaseException as error:
            failure = provider_failed(error, self._mask)
        if failure is not None:
            failure = BrokerError(self._mask(str(failure)), failure.fault)
            self._authentication.warn(no_token(failure))
        with self._changed:
            self._asking = False
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
            raise provider_gave("a token that has expired" if expiry < 2**40 else "a time of expiry that is none")
        if len(given) > 2 and not isinstance(given[2], str):
            raise provider_gave("a principal that is no text")
        if len(given) > 3 and not _are_texts(given[3]):
            raise provider_gave("extensions that are no dict of texts")
        return given


class TokenCallback:
    """In the place of the user's, for one client. librdkafka would hide what that raises, and break where what it
    gives is no token."""

    def __init__(self, source: TokenSource, system: System) -> None:
        self.source = source
        self._now = system.now
        self._monotonic = system.monotonic
        self._given: Token | None = None
        self._given_at = 0.0

    def __call__(self, config: str | None) -> Token:
        """By librdkafka. What is raised here it reports as "failed to acquire", and asks again 10 s later."""
        given = self.source.token(_BRIEFLY, patient=True)
        if given != self._given:
            self._given, self._given_at = given, self._monotonic()
        token, expiry, *rest = given
        # A session lasts no longer than its token, and a broker refuses to renew one after less than a second.
        left = (expiry - self._now()) / 2
        return (token, self._now() + min(left, _REFRESH), *rest)

    def refused(self) -> None:
        """The client's login, with the token that it has."""
        if self._given is not None and self._monotonic() - self._given_at >= _ON_ITS_WAY:
            self.source.refused(self._given)


def _are_texts(given: Any) -> bool:
    return isinstance(given, dict) and all(isinstance(each, str) for pair in given.items() for each in pair)
