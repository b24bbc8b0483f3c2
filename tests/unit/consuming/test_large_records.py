"""Records that the next topic does not take: the worker that is to end when it is idle ends, and names them."""

from __future__ import annotations

import logging
import secrets

import pytest

import flux
from flux.adapters.aiokafka import config as aiokafka
from flux.adapters.aiokafka.codecs import best
from flux.adapters.aiokafka.sender import Sender
from flux.adapters.confluent import config as confluent
from flux.adapters.memory import MemoryAdapter, forget
from flux.core.ports import ProducerRecord, ProducerSettings
from flux.system import SYSTEM

BEST = ProducerSettings(compression="best")


def test_a_worker_that_is_to_end_when_idle_ends_with_what_cannot_move_and_names_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    name = f"large-{secrets.token_hex(4)}"
    adapter = MemoryAdapter(name)
    adapter.broker.create_topic("orders", 1, config={"max.message.bytes": "100000"})
    adapter.broker.create_topic("orders-billing-try-1", 1, config={"max.message.bytes": "1000"})
    adapter.broker.create_topic("orders-billing-dlq", 1)
    called: list[bytes | None] = []

    @flux.task(topic="orders", group_id="billing", adapter=adapter, retries=1, wait=0)
    def bill(message: flux.Message) -> None:
        called.append(message.value)
        if message.offset == 0 or message.stage:
            raise ValueError
        producer.write("orders", [ProducerRecord(b"behind", b"a")], lambda error, record: None)

    producer = adapter.producer(ProducerSettings())
    records = [ProducerRecord(b"x" * 5000, b"a"), ProducerRecord(b"other", b"b")]
    producer.write("orders", records, lambda error, record: None)
    try:
        assert flux.Worker(bill, exit_when_idle=0.3).run() == 1
    finally:
        forget(name)
    assert called == [b"x" * 5000, b"other"]
    [last] = [line.getMessage() for line in caplog.records if "not forwarded" in line.getMessage()]
    assert last == (
        "bill: not forwarded, and still to be processed: orders[0]@0 to orders-billing-try-1 (too large: raise"
        " max.message.bytes of orders-billing-try-1, or take the record out of the way with flux skip)"
    )
    assert all(line.levelno == logging.ERROR for line in caplog.records if "not forwarded" in line.getMessage())


def test_copies_are_compressed_by_the_best_that_the_client_has(monkeypatch: pytest.MonkeyPatch) -> None:
    assert confluent.producer_properties("h:1", {}, BEST)["compression.type"] == "zstd"
    assert confluent.producer_properties("h:1", {"compression.type": "none"}, BEST)["compression.type"] == "none"
    options = aiokafka.producer_options({}, BEST)
    codecs = []
    for lacks in ((), ("zstd",), ("zstd", "lz4", "snappy")):
        for codec in ("zstd", "lz4", "snappy"):
            monkeypatch.setattr(f"aiokafka.codec.has_{codec}", lambda there=codec not in lacks: there)
        codecs.append((best(), Sender({}, options, BEST, lambda *_: None, SYSTEM).codec))
    assert codecs == [("zstd", 4), ("lz4", 3), ("gzip", 1)]
