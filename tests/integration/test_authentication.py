"""Logins as clouds have them, on a real broker: short-lived tokens, client certificates, servers not to be trusted."""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import attrs
import pytest
from aiokafka.abc import AbstractTokenProvider
from brokers import NoBroker
from brokers.cloud import CLOUD_USERS, SESSION, cloud_properties, token
from brokers.tls import TLS_USERS, Authority, add_users
from click.testing import CliRunner

import flux
from flux import config
from flux.adapters.aiokafka import AiokafkaAdapter
from flux.adapters.confluent import ConfluentAdapter
from flux.cli.main import cli
from flux.core.errors import BrokerError, Fault
from integration.own import Own, own_broker
from integration.test_security import wait_for

pytestmark = [
    pytest.mark.timeout(150),  # the first test of this module starts a broker, and may fetch it
    pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning"),
]

CLIENTS = ["confluent", "aiokafka"]
SECONDS = 60.0


@attrs.frozen
class Cloud:
    own: Own
    authority: Authority
    other: Authority
    """One that the broker does not know."""

    def at(self, listener: str) -> str:
        return self.own.node.at[listener]

    def adapter(self, client: str, listener: str, *, trusts: Authority | None = None, **login: Any) -> Any:
        """`login`: `certificate` (a file), or `tokens` (a function that gives one)."""
        authority = str((trusts or self.authority).certificate)
        if client == "confluent":
            options: dict[str, Any] = {"security.protocol": "SSL", "ssl.ca.location": authority}
            if certificate := login.get("certificate"):
                options |= {"ssl.certificate.location": str(certificate), "ssl.key.location": str(certificate)}
            if tokens := login.get("tokens"):
                options |= {"security.protocol": "SASL_SSL", "sasl.mechanism": "OAUTHBEARER"}
                options["oauth_cb"] = lambda _: (tokens(), time.time() + SESSION)
            return ConfluentAdapter(self.at(listener), options)
        options = {"security_protocol": "SSL", "ssl_cafile": authority}
        if certificate := login.get("certificate"):
            options |= {"ssl_certfile": str(certificate)}
        if tokens := login.get("tokens"):
            options |= {"security_protocol": "SASL_SSL", "sasl_mechanism": "OAUTHBEARER"}
            options["sasl_oauth_token_provider"] = Provider(tokens)
        return AiokafkaAdapter(self.at(listener), options)


class Provider(AbstractTokenProvider):  # type: ignore[misc]
    def __init__(self, tokens: Callable[[], str]) -> None:
        self._tokens = tokens

    async def token(self) -> str:
        return self._tokens()


class Issuer:
    """Of tokens: good ones, ones that the broker refuses, or none."""

    def __init__(self, state: str = "good") -> None:
        self.state = state
        self.calls: list[float] = []
        self.issued: set[str] = set()

    def __call__(self) -> str:
        self.calls.append(time.monotonic())
        if self.state == "away":
            last = max(self.issued, default="eyJhbGciOiJub25lIn0.e30.")
            raise ConnectionError(f"the issuer is away, and {last} is the last token")
        made = token(seconds=SESSION if self.state == "good" else -1)
        self.issued.add(made)
        return made


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    directory = tmp_path_factory.mktemp("authorities")
    try:
        authority, other = Authority.made(directory / "ours"), Authority.made(directory / "theirs")
    except NoBroker as reason:
        pytest.skip(str(reason))
    with own_broker(cloud_properties(authority)) as own:
        add_users(own.admin)
        yield Cloud(own, authority, other)


@pytest.fixture(autouse=True)
def _configured_anew() -> Iterator[None]:
    yield
    config.reset()


class Worked:
    """A worker in a thread, with records each 0.1 s, and what became of it."""

    def __init__(self, cloud: Cloud, adapter: Any) -> None:
        self.own = cloud.own
        self.topic = cloud.own.name()
        cloud.own.make(self.topic, f"{self.topic}-g-try-1", f"{self.topic}-g-dlq")
        self.calls: list[bytes] = []
        self.written = 0
        task = flux.task(topic=self.topic, group_id="g", retries=1, wait=0.1, offset_commit_interval=0.1)(self._call)
        self.worker = flux.Worker(task, adapter=adapter)
        self.ends: list[object] = []
        self._feeding = threading.Event()
        self._threads = [threading.Thread(target=each, daemon=True) for each in (self._run, self._feed)]

    def _call(self, message: flux.Message) -> None:
        if message.stage == 0 and int(message.value) % 5 == 0:
            raise ValueError  # so that the retry stage and its producer have work
        self.calls.append(message.value)

    def _run(self) -> None:
        try:
            self.ends.append(self.worker.run())
        except BaseException as error:
            self.ends.append(error)

    def _feed(self) -> None:
        while not self._feeding.wait(0.1):
            self.own.write(self.topic, (b"k%d" % (self.written % 7), b"%d" % self.written))
            self.written += 1

    @contextmanager
    def running(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
            self._feeding.set()
            self._threads[1].join(SECONDS)
            wait_for(lambda: self.ends or len(set(self.calls)) == self.written, "all records were called", 40)
        finally:
            self._feeding.set()
            self.worker.stop()
            self._threads[0].join(60)
        assert self.ends == [0]
        assert len(set(self.calls)) == self.written

    def goes_on(self, seconds: float = SECONDS) -> None:
        """Records that are written from now on are called."""
        since = self.written
        wait_for(
            lambda: self.ends or any(int(value) > since for value in list(self.calls)),
            "new records are called",
            seconds,
        )
        assert not self.ends


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def is_clean(caplog: pytest.LogCaptureFixture, issuer: Issuer) -> None:
    assert "never retrieved" not in caplog.text
    assert not [record for record in caplog.records if record.exc_info and record.name != "flux.worker"]
    assert not [each for each in issuer.issued if each.rstrip(".") in caplog.text]


# -- tokens


@pytest.mark.parametrize("client", CLIENTS)
def test_records_flow_while_tokens_end_and_sessions_are_renewed(
    cloud: Cloud, client: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "flux")
    issuer = Issuer()
    worked = Worked(cloud, cloud.adapter(client, "tls", tokens=issuer))
    with worked.running():
        worked.goes_on()
        until = time.monotonic() + 3 * SESSION
        while time.monotonic() < until:
            worked.goes_on(2 * SESSION)
    assert [line for line in said(caplog) if "token" in line] == []
    is_clean(caplog, issuer)


@pytest.mark.parametrize("client", CLIENTS)
def test_a_refused_token_is_named_and_tried_again_and_never_ends_a_worker_that_has_worked(
    cloud: Cloud, client: str, caplog: pytest.LogCaptureFixture
) -> None:
    issuer = Issuer()
    worked = Worked(cloud, cloud.adapter(client, "tls", tokens=issuer))
    with worked.running():
        worked.goes_on()
        issuer.state, before = "bad", len(issuer.calls)
        wait_for(lambda: [line for line in said(caplog) if "refused the token" in line], "it is named", 4 * SESSION)
        time.sleep(2 * SESSION)
        assert worked.ends == []
        assert len(issuer.calls) - before < 20, "the provider is asked with a back-off"
        issuer.state = "good"
        worked.goes_on(45)
    named = [line for line in said(caplog) if "refused the token" in line and line.startswith("the broker")]
    assert len(named) == 1, named
    assert "invalid_token" in named[0]
    is_clean(caplog, issuer)


@pytest.mark.parametrize("client", CLIENTS)
def test_a_token_provider_that_fails_is_named_and_ends_no_worker(
    cloud: Cloud, client: str, caplog: pytest.LogCaptureFixture
) -> None:
    issuer = Issuer()
    worked = Worked(cloud, cloud.adapter(client, "tls", tokens=issuer))
    with worked.running():
        worked.goes_on()
        issuer.state, before = "away", len(issuer.calls)
        wait_for(lambda: [line for line in said(caplog) if "the issuer is away" in line], "it is named", 4 * SESSION)
        time.sleep(SESSION)
        assert len(issuer.calls) - before < 20
        issuer.state = "good"
        worked.goes_on(45)
    assert len([line for line in said(caplog) if line.startswith("cannot get a token")]) == 1
    is_clean(caplog, issuer)


@pytest.mark.parametrize("client", CLIENTS)
def test_a_token_provider_that_is_away_at_the_start_is_waited_for(
    cloud: Cloud, client: str, caplog: pytest.LogCaptureFixture
) -> None:
    issuer = Issuer("away")
    worked = Worked(cloud, cloud.adapter(client, "tls", tokens=issuer))
    with worked.running():
        wait_for(lambda: [line for line in said(caplog) if "the issuer is away" in line], "it is named", 5)
        time.sleep(2)
        assert worked.ends == []
        issuer.state = "good"
        worked.goes_on()
    is_clean(caplog, issuer)


@pytest.mark.parametrize("client", CLIENTS)
def test_a_token_that_is_refused_at_the_start_ends_the_worker(
    cloud: Cloud, client: str, caplog: pytest.LogCaptureFixture
) -> None:
    issuer = Issuer("bad")
    worker = flux.Worker(
        flux.task(topic="t", group_id="g")(lambda message: None), adapter=cloud.adapter(client, "tls", tokens=issuer)
    )
    threading.Timer(SECONDS, worker.stop).start()
    with pytest.raises(BrokerError, match=r"the broker refused the token: invalid_token") as refused:
        worker.run()
    assert refused.value.fault is Fault.LOGIN
    assert "\n" not in str(refused.value)
    assert said(caplog) == []
    is_clean(caplog, issuer)


# -- TLS

NAMED = {
    "unknown authority": ("misnamed", "is signed by an authority that is not known here: set {authority}"),
    "expired": ("expired", "the certificate of 127.0.0.1:{port} has expired"),
    "host name": ("misnamed", "is for another host name"),
    "missing": ("mtls", "127.0.0.1:{port} wants a client certificate: set {certificate}"),
    "refused": ("mtls", "127.0.0.1:{port} refused the client certificate"),
}


@pytest.mark.parametrize("kind", NAMED)
@pytest.mark.parametrize("client", CLIENTS)
def test_what_is_wrong_with_tls_is_named_with_its_remedy(
    cloud: Cloud, client: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    listener, text = NAMED[kind]
    trusts = cloud.other if kind == "unknown authority" else None
    certificate = cloud.other.signed("boss", "boss") if kind == "refused" else None
    adapter = cloud.adapter(client, listener, trusts=trusts, certificate=certificate)
    names = {
        "confluent": {"authority": "ssl.ca.location", "certificate": "ssl.certificate.location"},
        "aiokafka": {"authority": "ssl_cafile", "certificate": "ssl_certfile"},
    }[client]
    with pytest.raises(BrokerError) as refused:
        flux.Worker(flux.task(topic="t", group_id="g")(lambda message: None), adapter=adapter).run()
    assert text.format(port=cloud.at(listener).partition(":")[2], **names) in str(refused.value)
    assert refused.value.fault is Fault.LOGIN
    assert "\n" not in str(refused.value)
    assert said(caplog) == []


@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_certificate_is_a_login(cloud: Cloud, client: str) -> None:
    worked = Worked(cloud, cloud.adapter(client, "mtls", certificate=cloud.authority.signed("boss", "boss")))
    with worked.running():
        worked.goes_on()


# -- the documentation

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "clusters.md"
SHOWN = (
    "scram",
    "scram_aiokafka",
    "mtls",
    "mtls_aiokafka",
    "tokens",
    "tokens_aiokafka",
    "msk",
    "msk_aiokafka",
    "event_hubs",
    "event_hubs_aiokafka",
    "entra",
    "cloud",
    "cloud_tokens",
    "cloud_aiokafka",
)
"""The adapters that the page makes."""


@pytest.fixture(scope="module")
def shown(cloud: Cloud) -> Iterator[Mapping[str, Any]]:
    """What the page's samples define, with this broker in the place of theirs, and what they import."""
    boss = cloud.authority.signed("boss", "boss")
    code = "import flux\n" + "\n".join(
        re.findall(r"```python\n(.*?)```", PAGE.read_text().partition("## Logging in")[2], re.DOTALL)
    )
    code = re.sub(r"kafka\.example:9094", cloud.at("mtls"), code)
    code = re.sub(r"[\w.-]+\.(?:example|com|net|cloud):90\d\d", cloud.at("tls"), code)
    code = code.replace("billing:p%40ss@", f"boss:{quote(TLS_USERS['boss'], safe='')}@")
    code = code.replace("/etc/kafka/ca.pem", str(cloud.authority.certificate)).replace(
        "/etc/kafka/billing.pem", str(boss)
    )
    for name, authority in (("security.protocol", "ssl.ca.location"), ("security_protocol", "ssl_cafile")):
        given = f'"{name}": "SASL_SSL",'
        code = code.replace(given, f'{given} "{authority}": {str(cloud.authority.certificate)!r},')
    with pytest.MonkeyPatch.context() as patch, issuing() as address:
        code = code.replace("https://login.example/oauth2/token", address)
        user, secret = list(CLOUD_USERS.items())[1]
        patch.setenv("EVENT_HUBS_CONNECTION_STRING", CLOUD_USERS["$ConnectionString"])
        patch.setenv("CLOUD_API_KEY", user)
        patch.setenv("CLOUD_API_SECRET", secret)
        patch.setenv("OAUTH_CLIENT_SECRET", "a secret")
        names: dict[str, Any] = {"__name__": "clusters"}
        exec(compile(code, str(PAGE), "exec", dont_inherit=True), names)
        names["fetch"] = lambda: (token(), SESSION)
        signer = SimpleNamespace(generate_auth_token=lambda region: (token(), (time.time() + SESSION) * 1000))
        credential = SimpleNamespace(
            get_token=lambda scope: SimpleNamespace(token=token(), expires_on=time.time() + SESSION)
        )
        patch.setitem(sys.modules, "aws_msk_iam_sasl_signer", SimpleNamespace(MSKAuthTokenProvider=signer))
        patch.setitem(sys.modules, "azure", SimpleNamespace())
        patch.setitem(sys.modules, "azure.identity", SimpleNamespace(DefaultAzureCredential=lambda: credential))
        yield names


@contextmanager
def issuing() -> Iterator[str]:
    """An identity provider: the address at which it gives tokens."""

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            answer = json.dumps({"access_token": token(seconds=60), "token_type": "Bearer", "expires_in": 60}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/token"
        server.shutdown()


@pytest.mark.parametrize("name", SHOWN)
def test_a_login_of_the_documentation_works(cloud: Cloud, shown: Mapping[str, Any], name: str) -> None:
    topic_ = cloud.own.topic()

    class Shown(flux.Producer):
        topic = topic_

    Shown.adapter = shown[name]
    Shown.send(b"v").result(SECONDS)
    Shown.close(5)
    assert cloud.own.values(topic_) == [b"v"]


def test_every_adapter_of_the_page_is_tried(shown: Mapping[str, Any]) -> None:
    assert {name for name, made in shown.items() if isinstance(made, ConfluentAdapter | AiokafkaAdapter)} == set(SHOWN)


@pytest.mark.parametrize("client", CLIENTS)
def test_the_doctor_names_what_is_wrong_with_a_login(cloud: Cloud, client: str, tmp_path: Path) -> None:
    file = tmp_path / "tasks.py"
    file.write_text(
        "import flux\n\n\nclass Work(flux.Task):\n    topic, group_id = 't', 'g'\n\n    def call(self, message): ...\n"
    )
    options = {
        "confluent": f"security.protocol=SSL&ssl.ca.location={cloud.authority.certificate}",
        "aiokafka": f"security_protocol=SSL&ssl_cafile={cloud.authority.certificate}",
    }[client]
    url = f"{client}://{cloud.at('mtls')}?{options}"
    done = CliRunner().invoke(cli, ["doctor", "--load", str(file), "--adapter", url, "--json"])
    assert done.exit_code == 1, done.output
    [finding] = json.loads(done.stdout)["findings"]
    assert finding["check"] == "login"
    assert "wants a client certificate" in finding["problem"]
    assert finding["remedy"].startswith("set ssl")
