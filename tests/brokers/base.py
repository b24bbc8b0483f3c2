"""What is shared with the fixtures that applications get, and what only the brokers of these tests have."""

import os
import shutil

from flux.testing.node import USERS, Broker, NoBroker, answers, free_ports, properties

__all__ = ["USERS", "Broker", "NoBroker", "answers", "free_ports", "properties", "scratch"]

_MEMORY = "/dev/shm"
_ENOUGH = 2 * 1024**3


def scratch() -> str | None:
    """Where a broker's files go: into memory where there is room, so that no slow disk stops a cluster; None: to where
    temporary files go. They outlive a broker that is killed, as the kernel's cache does."""
    if os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > _ENOUGH:
        return _MEMORY
    return None
