"""One case's topic, worker processes and what they have done."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

_APP = Path(__file__).with_name("app.py")
PARTITIONS = 4
IDLE = 6.0
"""Seconds without work after which a worker ends: beyond the longest wait, and a session that has to end first."""
LIMIT = 90.0


class Absent(Exception):
    """What a case needs is not on this machine."""


class Bench:
    def __init__(self, bootstrap: str, directory: Path, records: int) -> None:
        self.bootstrap = bootstrap
        self.directory = directory
        self.topic, self.group = f"machine-{secrets.token_hex(4)}", f"g{secrets.token_hex(4)}"
        self.records = records
        self.done_file = directory / "done"
        self.logs = 0
        self.seconds, self.forks = 0.0, False
        admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
        admin.create_topics([NewTopic(self.topic, PARTITIONS, 1)])[self.topic].result(30)

    def produce(self, size: int = 20) -> None:
        producer = Producer({"bootstrap.servers": self.bootstrap, "log_level": 0, "linger.ms": 20})
        for number in range(self.records):
            while True:
                try:
                    producer.produce(self.topic, b"%d " % number + b"x" * size, b"%d" % (number % 50))
                    break
                except BufferError:
                    producer.poll(0.1)
        left = producer.flush(60)
        assert left == 0, f"{left} records not written"

    def start(
        self,
        *options: str,
        prefix: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        before: Callable[[], None] | None = None,
        out: int | IO[Any] | None = None,
    ) -> subprocess.Popen[bytes]:
        """`prefix`: a command that runs it; `before`: called in the child; `out`: its output, by default a log."""
        given = {"topic": self.topic, "group": self.group, "done": str(self.done_file)}
        given_json = json.dumps({**given, "seconds": self.seconds, "forks": self.forks})
        command = [sys.executable, "-c", "from flux.cli.main import main; main()", "process", "--load", str(_APP)]
        url = f"confluent://{self.bootstrap}?session.timeout.ms=6000&heartbeat.interval.ms=1000"
        own = {"PROOF": given_json, "FLUX_ADAPTER": url, "PYTHONDONTWRITEBYTECODE": "1"}
        self.logs += 1
        with (self.directory / f"worker-{self.logs}.log").open("wb") as log:
            return subprocess.Popen(
                [*prefix, *command, "--create-topics", "--exit-when-idle", f"{IDLE:g}", *options],
                stdin=subprocess.DEVNULL,
                stdout=log if out is None else out,
                stderr=log if out is None else out,
                env={**os.environ, **own, **(environment or {})},
                cwd=cwd,
                preexec_fn=before,
            )

    def ended(self, worker: subprocess.Popen[bytes], limit: float = LIMIT) -> int | None:
        """Its exit code; None and killed if it does not end."""
        try:
            return worker.wait(limit)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()
            return None

    def wait_for_some(self, count: int, limit: float = LIMIT) -> None:
        until = time.monotonic() + limit
        while sum(self.done().values()) < count:
            assert time.monotonic() < until, f"{sum(self.done().values())} of {count} calls within {limit:g} s"
            time.sleep(0.05)

    def done(self) -> Counter[int]:
        text = self.done_file.read_bytes() if self.done_file.exists() else b""
        return Counter(int(line) for line in text.splitlines() if line)

    def said(self) -> str:
        logs = (self.directory / f"worker-{number}.log" for number in range(1, self.logs + 1))
        return "\n".join(log.read_text(errors="replace") for log in logs if log.exists())

    def problems(self, code: int | None, wanted: Sequence[int] = (0,), repeats: int = 0) -> list[str]:
        """What is wrong once a worker has ended with `code`."""
        found = []
        if code is None:
            found.append(f"did not end within {LIMIT:g} s")
        elif code not in wanted:
            found.append(f"ended with {code}: {self.said()[-500:]}")
        done = self.done()
        missing = [number for number in range(self.records) if number not in done]
        if missing:
            found.append(f"{len(missing)} records not done, such as {missing[:3]}")
        again = sum(done.values()) - len(done)
        if again > repeats:
            found.append(f"{again} calls repeated, {repeats} allowed")
        return found
