"""Any text as an adapter's URL: an adapter, or a ConfigurationError that has no secret in it."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flux
from flux import config
from flux.adapters.memory import _clusters, forget

SCHEMES = ["memory", "confluent", "kafka", "aiokafka"]
SECRET = "zQx9Secret"
SPECIAL = ":/?#[]@!$&'()*+,;=% \\\"<>^`{|}~\n\0é²\ud800"

SECRETS = [
    "sasl.password",
    "ssl.key.password",
    "ssl.keystore.password",
    "ssl.key.pem",
    "sasl_plain_password",
    "ssl_password",
]
PROPERTIES = [
    *SECRETS, "sasl.username", "sasl_plain_username", "security.protocol", "security_protocol", "sasl.mechanism",
    "sasl_mechanism", "client.id", "group.id", "acks", "partitions", "auto_create", "session_timeout_ms", "ssl_cafile",
    "ssl_check_hostname", "fetch.min.bytes",
]  # fmt: skip
VALUES = ["SASL_SSL", "PLAIN", "ssl", "true", "-1", "1", "9" * 5000, "", "/no/such/file", SECRET]


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    before = set(_clusters)
    yield
    config.reset()
    for name in set(_clusters) - before:
        forget(name)


def checked(url: str) -> None:
    try:
        adapter = flux.adapter_from_url(url)
    except flux.ConfigurationError as error:
        text = str(error)
        assert SECRET not in text
        assert "\n" not in text
        return
    assert SECRET not in f"{adapter!r} {adapter.cluster}"
    assert repr(adapter)


@settings(max_examples=200)
@given(st.one_of(st.text(), st.sampled_from(SCHEMES).flatmap(lambda s: st.text().map(lambda t: f"{s}://{t}"))))
def test_any_text(url: str) -> None:
    checked(url)


secrets = st.builds(
    lambda before, after, escaped: quote(before + SECRET + after, safe="") if escaped else before + SECRET + after,
    st.text(SPECIAL.replace("\ud800", ""), max_size=4),
    st.text(SPECIAL.replace("\ud800", ""), max_size=4),
    st.booleans(),
)
hosts = st.one_of(
    st.sampled_from(["localhost:9092", "a:1,b:2", "[::1]:9092", "", ",", "a", "a:x", "a:99999", f"a:{'9' * 5000}"]),
    st.text(SPECIAL + "a1:", max_size=6),
)
queries = st.lists(
    st.tuples(st.sampled_from(PROPERTIES), st.one_of(st.sampled_from(VALUES), st.text(SPECIAL, max_size=3))),
    max_size=5,
).map(lambda pairs: "&".join(f"{name}={value}" for name, value in pairs))


@settings(max_examples=600)
@given(st.sampled_from(SCHEMES), st.one_of(st.just("user"), st.just("")), st.none() | secrets, hosts, queries)
def test_a_url_with_a_password_in_it(scheme: str, user: str, secret: str | None, host: str, query: str) -> None:
    login = "" if secret is None else f"{user}:{secret}@"
    if any(f"{name}={SECRET}" in query for name in PROPERTIES if name not in SECRETS):
        query = ""  # not where a secret goes
    checked(f"{scheme}://{login}{host}" + (f"?{query}" if query else ""))


@given(st.sampled_from(SCHEMES), st.integers(0, 60), st.sampled_from(SPECIAL), st.booleans())
def test_a_good_url_with_one_character_wrong(scheme: str, at: int, character: str, instead: bool) -> None:
    good = f"{scheme}://user:{SECRET}@localhost:9092?sasl.mechanism=PLAIN&security.protocol=SASL_SSL"
    within = SECRET in good[:at] or at <= good.index(SECRET)
    url = good[:at] + character + good[at + (instead and within) :]
    if SECRET in url:
        checked(url)
