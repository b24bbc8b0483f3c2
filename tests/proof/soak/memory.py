"""Memory of processes. Linux with glibc 2.33 or later."""

from __future__ import annotations

import ctypes
import gc
import re
from pathlib import Path

_ANONYMOUS = re.compile(r"^RssAnon:\s+(\d+) kB$", re.MULTILINE)
_FIELDS = ["arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"]
"""Of glibc's `struct mallinfo2`, in its order."""


class _Mallinfo(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in _FIELDS]


def resident(process: Path) -> float:
    """MB of /proc/PID, without mapped files: the marks are one. 0 if it has just ended."""
    found = _ANONYMOUS.search((process / "status").read_text())
    return int(found[1]) * 1024 / 1e6 if found else 0.0


def in_use() -> float:
    """MB that this process has allocated and not freed, after a collection of garbage. With PYTHONMALLOC=malloc that
    is all of Python and of librdkafka. What is free between two allocations stays with the process, in an arena of
    glibc for each of several threads, and differs from one moment to the next; so resident memory shows no small leak.
    """
    gc.collect()
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = _Mallinfo
    found = mallinfo()
    return float(found.uordblks + found.hblkhd) / 1e6
