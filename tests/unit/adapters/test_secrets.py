"""Secrets are in no text, and a text stays readable."""

from __future__ import annotations

from typing import Any

import pytest

from flux.adapters.aiokafka import AiokafkaAdapter
from flux.adapters.confluent import ConfluentAdapter
from flux.adapters.secrets import Mask, shown

OAUTH = {
    "security.protocol": "sasl_plaintext",
    "sasl.mechanism": "OAUTHBEARER",
    "sasl.oauthbearer.method": "oidc",
    "sasl.oauthbearer.scope": "x",
    "sasl.oauthbearer.client.id": "kafka",
    "sasl.oauthbearer.client.secret": "very-s3cret",
    "sasl.oauthbearer.token.endpoint.url": "https://idp/token",
    "ssl.key.location": "/etc/keys/client.pem",
    "ssl.key.password": "kafka",
}


def test_what_is_no_secret_leaves_a_text_as_it_is() -> None:
    text = "sasl_plaintext://kafka:9092/1: no token from https://idp/token for x by oidc, and no /etc/keys/client.pem"
    assert Mask(OAUTH)(text) == text


def test_a_secret_of_some_length_is_hidden_wherever_it_stands() -> None:
    assert Mask(OAUTH)("refused: very-s3cret!") == "refused: ***!"


def test_a_short_secret_is_hidden_where_it_is_named_only() -> None:
    assert shown(OAUTH)["ssl.key.password"] == "***"
    assert Mask({"sasl.password": "kafka"})("kafka://h:1 is away") == "kafka://h:1 is away"


def test_the_options_are_shown_but_for_secrets() -> None:
    given = {name: value for name, value in OAUTH.items() if not name.startswith("ssl.")}
    assert shown(given) == {**given, "sasl.oauthbearer.client.secret": "***"}


def test_a_login_in_an_address_is_not_shown() -> None:
    address = {"sasl.oauthbearer.token.endpoint.url": "https://me:pw@idp/token"}
    assert shown(address) == {"sasl.oauthbearer.token.endpoint.url": "https://***@idp/token"}


class Provider:
    async def token(self) -> str:
        return ""

    def __call__(self, config: str | None) -> tuple[str, float]:
        return "", 0.0

    def __repr__(self) -> str:
        return "Provider('very-s3cret')"


@pytest.mark.parametrize(
    "adapter",
    [
        AiokafkaAdapter("h:1", {"sasl_oauth_token_provider": Provider()}),
        ConfluentAdapter("h:1", {"oauth_cb": Provider()}),
    ],
)
def test_an_object_may_hold_a_secret_and_is_not_shown(adapter: Any) -> None:
    assert "s3cret" not in repr(adapter)


@pytest.mark.parametrize(
    "text",
    [
        "invalid: eyJhbGciOiJub25lIn0.eyJzdWIiOiJib3NzIn0. (again)",
        "invalid: eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJib3NzIn0.c2lnbmF0dXJl-_x (again)",
        "Authorization: Bearer c2lnbmF0dXJl+/x= (again)",
    ],
)
def test_whatever_looks_like_a_token_is_hidden(text: str) -> None:
    masked = Mask({})(text)
    assert "***" in masked
    assert masked.endswith(" (again)")
    assert "c2ln" not in masked
    assert "eyJ" not in masked


def test_tokens_of_a_provider_are_hidden_whatever_they_look_like() -> None:
    mask = Mask({})
    mask.add_token("opaque-token")
    assert mask("the broker refused opaque-token") == "the broker refused ***"
