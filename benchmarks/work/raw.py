"""Loops of confluent-kafka with no framework: its defaults, and the fastest one known, the limit of what uses it."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from benchmarks.measure import VALUE, Job, Meter, key

# https://github.com/confluentinc/librdkafka/blob/master/CONFIGURATION.md: by default a full queue is not refilled for
# a second (fetch.queue.backoff.ms).
_TUNED = {
    "fetch.queue.backoff.ms": 5,
    "queued.min.messages": 100_000,
    "queued.max.messages.kbytes": 256 * 1024,
}


def consume(job: Job) -> dict[str, float]:
    """At least once as https://docs.confluent.io/kafka-clients/python/current/overview.html has it: offsets are stored
    after the handler, and the client commits what is stored."""
    tuned = job.options.get("tuned", False)
    consumer = Consumer(
        {
            "bootstrap.servers": job.bootstrap,
            "group.id": job.group,
            "auto.offset.reset": "earliest",
            "enable.auto.offset.store": False,
            **(_TUNED if tuned else {}),
        }
    )
    consumer.subscribe([job.topic])
    handle = job.handler()
    if job.options.get("handler") == "stamp":
        job.start_sender()
    one_by_one = job.options.get("one", False)
    meter = None
    handled = 0
    while handled < job.count or one_by_one:
        messages: list[Any] = consumer.consume(1, 0.1) if tuned or one_by_one else consumer.consume(500, 0.1)
        if tuned and messages:
            messages += consumer.consume(499, 0)
        if not messages:
            continue
        if meter is None:
            meter = Meter()
        ends = {}
        for message in messages:
            if message.error():
                raise SystemExit(str(message.error()))
            handle(message.value())
            ends[message.partition()] = message.offset() + 1
        consumer.store_offsets(offsets=[TopicPartition(job.topic, p, offset) for p, offset in ends.items()])
        handled += len(messages)
        if meter.seconds > job.seconds and not one_by_one:
            break
    assert meter is not None
    figures = meter.figures(handled)
    consumer.close()
    return figures


def produce(job: Job) -> dict[str, float]:
    failed = []

    def report(error: Any, message: Any) -> None:
        if error is not None:
            failed.append(error)

    producer = Producer(
        {"bootstrap.servers": job.bootstrap, "acks": "all", "queue.buffering.max.messages": 500_000, "linger.ms": 5}
    )
    producer.list_topics(job.topic)
    more: dict[str, Any] = {"on_delivery": report} if job.options.get("callback") else {}
    if job.options.get("headers"):
        more["headers"] = [("trace", b"00-0af7651916cd43dd-b7ad6b71-01"), ("source", b"benchmark")]
    write, meter, number = producer.produce, Meter(), 0
    while number < job.count:
        try:
            write(job.topic, VALUE, key(number), **more)
        except BufferError:
            producer.poll(0.1)
            continue
        number += 1
        if number % 1000 == 0:
            producer.poll(0)
            if meter.seconds > job.seconds:
                break
    if producer.flush(60) or failed:
        raise SystemExit(f"not delivered: {failed[:1]}")
    return meter.figures(number)


class _Acknowledgements:
    """Of the records of one batch that were written again."""

    __slots__ = ("failed", "left")

    def __init__(self) -> None:
        self.left = 0
        self.failed: Any = None

    def __call__(self, error: Any, message: Any) -> None:
        self.left -= 1
        if error is not None:
            self.failed = error


def storm(job: Job) -> dict[str, float]:
    """What flux does to a record that fails, and no more: it raises, is written to another topic with ten headers, and
    is read there with them. At least once: an offset is stored when all that failed below it is acknowledged."""
    fails = job.options["fails"]
    retries = f"{job.topic}-{job.group}-raw"
    admin = AdminClient({"bootstrap.servers": job.bootstrap})
    admin.create_topics([NewTopic(retries, 4, 1)])[retries].result(30)
    consumer = Consumer(
        {
            "bootstrap.servers": job.bootstrap,
            "group.id": job.group,
            "auto.offset.reset": "earliest",
            "enable.auto.offset.store": False,
            **_TUNED,
        }
    )
    producer = Producer(
        {"bootstrap.servers": job.bootstrap, "queue.buffering.max.messages": 500_000, "enable.idempotence": True}
    )
    headers: list[tuple[str, str | bytes | None]] = [(f"flux-header-{number}", b"a value") for number in range(10)]
    consumer.subscribe([job.topic, retries])
    open_batches: deque[tuple[_Acknowledgements, list[TopicPartition]]] = deque()
    meter, handled = None, 0
    while handled < job.count or open_batches:
        messages: list[Any] = consumer.consume(1, 0.1 if handled < job.count else 0)
        messages += consumer.consume(499, 0)
        if meter is None and messages:
            meter = Meter()
        acknowledgements, ends = _Acknowledgements(), {}
        for message in messages:
            if message.error():
                raise SystemExit(str(message.error()))
            topic = message.topic()
            ends[topic, message.partition()] = message.offset() + 1
            try:
                message.value()
                if topic == job.topic and message.offset() % 100 < fails:
                    raise ValueError("once")
            except ValueError:
                producer.produce(
                    retries, message.value(), message.key(), message.partition(), acknowledgements, headers=headers
                )
                acknowledgements.left += 1
            else:
                handled += 1
                if topic != job.topic:
                    dict(message.headers())
        if messages:
            open_batches.append((acknowledgements, [TopicPartition(*at, end) for at, end in ends.items()]))
        producer.poll(0)
        while open_batches and not open_batches[0][0].left:
            acknowledgements, positions = open_batches.popleft()
            if acknowledgements.failed is not None:
                raise SystemExit(f"not delivered: {acknowledgements.failed}")
            consumer.store_offsets(offsets=positions)
    assert meter is not None
    return meter.figures(handled)


def first(job: Job) -> dict[str, float]:
    """How long it takes from the start of the process to the first record."""
    consumer = Consumer(
        {"bootstrap.servers": job.bootstrap, "group.id": job.group, "auto.offset.reset": "earliest"},
    )
    consumer.subscribe([job.topic])
    while True:
        message = consumer.poll(0.1)
        if message is not None and not message.error():
            return {"seconds": time.time() - job.born}
