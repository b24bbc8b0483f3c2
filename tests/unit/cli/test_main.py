from __future__ import annotations

import subprocess
import sys

import pytest

from flux.cli.main import COMMANDS
from flux.core.text import escape, one_line
from unit.support.cli_support import Flux, flux_cli, only_line

__all__ = ["flux_cli"]


def test_help_imports_neither_clients_nor_tables() -> None:
    code = (
        "import sys; from flux.cli.main import cli\n"
        "try: cli.main(['--help'], prog_name='flux')\n"
        "except SystemExit: pass\n"
        "sys.exit(', '.join({'confluent_kafka', 'rich'} & set(sys.modules)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_help_with_options(flux_cli: Flux, name: str) -> None:
    result = flux_cli(name, "--help")
    assert result.exit_code == 0
    assert f"Usage: flux {name}" in result.stdout


def test_without_a_command_the_help_is_shown(flux_cli: Flux) -> None:
    result = flux_cli()
    assert (result.exit_code, "Commands:" in result.stdout) == (0, True)


def test_version(flux_cli: Flux) -> None:
    import flux

    assert flux_cli("--version").stdout == f"flux {flux.__version__}\n"


def test_an_unknown_command_is_wrong_usage_and_lists_those_there_are(flux_cli: Flux) -> None:
    result = flux_cli("proces")
    assert result.exit_code == 2
    assert "'proces'; the commands are demo, process" in only_line(result.stderr)


def test_an_unknown_option_is_one_line_that_says_where_to_look(flux_cli: Flux) -> None:
    result = flux_cli("process", "--bogus")
    assert result.exit_code == 2
    assert "see flux process --help" in only_line(result.stderr)


def test_an_adapter_that_cannot_be_is_wrong_usage_and_its_password_is_not_shown(flux_cli: Flux) -> None:
    result = flux_cli("produce", "t", "--adapter", "nonsense://me:hunter2@host")
    assert result.exit_code == 2
    assert "no adapter for nonsense://" in only_line(result.stderr)
    assert "hunter2" not in result.output


def test_control_characters_are_written_out() -> None:
    assert escape("a\x1b[31mb\x07\x9b\u202e") == "a\\x1b[31mb\\x07\\x9b\\u202e"
    assert escape("ä\tb\n") == "ä\tb\n"
    assert one_line("a\n  b\x00") == "a b\\x00"
