"""Why aiokafka cannot log in, and the tokens that it shows."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any

import pytest
from aiokafka import errors as theirs

from flux.adapters.aiokafka.config import checked
from flux.adapters.aiokafka.connector import Connector
from flux.adapters.aiokafka.errors import translated
from flux.adapters.aiokafka.oauth import AsyncTokenSource, Authenticator, ChallengedError
from flux.adapters.authentication import Authentication
from flux.adapters.secrets import Mask
from flux.core.errors import BrokerError, ConfigurationError, Fault
from flux.system import SYSTEM
from unit.support.aiokafka_support import run


class Provider:
    def __init__(self, give: Callable[[], Any]) -> None:
        self._give = give
        self.calls = 0

    async def token(self) -> Any:
        self.calls += 1
        got = self._give()
        return await got if asyncio.iscoroutine(got) else got


def fails(error: BaseException) -> Callable[[], Any]:
    def give() -> Any:
        raise error

    return give


def source_of(provider: Any) -> AsyncTokenSource:
    mask = Mask({})
    return AsyncTokenSource(provider, Authentication(mask, SYSTEM), mask, SYSTEM)


# -- tokens


def test_connections_that_are_made_together_share_a_token() -> None:
    provider = Provider(lambda: "token")
    source = source_of(provider)

    async def main() -> list[str]:
        return list(await asyncio.gather(*(source.token() for _ in range(8))))

    assert run(main()) == ["token"] * 8
    assert provider.calls == 1


def test_a_provider_that_raises_is_no_failure_of_the_client_and_is_asked_with_a_back_off() -> None:
    provider = Provider(fails(ConnectionError("away with eyJhbGciOiJub25lIn0.eyJzdWIiOiJib3NzIn0.")))
    source = source_of(provider)

    async def main() -> list[Any]:
        return await asyncio.gather(*(source.token() for _ in range(8)), return_exceptions=True)

    for error in [*run(main()), *run(main())]:
        assert isinstance(error, BrokerError)
        assert error.retriable
        assert str(error) == "the token provider failed: ConnectionError: away with ***"
    assert provider.calls == 1


def test_a_provider_that_hangs_holds_nobody_for_ever() -> None:
    source = source_of(Provider(lambda: asyncio.sleep(3600)))
    with pytest.raises(BrokerError, match="has not answered for 10 s"):
        run(source.token())


@pytest.mark.parametrize("given", [None, "", b"token", "a b", "a\x01b", 1])
def test_what_cannot_be_sent_is_no_token(given: Any) -> None:
    with pytest.raises(BrokerError, match="cannot be sent"):
        run(source_of(Provider(lambda: given)).token())


def test_a_provider_that_blocks_may_be_a_plain_function() -> None:
    class Plain:
        def token(self) -> str:
            return "token"

    assert run(source_of(Plain()).token()) == "token"


def test_extensions_that_fail_are_a_failure_of_the_provider() -> None:
    class Broken(Provider):
        def extensions(self) -> Any:
            raise ValueError("no")

    with pytest.raises(BrokerError, match="ValueError: no"):
        source_of(Broken(lambda: "token")).extensions()
    assert source_of(Provider(lambda: "token")).extensions() == {}


def test_a_challenge_after_the_token_is_a_refusal() -> None:
    async def main() -> None:
        good, bad = (Authenticator(source_of(Provider(lambda: "token"))) for _ in range(2))
        assert await good.step(None) == (b"n,,\x01auth=Bearer token\x01\x01", True)
        assert await good.step(b"") is None
        await bad.step(None)
        with pytest.raises(ChallengedError, match="invalid_token"):
            await bad.step(b'{"status":"invalid_token"}')

    run(main())


# -- what is said


def judged(error: Exception, *, worked: bool = False, certificate: bool | None = False, **options: Any) -> BrokerError:
    async def main() -> BrokerError:
        authentication = Authentication(Mask({}), SYSTEM)
        authentication.worked = worked
        connector = Connector({"security_protocol": "SASL_SSL", **options}, authentication, certificate)

        class Made:
            authenticator = options.get("shown")

        return connector._judged(error, "h:1", Made())  # type: ignore[arg-type]

    return run(main())


def alert(text: str) -> Exception:
    closed: Exception = theirs.KafkaConnectionError("Connection at h:1 closed")
    closed.__cause__ = ssl.SSLError(1, text)
    return closed


def untrusted(code: int) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code, error.verify_message = code, "as it is"
    return error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (untrusted(20), "signed by an authority that is not known here: set ssl_cafile"),
        (untrusted(10), "the certificate of h:1 has expired"),
        (alert("sslv3 alert bad certificate"), "h:1 wants a client certificate: set ssl_certfile"),
        (theirs.SaslAuthenticationFailed("invalid credentials"), "refused the login: invalid credentials: check user"),
        (theirs.UnsupportedSaslMechanismError("does not support PLAIN"), "refused the login: does not support PLAIN"),
        (theirs.IllegalSaslStateError(), "it may be one without SASL: see security_protocol"),
    ],
)
def test_a_login_that_is_refused_is_named_with_its_remedy(error: Exception, said: str) -> None:
    first = judged(error)
    assert said in str(first)
    assert first.fault is Fault.LOGIN
    assert judged(error, worked=True).retriable


def test_a_client_certificate_that_is_refused_is_no_missing_one() -> None:
    text = str(judged(alert("sslv3 alert certificate unknown"), certificate=True))
    assert text == (
        "cannot log in at h:1: h:1 refused the client certificate (certificate unknown): give one that has not expired,"
        " and that an authority has signed that the broker trusts"
    )


@pytest.mark.parametrize("error", [ConnectionResetError(), ssl.SSLError(1, "wrong version number")])
def test_a_handshake_that_ends_is_an_outage_that_may_be_a_listener_without_tls(error: Exception) -> None:
    found = judged(error)
    assert "ended the TLS handshake: it may be one without TLS" in str(found)
    assert found.retriable


def test_a_refused_token_is_named_and_not_shown_again() -> None:
    async def main() -> None:
        provider = Provider(lambda: "token")
        source = source_of(provider)
        shown = Authenticator(source)
        await shown.step(None)
        connector = Connector({"sasl_oauth_token_provider": source}, Authentication(Mask({}), SYSTEM))

        class Made:
            authenticator = shown

        found = connector._judged(ChallengedError('{"status":"invalid_token"}'), "h:1", Made())  # type: ignore[arg-type]
        assert str(found).startswith("cannot log in at h:1: the broker refused the token: invalid_token: check")
        assert found.fault is Fault.LOGIN
        with pytest.raises(BrokerError, match="refused the last token"):
            await source.token()

    run(main())


def test_an_error_without_a_text_is_no_missing_answer() -> None:
    assert str(translated(ConnectionResetError(), "x")) == "x: the connection was reset (ConnectionResetError)"
    assert str(translated(TimeoutError(), "x")) == "x: no answer in time (TimeoutError)"


# -- options


@pytest.mark.parametrize("provider", [None, object()])
def test_a_token_provider_is_wanted_where_tokens_are(provider: Any) -> None:
    options = {"security_protocol": "SASL_SSL", "sasl_mechanism": "OAUTHBEARER"}
    given = options if provider is None else {**options, "sasl_oauth_token_provider": provider}
    with pytest.raises(ConfigurationError, match="sasl_oauth_token_provider"):
        checked(given)
    checked({**options, "sasl_oauth_token_provider": Provider(lambda: "token")})
