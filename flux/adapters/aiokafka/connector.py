"""Connects to brokers, with a back-off, and explains why a connection failed."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Generic, TypeVar

from aiokafka import __version__
from aiokafka import errors as theirs
from aiokafka.conn import AIOKafkaConnection

from flux.adapters import tls
from flux.adapters.aiokafka.errors import translated
from flux.adapters.aiokafka.internals import token_provider_of
from flux.adapters.aiokafka.oauth import AsyncTokenSource, Authenticator, ChallengedError
from flux.adapters.authentication import Authentication, Problem
from flux.adapters.tokens import TokenRefused, no_token, refused_token
from flux.core.errors import BrokerError, Fault

T = TypeVar("T")

_FIRST_PAUSE = 0.1  # seconds after a failed attempt, doubled with each
_LONGEST_PAUSE = 1.0
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


class Attempts(Generic[T]):
    """One attempt at a time, with a pause after each that failed. Callers meanwhile share its result, and one that
    stops waiting does not cancel it. Used in one event loop."""

    def __init__(self) -> None:
        self.failed = 0
        """How many have failed since the last success."""
        self._running: asyncio.Task[T] | None = None
        self._not_before = 0.0

    async def shared(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """The result of the attempt that is running, else of `attempt`. Raises what it raises."""
        if self._running is None or self._running.done():
            self._running = asyncio.get_running_loop().create_task(self._run(attempt))
            # retrieved, as perhaps no caller waits any more when it fails
            self._running.add_done_callback(lambda task: task.cancelled() or task.exception())
        return await asyncio.shield(self._running)

    def cancel(self) -> None:
        if self._running is not None:
            self._running.cancel()

    async def _run(self, attempt: Callable[[], Awaitable[T]]) -> T:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, self._not_before - loop.time()))
        try:
            result = await attempt()
        except BaseException:
            self._not_before = loop.time() + min(_FIRST_PAUSE * 2.0 ** min(self.failed, 16), _LONGEST_PAUSE)
            self.failed += 1
            raise
        self.failed = 0
        return result


class BrokerConnection(AIOKafkaConnection):  # type: ignore[misc]
    """aiokafka's, with an authenticator that recognizes a refused token."""

    authenticator: Authenticator | None = None

    def authenticator_oauth(self) -> Authenticator:
        self.authenticator = Authenticator(token_provider_of(self))
        return self.authenticator


class Connector:
    """`options`: a client's. `certificate`: whether they hold a client certificate; None: not known."""

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

    async def connect(self, host: str, port: int, timeout_ms: int, on_close: Callable[..., Any] | None = None) -> Any:
        """One of aiokafka's connections, logged in. Raises BrokerError: LOGIN where the broker refused the login (and
        none has ever accepted it), else UNAVAILABLE."""
        options = {**self._options, "request_timeout_ms": timeout_ms}
        connection = BrokerConnection(host, port, **options, on_close=on_close)
        try:
            await connection.connect()
        except (Exception, asyncio.CancelledError) as error:
            connection.close()
            if isinstance(error, asyncio.CancelledError):
                raise
            raise self._judged(error, f"{host}:{port}", connection) from None
        self.authentication.accepted()
        return connection

    def _judged(self, error: Exception, where: str, connection: BrokerConnection) -> BrokerError:
        problem = self._problem(error, where, connection)
        if problem is None:
            return self.authentication.judged(translated(error, f"cannot connect to {where}"))
        self.authentication.refused(problem)
        doing = "log in at" if problem.fault is Fault.LOGIN else "connect to"
        return self.authentication.judged(BrokerError(f"cannot {doing} {where}: {problem.text}", problem.fault))

    def _problem(self, error: Exception, where: str, connection: BrokerConnection) -> Problem | None:
        if isinstance(error, TokenRefused):
            return Problem("token refused", str(error), Fault.UNAVAILABLE)
        if isinstance(error, BrokerError):  # of the token source
            return no_token(error)
        if isinstance(error, ssl.SSLCertVerificationError):
            return tls.of_certificate(error, where, OPTIONS)
        token = None if connection.authenticator is None else connection.authenticator.token
        if token is not None and isinstance(error, (ChallengedError, *_REFUSED)):
            source = self._options["sasl_oauth_token_provider"]
            if isinstance(source, AsyncTokenSource):
                source.refused(token)
            return refused_token(_text(error))
        if isinstance(error, theirs.IllegalSaslStateError):
            remedy = "it may be one without SASL: see security_protocol"
            return Problem("login refused", f"the listener at {where} does not accept a login: {remedy}")
        if isinstance(error, _REFUSED):
            return Problem("login refused", f"the broker refused the login: {_text(error)}: check user and password")
        alert = next((cause for cause in _causes(error) if isinstance(cause, ssl.SSLError)), None)
        if alert is not None and (found := tls.of_alert(str(alert), where, self._certificate, OPTIONS)) is not None:
            return found
        if self._tls and (alert is not None or isinstance(error, ConnectionResetError | ConnectionAbortedError)):
            return tls.no_tls(where)
        return None


def _text(error: Exception) -> str:
    text = error.args[0] if error.args and isinstance(error.args[0], str) else ""
    return text or type(error).__name__


def _causes(error: BaseException) -> list[BaseException]:
    """The error itself and its causes, latest first."""
    found: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in found:
        found.append(cause)
        cause = cause.__cause__ or cause.__context__
    return found
