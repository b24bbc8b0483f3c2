"""Writes exported records to a topic."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice

from flux.consuming.topic_setup import ASK, max_message_bytes
from flux.core.errors import BrokerError, Fault, FluxError
from flux.core.ports import AdminPort, Cluster, ProducerRecord
from flux.operate.dlq.exchange import from_line
from flux.operate.writing import CHUNK, Writing


class BadLine(FluxError):
    """A line is no exported record; says which one, and how many were written before it."""


def write_lines(
    adapter: Cluster,
    admin: AdminPort,
    topic: str,
    lines: Iterable[bytes],
    stopping: Callable[[], bool] = lambda: False,
) -> int:
    """Returns how many, when all are written or it is `stopping`. Empty lines are passed over. Raises BadLine, and
    BrokerError, which says how many of the first are there."""
    info = admin.topics([topic], ASK)[topic]
    if info is None:
        raise BrokerError(f"there is no topic {topic}", Fault.UNKNOWN_TOPIC)
    writing = Writing(adapter, topic, max_message_bytes(admin, topic))
    count = 0
    numbered = enumerate(lines, 1)
    try:
        while not stopping() and (chunk := list(islice(numbered, CHUNK))):
            records, wrong = _records(chunk, info.partitions)
            there, failure = writing.write(records)
            count += there
            if failure is not None:
                raise BrokerError(f"{failure}; the first {count:,} were imported", failure.fault)
            if wrong:
                raise BadLine(f"{wrong}; the {count:,} before it were imported")
    finally:
        writing.close()
    return count


def _records(lines: Sequence[tuple[int, bytes]], partitions: int) -> tuple[list[ProducerRecord], str]:
    """Those of the numbered lines before the first that is wrong, and what is wrong with that."""
    records: list[ProducerRecord] = []
    for number, line in lines:
        try:
            if line.strip():
                records.append(from_line(line, partitions))
        except ValueError as error:
            return records, f"line {number}: {error}"
    return records, ""
