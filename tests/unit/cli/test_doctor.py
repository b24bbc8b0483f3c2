from __future__ import annotations

import json
import time
from typing import Any

import pytest

from flux.adapters.memory.admin import MemoryAdmin
from flux.core.errors import BrokerError, Fault
from flux.core.ports import CommittedOffset, GroupProtocol, Permissions, ProducerRecord, TopicPartition
from unit.support.cli_support import Flux, flux_cli, only_line

__all__ = ["flux_cli"]

TASK = """
    import flux

    class Billing(flux.Task):
        topic, group_id, retries, wait = "orders", "billing", 1, 3600

        def call(self, message): ...
"""
OTHER = """
    class Refunds(flux.Task):
        topic, group_id = "orders-billing-try-1", "refunds"

        def call(self, message): ...

    class Elsewhere(Refunds):
        adapter = "memory://another-doctor"
"""
FIRST, DEAD = "orders-billing-try-1", "orders-billing-dlq"


def refuse(*_: object) -> Any:
    raise BrokerError("no", Fault.DENIED)


@pytest.fixture
def task(flux_cli: Flux) -> str:
    """Its file; flux has made its topics."""
    file = flux_cli.file(TASK)
    assert flux_cli("topics", "--load", file, "--adapter", flux_cli.url, "--create").exit_code == 0
    return file


def examined(flux_cli: Flux, file: str, *args: str) -> dict[str, Any]:
    done = flux_cli("doctor", "--load", file, "--adapter", flux_cli.url, "--json", "Billing", *args)
    assert done.stderr == ""
    report: dict[str, Any] = json.loads(done.stdout)
    assert done.exit_code == (1 if report["findings"] else 0)
    return report


def found(report: dict[str, Any]) -> list[tuple[str, str]]:
    return [(finding["check"], finding["about"]) for finding in report["findings"]]


def test_a_login_that_is_refused_is_a_finding_with_its_remedy(
    flux_cli: Flux, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> Any:
        raise BrokerError("cannot log in: the broker refused the token: expired: renew it", Fault.LOGIN)

    monkeypatch.setattr(MemoryAdmin, "topics", refused)
    report = examined(flux_cli, task)
    assert found(report) == [("login", "the cluster")]
    [finding] = report["findings"]
    assert finding["problem"] == "cannot log in: the broker refused the token: expired"
    assert finding["remedy"] == "renew it"
    assert not finding["fixable"]
    shown = flux_cli("doctor", "--load", task, "--adapter", flux_cli.url, "--fix", "Billing")
    assert shown.exit_code == 1
    assert only_line(shown.stdout).startswith("login ")
    monkeypatch.setattr(MemoryAdmin, "topics", lambda *_: (_ for _ in ()).throw(BrokerError("no", Fault.LOGIN)))
    assert examined(flux_cli, task)["findings"][0]["remedy"] == "correct the adapter's login"


def test_a_task_whose_topics_flux_created_has_no_findings(flux_cli: Flux, task: str) -> None:
    done = flux_cli("doctor", "--load", task, "--adapter", flux_cli.url)
    assert done.exit_code == 0
    unchecked, sound = done.stdout.splitlines()
    assert unchecked.startswith("not checked")
    assert "--clock" in unchecked
    assert sound.split(maxsplit=1) == ["ok", "Billing: no problems found"]


def test_each_finding_is_one_line_with_its_remedy(flux_cli: Flux, task: str) -> None:
    flux_cli.broker.delete_topic(DEAD)
    flux_cli.broker.create_topic(DEAD, 1, {"retention.ms": "1000", "max.message.bytes": "2000000"})
    flux_cli.broker.delete_topic(FIRST)
    done = flux_cli("doctor", "--load", task, "--adapter", flux_cli.url)
    assert done.exit_code == 1
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["topics", "retention", "not"]
    assert FIRST in lines[0]
    given = f"--load {task} --adapter {flux_cli.url} Billing"
    assert lines[0].endswith(f": flux topics {given} --create")
    change = f"kafka-configs.sh --bootstrap-server HOST:PORT --alter --topic {DEAD} --add-config retention.ms=-1"
    assert lines[1].endswith(f": flux doctor {given} --fix, or {change}")


def test_a_remedy_of_flux_can_be_pasted(flux_cli: Flux, task: str) -> None:
    flux_cli.broker.delete_topic(DEAD)
    [missing] = examined(flux_cli, task)["findings"]
    _, *command = missing["remedy"].split()
    assert flux_cli(*command).exit_code == 0
    assert examined(flux_cli, task)["findings"] == []


def test_fix_creates_what_is_missing_and_sets_what_is_safe(flux_cli: Flux, task: str) -> None:
    flux_cli.broker.delete_topic(FIRST)
    flux_cli.broker.delete_topic(DEAD)
    flux_cli.broker.create_topic(DEAD, 1, {"retention.ms": "1000", "cleanup.policy": "compact"})
    report = examined(flux_cli, task, "--fix")
    assert report["findings"] == []
    assert report["fixed"][0] == f"created topic {FIRST}"
    assert len(report["fixed"]) == 2
    config = MemoryAdmin(flux_cli.broker._cluster).topic_config(DEAD, 1)
    assert (config["cleanup.policy"], config["retention.ms"]) == ("delete", "-1")
    assert examined(flux_cli, task, "--fix")["fixed"] == []


def test_what_was_fixed_before_something_was_refused_is_printed(
    flux_cli: Flux, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    flux_cli.broker.delete_topic(FIRST)
    MemoryAdmin(flux_cli.broker._cluster).set_topic_config(DEAD, {"retention.ms": "1000"}, 1)
    monkeypatch.setattr(MemoryAdmin, "set_topic_config", refuse)
    done = flux_cli("doctor", "--load", task, "--adapter", flux_cli.url, "--fix")
    assert done.exit_code == 1
    assert done.stdout.split(maxsplit=1) == ["fixed", f"created topic {FIRST}\n"]
    assert only_line(done.stderr).endswith(": no")


def test_what_cannot_be_fixed_is_still_found(flux_cli: Flux, task: str) -> None:
    flux_cli.broker.grow_topic("orders", 4)
    report = examined(flux_cli, task, "--fix")
    assert found(report) == [("partitions", FIRST), ("partitions", DEAD)]
    assert report["fixed"] == []


def test_without_fix_nothing_is_changed(flux_cli: Flux) -> None:
    report = examined(flux_cli, flux_cli.file(TASK))
    assert [finding["fixable"] for finding in report["findings"]] == [True] * 3
    assert MemoryAdmin(flux_cli.broker._cluster).topic_names(1) == set()


def test_old_records_are_counted_from_the_committed_offset_on(flux_cli: Flux, task: str) -> None:
    """A week is kept of the main topic; what is older than four fifths of it and not done is about to go."""
    now = int(time.time() * 1000)
    day = 86_400_000
    stamps = [now - 6 * day, now - 6 * day, now - 6 * day, now - 5 * day]
    flux_cli.broker._cluster.topic("orders").append(
        [ProducerRecord(b"x", timestamp=at) for at in stamps], now, None, None
    )
    [finding] = examined(flux_cli, task)["findings"]
    assert finding["problem"].startswith("about to be deleted: 3 records not done yet")
    flux_cli.broker.set_committed_offset("billing", TopicPartition("orders", 0), CommittedOffset(2))
    assert examined(flux_cli, task)["findings"][0]["problem"].startswith("about to be deleted: 1 record not")
    flux_cli.broker.set_committed_offset("billing", TopicPartition("orders", 0), CommittedOffset(3))
    assert examined(flux_cli, task)["findings"] == []


def test_another_task_that_consumes_its_retry_topic_is_found(flux_cli: Flux, task: str) -> None:
    report = examined(flux_cli, flux_cli.file(TASK + OTHER))
    assert found(report) == [("names", "Billing")]
    assert "Refunds consumes topic orders-billing-try-1" in report["findings"][0]["problem"]


def test_members_of_another_client_are_found(flux_cli: Flux, task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryAdmin, "group_protocol", lambda *_: GroupProtocol("range", ("cooperative-sticky",)))
    assert found(examined(flux_cli, task)) == [("members", "group billing"), ("members", "group billing-1")]


@pytest.mark.parametrize(
    ("method", "what"),
    [
        ("topic_names", ["names of other topics"]),
        ("topic_config", [f"settings of topic {name}" for name in ("orders", FIRST, DEAD)]),
        ("broker_configs", ["settings of the brokers"]),
        ("permissions", ["permissions"]),
        ("group_protocol", ["members of group billing", "members of group billing-1"]),
        ("offsets_at", [f"age of the records in {name}" for name in ("orders", FIRST)]),
    ],
)
def test_what_is_refused_is_named_as_not_checked(
    flux_cli: Flux, task: str, monkeypatch: pytest.MonkeyPatch, method: str, what: list[str]
) -> None:
    monkeypatch.setattr(MemoryAdmin, method, refuse)
    report = examined(flux_cli, task)
    assert report["findings"] == []
    assert [each["what"] for each in report["not_checked"]][:-1] == what


def test_permissions_that_the_broker_does_not_return_are_named(
    flux_cli: Flux, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MemoryAdmin, "permissions", lambda *_: Permissions({}, {}, None))
    [permissions, _] = examined(flux_cli, task)["not_checked"]
    assert (
        permissions["what"]
        == f"permissions on topic orders, topic {FIRST}, topic {DEAD}, group billing, group billing-1"
    )


def test_a_topic_that_may_not_be_seen_hides_no_other(
    flux_cli: Flux, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    flux_cli.broker.delete_topic(DEAD)
    real = MemoryAdmin.topics
    monkeypatch.setattr(
        MemoryAdmin, "topics", lambda self, names, timeout: refuse() if FIRST in names else real(self, names, timeout)
    )
    report = examined(flux_cli, task)
    assert found(report) == [("topics", DEAD)]
    assert f"topic {FIRST}" in [each["what"] for each in report["not_checked"]]


def test_the_clock_is_measured_by_a_topic_that_is_gone_afterwards(flux_cli: Flux, task: str) -> None:
    before = MemoryAdmin(flux_cli.broker._cluster).topic_names(1)
    report = examined(flux_cli, task, "--clock")
    assert abs(report["clock"]["ahead"]) <= report["clock"]["error"] + 0.001  # whole milliseconds
    assert report["not_checked"] == []
    assert MemoryAdmin(flux_cli.broker._cluster).topic_names(1) == before


def test_a_clock_that_cannot_be_measured_is_named(flux_cli: Flux, task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryAdmin, "create_topics", refuse)
    report = examined(flux_cli, task, "--clock")
    assert report["clock"] is None
    assert report["not_checked"] == [{"what": "the clocks' difference", "why": "no"}]


def test_a_cluster_that_is_unavailable_is_one_line(flux_cli: Flux, task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object) -> Any:
        raise BrokerError("nobody answers", Fault.UNAVAILABLE)

    monkeypatch.setattr(MemoryAdmin, "topics", away)
    done = flux_cli("doctor", "--load", task, "--adapter", flux_cli.url)
    assert done.exit_code == 1
    assert "cannot be reached: nobody answers" in only_line(done.stderr)


def test_a_setting_that_cannot_work_is_one_line(flux_cli: Flux) -> None:
    done = flux_cli("doctor", "--load", flux_cli.file(TASK.replace("3600", "-1")), "--adapter", flux_cli.url)
    assert done.exit_code == 1
    assert "wait of stage 1" in only_line(done.stderr)


def test_names_cannot_play_with_the_terminal(flux_cli: Flux, task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def nasty(*_: object) -> Any:
        raise BrokerError("\x1b[2J gone\nand more", Fault.DENIED)

    monkeypatch.setattr(MemoryAdmin, "permissions", nasty)
    done = flux_cli("doctor", "--load", task, "--adapter", flux_cli.url)
    assert "\x1b" not in done.stdout
    assert len(done.stdout.splitlines()) == 3


def test_several_tasks_are_checked_one_after_the_other(flux_cli: Flux) -> None:
    more = "\n    class Refunds(Billing):\n        topic = 'refunds'\n"
    args = ["doctor", "--load", flux_cli.file(TASK + more), "--adapter", flux_cli.url]
    done = flux_cli(*args, "--json")
    assert done.exit_code == 1
    assert [json.loads(line)["task"] for line in done.stdout.splitlines()] == ["Billing", "Refunds"]
    assert [json.loads(line)["task"] for line in flux_cli(*args, "--json", "Refunds").stdout.splitlines()] == [
        "Refunds"
    ]
    fixed = flux_cli(*args, "--fix", "Billing", "Refunds")
    assert fixed.exit_code == 0, fixed.output
    assert [line.split() for line in fixed.stdout.splitlines() if line.startswith("task")] == [
        ["task", "Billing"],
        ["task", "Refunds"],
    ]
