"""The README's five minutes, line by line, as a newcomer types them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

SECONDS = 60.0
README = (Path(__file__).parents[2] / "README.md").read_text()
LINES = re.findall(r"^\$ (.+)$", README, re.MULTILINE)
[BILLING] = re.findall(r"^```python\n(# billing\.py\n.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.fixture
def forgotten(kafka_admin: AdminClient) -> Iterator[None]:
    """The README's topics have names of their own: they go before and after."""

    def forget() -> None:
        made = [name for name in kafka_admin.list_topics(timeout=10).topics if name.startswith("invoices")]
        for gone in (kafka_admin.delete_topics(made) if made else {}).values():
            gone.result(30)

    forget()
    yield
    forget()


class Shell:
    def __init__(self, folder: Path, bootstrap: str) -> None:
        self._folder = folder
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self._environment = os.environ | {"FLUX_ADAPTER": f"confluent://{bootstrap}", "PATH": path}

    def run(self, start: str) -> str:
        """The line of the README that starts so; gives what it prints."""
        [line] = [line for line in LINES if line.startswith(start)]
        ended = subprocess.run(
            ["bash", "-c", line],
            cwd=self._folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert ended.returncode == 0, f"{line}\n{ended.stdout}{ended.stderr}"
        return ended.stdout

    @contextmanager
    def beside(self, start: str) -> Iterator[Path]:
        """The same in a terminal of its own, until Ctrl-C. Gives the file that it prints to."""
        line = next(line for line in LINES if line.startswith(start))
        log = self._folder / "log"
        environment = self._environment | {"PYTHONUNBUFFERED": "1"}
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {line}"], cwd=self._folder, env=environment, stdout=output, stderr=output
            )
        try:
            yield log
            process.terminate()
            assert process.wait(SECONDS) == 0, log.read_text()
        finally:
            process.kill()
            process.wait()


def wait_for(text: str, log: Path) -> None:
    until = time.monotonic() + SECONDS
    while text not in log.read_text():
        assert time.monotonic() < until, f"not within {SECONDS:g} s: {text}\n{log.read_text()}"
        time.sleep(0.1)


@pytest.mark.usefixtures("forgotten")
def test_five_minutes(bootstrap: str, tmp_path: Path, kafka_admin: AdminClient) -> None:
    (tmp_path / "billing.py").write_text(BILLING)
    shell = Shell(tmp_path, bootstrap)
    with shell.beside("flux process --load billing.py --create-topics") as log:
        until = time.monotonic() + SECONDS
        while "invoices" not in kafka_admin.list_topics(timeout=10).topics:
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.1)
        shell.run("printf ")
        wait_for("sent hello to b'ada' (attempt 1)", log)
        wait_for("sent flaky to b'bob' (attempt 2)", log)
        assert "1 dead letter\n" in shell.run("flux status")
        assert "flux.Reject: no such customer" in shell.run("flux dlq causes")
