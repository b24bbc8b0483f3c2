"""flux dlq on a terminal: tables that fit it, and a progress bar."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pty = pytest.importorskip("pty")

_SETTING = f"""
import sys

sys.path.insert(0, {str(Path(__file__).parents[3])!r})
from unit.support.operate_support import DEAD, MAIN, NOW_MS, RETRY, headers_of

import flux
from flux.adapters.memory import MemoryAdapter
from flux.cli.main import cli
from flux.core.ports import ProducerRecord, ProducerSettings

flux.configure(adapter="memory://terminal")
adapter = MemoryAdapter("terminal")
for topic in (MAIN, RETRY, DEAD):
    adapter.broker.create_topic(topic)
text = "no customer in a rather long message, which does not fit into a line of this terminal"
letters = [ProducerRecord(b"v", b"k", headers_of(text=text), 0, NOW_MS)] * 2000
adapter.producer(ProducerSettings()).write(DEAD, letters, lambda error, record: None)


class Billing(flux.Task):
    topic, group_id, retries = MAIN, "billing", 2

    def call(self, message: flux.Message) -> None: ...


if __name__ == "__main__":
    cli.main(sys.argv[1:], prog_name="flux")
"""


def on_terminal(directory: Path, *args: str) -> str:
    """What `flux dlq ARGS` shows on one of 80 columns, which ends after a minute at the latest."""
    file = directory / "setting.py"
    file.write_text(_SETTING)
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            [sys.executable, str(file), "dlq", *args, "--load", "__main__"],
            cwd=directory,
            env={**os.environ, "COLUMNS": "80", "TERM": "xterm"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
    finally:
        os.close(theirs)
    shown = b""
    try:
        while data := os.read(ours, 65536):
            shown += data
    except OSError:  # how Linux tells that nobody writes any more
        pass
    finally:
        os.close(ours)
    assert process.wait(60) == 0, shown.decode()
    return shown.decode()


def test_a_table_fits_the_terminal(tmp_path: Path) -> None:
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", on_terminal(tmp_path, "list", "--limit", "3"))
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    first = next(line for line in lines if line.startswith("0:0"))
    assert "2023-11-14 22:12:30Z" in first
    assert first.rstrip().endswith("3")


def test_a_bar_shows_how_far_it_is(tmp_path: Path) -> None:
    for name, last in (("causes", "2,000 dead letters, 1 cause"), ("replay", "replayed 2,000 dead letters")):
        text = on_terminal(tmp_path, name)
        assert "━" in text, name
        assert "2000/2000" in text, name
        assert last in text.splitlines()[-1]
