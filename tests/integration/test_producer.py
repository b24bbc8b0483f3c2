"""A producer on a real Kafka: what it flushes by itself, and what arrives."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flux import config
from flux.config import ProducerOptions
from flux.core.errors import DeliveryError, Fault
from flux.core.producing.partitioner import partition_for_key
from flux.producer import Producer

ROOT = Path(__file__).parents[2]
NEVER = 3600.0
LIMIT = 20.0  # seconds for anything to arrive


@pytest.fixture
def producer(bootstrap: str, topic: str) -> Iterator[type[Producer]]:
    """Flushes by nothing but what a test sets `options` to."""

    class Produced(Producer):
        adapter = f"confluent://{bootstrap}"
        options = ProducerOptions(flush_interval=NEVER, max_buffer_size=100_000, max_buffer_bytes=10**9)

    Produced.topic = topic
    yield Produced
    Produced.close()
    config.reset()


def arrived(read_all: Callable[..., list[Any]], topic: str, count: int) -> list[bytes | None]:
    """The values, once there are `count`."""
    until = time.monotonic() + LIMIT
    while True:
        values = [message.value() for message in read_all(topic)]
        if len(values) >= count or time.monotonic() > until:
            return values
        time.sleep(0.05)


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_buffer_that_is_not_full_is_written_after_the_interval(
    producer: type[Producer], topic: str, read_all: Callable[..., list[Any]]
) -> None:
    producer.options = ProducerOptions(flush_interval=0.5)
    began = time.monotonic()
    producer.produce(b"a")
    producer.produce(b"b")
    assert read_all(topic) == [] or time.monotonic() - began > 0.5
    assert arrived(read_all, topic, 2) == [b"a", b"b"]


def test_a_full_buffer_is_written_at_once(
    producer: type[Producer], topic: str, read_all: Callable[..., list[Any]]
) -> None:
    producer.options = ProducerOptions(flush_interval=NEVER, max_buffer_size=5)
    for number in range(7):
        producer.produce(str(number))
    assert arrived(read_all, topic, 5) == [b"0", b"1", b"2", b"3", b"4"]
    producer.flush()
    assert arrived(read_all, topic, 7) == [b"0", b"1", b"2", b"3", b"4", b"5", b"6"]


def test_a_buffer_of_so_many_bytes_is_written_at_once(
    producer: type[Producer], topic: str, read_all: Callable[..., list[Any]]
) -> None:
    producer.options = ProducerOptions(flush_interval=NEVER, max_buffer_bytes=1000)
    values = [bytes([number]) * 300 for number in range(5)]
    for value in values:
        producer.produce(value)
    assert arrived(read_all, topic, 4) == values[:4]


def test_all_of_a_record_arrives(
    producer: type[Producer], make_topic: Callable[..., str], read_all: Callable[..., list[Any]]
) -> None:
    producer.topic = topic = make_topic(partitions=4)
    headers: list[tuple[str, str | bytes | None]] = [
        ("trace", "1"),
        ("ä", b"\xff\x00"),
        ("trace", "2"),
        ("none", None),
        ("empty", b""),
    ]
    landed = producer.send("välue", key="kéy", headers=headers, timestamp=1_600_000_000_123, partition=3).result(LIMIT)
    [message] = read_all(topic)
    assert (landed.topic, landed.partition, landed.offset) == (topic, 3, 0)
    assert landed.timestamp == 1_600_000_000_123
    assert (message.value(), message.key(), message.partition()) == ("välue".encode(), "kéy".encode(), 3)
    assert message.headers() == [("trace", b"1"), ("ä", b"\xff\x00"), ("trace", b"2"), ("none", None), ("empty", b"")]
    assert message.timestamp()[1] == 1_600_000_000_123


def test_a_tombstone_arrives_as_one(producer: type[Producer], topic: str, read_all: Callable[..., list[Any]]) -> None:
    producer.send(None, key=b"k").result(LIMIT)
    [message] = read_all(topic)
    assert (message.value(), message.key()) == (None, b"k")


def test_keys_and_partition_keys_go_where_kafka_s_own_partitioner_puts_them(
    producer: type[Producer], make_topic: Callable[..., str], read_all: Callable[..., list[Any]]
) -> None:
    producer.topic = topic = make_topic(partitions=7)
    keys = [f"key-{number}" for number in range(30)]
    for key in keys:
        producer.produce(f"key {key}", key=key)
        producer.produce(f"partition-key {key}", partition_key=key)
    producer.flush(LIMIT)
    messages = {message.value().decode(): message for message in read_all(topic)}
    assert len(messages) == 60
    for key in keys:
        place = partition_for_key(key.encode(), 7)
        assert (messages[f"key {key}"].partition(), messages[f"key {key}"].key()) == (place, key.encode())
        assert (messages[f"partition-key {key}"].partition(), messages[f"partition-key {key}"].key()) == (place, None)


def test_a_record_too_large_for_the_topic_is_named_and_the_others_arrive(
    producer: type[Producer], make_topic: Callable[..., str], read_all: Callable[..., list[Any]]
) -> None:
    producer.topic = topic = make_topic(max_message_bytes=2000)
    producer.produce(b"small")
    producer.flush(LIMIT)
    producer.produce(b"x" * 5000, key=b"large")
    with pytest.raises(DeliveryError) as raised:
        producer.flush(LIMIT)
    [failed] = raised.value.failed
    assert (failed.topic, failed.key, failed.value) == (topic, b"large", b"x" * 5000)
    assert failed.error.fault is Fault.TOO_LARGE  # type: ignore[attr-defined]
    producer.produce(b"later")
    producer.flush(LIMIT)
    assert arrived(read_all, topic, 2) == [b"small", b"later"]


def test_a_process_that_just_ends_has_written_everything(
    bootstrap: str, topic: str, read_all: Callable[..., list[Any]]
) -> None:
    ended = run(
        """
        import sys
        from flux.producer import Producer
        class P(Producer):
            adapter, topic = sys.argv[1:]
        for number in range(2500):
            P.produce(str(number))
        """,
        f"confluent://{bootstrap}",
        topic,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert arrived(read_all, topic, 2500) == [str(number).encode() for number in range(2500)]


def test_a_process_that_ends_with_an_exception_has_written_everything(
    bootstrap: str, topic: str, read_all: Callable[..., list[Any]]
) -> None:
    ended = run(
        """
        import sys
        from flux.producer import Producer
        class P(Producer):
            adapter, topic = sys.argv[1:]
        P.produce("kept")
        raise ZeroDivisionError
        """,
        f"confluent://{bootstrap}",
        topic,
    )
    assert ended.returncode == 1
    assert arrived(read_all, topic, 1) == [b"kept"]


def test_a_process_that_ends_with_kafka_away_says_what_it_could_not_write() -> None:
    began = time.monotonic()
    ended = run(
        """
        from flux.producer import Producer
        from flux.config import ProducerOptions
        class P(Producer):
            adapter, topic = "confluent://127.0.0.1:9?log_level=0", "nowhere"
            options = ProducerOptions(delivery_timeout=1)
        P.produce("lost", key="K")
        """
    )
    assert "not delivered: <record for nowhere, key b'K'" in ended.stderr
    assert time.monotonic() - began < LIMIT


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize("end", ["os._exit(0)", "sys.exit(0)"])
def test_a_fork_repeats_and_loses_nothing_of_either_process(
    bootstrap: str, topic: str, read_all: Callable[..., list[Any]], end: str
) -> None:
    ended = run(
        f"""
        import os, sys, signal
        from flux.producer import Producer
        class P(Producer):
            adapter, topic = sys.argv[1:]
        P.send("parent's first").result(60)
        P.produce("parent's, in the buffer at the fork")
        child = os.fork()
        if child == 0:
            signal.alarm(30)  # a child that hangs dies
            P.produce("child's")
            P.flush(20)
            P.produce("child's, at its exit")
            if "_exit" in {end!r}:
                P.flush(20)
            {end}
        _, status = os.waitpid(child, 0)
        P.produce("parent's last")
        P.flush(20)
        sys.exit(status)
        """,
        f"confluent://{bootstrap}",
        topic,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    values = arrived(read_all, topic, 5)
    assert sorted(map(bytes, filter(None, values))) == [
        b"child's",
        b"child's, at its exit",
        b"parent's first",
        b"parent's last",
        b"parent's, in the buffer at the fork",
    ]


def test_a_process_of_multiprocessing_has_written_everything_when_it_ends(
    bootstrap: str, topic: str, read_all: Callable[..., list[Any]]
) -> None:
    ended = run(
        """
        import multiprocessing, sys
        from flux.producer import Producer
        class P(Producer):
            adapter, topic = sys.argv[1:]
        P.produce("parent's")
        child = multiprocessing.get_context("fork").Process(target=lambda: P.produce("child's"))
        child.start()
        child.join(60)
        sys.exit(child.exitcode)
        """,
        f"confluent://{bootstrap}",
        topic,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert sorted(map(bytes, filter(None, arrived(read_all, topic, 2)))) == [b"child's", b"parent's"]
