"""Who may do nothing on the secured broker before it is granted, with `flux` for one task of theirs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import attrs

from integration.test_security import SECONDS, TASK, Secured, secrets_of


@attrs.define
class Guest:
    secured: Secured
    client: str
    directory: Path
    topic: str

    def __attrs_post_init__(self) -> None:
        (self.directory / "work.py").write_text(TASK.format(topic=self.topic, retries=1))

    def run(self, *command: str, options: tuple[str, ...] = ()) -> tuple[int, str, str]:
        """`flux COMMAND OPTIONS`: its exit code, output and errors, which hold no secret."""
        done = subprocess.run(
            [sys.executable, "-m", "flux.cli.main", *command, "--load", "work.py", *options],
            cwd=self.directory,
            env={**os.environ, "FLUX_ADAPTER": self.secured.url(self.client, "guest")},
            capture_output=True,
            text=True,
            timeout=2 * SECONDS,
            check=False,
        )
        assert not secrets_of(done.stdout, done.stderr)
        # a worker logs those of its task
        assert command == ("process",) or "Traceback" not in done.stderr, done.stderr
        return done.returncode, done.stdout, done.stderr

    def __call__(self, name: str, *args: str) -> tuple[int, str, str]:
        return self.run(name, options=args)

    def refused(self, permission: str, name: str, *args: str) -> None:
        code, _, errors = self(name, *args)
        line = errors.splitlines()[-1]
        assert (code, line.startswith("flux: "), permission in line) == (1, True, True), errors

    def does(self, name: str, *args: str) -> str:
        code, output, errors = self(name, *args)
        assert code == 0, errors
        return output
