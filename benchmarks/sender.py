"""Writes its clock's time to a topic at a steady pace: `python -m benchmarks.sender BOOTSTRAP TOPIC SECONDS PARENT`.

A process of its own, so that what is measured shares no interpreter with it. Ends with its parent."""

from __future__ import annotations

import os
import sys
import time

from confluent_kafka import Producer

from benchmarks.measure import key

_LONGEST = 120.0  # seconds


def main() -> None:
    bootstrap, topic, every, parent = sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4])
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 0, "log_level": 0})
    began = due = time.monotonic()
    number = 0
    while due < began + _LONGEST and os.getppid() == parent:
        time.sleep(max(0.0, due - time.monotonic()))
        # not a number alone: FastStream would take that for JSON
        producer.produce(topic, b"t%d" % time.time_ns(), key=key(number))
        producer.poll(0)
        number += 1
        due += every


main()
