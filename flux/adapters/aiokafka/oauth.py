"""Tokens for aiokafka's connections, from the user's provider."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any
from weakref import WeakKeyDictionary

from aiokafka.abc import AbstractTokenProvider
from aiokafka.conn import OAuthAuthenticator
from aiokafka.errors import KafkaError

from flux.adapters.authentication import Authentication
from flux.adapters.secrets import Mask
from flux.adapters.tokens import Tokens, expiry_of, is_token, no_token, no_token_yet, provider_failed, provider_gave
from flux.core.errors import BrokerError
from flux.core.ports import System

_PATIENCE = 10.0  # seconds that the provider may take
_FRESH = 1.0  # seconds: connections that are made together share a token; the provider keeps it for longer itself


class ChallengedError(KafkaError):  # type: ignore[misc]
    """The broker did not take the token: what it says of it."""


class AsyncTokenSource(AbstractTokenProvider):  # type: ignore[misc]
    """In the place of the user's `provider`, for all clients of an adapter, in any event loop."""

    def __init__(self, provider: Any, authentication: Authentication, mask: Mask, system: System) -> None:
        self._provider = provider
        self._authentication = authentication
        self._mask = mask
        self._system = system
        self._lock = system.condition()
        self._tokens: Tokens[str] = Tokens(system.monotonic)
        self._asking: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Task[None]] = WeakKeyDictionary()

    async def token(self) -> str:
        """Raises BrokerError (UNAVAILABLE) where there is none."""
        held = self._held()
        if held is not None:
            return held
        loop = asyncio.get_running_loop()
        asking = self._asking.get(loop)
        if asking is None or asking.done():
            asking = self._asking[loop] = loop.create_task(self._ask())
        await asyncio.wait([asking])
        held = self._held()
        if held is None:
            raise no_token_yet(_PATIENCE)  # the loop stood still for so long
        return held

    def _held(self) -> str | None:
        with self._lock:
            return self._tokens.held()

    def extensions(self) -> dict[str, str]:
        """Raises BrokerError (UNAVAILABLE)."""
        ask = getattr(self._provider, "extensions", None)
        if not callable(ask):
            return {}
        try:
            return {str(name): str(value) for name, value in dict(ask()).items()}
        except Exception as error:
            raise provider_failed(error, self._mask) from None

    def refused(self, token: str) -> None:
        with self._lock:
            self._tokens.refused(token)

    async def _ask(self) -> None:
        """Never raises: whoever waits asks for what is held."""
        try:
            async with asyncio.timeout(_PATIENCE):
                given = self._provider.token()
                token = await given if inspect.isawaitable(given) else given
            if not is_token(token):
                raise provider_gave("a token that cannot be sent: it must be a text without spaces")
            self._mask.add_token(token)
            end = expiry_of(token)
            left = _FRESH if end is None else max(end - self._system.now(), _FRESH)  # the broker's clock decides
        except BrokerError as error:
            failure = error
        except TimeoutError:
            failure = no_token_yet(_PATIENCE)
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
    """aiokafka's takes any answer of the broker's for success. One with a text is a refusal (RFC 7628, 3.2.2)."""

    def __init__(self, source: Any) -> None:
        super().__init__(sasl_oauth_token_provider=source)
        self._source = source
        self.token: str | None = None
        """The one that was shown."""

    async def step(self, payload: bytes | None) -> tuple[bytes, bool] | None:
        if payload:
            raise ChallengedError(payload.decode(errors="replace"))
        if self.token is not None:
            return None
        self.token = await self._source.token()
        shown: str = self._build_oauth_client_request(self.token, self._token_extensions())
        return shown.encode(), True
