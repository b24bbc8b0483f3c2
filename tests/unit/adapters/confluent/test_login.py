"""What librdkafka says of a login, and the tokens that it gets."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import KafkaError

from flux.adapters.authentication import Authentication
from flux.adapters.confluent import ConfluentAdapter, reader
from flux.adapters.confluent import answers as answers_module
from flux.adapters.confluent.diagnosis import Diagnosis
from flux.adapters.confluent.log import ClientLog
from flux.adapters.confluent.oauth import TokenCallback, TokenSource
from flux.adapters.secrets import Mask
from flux.core.errors import BrokerError, Fault
from flux.core.ports import TopicPartition

OAUTH = {"sasl.mechanism": "OAUTHBEARER"}


class Machine:
    """Its threads run when somebody waits."""

    def __init__(self) -> None:
        self.time = 1000.0
        self.threads: list[Callable[[], None]] = []

    def now(self) -> float:
        return self.time

    monotonic = now

    def condition(self) -> Any:
        return Condition(self)

    def spawn(self, name: str, target: Callable[[], None]) -> Any:
        self.threads.append(target)


class Condition:
    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...
    def notify_all(self) -> None: ...
    def wait(self, timeout: float) -> None:
        if self._machine.threads:
            self._machine.threads.pop()()
        else:
            self._machine.time += timeout


@pytest.fixture
def machine() -> Any:
    return Machine()


@pytest.fixture
def authentication(machine: Any) -> Authentication:
    return Authentication(str, machine)


def source(machine: Any, authentication: Authentication, provider: Callable[[Any], Any]) -> TokenSource:
    return TokenSource(provider, "config", authentication, Mask({}), machine)


# -- tokens


def test_all_clients_share_one_token_for_half_of_its_life(machine: Any, authentication: Authentication) -> None:
    calls: list[Any] = []

    def provider(config: Any) -> tuple[str, float]:
        calls.append(config)
        return f"token-{len(calls)}", machine.time + 100

    shared = source(machine, authentication, provider)
    clients = [TokenCallback(shared, machine) for _ in range(8)]
    assert {client("config")[0] for client in clients} == {"token-1"}
    machine.time += 51
    assert {client("config")[0] for client in clients} == {"token-2"}
    assert calls == ["config", "config"]


def test_librdkafka_keeps_no_token_for_long_so_that_a_refused_one_is_soon_replaced(
    machine: Any, authentication: Authentication
) -> None:
    shared = source(machine, authentication, lambda _: ("t", machine.time + 3600))
    assert TokenCallback(shared, machine)(None)[1] - machine.time <= 20


def test_principal_and_extensions_are_passed_on(machine: Any, authentication: Authentication) -> None:
    shared = source(machine, authentication, lambda _: ("t", machine.time + 10, "me", {"logicalCluster": "lkc-1"}))
    assert TokenCallback(shared, machine)(None)[2:] == ("me", {"logicalCluster": "lkc-1"})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (None, r"no \(token, time of expiry"),
        ("token", r"no \(token, time of expiry"),
        (("a b", 2000), "cannot be sent"),
        ((b"token", 2000), "cannot be sent"),
        (("token", "soon"), "no time of expiry"),
        (("token", 900.0), "has expired"),
        (("token", float("nan")), "an invalid time of expiry"),
        (("token", float("inf")), "an invalid time of expiry"),
        (("token", 2000, None), "principal"),
        (("token", 2000, "", {"a": 1}), "extensions"),
    ],
)
def test_what_is_no_token_is_named_and_never_reaches_librdkafka(
    machine: Any, authentication: Authentication, given: Any, said: str
) -> None:
    with pytest.raises(BrokerError, match=said) as refused:
        source(machine, authentication, lambda _: given).token(1)
    assert refused.value.retriable


def test_a_provider_that_never_answers_holds_nobody_for_ever(
    machine: Any, authentication: Authentication, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "spawn", lambda *_: None)
    with pytest.raises(BrokerError, match="has not answered for 3 s"):
        source(machine, authentication, lambda _: ()).token(3)


def test_a_client_waits_a_little_for_a_provider_that_has_just_failed(
    machine: Any, authentication: Authentication
) -> None:
    answers: list[Any] = [ConnectionError("away"), ("token", 2000.0)]

    def provider(_: Any) -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    shared = source(machine, authentication, provider)
    with pytest.raises(BrokerError, match="away"):
        shared.token(10)
    assert TokenCallback(shared, machine)(None)[0] == "token"


def test_a_refusal_counts_for_the_token_that_the_client_has(machine: Any, authentication: Authentication) -> None:
    calls: list[int] = []

    def provider(_: Any) -> tuple[str, float]:
        calls.append(1)
        return f"token-{len(calls)}", machine.time + 100

    shared = source(machine, authentication, provider)
    old, new = TokenCallback(shared, machine), TokenCallback(shared, machine)
    old(None)
    machine.time += 51
    new(None)
    old.refused()
    assert new(None)[0] == "token-2"
    machine.time += 1
    new.refused()
    assert new(None)[0] == "token-3"


# -- what is said


def told(code: int, text: str) -> KafkaError:
    return KafkaError(code, text)


REFUSED = told(
    KafkaError._AUTHENTICATION,
    'sasl_ssl://h:9092/1: SASL authentication error: {"status":"invalid_token"} (after 302ms in state AUTH_REQ)',
)
PASSWORD = told(
    KafkaError._AUTHENTICATION,
    "sasl_ssl://h:9092/1: SASL authentication error: Authentication failed during authentication due to invalid"
    " credentials with SASL mechanism SCRAM-SHA-512 (after 312ms in state AUTH_REQ)",
)


def test_a_refusal_that_comes_late_is_not_held_against_the_new_token(
    machine: Any, authentication: Authentication
) -> None:
    """librdkafka tells of it by the queue by which it asks for tokens: of the one before, after the new one was given.
    Dropped with a back-off, the new one could not be renewed in time."""
    given = iter([("bad", machine.time + 15), ("good", machine.time + 30)])
    shared = source(machine, authentication, lambda _: next(given))
    client = TokenCallback(shared, machine)
    assert client(None)[0] == "bad"
    machine.time += 2
    client.refused()
    machine.time += 1
    assert client(None)[0] == "good"
    client.refused()  # of the bad one
    assert shared.token(0)[0] == "good"
    machine.time += 2
    client.refused()
    with pytest.raises(BrokerError, match="refused the last token"):
        shared.token(0)


def test_a_refused_token_is_named_with_what_the_broker_says(machine: Any) -> None:
    problem = Diagnosis(OAUTH, machine).of(REFUSED)
    assert problem is not None
    assert problem.text.startswith("the broker refused the token: invalid_token: check what the token provider gives")
    scope = told(
        KafkaError._AUTHENTICATION, 'x: SASL authentication error: {"status":"insufficient_scope","scope":"k"}'
    )
    problem = Diagnosis(OAUTH, machine).of(scope)
    assert problem is not None
    assert "insufficient_scope (it wants the scope k)" in problem.text


def test_a_refused_password_is_named_as_such(machine: Any) -> None:
    problem = Diagnosis({"sasl.mechanism": "SCRAM-SHA-512"}, machine).of(PASSWORD)
    assert problem is not None
    assert problem.text.startswith("the broker refused the login: Authentication failed")
    assert problem.text.endswith("SCRAM-SHA-512: check user and password")


@pytest.mark.parametrize(
    "text",
    [
        "sasl_ssl://h:1/1: SASL OAUTHBEARER mechanism handshake failed: Broker: Request not valid in current SASL"
        " state: broker's supported mechanisms:  (after 1ms in state AUTH_HANDSHAKE)",
        "sasl_ssl://h:1/1: SASL OAUTHBEARER mechanism handshake failed: Local: Broker transport failure: broker's"
        " supported mechanisms: (n/a)",
    ],
)
def test_a_session_that_could_not_be_renewed_is_no_refused_login(
    machine: Any, authentication: Authentication, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    log = ClientLog(str, machine, authentication, Diagnosis(OAUTH, machine))
    authentication.accepted()
    assert log.refusal(told(KafkaError._AUTHENTICATION, text), "cannot write") is None
    assert caplog.records == []


def test_a_listener_without_logins_is_named(machine: Any, authentication: Authentication) -> None:
    log = ClientLog(str, machine, authentication, Diagnosis(OAUTH, machine))
    text = (
        "sasl_plaintext://h:1/1: SASL PLAIN mechanism handshake failed: Broker: Request not valid in current SASL state"
    )
    final = log.refusal(told(KafkaError._AUTHENTICATION, text), "cannot write")
    assert final is not None
    assert "it may be one without SASL: see security.protocol" in str(final)


def test_the_provider_is_named_where_a_refused_token_had_ended(machine: Any) -> None:
    away = BrokerError("the token provider failed: it is away", Fault.UNAVAILABLE)
    problem = Diagnosis(OAUTH, machine, lambda: away).of(REFUSED)
    assert problem is not None
    assert problem.text == "cannot get a token: the token provider failed: it is away"
    assert problem.fault is Fault.UNAVAILABLE


def test_a_client_certificate_that_is_missing_or_refused_is_named(machine: Any) -> None:
    error = told(
        KafkaError._TRANSPORT,
        "ssl://127.0.0.1:9093/bootstrap: Receive failed: error:0A000416:SSL routines::ssl/tls alert certificate"
        " unknown: SSL alert number 46 (after 1ms in state APIVERSION_QUERY)",
    )
    missing = Diagnosis({}, machine).of(error)
    refused = Diagnosis({"ssl.certificate.location": "x"}, machine).of(error)
    assert missing is not None
    assert refused is not None
    assert missing.text.startswith("127.0.0.1:9093 wants a client certificate: set ssl.certificate.location")
    assert refused.text.startswith("127.0.0.1:9093 refused the client certificate (certificate unknown)")


def test_a_refused_login_is_final_at_the_start_and_an_outage_afterwards(
    machine: Any, authentication: Authentication, caplog: pytest.LogCaptureFixture
) -> None:
    refusals: list[int] = []
    log = ClientLog(str, machine, authentication, Diagnosis(OAUTH, machine), refused=lambda: refusals.append(1))
    final = log.refusal(REFUSED, "cannot write")
    assert final is not None
    assert final.fault is Fault.LOGIN
    assert caplog.records == []
    authentication.accepted()
    assert log.refusal(REFUSED, "cannot write") is None
    assert log.translated(REFUSED, "cannot write").retriable
    assert len(refusals) == 2
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith("the broker refused the token: invalid_token")
    assert record.getMessage().endswith("(trying again)")


def test_the_same_is_told_once_a_minute_whichever_client_it_comes_from(
    machine: Any, authentication: Authentication, caplog: pytest.LogCaptureFixture
) -> None:
    authentication.accepted()
    for _ in range(6):
        ClientLog(str, machine, authentication, Diagnosis(OAUTH, machine)).error(REFUSED)
        machine.time += 9
    assert len(caplog.records) == 1


def test_what_librdkafka_logs_of_it_is_not_told_twice(
    machine: Any, authentication: Authentication, caplog: pytest.LogCaptureFixture
) -> None:
    log = ClientLog(str, machine, authentication, Diagnosis(OAUTH, machine))
    authentication.accepted()
    log.error(REFUSED)
    log.log(logging.ERROR, "%s [%s] %s", "FAIL", "rdkafka#1", REFUSED.str())
    log.error(told(KafkaError._ALL_BROKERS_DOWN, "1/1 brokers are down"))
    assert len(caplog.records) == 1


def test_what_goes_wrong_while_a_login_is_refused_says_so(machine: Any, authentication: Authentication) -> None:
    log = ClientLog(str, machine, authentication, Diagnosis(OAUTH, machine))
    authentication.accepted()
    log.error(REFUSED)
    late = told(KafkaError._TIMED_OUT, "Local: Timed out")
    assert "the broker refused the token" in str(log.translated(late, "cannot commit"))
    machine.time += 60
    assert "refused" not in str(log.translated(late, "cannot commit"))


# -- clients that read and end


class Client:
    """librdkafka's, which takes no token that has expired by the real clock."""

    def __init__(self, properties: dict[str, Any]) -> None: ...
    def incremental_assign(self, partitions: list[Any]) -> None: ...
    def close(self) -> None: ...


@pytest.mark.parametrize("kind", ["reader", "admin"])
def test_a_reader_waits_for_a_provider_that_is_unavailable_for_a_moment(
    kind: str, machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "Consumer", Client)
    monkeypatch.setattr(answers_module, "AdminClient", Client)
    answers: list[Any] = [ConnectionError("unavailable"), ConnectionError("unavailable"), ("token", 2000.0)]

    def provider(_: Any) -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    adapter = ConfluentAdapter("127.0.0.1:1", {**OAUTH, "oauth_cb": provider}, system=machine)
    adapter.admin() if kind == "admin" else adapter.reader({TopicPartition("t", 0): 0})
    assert answers == []


@pytest.mark.parametrize("kind", ["reader", "admin"])
def test_a_reader_says_in_one_line_that_the_provider_stays_unavailable(kind: str, machine: Any) -> None:
    def provider(_: Any) -> Any:
        raise ConnectionError("refused")

    adapter = ConfluentAdapter("127.0.0.1:1", {**OAUTH, "oauth_cb": provider}, system=machine)
    began = machine.time
    with pytest.raises(BrokerError, match=r"cannot get a token: the token provider failed: .*refused") as raised:
        adapter.admin() if kind == "admin" else adapter.reader({TopicPartition("t", 0): 0})
    assert raised.value.fault is Fault.UNAVAILABLE
    assert "\n" not in str(raised.value)
    assert 2.5 < machine.time - began < 4
