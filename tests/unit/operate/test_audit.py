"""What was done is written down before and after, and read back, whatever else is in the topic or the file."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from flux.core.errors import BrokerError, ConfigurationError, Fault
from flux.core.ports import ProducerRecord
from flux.operate.audit import (
    MAX_PLACES,
    TOPIC_CONFIG,
    AuditLog,
    AuditRecord,
    FileAudit,
    TopicAudit,
    actions,
    audit_topic,
    audited,
    this_user,
)
from unit.support.operate_support import DEAD, MAIN, NOW_MS, OperateKit

REPLAY = AuditRecord(
    at=NOW_MS,
    by="ada@ops",
    action="replay",
    task="Billing",
    topic=DEAD,
    places=("0:1", "1:2"),
    details={"key": "é\udcff"},
)


@pytest.fixture
def yard() -> OperateKit:
    return OperateKit()


@pytest.fixture(params=["topic", "file"])
def audit(request: pytest.FixtureRequest, yard: OperateKit, tmp_path: Path) -> AuditLog:
    if request.param == "file":
        return FileAudit(tmp_path / "audit.jsonl")
    return TopicAudit(yard.adapter, yard.admin, MAIN, "flux-audit", yard.system)


def test_an_action_is_read_back_as_it_was_written(audit: AuditLog) -> None:
    assert list(audit.read()) == []
    before = attrs.evolve(REPLAY, at=NOW_MS - 2, id="2")
    audit.write(before)
    audit.write(REPLAY)
    assert list(audit.read()) == [before, REPLAY]
    assert list(audit.read(NOW_MS - 1)) == [REPLAY]


def test_an_action_that_ends_is_one_with_its_result(audit: AuditLog) -> None:
    with audited(audit, REPLAY, pytest.fail) as end:
        assert actions(audit.read()) == [REPLAY]
        end("2 replayed", ["0:1"])
    assert actions(audit.read()) == [attrs.evolve(REPLAY, result="2 replayed", places=("0:1",))]


def test_an_action_that_fails_has_its_error_as_the_result(audit: AuditLog) -> None:
    with pytest.raises(RuntimeError), audited(audit, REPLAY, pytest.fail):
        raise RuntimeError("no way")
    assert [each.result for each in actions(audit.read())] == ["failed: no way"]


def test_an_action_is_done_where_it_cannot_be_written_down(yard: OperateKit, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: object, topics: object, timeout: float) -> None:
        raise BrokerError("no permission", Fault.DENIED)

    monkeypatch.setattr(type(yard.admin), "create_topics", refuse)
    said: list[str] = []
    done = False
    with audited(TopicAudit(yard.adapter, yard.admin, MAIN, "flux-audit", yard.system), REPLAY, said.append) as end:
        done = True
        end("2 replayed", ())
    assert done
    assert said == ["this replay is not written down in flux-audit: no permission"] * 2


def test_the_topic_keeps_what_is_written_for_ever(yard: OperateKit) -> None:
    TopicAudit(yard.adapter, yard.admin, MAIN, "flux-audit", yard.system).write(REPLAY)
    config = yard.admin.topic_config("flux-audit", 1.0)
    assert {name: config[name] for name in TOPIC_CONFIG} == TOPIC_CONFIG
    assert yard.admin.topics(["flux-audit"], 1.0)["flux-audit"].partitions == 1  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"version": 9}',
        b"[" * 100_000,
        REPLAY.to_json().replace(b'"version": 1', b'"version": 1, "more": 2'),
        REPLAY.to_json().replace(b'"ada@ops"', b"7"),
        REPLAY.to_json().replace(b"%d" % NOW_MS, b'"now"'),
    ],
)
def test_what_is_damaged_or_foreign_is_passed_over(yard: OperateKit, line: bytes) -> None:
    audit = TopicAudit(yard.adapter, yard.admin, MAIN, "flux-audit", yard.system)
    audit.write(REPLAY)
    yard.kit.write(ProducerRecord(line), ProducerRecord(None), topic="flux-audit")
    audit.write(REPLAY)
    assert list(audit.read()) == [REPLAY, REPLAY]


def test_places_are_bounded() -> None:
    many = attrs.evolve(REPLAY, places=tuple(f"0:{n}" for n in range(MAX_PLACES + 5)))
    read = AuditRecord.from_json(many.to_json())
    assert read is not None
    assert read.places == many.places[:MAX_PLACES]


def test_the_environment_names_the_topic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLUX_AUDIT_TOPIC", raising=False)
    assert audit_topic() == "flux-audit"
    monkeypatch.setenv("FLUX_AUDIT_TOPIC", "team-audit")
    assert audit_topic() == "team-audit"
    monkeypatch.setenv("FLUX_AUDIT_TOPIC", "no such/name")
    with pytest.raises(ConfigurationError):
        audit_topic()


def no_name() -> str:
    raise KeyError("uid")


def test_who_acts_is_a_user_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("getpass.getuser", lambda: "ada")
    monkeypatch.setattr("socket.gethostname", lambda: "ops")
    assert this_user() == "ada@ops"
    monkeypatch.setattr("getpass.getuser", no_name)
    assert this_user() == "somebody@ops"
