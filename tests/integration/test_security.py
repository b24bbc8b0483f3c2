"""TLS with an authority of its own, logins by SCRAM, permissions, and secrets that stay secret: on a real broker."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import attrs
import pytest
from brokers import NoBroker
from brokers.tls import TLS_USERS, Authority, add_users, tls_properties
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    ResourcePatternType,
    ResourceType,
)

import flux
from flux import config
from flux.adapters.aiokafka import AiokafkaAdapter
from flux.adapters.confluent import ConfluentAdapter
from flux.core.control.commands import Action
from flux.operate.commands import command_of, find_addressees, give
from integration.own import Own, own_broker

pytestmark = pytest.mark.timeout(240)  # the first test of this module starts a broker, and may fetch it

CLIENTS = ["confluent", "aiokafka"]
SECONDS = 60.0
WRONG = "wr0ng-p4ss"


@attrs.frozen
class Secured:
    own: Own
    authority: Authority
    other: Authority
    """One that the broker does not know."""

    def url(self, client: str, user: str, password: str | None = None, authority: Authority | None = None) -> str:
        login = f"{user}:{quote(TLS_USERS[user] if password is None else password, safe='')}"
        trusted = (authority or self.authority).certificate
        options = {
            "confluent": f"security.protocol=SASL_SSL&sasl.mechanism=SCRAM-SHA-512&ssl.ca.location={trusted}",
            "aiokafka": f"security_protocol=SASL_SSL&sasl_mechanism=SCRAM-SHA-512&ssl_cafile={trusted}",
        }[client]
        return f"{client}://{login}@{self.own.node.at['tls']}?{options}"

    def adapter(self, client: str, user: str, password: str | None = None) -> Any:
        secret = TLS_USERS[user] if password is None else password
        if client == "confluent":
            return ConfluentAdapter(
                self.own.node.at["tls"],
                {
                    "security.protocol": "SASL_SSL",
                    "sasl.mechanism": "SCRAM-SHA-512",
                    "sasl.username": user,
                    "sasl.password": secret,
                    "ssl.ca.location": str(self.authority.certificate),
                },
            )
        return AiokafkaAdapter(
            self.own.node.at["tls"],
            {
                "security_protocol": "SASL_SSL",
                "sasl_mechanism": "SCRAM-SHA-512",
                "sasl_plain_username": user,
                "sasl_plain_password": secret,
                "ssl_cafile": str(self.authority.certificate),
            },
        )

    def grant(self, kind: str, name: str, *operations: str) -> None:
        """To the guest. `kind`: topic, group or broker (the cluster, named kafka-cluster)."""
        bindings = [
            AclBinding(
                ResourceType[kind.upper()],
                name,
                ResourcePatternType.LITERAL,
                "User:guest",
                "*",
                AclOperation[operation],
                AclPermissionType.ALLOW,
            )
            for operation in operations
        ]
        for made in self.own.admin.create_acls(bindings).values():
            made.result(SECONDS)

    def revoke_all(self) -> None:
        every = AclBindingFilter(
            ResourceType.ANY,
            None,  # type: ignore[arg-type]
            ResourcePatternType.ANY,
            "User:guest",
            None,  # type: ignore[arg-type]
            AclOperation.ANY,
            AclPermissionType.ANY,
        )
        for gone in self.own.admin.delete_acls([every]).values():
            gone.result(SECONDS)

    def topics(self, name: str, group: str, retries: int) -> list[str]:
        """Those of a task, made by the boss."""
        names = [name, *(f"{name}-{group}-try-{n + 1}" for n in range(retries)), f"{name}-{group}-dlq"]
        self.own.make(*names)
        return names


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    directory = tmp_path_factory.mktemp("authorities")
    try:
        authority, other = Authority.made(directory / "ours"), Authority.made(directory / "theirs")
    except NoBroker as reason:
        pytest.skip(str(reason))
    with own_broker(tls_properties(authority)) as own:
        add_users(own.admin)
        yield Secured(own, authority, other)


@pytest.fixture(autouse=True)
def _configured_anew() -> Iterator[None]:
    yield
    config.reset()


def secrets_of(*texts: str) -> set[str]:
    """The secrets that are in one of these, plain or as a URL has them."""
    plain = [*TLS_USERS.values(), WRONG]
    return {each for each in (*plain, *(quote(one, safe="") for one in plain)) if any(each in text for text in texts)}


def wait_for(true: Callable[[], object], what: str, seconds: float = SECONDS) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, f"not within {seconds:g} s: {what}"
        time.sleep(0.02)


@contextmanager
def running(task: type[flux.Task] | flux.Task, adapter: Any, code: int = 0, **options: Any) -> Iterator[flux.Worker]:
    worker = flux.Worker(task, adapter=adapter, **options)
    codes: list[object] = []

    def run() -> None:
        try:
            codes.append(worker.run())
        except flux.FluxError as error:
            codes.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield worker
    finally:
        worker.stop()
        thread.join(60)
    assert codes == [code]


# -- logins


@pytest.mark.parametrize("given", ["url", "options"])
@pytest.mark.parametrize("client", CLIENTS)
def test_everything_works_over_tls_with_scram(secured: Secured, client: str, given: str) -> None:
    name = secured.own.name()
    secured.topics(name, "g", 1)
    adapter = secured.url(client, "boss") if given == "url" else secured.adapter(client, "boss")
    calls: list[tuple[bytes, int]] = []

    class P(flux.Producer):
        topic = name

    def call(message: flux.Message) -> None:
        calls.append((message.value, message.stage))
        raise ValueError

    P.adapter = adapter
    P.send(b"v").result(SECONDS)
    task = flux.task(topic=name, group_id="g", retries=1, wait=0.1)(call)
    with running(task, adapter):
        wait_for(lambda: secured.own.values(f"{name}-g-dlq"), "a dead letter")
    assert calls == [(b"v", 0), (b"v", 1)]
    P.close()


TASK = """
import flux

class Work(flux.Task):
    topic, group_id = {topic!r}, "g"
    retries, wait, offset_commit_interval = {retries}, 0.1, 0.1

    def call(self, message):
        print("called", message.value, flush=True)
        raise ValueError("no")
"""


@attrs.define
class Ran:
    process: subprocess.Popen[str]
    output: Path

    @property
    def text(self) -> str:
        return self.output.read_text()


@pytest.fixture
def flux_command(tmp_path: Path) -> Iterator[Callable[..., Ran]]:
    """`flux` with these arguments, and `adapter` in its environment."""
    made: list[subprocess.Popen[str]] = []

    def start(*arguments: str, adapter: str | None = None, task: str | None = None, retries: int = 1) -> Ran:
        given = list(arguments)
        if task is not None:
            code = tmp_path / f"tasks_{len(made)}.py"
            code.write_text(TASK.format(topic=task, retries=retries))
            given[1:1] = ["--load", str(code)]
        output = tmp_path / f"output_{len(made)}"
        environment = {key: value for key, value in os.environ.items() if key != "FLUX_ADAPTER"}
        if adapter is not None:
            environment["FLUX_ADAPTER"] = adapter
        with output.open("w") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "flux.cli.main", *given],
                stdout=file,
                stderr=file,
                stdin=subprocess.DEVNULL,
                env=environment,
                text=True,
            )
        made.append(process)
        return Ran(process, output)

    yield start
    for process in made:
        if process.poll() is None:
            process.kill()
        process.wait(60)


def logged(text: str) -> list[str]:
    """The lines, without those that a client logs meanwhile."""
    return [line for line in text.splitlines() if not re.match(r"\S+ \S+ (WARNING|INFO|DEBUG)", line)]


@pytest.mark.parametrize("mistake", ["password", "authority"])
@pytest.mark.parametrize("client", CLIENTS)
def test_a_refused_login_ends_the_process_with_one_line_and_no_secret(
    secured: Secured, client: str, mistake: str, flux_command: Callable[..., Ran]
) -> None:
    name = secured.own.name()
    secured.topics(name, "g", 1)
    if mistake == "password":
        adapter = secured.url(client, "boss", WRONG)
    else:
        adapter = secured.url(client, "boss", authority=secured.other)
    for ran in (
        flux_command("process", "--log-level", "debug", adapter=adapter, task=name),
        flux_command("status", adapter=adapter, task=name),
        flux_command("topics", "--adapter", adapter, task=name),
    ):
        assert ran.process.wait(60) == 1, ran.text
        [line] = logged(ran.text)
        assert line.startswith("flux: ")
        assert ("authenticat" if mistake == "password" else "certificate") in line.lower()
        assert not secrets_of(ran.text)


@pytest.mark.parametrize("client", CLIENTS)
def test_a_cluster_that_is_merely_away_is_tried_for_ever(
    secured: Secured, client: str, flux_command: Callable[..., Ran]
) -> None:
    adapter = secured.url(client, "boss").replace(secured.own.node.at["tls"], "127.0.0.1:9")
    ran = flux_command("process", adapter=adapter, task="t")
    wait_for(lambda: "trying again" in ran.text, "it says so", 25)
    time.sleep(2)
    assert ran.process.poll() is None
    ran.process.send_signal(signal.SIGTERM)
    assert ran.process.wait(60) == 0
    assert not secrets_of(ran.text)


# -- permissions


def needs(error: BaseException, *permissions: str) -> None:
    text = str(error)
    assert any(permission in text for permission in permissions), text
    assert "\n" not in text


@pytest.mark.parametrize("client", CLIENTS)
def test_a_topic_that_may_not_be_written_is_named_and_nothing_is_lost_in_silence(secured: Secured, client: str) -> None:
    name = secured.own.topic()

    class P(flux.Producer):
        topic = name

    P.adapter = secured.url(client, "guest")
    for number in range(3):
        P.produce(b"%d" % number)
    with pytest.raises(flux.DeliveryError) as refused:
        P.flush(SECONDS)
    assert [record.value for record in refused.value.failed] == [b"0", b"1", b"2"]
    needs(refused.value, f"WRITE on topic {name}", "IDEMPOTENT_WRITE on the cluster, or WRITE on a topic")
    secured.grant("topic", name, "WRITE")
    until = time.monotonic() + SECONDS
    while True:
        P.produce(b"granted")
        try:
            P.flush(SECONDS)
            break
        except flux.DeliveryError:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)
    assert secured.own.values(name) == [b"granted"]
    P.close()


@pytest.mark.parametrize("missing", ["READ on topic", "READ on group"])
@pytest.mark.parametrize("client", CLIENTS)
def test_a_task_that_may_not_read_ends_with_one_line_that_names_what_is_missing(
    secured: Secured, client: str, missing: str, flux_command: Callable[..., Ran]
) -> None:
    name = secured.own.name()
    names = secured.topics(name, "g", 0)
    for each in names:
        operations = ["WRITE", "DESCRIBE", "DESCRIBE_CONFIGS"]
        secured.grant("topic", each, *operations, *(["READ"] if missing != "READ on topic" else []))
    if missing != "READ on group":
        secured.grant("group", "g", "READ")
    ran = flux_command("process", adapter=secured.url(client, "guest"), task=name, retries=0)
    assert ran.process.wait(60) == 1, ran.text
    errors = [line for line in ran.text.splitlines() if "ERROR" in line or line.startswith("flux: ")]
    assert len(errors) == 1, ran.text
    assert f"{missing} {name if 'topic' in missing else 'g'}" in errors[0]
    assert "Traceback" not in ran.text
    secured.revoke_all()


@pytest.mark.parametrize("client", CLIENTS)
def test_a_retry_topic_that_may_not_be_written_keeps_the_record_until_the_grant(
    secured: Secured, client: str, caplog: pytest.LogCaptureFixture
) -> None:
    name = secured.own.name()
    main, retry, dead = secured.topics(name, "g", 1)
    for each in (main, retry, dead):
        secured.grant("topic", each, "READ", "DESCRIBE", "DESCRIBE_CONFIGS")
    secured.grant("topic", dead, "WRITE")
    for group in ("g", "g-1"):
        secured.grant("group", group, "READ")
    secured.own.write(main, (b"k", b"bad-1"), (b"k", b"good-2"), (b"other", b"good-3"))
    calls: list[tuple[bytes, int]] = []

    def call(message: flux.Message) -> None:
        calls.append((message.value, message.stage))
        if message.value.startswith(b"bad") and message.stage == 0:
            raise ValueError

    task = flux.task(topic=name, group_id="g", retries=1, wait=0.1, offset_commit_interval=0.1)(call)
    with running(task, secured.url(client, "guest")):
        wait_for(
            lambda: [r for r in caplog.records if r.levelname == "ERROR" and retry in r.getMessage()], "it is told"
        )
        [told] = [r.getMessage() for r in caplog.records if r.levelname == "ERROR" and retry in r.getMessage()]
        assert f"WRITE on topic {retry}" in told or "IDEMPOTENT_WRITE" in told
        assert f"{main}[0]@0" in told
        wait_for(lambda: (b"good-3", 0) in calls, "another key goes on")
        secured.grant("topic", retry, "WRITE")
        wait_for(lambda: (b"bad-1", 1) in calls, "it moves once it may", 70)
        wait_for(lambda: (b"good-2", 0) in calls, "its key goes on")
    assert secured.own.values(retry) == [b"bad-1"]
    assert calls.count((b"bad-1", 0)) == 1
    secured.revoke_all()


# -- secrets


@pytest.mark.parametrize("password", [None, WRONG])
@pytest.mark.parametrize("given", ["url", "options"])
@pytest.mark.parametrize("client", CLIENTS)
def test_no_secret_is_in_a_repr_a_traceback_or_the_log_at_debug(
    secured: Secured, client: str, given: str, password: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    name = secured.own.topic()
    if given == "url":
        adapter = flux.adapter_from_url(secured.url(client, "boss", password))
    else:
        adapter = secured.adapter(client, "boss", password)

    class P(flux.Producer):
        topic = name
        options = flux.ProducerOptions(delivery_timeout=5)

    producer = P(adapter=adapter)
    said = [repr(adapter), str(adapter), adapter.cluster, repr(producer), repr(config.current)]
    admin = adapter.admin()
    said.append(repr(admin))
    said += tracebacks(adapter, producer, admin)
    with pytest.raises(flux.DeliveryError) if password else _nothing():
        producer.close()
        if password:
            producer.send(b"v").result(SECONDS)
    admin.close()
    assert not secrets_of(caplog.text, *said)


def tracebacks(adapter: Any, producer: flux.Producer, admin: Any) -> list[str]:
    """Of failures in flux and beside it, with every frame's variables, as error trackers take them."""
    said: list[str] = []
    asks: list[Callable[[], object]] = [
        lambda: producer.send(b"v").result(SECONDS),
        lambda: admin.watermarks("no-such", 10),
        lambda: adapter.admin().topic_names(0.001),
        lambda: [adapter, producer, admin][3],
    ]
    for ask in asks:
        try:
            ask()
        except Exception as error:
            said += traceback.TracebackException.from_exception(error, capture_locals=True).format()
    assert "IndexError" in said[-1]
    return said


@contextmanager
def _nothing() -> Iterator[None]:
    yield


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="there is no /proc here")
@pytest.mark.parametrize("joined", [False, True])
def test_no_secret_is_on_the_command_line_of_children(
    secured: Secured, joined: bool, flux_command: Callable[..., Ran]
) -> None:
    name = secured.own.name()
    secured.topics(name, "g", 0)
    adapter = secured.url("confluent", "boss")
    given = [f"--adapter={adapter}"] if joined else ["--adapter", adapter]
    ran = flux_command("process", "--processes", "2", *given, task=name, retries=0)
    wait_for(lambda: {"[0]", "[1]"} <= set(re.findall(r"(\[[01]\]) \S+ assigned", ran.text)), "both work")
    lines = [
        path.read_bytes().replace(b"\0", b" ").decode()
        for path in (Path("/proc") / child / "cmdline" for child in children(ran.process.pid))
    ]
    assert len(lines) == 2
    assert not secrets_of(*lines, ran.text)
    ran.process.send_signal(signal.SIGTERM)
    assert ran.process.wait(60) == 0


def children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


@pytest.mark.parametrize("client", CLIENTS)
def test_no_secret_is_in_the_headers_of_a_dead_letter(secured: Secured, client: str) -> None:
    """A handler's own errors are the user's; those that flux and the client make have no password in them."""
    name = secured.own.name()
    secured.topics(name, "g", 0)
    away = secured.url(client, "boss", WRONG)

    class Away(flux.Producer):
        topic = name
        adapter = away
        options = flux.ProducerOptions(delivery_timeout=3)

    def call(message: flux.Message) -> None:
        adapter = flux.adapter_from_url(away)
        Away.send(b"x").result(60)
        pytest.fail(f"{adapter} takes a wrong password")

    secured.own.write(name, (b"k", b"v"))
    task = flux.task(topic=name, group_id="g", retries=0)(call)
    with running(task, secured.url(client, "boss")):
        wait_for(lambda: secured.own.values(f"{name}-g-dlq"), "a dead letter")
    [dead] = secured.own.read(f"{name}-g-dlq")
    text = " ".join((value or b"").decode() for _, value in dead.headers())
    assert "DeliveryError" in text
    assert "cannot" in text
    assert not secrets_of(text)


# -- commands to workers


@pytest.mark.parametrize("client", CLIENTS)
def test_who_lacks_a_right_on_commands_gets_one_line_that_names_it(
    secured: Secured, client: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = secured.own.name()
    commands, answers, reports = f"{name}-commands", f"{name}-commands-answers", f"{name}-reports"
    monkeypatch.setenv("FLUX_COMMANDS_TOPIC", commands)
    secured.topics(name, "g", 0)
    secured.own.make(commands, answers, reports)
    secured.grant("topic", name, "READ", "DESCRIBE")
    secured.grant("topic", f"{name}-g-dlq", "WRITE", "DESCRIBE")
    secured.grant("topic", reports, "READ", "WRITE")
    secured.grant("group", "g", "READ")
    adapter = secured.adapter(client, "guest")
    task = flux.task(topic=name, group_id="g", retries=0)(lambda message: None)
    policy, admin = task.policy(), adapter.admin()

    def pause() -> str:
        try:
            found = find_addressees(adapter, admin, policy, reports, None)
            outcome = give(adapter, admin, command_of(policy, Action.PAUSE, "guest"), found, wait=5.0)
        except flux.FluxError as error:
            return str(error)
        return "; ".join(outcome.problems)

    try:
        needs = f"allow this login WRITE on topic {commands}, READ and DESCRIBE on topic {answers}"
        wait_for(lambda: pause().endswith(needs), "the line that names both")
        secured.grant("topic", answers, "READ")
        secured.grant("topic", commands, "READ")
        wait_for(lambda: pause().endswith(f"allow this login WRITE on topic {commands}"), "the line that names WRITE")
        secured.grant("topic", commands, "WRITE")
        wait_for(lambda: pause() == "no worker takes commands now; it holds for those that start with --control", "it")
        with running(task, adapter, control=True, report=reports) as worker:
            wait_for(lambda: worker.ready, "the start")
        secured.revoke_all()
        secured.grant("topic", name, "READ", "DESCRIBE")
        secured.grant("topic", f"{name}-g-dlq", "WRITE", "DESCRIBE")
        secured.grant("group", "g", "READ")

        def start() -> str:
            worker = flux.Worker(task, adapter=adapter, control=True, report=reports, exit_when_idle=0.1)
            try:
                return str(worker.run())
            except flux.FluxError as error:
                return str(error)

        line = f"to take commands, this login needs READ and DESCRIBE on topic {commands}"
        wait_for(lambda: start().endswith(line), "the line of the worker")
    finally:
        admin.close()
        secured.revoke_all()
