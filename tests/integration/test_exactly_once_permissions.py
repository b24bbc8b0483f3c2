"""A task with `exactly_once` whose login has no permission on the transactional id: one line says what to grant."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from proof.history.kafka import read_topic

from integration.guest import Guest
from integration.test_security import TASK, Secured, secured

__all__ = ["secured"]

pytestmark = pytest.mark.timeout(240)


def test_a_transactional_id_that_is_not_granted_is_named_at_start_and_by_the_doctor(
    secured: Secured, tmp_path: Path
) -> None:
    name = secured.own.name()
    topics = secured.topics(name, "g", 1)
    secured.own.write(name, (b"k", b"v"))
    guest = Guest(secured, "confluent", tmp_path, name)
    task = TASK.format(topic=name, retries=1).replace(
        "offset_commit_interval =", "offset_commit_interval, exactly_once ="
    )
    (tmp_path / "work.py").write_text(task.replace("0.1, 0.1\n", "0.1, 0.1, True\n"))
    for topic in topics:
        secured.grant("topic", topic, "DESCRIBE", "READ", "WRITE", "DESCRIBE_CONFIGS")
    for group in ("g", "g-1"):
        secured.grant("group", group, "READ")
    try:
        code, _, errors = guest("process", "Work")
        line = errors.splitlines()[-1]
        assert (code, "Traceback" in errors) == (1, False), errors
        found = re.search(r"WRITE and DESCRIBE on transactional id (flux-g-\S+)", line)
        assert found, errors
        code, output, _ = guest("doctor")
        assert code == 1
        assert [each for each in output.splitlines() if each.startswith("transactions") and found[0] in each], output

        secured.grant("transactional_id", found[1], "WRITE", "DESCRIBE")
        code, _, errors = guest("process", "Work", "--exit-when-idle", "1")
        assert code == 0, errors
        assert [record.value() for record in read_topic(secured.own.bootstrap, topics[-1])] == [b"v"]
        assert "transactions" not in guest("doctor")[1]
    finally:
        secured.revoke_all()
