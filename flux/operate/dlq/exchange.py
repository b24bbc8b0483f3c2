"""Exports and imports records as lines of JSON, byte for byte.

    {"topic": "orders-billing-dlq", "partition": 0, "offset": 17, "timestamp": 1764000000000,
     "key": "c42", "value": "{\"amount\": 7}", "headers": [["trace", "1"], ["raw", {"base64": "/w=="}]]}

Bytes are a string where they are UTF-8, else {"base64": ...}; null is null.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any

from flux.consuming.topic_setup import REQUEST_TIMEOUT, max_message_bytes
from flux.core.errors import BrokerError, Fault, FluxError
from flux.core.message import Message
from flux.core.ports import AdminPort, Cluster, ProducerRecord
from flux.operate.writing import CHUNK, TopicWriter

_MAX_SHOWN = 60


def to_line(message: Message) -> str:
    """Without a newline."""
    data: dict[str, Any] = {
        "topic": message.topic,
        "partition": message.partition,
        "offset": message.offset,
        "timestamp": message.timestamp,
        "key": shown(message.key),
        "value": shown(message.raw_value),
        "headers": [[name, shown(value)] for name, value in message.headers],
    }
    if not message.headers_readable:
        data["headers_readable"] = False  # no Python client can read them
    return json.dumps(data, ensure_ascii=False)


def line_of(topic: str, record: ProducerRecord) -> str:
    """Like `to_line`, for a record that is in no topic: without an offset."""
    data: dict[str, Any] = {
        "topic": topic,
        "partition": record.partition or 0,
        "timestamp": record.timestamp,
        "key": shown(record.key),
        "value": shown(record.value),
        "headers": [[name, shown(value)] for name, value in record.headers],
    }
    return json.dumps(data, ensure_ascii=False)


def from_line(line: str | bytes, partitions: int) -> ProducerRecord:
    """The record, for a topic with this many partitions. Raises ValueError with what is wrong."""
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError("not JSON") from None
    if not isinstance(data, dict) or not {"key", "value"} <= data.keys():
        raise ValueError("not a record: expected an object with key, value and headers")
    partition, timestamp = data.get("partition", 0), data.get("timestamp")
    if type(partition) is not int or partition < 0:
        raise ValueError(f"partition is {_short(partition)}")
    if timestamp is not None and (type(timestamp) is not int or not -1 <= timestamp < 2**63):
        raise ValueError(f"timestamp is {_short(timestamp)}")
    return ProducerRecord(
        value=bytes_of(data["value"], "value"),
        key=bytes_of(data["key"], "key"),
        headers=headers_of(data.get("headers", [])),
        partition=partition % partitions,
        timestamp=timestamp if timestamp is not None and timestamp > 0 else None,
    )


def shown(data: bytes | None) -> Any:
    """As JSON has it."""
    if data is None:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode("ascii")}


def bytes_of(shown: Any, what: str) -> bytes | None:
    """Raises ValueError, which names `what`."""
    try:
        if shown is None:
            return None
        if isinstance(shown, str):
            return shown.encode()
        if isinstance(shown, dict) and shown.keys() == {"base64"}:
            return base64.b64decode(shown["base64"], validate=True)
    except (ValueError, TypeError):
        pass
    raise ValueError(f"{what} is {_short(shown)}")


def headers_of(shown: Any) -> list[tuple[str, bytes | None]]:
    """Raises ValueError."""
    if not isinstance(shown, list):
        raise ValueError(f"headers are {_short(shown)}")
    headers = []
    for pair in shown:
        if not isinstance(pair, list) or len(pair) != 2 or not isinstance(pair[0], str):
            raise ValueError(f"a header is {_short(pair)}")
        headers.append((pair[0], bytes_of(pair[1], f"header {_short(pair[0])}")))
    return headers


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"


class BadLine(FluxError):
    """A line is not an exported record. The message names it and how many were written before it."""


def write_lines(
    adapter: Cluster,
    admin: AdminPort,
    topic: str,
    lines: Iterable[bytes],
    should_stop: Callable[[], bool] = lambda: False,
) -> int:
    """Returns how many were written, when all are or `should_stop()`. Skips empty lines. Raises BadLine, and
    BrokerError with how many of the first were written."""
    info = admin.topics([topic], REQUEST_TIMEOUT)[topic]
    if info is None:
        raise BrokerError(f"there is no topic {topic}", Fault.UNKNOWN_TOPIC)
    writing = TopicWriter(adapter, topic, max_message_bytes(admin, topic))
    count = 0
    numbered = enumerate(lines, 1)
    try:
        while not should_stop() and (chunk := list(islice(numbered, CHUNK))):
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
    """The records of the numbered lines before the first bad one, and what is wrong with that one."""
    records: list[ProducerRecord] = []
    for number, line in lines:
        try:
            if line.strip():
                records.append(from_line(line, partitions))
        except ValueError as error:
            return records, f"line {number}: {error}"
    return records, ""
