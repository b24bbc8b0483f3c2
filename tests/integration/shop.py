"""One task's topics on a real Kafka, and `flux` with them as processes, the way somebody on call runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import attrs

SECONDS = 60.0
SCHEMES = ["confluent", "aiokafka"]


@attrs.define
class Shop:
    bootstrap: str
    scheme: str
    topic: str
    group: str
    directory: Path

    def open(self, task: str, **more: object) -> None:
        """`task`: the text of its file, in which the names of what it reads and writes are filled in."""
        self.calls.touch()
        names = {"topic": self.topic, "group": self.group, "calls": self.calls, "mended": self.mended}
        (self.directory / "billing.py").write_text(task.format(**names, **more))

    @property
    def calls(self) -> Path:
        return self.directory / "calls"

    @property
    def mended(self) -> Path:
        return self.directory / "mended"

    @property
    def dead(self) -> str:
        return f"{self.topic}-{self.group}-dlq"

    @property
    def retry(self) -> str:
        return f"{self.topic}-{self.group}-try-1"

    @property
    def options(self) -> list[str]:
        return ["--load", "billing.py", "--adapter", f"{self.scheme}://{self.bootstrap}"]

    def start(self, *args: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "flux.cli.main", *args],
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
