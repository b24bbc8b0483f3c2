"""Tokens for aiokafka's connections, from the user's token provider."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any
from weakref import WeakKeyDictionary

from aiokafka.abc import AbstractTokenProvider
from aiokafka.conn import OAuthAuthenticator
from aiokafka.errors import KafkaError

from flux.adapters.aiokafka.internals import oauth_request
from flux.adapters.authentication import Authentication
from flux.adapters.secrets import Mask
from flux.adapters.tokens import Tokens, expiry_of, is_token, no_token, no_token_yet, provider_failed, provider_gave
from flux.core.errors import BrokerError
from flux.core.ports import System
from flux.system import forks

_TIMEOUT = 10.0  # seconds that the provider may take
_FRESH = 1.0  # seconds for which connections share a token; the provider caches it for longer itself


class ChallengedError(KafkaError):  # type: ignore[misc]
    """The broker refused the token; the text is its reason."""


class AsyncTokenSource(AbstractTokenProvider):  # type: ignore[misc]
    """Replaces the user's `provider`, for all clients of an adapter, in any event loop."""

    def __init__(self, provider: Any, authentication: Authentication, mask: Mask, system: System) -> None:
        self._provider = provider
        self._authentication = authentication
        self._mask = mask
        self._system = system
        self._lock = system.condition()
        self._tokens: Tokens[str] = Tokens(system.monotonic)
        self._requests: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Task[None]] = WeakKeyDictionary()

    async def token(self) -> str:
        """Raises BrokerError (UNAVAILABLE) where there is none."""
        held = self._held()
        if held is not None:
            return held
        loop = asyncio.get_running_loop()
        request = self._requests.get(loop)
        if request is None or request.done():
            request = self._requests[loop] = loop.create_task(self._request_token())
        await asyncio.wait([request])
        held = self._held()
        if held is None:
            raise no_token_yet(_TIMEOUT)  # the event loop was blocked for so long
        return held

    def _held(self) -> str | None:
        with self._lock:
            return self._tokens.held()

    def extensions(self) -> dict[str, str]:
        """Raises BrokerError (UNAVAILABLE)."""
        extensions = getattr(self._provider, "extensions", None)
        if not callable(extensions):
            return {}
        try:
            return {str(name): str(value) for name, value in dict(forks.calling(extensions)).items()}
        except Exception as error:
            raise provider_failed(error, self._mask) from None

    def refused(self, token: str) -> None:
        with self._lock:
            self._tokens.refused(token)

    async def _request_token(self) -> None:
        """Never raises: its waiters read the token or the failure afterwards."""
        try:
            async with asyncio.timeout(_TIMEOUT):
                given = forks.calling(self._provider.token)
                token = await given if inspect.isawaitable(given) else given
            if not is_token(token):
                raise provider_gave("a token that cannot be sent: it must be a text without spaces")
            self._mask.add_token(token)
            end = expiry_of(token)
            left = (
                _FRESH if end is None else max(end - self._system.now(), _FRESH)
            )  # clocks may differ: the broker decides
        except BrokerError as error:
            failure = error
        except TimeoutError:
            failure = no_token_yet(_TIMEOUT)
        except Exception as error:
            failure = provider_failed(error, self._mask)
        else:
            with self._lock:
                self._tokens.took(token, _FRESH, left)
            return
        with self._lock:
            self._tokens.failed(failure)
        self._authentication.warn(no_token(failure))


class Authenticator(OAuthAuthenticator):  # type: ignore[misc]
    """aiokafka's own treats any answer as success. An answer with a text is a refusal (RFC 7628, 3.2.2)."""

    def __init__(self, source: Any) -> None:
        super().__init__(sasl_oauth_token_provider=source)
        self._source = source
        self.token: str | None = None
        """The token that was sent."""

    async def step(self, payload: bytes | None) -> tuple[bytes, bool] | None:
        if payload:
            raise ChallengedError(payload.decode(errors="replace"))
        if self.token is not None:
            return None
        self.token = await self._source.token()
        return oauth_request(self, self.token).encode(), True
