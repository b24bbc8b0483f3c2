"""Loops of aiokafka with no framework. Manual commits after the handler:
https://aiokafka.readthedocs.io/en/stable/examples/manual_commit.html"""

from __future__ import annotations

import asyncio
import time

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from benchmarks.measure import VALUE, Job, Meter, key

_COMMIT = 5.0


def consume(job: Job) -> dict[str, float]:
    return asyncio.run(_consume(job))


async def _consume(job: Job) -> dict[str, float]:
    tuned = job.options.get("tuned", False)
    consumer = AIOKafkaConsumer(
        job.topic,
        bootstrap_servers=job.bootstrap,
        group_id=job.group,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        check_crcs=not tuned,
    )
    await consumer.start()
    handle, waits = job.handler(), job.async_handler()
    if job.options.get("handler") == "stamp":
        job.start_sender()
        async for message in consumer:
            handle(message.value)
    meter, handled, committed = None, 0, time.monotonic()
    while handled < job.count:
        batches = await consumer.getmany(timeout_ms=250, max_records=500 if tuned else None)
        if batches and meter is None:
            meter = Meter()
        for messages in batches.values():
            if job.options.get("together"):  # order within a batch is given up
                await asyncio.gather(*(waits(message.value) for message in messages))
            else:
                for message in messages:
                    handle(message.value)
            handled += len(messages)
        if time.monotonic() > committed + _COMMIT:
            await consumer.commit()
            committed = time.monotonic()
        if meter is not None and meter.seconds > job.seconds:
            break
    assert meter is not None
    figures = meter.figures(handled)
    await consumer.commit()
    await consumer.stop()
    return figures


def produce(job: Job) -> dict[str, float]:
    return asyncio.run(_produce(job))


async def _produce(job: Job) -> dict[str, float]:
    """Futures are awaited a thousand at a time: https://aiokafka.readthedocs.io/en/stable/producer.html"""
    producer = AIOKafkaProducer(bootstrap_servers=job.bootstrap, acks="all", linger_ms=5)
    await producer.start()
    await producer.partitions_for(job.topic)
    meter, number = Meter(), 0
    while number < job.count and meter.seconds < job.seconds:
        futures = [await producer.send(job.topic, VALUE, key(number + each)) for each in range(1000)]
        await asyncio.gather(*futures)
        number += 1000
    figures = meter.figures(number)
    await producer.stop()
    return figures
