"""Worker processes that may be killed, stopped for a while, or asked to end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

_WORK = Path(__file__).with_name("work.py")
_ENDS = 45.0  # seconds; beyond a task's shutdown_timeout


class Worker:
    """One `flux process`; with `processes` above one, a supervisor and its children."""

    def __init__(
        self,
        log: Path,
        task: str,
        adapter: str,
        processes: int,
        environment: Mapping[str, str],
        inside: Sequence[str] = (),
    ) -> None:
        """`inside`: a command that runs another one in its own process."""
        self.log = log
        self.processes = processes
        self.asked = False
        command = [*inside, sys.executable, "-c", "from flux.cli.main import main; main()", "process"]
        options = ["--load", str(_WORK), "--create-topics", "--metrics-port", "0", "--metrics-host", "127.0.0.1"]
        options += ["--processes", str(processes)] if processes > 1 else []
        path = os.pathsep.join(filter(None, [str(_WORK.parents[1]), os.environ.get("PYTHONPATH")]))
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                [*command, *options, task],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env={**os.environ, **environment, "FLUX_ADAPTER": adapter, "PYTHONPATH": path},
            )

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    @property
    def works(self) -> bool:
        """Whether it is to go on."""
        return self.alive and not self.asked

    def pids(self) -> list[int]:
        """Of the processes that make calls."""
        if not self.alive:
            return []
        if self.processes == 1:
            return [self.process.pid]
        asked = subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True, check=False)
        return [int(line) for line in asked.stdout.split()]

    def ask_to_end(self) -> None:
        """Once: a second request would be one to end at once."""
        if not self.asked:
            self.asked = True
            self.process.terminate()

    def ended(self) -> int:
        """Its exit code; -9 when it had to be killed."""
        try:
            return self.process.wait(_ENDS)
        except subprocess.TimeoutExpired:
            self.kill()
            return -9

    def kill(self) -> None:
        for pid in self.pids():
            send(pid, signal.SIGKILL)
        if self.alive:
            self.process.kill()
        self.process.wait(10)


def send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
