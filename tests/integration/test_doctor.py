"""`flux doctor` on a real Kafka, with either client: what is really wrong there is found."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from click.testing import CliRunner
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
)

from flux import config
from flux.cli.main import cli
from integration.test_security import CLIENTS, Secured, secrets_of, secured

__all__ = ["secured"]

pytestmark = pytest.mark.timeout(240)

DAY = 86_400
TASK = """
import flux

class Billing(flux.Task):
    topic, group_id, retries, wait = "{topic}", "{group}", 1, {wait}

    def call(self, message): ...
"""


@attrs.define
class Patient:
    """A task on a cluster, and what `flux doctor` says of it."""

    url: str
    topic: str
    group: str
    directory: Path
    wait: float = 60

    @property
    def retry(self) -> str:
        return f"{self.topic}-{self.group}-try-1"

    @property
    def dead(self) -> str:
        return f"{self.topic}-{self.group}-dlq"

    def flux(self, name: str, *args: str) -> Any:
        file = self.directory / f"{name}_{time.monotonic_ns()}.py"
        file.write_text(TASK.format(topic=self.topic, group=self.group, wait=self.wait))
        done = CliRunner().invoke(cli, [name, "--load", str(file), "--adapter", self.url, *args], prog_name="flux")
        assert "Traceback" not in done.output
        return done

    def examined(self, *args: str) -> dict[str, Any]:
        done = self.flux("doctor", "--json", *args)
        assert done.exit_code in (0, 1), done.output
        assert done.stdout, done.output
        report: dict[str, Any] = json.loads(done.stdout)
        assert done.exit_code == bool(report["findings"])
        return report

    def found(self, *args: str) -> list[tuple[str, str]]:
        return [(finding["check"], finding["about"]) for finding in self.examined(*args)["findings"]]

    def unchecked(self) -> list[str]:
        return [each["what"] for each in self.examined()["not_checked"]]


@pytest.fixture(autouse=True)
def _configured_anew() -> Iterator[None]:
    yield
    config.reset()


@pytest.fixture(params=CLIENTS)
def patient(request: pytest.FixtureRequest, bootstrap: str, unique: Callable[[], str], tmp_path: Path) -> Patient:
    return Patient(f"{request.param}://{bootstrap}", unique(), unique()[:9], tmp_path)


@pytest.fixture
def whole(patient: Patient, make_topic: Callable[..., str]) -> Patient:
    """Its main topic was there, and flux has made the others."""
    make_topic(2, patient.topic)
    assert patient.flux("topics", "--create").exit_code == 0
    return patient


def test_a_task_whose_topics_flux_created_has_no_findings(whole: Patient) -> None:
    report = whole.examined("--clock")
    assert report["findings"] == []
    assert report["not_checked"] == []
    assert abs(report["clock"]["ahead"]) <= report["clock"]["error"] + 0.01


def test_fix_makes_all_topics_of_a_new_task(patient: Patient) -> None:
    assert patient.found() == [("topics", name) for name in (patient.topic, patient.retry, patient.dead)]
    assert patient.found("--fix") == []
    assert patient.found() == []


def test_topics_that_somebody_made_by_hand_are_found_and_mended(
    patient: Patient, make_topic: Callable[..., str]
) -> None:
    make_topic(2, patient.topic)
    make_topic(2, patient.retry)  # with the brokers' defaults: a week, and no room
    make_topic(2, patient.dead, retention_ms=3_600_000, cleanup_policy="compact", retention_bytes=10**9)
    found = [("retention", patient.retry), *[("retention", patient.dead)] * 2]
    sizes = [("message size", patient.retry), ("message size", patient.dead)]
    assert patient.found() == [*found, *sizes]
    assert patient.found("--fix") == []
    assert patient.found() == []


@pytest.mark.parametrize(
    ("settings", "check", "problem"),
    [
        ({"retention_ms": 59_000}, "retention", "some are never retried"),
        ({"retention_bytes": 10**9}, "retention", "retention.bytes=1000000000"),
        ({"cleanup_policy": "compact,delete"}, "retention", "a later one has the same key"),
        ({"max_message_bytes": 1000}, "message size", "does not fit"),
        ({"message_timestamp_type": "LogAppendTime"}, "timestamps", "of two clocks"),
        ({"message_timestamp_after_max_ms": 1000}, "timestamps", "1 second"),
        ({"min_insync_replicas": 2}, "replication", "refuse every write"),
        ({"unclean_leader_election_enable": "true"}, "replication", "may become leader"),
    ],
)
def test_a_setting_that_hurts_is_found(
    patient: Patient, make_topic: Callable[..., str], settings: dict[str, object], check: str, problem: str
) -> None:
    make_topic(1, patient.topic)
    sound = {"retention_ms": -1, "max_message_bytes": 2_000_000}
    make_topic(1, patient.retry, **(sound | settings))
    make_topic(1, patient.dead, **sound)
    [finding] = patient.examined()["findings"]
    assert (finding["check"], finding["about"]) == (check, patient.retry)
    assert problem in finding["problem"]


def test_a_main_topic_that_has_grown_is_found(whole: Patient, kafka_admin: AdminClient) -> None:
    kafka_admin.create_partitions([NewPartitions(whole.topic, 3)])[whole.topic].result(30)
    assert whole.found("--fix") == [("partitions", whole.retry), ("partitions", whole.dead)]


def test_records_that_are_about_to_be_deleted_are_counted(
    whole: Patient, bootstrap: str, kafka_admin: AdminClient
) -> None:
    """A week is kept of the main topic."""
    producer = Producer({"bootstrap.servers": bootstrap})
    now = time.time()
    for age in (6.5, 6.5, 6, 1):
        producer.produce(whole.topic, b"x", partition=1, timestamp=int((now - age * DAY) * 1000))
    assert producer.flush(30) == 0
    [finding] = whole.examined()["findings"]
    assert (finding["check"], finding["about"]) == ("expiry", whole.topic)
    assert finding["problem"].startswith("about to be deleted: 3 records not done yet")


def test_a_wait_that_outlasts_positions_is_found(whole: Patient) -> None:
    whole.wait = 8 * DAY
    assert whole.found() == [("committed offsets", "broker 1")]


def test_a_name_that_kafka_will_not_make_is_found(patient: Patient, make_topic: Callable[..., str]) -> None:
    make_topic(1, patient.topic)
    patient.group = "bil_ling"
    make_topic(1, patient.retry.replace("_", "."))
    checks = patient.found()
    assert checks == [("topics", patient.retry), ("topics", patient.dead), ("names", patient.retry)]
    done = patient.flux("doctor", "--fix")
    assert done.exit_code == 1
    assert f"cannot create topic {patient.retry}" in done.stderr


@pytest.mark.parametrize(
    ("properties", "protocol"),
    [({"partition.assignment.strategy": "range"}, "range"), ({"group.protocol": "consumer"}, "consumer")],
)
def test_members_of_another_protocol_are_found_while_they_are_there(
    whole: Patient, bootstrap: str, properties: dict[str, str], protocol: str
) -> None:
    member = Consumer({"bootstrap.servers": bootstrap, "group.id": f"{whole.group}-1", **properties})
    try:
        member.subscribe([whole.retry])
        until = time.monotonic() + 30
        while not member.assignment():
            assert time.monotonic() < until
            member.poll(0.1)
        [finding] = whole.examined()["findings"]
        assert (finding["check"], finding["about"]) == ("members", f"group {whole.group}-1")
        assert f"protocol {protocol}" in finding["problem"]
    finally:
        member.close()
    assert whole.found() == []


@pytest.mark.parametrize("client", CLIENTS)
def test_the_brokers_own_defaults_count(secured: Secured, client: str, tmp_path: Path) -> None:
    patient = Patient(f"{client}://{secured.own.bootstrap}", secured.own.name(), "g", tmp_path)
    secured.own.make(patient.topic, patient.retry, patient.dead)  # without a setting of their own
    by_default("log.retention.ms", "30000", secured.own.admin)
    by_default("log.retention.bytes", "1000", secured.own.admin)
    try:
        until = time.monotonic() + 30
        while [finding["problem"][:15] for finding in patient.examined()["findings"]][:2] != [
            "retention.bytes",
            "records are del",
        ]:
            assert time.monotonic() < until, patient.examined()
            time.sleep(0.2)
        assert patient.found("--fix") == []
    finally:
        by_default("log.retention.ms", None, secured.own.admin)
        by_default("log.retention.bytes", None, secured.own.admin)


def by_default(name: str, value: str | None, admin: AdminClient) -> None:
    """Of the one broker there is; None: as it was."""
    how = AlterConfigOpType.DELETE if value is None else AlterConfigOpType.SET
    change = ConfigEntry(name, value or "", incremental_operation=how)
    brokers = ConfigResource(ConfigResource.Type.BROKER, "1", incremental_configs=[change])
    for done in admin.incremental_alter_configs([brokers]).values():
        done.result(30)


# -- permissions


@pytest.fixture(params=CLIENTS)
def guest(request: pytest.FixtureRequest, secured: Secured, tmp_path: Path) -> Iterator[Patient]:
    """Who may do nothing before it is granted."""
    made = Patient(secured.url(request.param, "guest"), secured.own.name(), "g", tmp_path)
    boss = Patient(secured.url(request.param, "boss"), made.topic, "g", tmp_path)
    assert boss.found("--fix") == []
    yield made
    secured.revoke_all()


def test_what_the_login_lacks_is_found_and_what_it_may_not_see_is_named(guest: Patient, secured: Secured) -> None:
    topics = [guest.topic, guest.retry, guest.dead]
    groups = ["g", "g-1"]
    found = [("permissions", f"topic {name}") for name in topics]
    assert guest.found() == [*found, *[("permissions", f"group {name}") for name in groups]]
    assert {f"topic {name}" for name in topics} <= set(guest.unchecked())

    for name in topics:
        secured.grant("topic", name, "READ")
    for name in groups:
        secured.grant("group", name, "READ")
    findings = wait_for_findings(guest, 2)
    assert [finding["about"] for finding in findings] == [f"topic {guest.retry}", f"topic {guest.dead}"]
    assert findings[0]["problem"] == "this login lacks WRITE"
    assert "settings of the brokers" in guest.unchecked()
    assert f"settings of topic {guest.retry}" in guest.unchecked()

    for name in (guest.retry, guest.dead):
        secured.grant("topic", name, "WRITE")
    wait_for_findings(guest, 0)
    for name in topics:
        secured.grant("topic", name, "DESCRIBE_CONFIGS")
    secured.grant("broker", "kafka-cluster", "DESCRIBE_CONFIGS")
    wait_for_findings(guest, 0)
    done = guest.flux("doctor", "--clock")
    assert done.exit_code == 0, done.output
    assert "not checked" in done.stdout  # it may make no topic
    assert "CREATE on topic" in done.stdout
    assert len(done.stdout.splitlines()) == 2
    assert not secrets_of(done.output)


def wait_for_findings(guest: Patient, count: int) -> list[dict[str, Any]]:
    """A grant holds a moment later."""
    until = time.monotonic() + 30
    while True:
        findings: list[dict[str, Any]] = guest.examined()["findings"]
        if len(findings) == count or time.monotonic() > until:
            assert len(findings) == count, findings
            return findings
        time.sleep(0.2)
