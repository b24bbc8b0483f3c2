"""status, trace, skip and reports with as few permissions as docs/how-to/status.md says that they need."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flux.core.monitoring.report import TOPIC
from integration import guest as guests
from integration.test_security import CLIENTS, SECONDS, Secured, secured

__all__ = ["secured"]

pytestmark = pytest.mark.timeout(240)


class Guest(guests.Guest):
    def __call__(self, name: str, *args: str) -> tuple[int, str, str]:
        """A cluster's first coordinator of groups takes a while to be there."""
        until = time.monotonic() + 2 * SECONDS
        while True:
            code, output, errors = super().__call__(name, *args)
            if "coordinator" not in errors.lower() or time.monotonic() > until:
                return code, output, errors

    def status(self) -> Any:
        return json.loads(self.does("status", "--json"))


@pytest.fixture(params=CLIENTS)
def guest(request: pytest.FixtureRequest, secured: Secured, tmp_path: Path) -> Iterator[Guest]:
    name = secured.own.name()
    secured.topics(name, "g", 1)
    secured.own.write(name, *[(b"k", b"%d" % number) for number in range(3)])
    yield Guest(secured, request.param, tmp_path, name)
    secured.revoke_all()


def test_each_command_needs_what_is_written_and_names_what_is_missing(guest: Guest) -> None:
    main, retry, dead = guest.topic, f"{guest.topic}-g-try-1", f"{guest.topic}-g-dlq"
    grant = guest.secured.grant
    for topic in (main, retry, dead):
        grant("topic", topic, "DESCRIBE")
    for group in ("g", "g-1"):
        guest.refused(f"DESCRIBE on group {group}", "status")
        grant("group", group, "DESCRIBE")
    told = guest.status()
    assert (told["stages"][0]["lag"], told["stages"][0]["oldest_unfinished"]) == (3, {})
    for topic in (main, retry, dead):
        grant("topic", topic, "READ")
    assert guest.status()["stages"][0]["oldest_unfinished"]["0"]["key"] == "k"

    assert len(guest.does("trace", "--key", "k", "--json").splitlines()) == 3

    # refused before anything is written
    guest.refused("READ on group g", "skip", "0:0", "--reason", "x")
    grant("group", "g", "READ")
    guest.refused(dead, "skip", "0:0", "--reason", "x")
    assert guest.status()["dead_letters"] == 0
    grant("topic", dead, "WRITE")
    assert guest.does("skip", "0:0", "--reason", "x").endswith(f"to {dead}; g continues at offset 1\n")
    assert (guest.status()["dead_letters"], guest.status()["stages"][0]["committed_offset"]) == (1, {"0": 1})


def test_a_worker_that_may_not_report_works(guest: Guest) -> None:
    grant = guest.secured.grant
    for topic in (guest.topic, f"{guest.topic}-g-try-1", f"{guest.topic}-g-dlq"):
        for operation in ("DESCRIBE", "READ", "WRITE", "DESCRIBE_CONFIGS"):
            grant("topic", topic, operation)
    for group in ("g", "g-1"):
        grant("group", group, "READ")
    code, _, errors = guest("process", "--report", "--exit-when-idle", "1")
    assert code == 0, errors
    lines = [line for line in errors.splitlines() if "reports cannot be written" in line]
    assert len(lines) == 1, errors
    assert "create it, with cleanup.policy=compact,delete" in lines[0] or TOPIC in lines[0]
    assert guest.status()["stages"][0]["lag"] == 0


def test_commands_and_workers_that_take_them_name_each_right_that_is_missing(
    guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands, audit = f"{guest.topic}-commands", f"{guest.topic}-audit"
    monkeypatch.setenv("FLUX_COMMANDS_TOPIC", commands)
    monkeypatch.setenv("FLUX_AUDIT_TOPIC", audit)
    grant = guest.secured.grant
    for topic in (guest.topic, f"{guest.topic}-g-try-1", f"{guest.topic}-g-dlq"):
        for operation in ("DESCRIBE", "READ", "WRITE", "DESCRIBE_CONFIGS"):
            grant("topic", topic, operation)
    for group in ("g", "g-1"):
        grant("group", group, "READ")
    worker = ("process", "--control", "--exit-when-idle", "1")
    guest.refused(f"allow this login READ on topic {TOPIC}", "pause")
    for operation in ("READ", "WRITE", "CREATE"):
        grant("topic", TOPIC, operation)
    guest.refused(f"the login needs DESCRIBE on topic {commands}", "pause")
    grant("topic", commands, "DESCRIBE")
    grant("topic", f"{commands}-answers", "READ")
    for name in ("pause", "process"):
        args = worker[1:] if name == "process" else ()
        code, _, errors = guest(name, *args)
        assert (code, "Traceback" in errors) == (1, False), errors
        assert "allow this login CREATE on them" in errors.splitlines()[-1]
    guest.secured.own.make(commands, f"{commands}-answers")
    guest.refused(f"allow this login WRITE on topic {commands}", "pause")
    code, _, errors = guest(*worker)
    assert (code, "Traceback" in errors) == (1, False), errors
    assert f"this login needs READ and DESCRIBE on topic {commands}" in errors.splitlines()[-1]

    grant("topic", commands, "WRITE")
    guest.does("pause", "--stage", "1")
    guest.does("resume")
    grant("topic", commands, "READ")
    code, _, errors = guest(*worker)
    assert code == 0, errors
