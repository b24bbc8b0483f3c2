"""flux web and flux demo --web: what they need and what they refuse."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
import urllib.request
from importlib.resources import files
from pathlib import Path

import pytest

from unit.support.cli_support import Flux, flux_cli, only_line

__all__ = ["flux_cli"]

TASKS = """
    import flux
    class Billing(flux.Task):
        topic, group_id = "orders", "billing"
        def call(self, message): pass
    class Mails(flux.Task):
        topic, group_id = "orders", "mails"
        def call(self, message): pass
    def redact(part): return None
"""
TOKEN = "a-token-of-enough-letters"


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--host", "0.0.0.0"], "set a token"),
        (["--allow-host", "flux.example"], "set a token"),
        (["--host", "0.0.0.0", "--token", "short"], "at least 16 characters"),
        (["--redact", "nothing"], "give MODULE:FUNCTION"),
        (["--redact", "flux.web.redaction:HIDDEN"], "give MODULE:FUNCTION"),
        (["--tokens", "nowhere.txt"], "--tokens nowhere.txt: No such file or directory"),
        (["--audit-file", "no/where.jsonl"], "--audit-file no/where.jsonl: No such file or directory"),
        (["--auth-header", "X-Forwarded-User"], "--trust-proxy"),
        (["--trust-proxy", "10.0.0.7"], "need --auth-header"),
        (["--auth-header", "X-Forwarded-User", "--trust-proxy", "all"], "'all' is no address of a proxy"),
        (["--auth-header", "X-User", "--trust-proxy", "::1", "--grant", "boss=olga"], "'boss' is no role"),
        (["--root-path", "flux/"], "--root-path must look like /flux"),
        (["--every", "0"], "--every"),
        (["Nobody"], "there is no task Nobody"),
    ],
)
def test_wrong_usage_is_one_line(flux_cli: Flux, options: list[str], line: str) -> None:
    done = flux_cli("web", "--load", flux_cli.file(TASKS), "--adapter", flux_cli.url, *options)
    assert done.exit_code == 2
    assert line in done.stderr
    assert "short" not in done.stderr


def test_a_port_that_is_taken_is_one_line(flux_cli: Flux) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = flux_cli("web", "--load", flux_cli.file(TASKS), "--adapter", flux_cli.url, "--port", port)
    assert done.exit_code == 1
    assert f"cannot listen on 127.0.0.1 port {port}" in only_line(done.stderr)


def test_without_the_extra_it_says_what_to_install(flux_cli: Flux, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "starlette" else find(name))
    for command in (["web", "--load", flux_cli.file(TASKS)], ["demo", "--web"]):
        done = flux_cli(*command)
        assert done.exit_code == 1
        assert 'pip install "super-flux[web]"' in only_line(done.stderr)


def test_the_command_line_imports_no_web_server() -> None:
    code = (
        "import sys, flux, flux.cli.main, flux.cli.web, flux.cli.demo;"
        "sys.exit(any(name in sys.modules for name in ('starlette', 'uvicorn', 'jinja2', 'flux.web')))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_the_token_of_the_environment_is_not_in_the_help(flux_cli: Flux, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUX_WEB_TOKEN", TOKEN)
    assert TOKEN not in flux_cli("web", "--help").output


def test_port_goes_with_web(flux_cli: Flux) -> None:
    assert flux_cli("demo", "--port", "1").exit_code == 2


def served(*command: str) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "flux.cli.main", *command],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "FLUX_ADAPTER": "memory://web"},
    )
    assert process.stderr is not None
    line = process.stderr.readline()
    found = re.match(r"http://127\.0\.0\.1:\d+/", line)
    assert found, line
    return process, found[0]


def ended(process: subprocess.Popen[str]) -> str:
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return err


def test_all_tasks_of_the_code_are_served_until_ctrl_c_even_with_an_open_stream(flux_cli: Flux) -> None:
    process, url = served("web", "--load", flux_cli.file(TASKS), "--port", "0", "--redact", "flux.web.redaction:hide")
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            page = answer.read().decode()
        assert "Billing" in page
        assert "Mails" in page
        with urllib.request.urlopen(url + "events", timeout=60) as stream:
            assert stream.readline() == b"retry: 2000\n"
            assert ended(process) == ""
    finally:
        process.kill()


def test_the_demonstration_is_served_and_ends_by_ctrl_c() -> None:
    process, url = served("demo", "--web", "--port", "0")
    try:
        with urllib.request.urlopen(url + "tasks/Shipping", timeout=60) as answer:
            assert "shipping" in answer.read().decode()
        err = ended(process)
        assert "KeyboardInterrupt" not in err
    finally:
        process.kill()


def test_what_the_pages_are_made_of_lies_beside_the_code() -> None:
    """Hatch packs whatever lies there."""
    found = {
        path.name
        for directory in ("static", "templates")
        for path in Path(str(files("flux.web") / directory)).iterdir()
    }
    assert {"base.html", "flux.css", "flux.js", "icon.svg"} <= found
