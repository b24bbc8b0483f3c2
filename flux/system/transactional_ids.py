"""Transactional ids of this machine: each in use by one process, and taken over by the next one when it has ended.

A client that starts with an id ends the transaction that its predecessor left open. So a process takes the lowest free
number on its host, which is that of a process that died, and holds it by a locked file: the lock ends with the process,
however it ends. Where no file can be locked, the id is random, and the broker ends what a dead process left open after
the transaction's timeout.
"""

from __future__ import annotations

import hashlib
import os
import socket
import tempfile
import uuid
from pathlib import Path

_MOST = 1_000
_MOST_CHARS = 200


class TransactionalId:
    """`prefix`: such as "flux-GROUP". The id is PREFIX-HOST-NUMBER."""

    def __init__(self, prefix: str, directory: Path | None = None) -> None:
        self._prefix = f"{prefix}-{socket.gethostname()}"[:_MOST_CHARS]
        self._file: int | None = None
        self.id = f"{self._prefix}-{self._number(directory or Path(tempfile.gettempdir()))}"

    def another(self) -> str:
        """Another id, because a stranger uses this one."""
        self.id = f"{self._prefix}-{uuid.uuid4().hex[:12]}"
        return self.id

    def release(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            os.close(file)

    def _number(self, directory: Path) -> str:
        try:
            import fcntl
        except ImportError:  # Windows
            return uuid.uuid4().hex[:12]
        name = hashlib.sha256(self._prefix.encode()).hexdigest()[:16]
        for number in range(_MOST):
            try:
                file = os.open(
                    directory / f"flux-{os.getuid()}-{name}-{number}", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600
                )
            except OSError:
                break
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(file)
                continue
            except OSError:
                os.close(file)
                break
            self._file = file
            return str(number)
        return uuid.uuid4().hex[:12]
