"""Arbitrary options of every command: an exit code from 0 to 3, one line where it went wrong, never a traceback."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flux import config
from flux.adapters.memory import MemoryAdapter, forget
from flux.cli.main import COMMANDS, cli
from flux.core.ports import ProducerRecord, ProducerSettings

TASK = """
import flux

class Work(flux.Task):
    topic, group_id, retries, wait = "t", "g", 1, 0.0

    def call(self, message):
        raise ValueError
"""

AWAY = "confluent://127.0.0.1:1"  # no command here may wait for a cluster, so none is asked


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    name = f"fuzz-{secrets.token_hex(4)}"
    adapter = MemoryAdapter(name)
    for topic in ("t", "t-g-try-1", "t-g-dlq"):
        adapter.broker.create_topic(topic)
    adapter.producer(ProducerSettings()).write("t", [ProducerRecord(b"v")], lambda *_: None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLUX_ADAPTER", f"memory://{name}")
    file = tmp_path / f"tasks_{secrets.token_hex(4)}.py"
    file.write_text(TASK)
    yield file, f"memory://{name}"
    config.reset()
    forget(name)


words = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6),
    st.text("-=@:/,.019\x1b\udcff", max_size=6),
    st.sampled_from(
        ["Work", "t", "-", "--", "-h", "", "0", "1-2", "-1", "9" * 40, "nan", "inf", "1e400", "a=b", "=", "."]
    ),
)
OPTIONS = {
    "process": [
        "--load",
        "--stages",
        "--adapter",
        "--concurrency",
        "--create-topics",
        "--log-level",
        "--process-number",
        "--report",
        "--report-topic",
    ],
    "topics": ["--load", "--adapter", "--create", "--partitions", "--replication-factor"],
    "status": ["--load", "--adapter", "--json", "--every", "--report-topic"],
    "trace": ["--load", "--adapter", "--json", "--key", "--origin", "--since", "--limit", "--timeout"],
    "skip": ["--load", "--adapter", "--json", "--stage", "--reason", "--by"],
    "cancel": ["--load", "--adapter", "--json", "--why", "--by"],
    "backoff": ["--load", "--stages"],
    "produce": ["--key-separator", "--header", "--adapter"],
}
WITH_TASK = {"process", "topics", "status", "trace", "skip", "cancel", "backoff"}


@st.composite
def calls(draw: st.DrawFn) -> list[str]:
    command = draw(st.sampled_from(sorted(OPTIONS)))
    arguments = [command]
    if command in WITH_TASK and draw(st.booleans()):
        arguments += ["--load", "{file}"]
    for option in draw(st.lists(st.sampled_from(OPTIONS[command]), max_size=3)):
        arguments.append(option)
        if draw(st.integers(0, 5)):
            arguments.append(draw(words))
    return arguments + draw(st.lists(words, max_size=2))


def checked(arguments: list[str], input: bytes | None = None) -> None:
    result = CliRunner().invoke(cli, arguments, input=input, prog_name="flux")
    said = result.output
    assert isinstance(result.exception, SystemExit | None), (arguments, result.exception)
    assert result.exit_code in (0, 1, 2, 3), (arguments, said)
    assert "Traceback" not in said, (arguments, said)
    if result.exit_code == 2:
        assert len(re.findall(r"^flux.*: ", said, re.MULTILINE)) >= 1, (arguments, said)


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(calls(), st.binary(max_size=30))
def test_any_options(place: tuple[Path, str], arguments: list[str], data: bytes) -> None:
    file, _ = place
    given_ = [each.replace("{file}", str(file)) for each in arguments]
    if given_[0] == "process":
        given_[1:1] = ["--exit-when-idle", "0.01"]  # what is right is worked, and ends
    checked(given_, data)


@given(st.lists(st.one_of(words, st.sampled_from(sorted(set(COMMANDS) - {"demo", "process", "web"}))), max_size=3))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_words(place: tuple[Path, str], arguments: list[str]) -> None:
    checked(arguments, b"")


@pytest.mark.parametrize("seconds", ["nan", "inf", "-1", "-0.0", "1e400", "x", ""])
def test_seconds_that_are_no_time(place: tuple[Path, str], seconds: str) -> None:
    result = CliRunner().invoke(
        cli, ["process", "--load", str(place[0]), f"--exit-when-idle={seconds}", "--stages", "7"], prog_name="flux"
    )
    assert result.exit_code == 2
