"""What a record or a URL could do: nothing in flux runs it, and a terminal is shown none of its control characters."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from click.testing import CliRunner

import flux
from flux.adapters.memory import MemoryAdapter
from flux.cli.main import cli
from flux.core.errors import BrokerError
from unit.support.cli_support import Flux, flux_cli

__all__ = ["flux_cli"]

PACKAGE = Path(flux.__file__).parent
RUNS = {"eval", "exec", "compile", "__import__"}
UNPACKS = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "yaml", "jsonpickle"}

ALLOWED = {
    "cli/load_code.py: exec_module": "runs the file that the user gave with --load",
    "cli/load_code.py: import_module": "the module that the user gave with --load",
    "cli/__init__.py: import_module": "flux's own commands, by fixed lists",
    "config.py: import_module": "the built-in adapters, by a fixed list",
}
"""Where code is found by a name or run from a file, and why no record can choose it."""


def running(path: Path) -> list[str]:
    """The places in a file that run or unpack what they are given."""
    where = path.relative_to(PACKAGE).as_posix()
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [each.name for each in node.names if each.name.partition(".")[0] in UNPACKS]
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] in UNPACKS:
            found.append(node.module)
        elif isinstance(node, ast.Call):
            name = getattr(node.func, "id", None) or getattr(node.func, "attr", None)
            plain = isinstance(node.func, ast.Name)
            if (plain and name in RUNS) or name in ("import_module", "exec_module", "system", "popen"):
                found.append(str(name))
            if any(keyword.arg == "shell" for keyword in node.keywords):
                found.append("shell")
    return [f"{where}: {each}" for each in found]


def test_nothing_is_unpickled_evaluated_or_run_but_what_the_user_named() -> None:
    found = {place for path in PACKAGE.rglob("*.py") for place in running(path)}
    assert found == set(ALLOWED)


def test_the_search_for_such_places_finds_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.PACKAGE", tmp_path)
    bad = tmp_path / "bad.py"
    bad.write_text("import pickle\nfrom yaml import load\neval('1')\nsubprocess.run('x', shell=True)\n")
    assert running(bad) == ["bad.py: pickle", "bad.py: yaml", "bad.py: eval", "bad.py: shell"]


EVIL = "\x1b]0;owned\x07\x1b[2J\u202e\x9b31m"
CONTROLS = set("\x1b\x07\x9b\u202e\x00\r\b")


def test_what_flux_produce_says_of_a_record_has_no_control_characters(flux_cli: Flux) -> None:
    flux_cli.broker.create_topic("t")
    flux_cli.broker.fail_writes(lambda *_: BrokerError(f"refused {EVIL}"))
    result = flux_cli(
        "produce", "t", "--adapter", flux_cli.url, "--key-separator", "|", input=f"key{EVIL}|value{EVIL}\n"
    )
    assert result.exit_code == 1
    assert "refused" in result.output
    assert not CONTROLS & set(result.output)


def test_what_a_cluster_says_has_no_control_characters_in_status_and_topics(
    flux_cli: Flux, monkeypatch: pytest.MonkeyPatch
) -> None:
    def admin(self: MemoryAdapter) -> object:
        raise BrokerError(f"no {EVIL}")

    monkeypatch.setattr(MemoryAdapter, "admin", admin)
    file = flux_cli.file("""
        import flux

        class Work(flux.Task):
            topic, group_id = "t", "g"

            def call(self, message): ...
    """)
    for command in ("status", "topics", "process"):
        result = flux_cli(command, "--load", file, "--adapter", flux_cli.url)
        assert result.exit_code == 1
        assert "no " in result.output
        assert not CONTROLS & set(result.output), command
        assert "Traceback" not in result.output


def test_names_from_the_command_line_are_shown_without_control_characters() -> None:
    for arguments in (["produce", EVIL], [EVIL], ["process", "--load", f"{EVIL}.py"], ["status", EVIL]):
        result = CliRunner().invoke(cli, arguments, prog_name="flux")
        assert result.exit_code in (1, 2)
        assert not CONTROLS & set(result.output), arguments
