"""Delivery reports have no headers: those of a record that is written again come from what was written."""

from __future__ import annotations

import threading
from typing import Any

from confluent_kafka import Message

from flux.adapters.confluent.apart import Sent
from flux.core.ports import ProducerRecord


def report(value: bytes | None, key: bytes | None = None, partition: int = 0, timestamp: int = 5) -> Any:
    return Message(topic="t", partition=partition, offset=-1001, key=key, value=value, timestamp=(1, timestamp))


def test_each_record_finds_its_own_headers() -> None:
    sent = Sent([ProducerRecord(b"%d" % n, b"k", (("n", b"%d" % n),)) for n in range(5)])
    assert [sent.headers_of(report(b"%d" % n, b"k")) for n in (3, 0, 4)] == [
        (("n", b"3"),),
        (("n", b"0"),),
        (("n", b"4"),),
    ]


def test_records_that_differ_in_their_headers_alone_are_each_found_once_in_order() -> None:
    sent = Sent([ProducerRecord(b"v", b"k", (("n", b"%d" % n),)) for n in range(3)])
    assert [sent.headers_of(report(b"v", b"k")) for _ in range(3)] == [(("n", b"0"),), (("n", b"1"),), (("n", b"2"),)]


def test_partition_and_time_tell_records_apart() -> None:
    sent = Sent(
        [
            ProducerRecord(b"v", None, (("n", b"one"),), 1),
            ProducerRecord(b"v", None, (("n", b"late"),), 2, 9),
            ProducerRecord(b"v", None, (("n", b"two"),), 2),
        ]
    )
    assert sent.headers_of(report(b"v", partition=2, timestamp=5)) == (("n", b"two"),)
    assert sent.headers_of(report(b"v", partition=2, timestamp=9)) == (("n", b"late"),)
    assert sent.headers_of(report(b"v", partition=1)) == (("n", b"one"),)


def test_a_tombstone_an_empty_value_and_no_headers() -> None:
    sent = Sent([ProducerRecord(None, b"k", (("n", b"none"),)), ProducerRecord(b"plain", b"k")])
    assert sent.headers_of(report(None, b"k")) == (("n", b"none"),)
    assert sent.headers_of(report(b"plain", b"k")) == ()
    assert sent.headers_of(report(b"unknown", b"k")) == ()


def test_threads_that_serve_reports_at_once_find_each_record_once() -> None:
    count = 2000
    found: list[Any] = []
    sent = Sent([ProducerRecord(b"v", b"k", (("n", b"%d" % n),)) for n in range(count)])

    def serve() -> None:
        found.extend(sent.headers_of(report(b"v", b"k")) for _ in range(count // 4))

    threads = [threading.Thread(target=serve) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == count
