"""What is shared with the fixtures that applications get, and what only the brokers of these tests have."""

import fcntl
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flux.testing.kafka import USERS, KafkaNode, NoBroker, answers, free_ports, properties

__all__ = ["USERS", "CanHang", "KafkaNode", "NoBroker", "answers", "free_ports", "once", "properties", "scratch"]

_MEMORY = "/dev/shm"
_ENOUGH = 2 * 1024**3


class CanHang:
    """A broker in a process of its own."""

    _process: subprocess.Popen[bytes] | None = None

    def hang(self) -> None:
        """It keeps its connections and answers nothing, until `go_on`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


def scratch() -> str | None:
    """Where a broker's files go: into memory where there is room, so that no slow disk stops a cluster; None: to where
    temporary files go. They outlive a broker that is killed, as the kernel's cache does."""
    if os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > _ENOUGH:
        return _MEMORY
    return None


@contextmanager
def once(lock: Path, patience: float) -> Iterator[None]:
    """One process at a time, of all that name this file; it stays. Whoever has it is let go with its process, however
    that ends. Raises NoBroker after `patience` seconds."""
    until = time.monotonic() + patience
    with lock.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise NoBroker(f"another process has held {lock} for {patience:.0f} s", surprising=True) from None
                time.sleep(0.05)
        yield
