"""The end of the interpreter. Once the exit handlers have run no other thread runs any more: who waits for one waits
for ever, and what is only taken is lost. So nothing is taken then, and nothing is waited for."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from flux.core.errors import BrokerError, DeliveryError, FailedRecord, Fault

ending = sys.is_finalizing
"""Whether it is that late."""

_write = os.write
_told: set[str] = set()


def tell(line: str) -> None:
    """On stderr, once. Not by the log: a thread that will never run again may hold its locks."""
    if line not in _told:
        _told.add(line)
        with suppress(OSError):  # nobody may be there to hear it
            _write(2, f"flux: {line}\n".encode("utf-8", "backslashreplace"))


def refused(topic: str) -> DeliveryError:
    """For a record that comes too late. Says so on stderr the first time."""
    late = f"a record for topic {topic} came when the interpreter was ending, and is not written"
    tell(f"{late}: produce earlier, or in an exit handler that is registered after flux is imported")
    return DeliveryError([FailedRecord(topic, None, None, None, BrokerError(late, Fault.FATAL))])
