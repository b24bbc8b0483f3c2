"""Connections to brokers, or why there is none."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping
from typing import Any

from aiokafka import __version__
from aiokafka import errors as theirs
from aiokafka.conn import AIOKafkaConnection

from flux.adapters import tls
from flux.adapters.aiokafka.errors import translated
from flux.adapters.aiokafka.oauth import AsyncTokenSource, Authenticator, ChallengedError
from flux.adapters.authentication import Authentication, Problem
from flux.adapters.tokens import TokenRefused, no_token, refused_token
from flux.core.errors import BrokerError, Fault

_NOT_OF_A_CONNECTION = ("bootstrap_servers", "retry_backoff_ms", "metadata_max_age_ms", "connections_max_idle_ms")
_IDLE_MS = 540_000  # aiokafka's default
OPTIONS = tls.TlsOptions("ssl_cafile", "ssl_certfile and ssl_keyfile")
_REFUSED = (
    theirs.AuthenticationFailedError,
    theirs.AuthenticationMethodNotSupported,
    theirs.SaslAuthenticationFailed,
    theirs.UnsupportedSaslMechanismError,
    theirs.IllegalSaslStateError,
)


class BrokerConnection(AIOKafkaConnection):  # type: ignore[misc]
    """aiokafka's, but for its answer to a refused token."""

    authenticator: Authenticator | None = None

    def authenticator_oauth(self) -> Authenticator:
        self.authenticator = Authenticator(self._sasl_oauth_token_provider)
        return self.authenticator


class Connector:
    """`options`: a client's. `certificate`: whether they hold one of its own; None: who knows."""

    def __init__(
        self, options: Mapping[str, Any], authentication: Authentication, certificate: bool | None = None
    ) -> None:
        self.authentication = authentication
        self._options = {
            "client_id": f"aiokafka-{__version__}",
            "max_idle_ms": options.get("connections_max_idle_ms", _IDLE_MS),
            **{name: value for name, value in options.items() if name not in _NOT_OF_A_CONNECTION},
        }
        self._certificate = certificate
        self._tls = "SSL" in options.get("security_protocol", "")

    async def connected(self, host: str, port: int, timeout_ms: int, on_close: Callable[..., Any] | None = None) -> Any:
        """One of aiokafka's connections, logged in. Raises BrokerError: LOGIN where the broker refused the login (and
        none has ever taken it), else UNAVAILABLE."""
        made = BrokerConnection(host, port, **{**self._options, "request_timeout_ms": timeout_ms}, on_close=on_close)
        try:
            await made.connect()
        except (Exception, asyncio.CancelledError) as error:
            made.close()
            if isinstance(error, asyncio.CancelledError):
                raise
            raise self._judged(error, f"{host}:{port}", made) from None
        self.authentication.accepted()
        return made

    def _judged(self, error: Exception, where: str, made: BrokerConnection) -> BrokerError:
        problem = self._problem(error, where, made)
        if problem is None:
            return self.authentication.judged(translated(error, f"cannot connect to {where}"))
        self.authentication.refused(problem)
        doing = "log in at" if problem.fault is Fault.LOGIN else "connect to"
        return self.authentication.judged(BrokerError(f"cannot {doing} {where}: {problem.text}", problem.fault))

    def _problem(self, error: Exception, where: str, made: BrokerConnection) -> Problem | None:
        if isinstance(error, TokenRefused):
            return Problem("token refused", str(error), Fault.UNAVAILABLE)
        if isinstance(error, BrokerError):  # of the token source
            return no_token(error)
        if isinstance(error, ssl.SSLCertVerificationError):
            return tls.of_certificate(error, where, OPTIONS)
        shown = made.authenticator
        if shown is not None and shown.token is not None and isinstance(error, (ChallengedError, *_REFUSED)):
            source = self._options["sasl_oauth_token_provider"]
            if isinstance(source, AsyncTokenSource):
                source.refused(shown.token)
            return refused_token(said(error))
        if isinstance(error, theirs.IllegalSaslStateError):
            remedy = "it may be one without SASL: see security_protocol"
            return Problem("login refused", f"the listener at {where} takes no login: {remedy}")
        if isinstance(error, _REFUSED):
            return Problem("login refused", f"the broker refused the login: {said(error)}: check user and password")
        alert = next((each for each in chain(error) if isinstance(each, ssl.SSLError)), None)
        if alert is not None and (found := tls.of_alert(str(alert), where, self._certificate, OPTIONS)) is not None:
            return found
        if self._tls and (alert is not None or isinstance(error, ConnectionResetError | ConnectionAbortedError)):
            return tls.no_tls(where)
        return None


def said(error: Exception) -> str:
    text = error.args[0] if error.args and isinstance(error.args[0], str) else ""
    return text or type(error).__name__


def chain(error: BaseException) -> list[BaseException]:
    """It and what led to it."""
    found: list[BaseException] = []
    each: BaseException | None = error
    while each is not None and each not in found:
        found.append(each)
        each = each.__cause__ or each.__context__
    return found
