"""Writes records at a steady pace: `python -m proof.soak.feeder BOOTSTRAP TOPIC RATE MARKS`, until SIGTERM.

RATE 0: as fast as it can, but no more than AHEAD beyond what is done. A value is its number and the time in ns; at full
speed it is 100 bytes that are always the same. Fails if a record was not acknowledged."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

from confluent_kafka import Producer

from proof.soak.marks import Marks

AHEAD = 1_000_000
_CHUNK = 1_000
_VALUE = b"x" * 100
_ENDS = 60.0


def main() -> None:
    bootstrap, topic, rate, marks = sys.argv[1], sys.argv[2], int(sys.argv[3]), Marks(Path(sys.argv[4]))
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stopped.append(number))
    failed: list[object] = []
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "log_level": 0,
            "enable.idempotence": True,
            "linger.ms": 2 if rate else 50,
            "queue.buffering.max.messages": 500_000,
            "batch.num.messages": 10_000,
            "sticky.partitioning.linger.ms": 100,
            "error_cb": lambda error: None,
        }
    )

    def acknowledged(error: object, message: object) -> None:
        if error is not None:
            failed.append(error)

    began = time.monotonic()
    while not stopped:
        number = marks.fed
        due = (
            min(marks.room, round((time.monotonic() - began) * rate))
            if rate
            else min(number + _CHUNK, marks.done + AHEAD)
        )
        if due <= number:
            producer.poll(0.005)
            continue
        while number < due:
            try:
                if rate:
                    value = b"%d %d" % (number, time.time_ns())
                    producer.produce(topic, value, b"%d" % (number % 1000), on_delivery=acknowledged)
                else:
                    producer.produce(topic, _VALUE)
                number += 1
            except BufferError:
                producer.poll(0.1)
        marks.fed = number
        producer.poll(0)
    left = producer.flush(_ENDS)
    if left or failed:
        sys.exit(f"{left + len(failed)} records not written: {failed[:1]}")


main()
