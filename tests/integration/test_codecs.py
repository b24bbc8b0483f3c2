"""Compressions for which aiokafka has no library here: who must stop says in one line what to install."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiokafka.codec
import pytest
from click.testing import CliRunner
from confluent_kafka import Producer

import flux
from flux.adapters.aiokafka import AiokafkaAdapter
from flux.cli.main import cli
from flux.core.errors import ConfigurationError
from flux.core.ports import BEGINNING, ProducerSettings, TopicPartition

ADVICE = "pip install 'aiokafka[zstd]'"


@pytest.fixture
def _without_zstd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aiokafka.codec, "has_zstd", lambda: False)


@pytest.fixture
def compressed(bootstrap: str, make_topic: Callable[..., str]) -> str:
    """A topic with records of two partitions, the last one's batch compressed with zstd."""
    topic = make_topic(2)
    for codec, partition in (("none", 0), ("none", 1), ("zstd", 1)):
        producer = Producer({"bootstrap.servers": bootstrap, "compression.type": codec})
        producer.produce(topic, b"x" * 1000, partition=partition)
        assert producer.flush(30) == 0
    return topic


@pytest.mark.usefixtures("_without_zstd")
def test_a_worker_that_meets_one_ends_with_the_extra_to_install(
    bootstrap: str, compressed: str, group: str, make_topic: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    make_topic(2, f"{compressed}-{group}-dlq")

    class Works(flux.Task):
        retries = 0

        def call(self, message: flux.Message) -> None:
            """It would count as done."""

    Works.topic, Works.group_id, Works.adapter = compressed, group, AiokafkaAdapter(bootstrap)
    assert flux.Worker(Works).run() == 1
    [words] = [each for each in caplog.records if each.name == "flux.worker" and each.levelno >= logging.ERROR]
    assert "compressed with zstd" in words.getMessage()
    assert ADVICE in words.getMessage()
    assert "\n" not in words.getMessage()
    assert not words.exc_info
    admin = AiokafkaAdapter(bootstrap).admin()
    position = admin.committed_offsets(group, compressed, 10).get(1)
    admin.close()
    assert position is None or position.offset <= 1  # the record is not passed over


def read(reader: Any) -> None:
    for _ in range(100):
        reader.poll(10, 0.2)


@pytest.mark.usefixtures("_without_zstd")
def test_a_reader_and_a_producer_name_it_too(bootstrap: str, compressed: str) -> None:
    adapter = AiokafkaAdapter(bootstrap)
    reader = adapter.reader({TopicPartition(compressed, 1): BEGINNING})
    with pytest.raises(ConfigurationError, match=r"aiokafka\[zstd\]"):
        read(reader)
    reader.close()
    with pytest.raises(ConfigurationError, match=r"aiokafka\[zstd\]"):
        adapter.producer(ProducerSettings(compression="zstd"))


def test_the_doctor_names_it_before_a_worker_meets_it(
    bootstrap: str, compressed: str, group: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "works.py").write_text(
        "import flux\n"
        f"flux.configure(adapter='aiokafka://{bootstrap}', producer=flux.ProducerOptions(compression='zstd'))\n"
        "class Works(flux.Task):\n"
        f"    topic, group_id, retries = {compressed!r}, {group!r}, 0\n"
        "    def call(self, message: flux.Message) -> None: ...\n"
    )

    def findings() -> list[str]:
        done: Any = CliRunner().invoke(cli, ["doctor", "--load", str(tmp_path / "works.py"), "Works"])
        return [line for line in done.output.splitlines() if line.startswith("compression")]

    monkeypatch.setattr(aiokafka.codec, "has_zstd", lambda: True)
    assert findings() == []
    monkeypatch.setattr(aiokafka.codec, "has_zstd", lambda: False)
    topic, options = findings()
    assert compressed in topic
    assert ADVICE in topic
    assert "ProducerOptions" in options
    assert ADVICE in options
