"""What the tests of the command line share."""

from __future__ import annotations

import secrets
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
from click.testing import CliRunner, Result

from flux import config
from flux.adapters.memory import Broker, MemoryAdapter, forget
from flux.cli.main import cli


@attrs.define
class Flux:
    """`flux` with an empty in-memory cluster and a directory for the user's code."""

    directory: Path
    url: str
    broker: Broker

    def __call__(self, *args: str, input: str | None = None) -> Result:
        return CliRunner().invoke(cli, args, input=input, prog_name="flux")

    def file(self, text: str, name: str | None = None) -> str:
        """Writes code; each test's module has a name of its own, as modules stay loaded."""
        path = self.directory / (name or f"tasks_{secrets.token_hex(4)}.py")
        path.write_text(textwrap.dedent(text))
        return str(path)


@pytest.fixture
def flux_cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Flux]:
    name = f"cli-{secrets.token_hex(4)}"
    adapter = MemoryAdapter(name)
    monkeypatch.delenv("FLUX_ADAPTER", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])  # what is loaded adds its directory
    yield Flux(tmp_path, f"memory://{name}", adapter.broker)
    config.reset()
    forget(name)


def only_line(text: str) -> str:
    """The one line that an error is."""
    lines = text.splitlines()
    assert len(lines) == 1, text
    return lines[0]
