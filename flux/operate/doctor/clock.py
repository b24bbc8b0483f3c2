"""How far this machine's clock is from a broker's.

No request that every client can send returns a broker's time. A topic with LogAppendTime does: its records have the
leader's time, which lies between the start of the write and its acknowledgement.
"""

from __future__ import annotations

import secrets

from flux.consuming.topic_setup import REQUEST_TIMEOUT
from flux.core.errors import BrokerError, Fault
from flux.core.ports import AdminPort, Cluster, NewTopic, ProducerRecord, ProducerSettings, System
from flux.operate.doctor.facts import ClockDifference
from flux.operate.reading import read, spans_of
from flux.system import SYSTEM

_RECORDS = 5
"""The one that was acknowledged fastest is the most exact."""
_LONGEST_NAME = 249


def measure_clock(adapter: Cluster, admin: AdminPort, beside: str, system: System = SYSTEM) -> ClockDifference:
    """Creates a temporary topic, writes to it and deletes it. Its name starts with `beside`, a topic's name, so that
    permissions by prefix apply. Raises BrokerError."""
    ending = f"-flux-doctor-{secrets.token_hex(4)}"
    topic = beside[: _LONGEST_NAME - len(ending)] + ending
    config = {"message.timestamp.type": "LogAppendTime", "retention.ms": "3600000"}
    admin.create_topics([NewTopic(topic, 1, -1, config)], REQUEST_TIMEOUT)
    try:
        _wait(admin, topic, system)
        written = _write(adapter, topic, system)
        stamps = [
            record.timestamp()[1] / 1000
            for batch in read(adapter, topic, spans_of(admin, topic), timeout=REQUEST_TIMEOUT, system=system)
            for record in batch.records
        ]
    finally:
        admin.delete_topics([topic], REQUEST_TIMEOUT)
    return closest([(began, ended, stamp) for (began, ended), stamp in zip(written, stamps, strict=False)])


def closest(written: list[tuple[float, float, float]]) -> ClockDifference:
    """`written`: of each record this machine's time before and after the write, and the broker's time; in seconds since
    the epoch."""
    began, ended, stamp = min(written, key=lambda each: each[1] - each[0])
    return ClockDifference((began + ended) / 2 - stamp, (ended - began) / 2 + 0.001)


def _write(adapter: Cluster, topic: str, system: System) -> list[tuple[float, float]]:
    errors: list[BrokerError] = []
    producer = adapter.producer(ProducerSettings(delivery_timeout=REQUEST_TIMEOUT, linger=0.0))
    spans: list[tuple[float, float]] = []
    try:
        for _ in range(_RECORDS):
            began = system.now()
            producer.write(topic, [ProducerRecord(b"time")], lambda error, _: errors.append(error) if error else None)
            left = producer.flush(REQUEST_TIMEOUT)
            spans.append((began, system.now()))
            if errors:
                raise errors[0]
            if left:
                raise BrokerError(f"no acknowledgement from {topic} in time", Fault.UNAVAILABLE)
    finally:
        producer.close(1)
    return spans


def _wait(admin: AdminPort, topic: str, system: System) -> None:
    until = system.monotonic() + REQUEST_TIMEOUT
    while admin.topics([topic], REQUEST_TIMEOUT)[topic] is None and system.monotonic() < until:
        system.sleep(0.1)
