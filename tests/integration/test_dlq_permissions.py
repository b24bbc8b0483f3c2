"""`flux dlq` with as few permissions as docs/how-to/dead-letters.md says that it needs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from integration import guest as guests
from integration.test_security import CLIENTS, Secured, secured

__all__ = ["secured"]

pytestmark = pytest.mark.timeout(240)


class Guest(guests.Guest):
    def __call__(self, name: str, *args: str) -> tuple[int, str, str]:
        """`flux dlq NAME ARGS`."""
        return self.run("dlq", name, options=args)


@pytest.fixture(params=CLIENTS)
def guest(request: pytest.FixtureRequest, secured: Secured, tmp_path: Path) -> Iterator[Guest]:
    name = secured.own.name()
    secured.topics(name, "g", 1)
    secured.own.write(f"{name}-g-dlq", *[(b"k", b"%d" % number) for number in range(5)])
    yield Guest(secured, request.param, tmp_path, name)
    secured.revoke_all()


def test_each_command_needs_what_is_written_and_names_what_is_missing(guest: Guest) -> None:
    dead, retry = f"{guest.topic}-g-dlq", f"{guest.topic}-g-try-1"
    grant = guest.secured.grant

    guest.refused(dead, "list")
    grant("topic", dead, "DESCRIBE")
    guest.refused(f"READ on topic {dead}", "list")
    grant("topic", dead, "READ")
    assert len(guest.does("list", "--json").splitlines()) == 5
    assert guest.does("causes").splitlines()[-1] == "5 dead letters, 1 cause"
    assert '"offset": 3' in guest.does("show", "0:3", "--json")

    guest.refused("DESCRIBE on group g-2", "replay")
    grant("group", "g-2", "DESCRIBE")
    guest.refused(retry, "replay")
    grant("topic", retry, "WRITE")
    guest.refused("group g-replay", "replay")
    grant("group", "g-replay", "READ")
    assert guest.does("replay") == f"replayed 5 dead letters to {retry}\n"
    assert guest.does("replay") == f"replayed 0 dead letters to {retry}\n"

    guest.refused(f"DELETE on topic {dead}", "purge", "--replayed", "--yes")
    grant("topic", dead, "DELETE")
    assert guest.does("purge", "--replayed", "--yes") == f"deleted 5 dead letters of {dead}\n"

    (guest.directory / "one.jsonl").write_text('{"key": null, "value": "x"}\n')
    guest.refused(dead, "import", "one.jsonl")
    grant("topic", dead, "WRITE")
    assert guest.does("import", "one.jsonl") == f"1 imported to {dead}\n"
