"""The end of the interpreter. After the exit handlers no other thread runs: waiting for one never ends, and a buffered
record is lost. So flux then takes no records, and waits for nothing."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from flux.core.errors import BrokerError, DeliveryError, FailedRecord, Fault

ending = sys.is_finalizing
"""Whether the interpreter is ending."""

_write = os.write
_written: set[str] = set()


def write_once(line: str) -> None:
    """Writes a line to stderr, once. Not by the log: a thread that no longer runs may hold its locks."""
    if line not in _written:
        _written.add(line)
        with suppress(OSError):  # stderr may be closed
            _write(2, f"flux: {line}\n".encode("utf-8", "backslashreplace"))


def refused(topic: str) -> DeliveryError:
    """For a record that is produced too late; also writes that to stderr, the first time."""
    late = f"a record for topic {topic} was produced while the interpreter was ending, and is not written"
    write_once(f"{late}: produce earlier, or in an exit handler that is registered after flux is imported")
    return DeliveryError([FailedRecord(topic, None, None, None, BrokerError(late, Fault.FATAL))])
