"""FastStream, both Kafka brokers. At least once is `AckPolicy.ACK` with a group, "after all process":
https://faststream.ag2.ai/latest/confluent/ack/ (its default commits before the handler is done)."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from faststream import AckPolicy

from benchmarks.measure import VALUE, Job, Meter, key


def _broker(job: Job) -> Any:
    if job.options["client"] == "confluent":
        from faststream.confluent import KafkaBroker
    else:
        from faststream.kafka import KafkaBroker
    # A logger that is called per record is not what is measured.
    return KafkaBroker(job.bootstrap, logger=None, log_level=logging.CRITICAL)


def consume(job: Job) -> dict[str, float]:
    asyncio.run(_consume(job))
    raise SystemExit("it ended")


async def _consume(job: Job) -> None:
    broker = _broker(job)
    handle = job.async_handler()
    more: dict[str, Any] = {}
    if job.options.get("workers"):
        # https://faststream.ag2.ai/latest/kafka/Subscriber/: workers are consumers, each with partitions of its own;
        # only aiokafka's broker has them together with AckPolicy.ACK.
        more["max_workers"] = job.options["workers"]
    done = 0
    if job.options.get("batch"):
        # https://faststream.ag2.ai/latest/kafka/Subscriber/batch_subscriber/
        @broker.subscriber(  # type: ignore[untyped-decorator]
            job.topic,
            group_id=job.group,
            auto_offset_reset="earliest",
            ack_policy=AckPolicy.ACK,
            batch=True,
            max_records=500,
            **more,
        )
        async def batch(messages: list[bytes]) -> None:
            nonlocal done
            for message in messages:
                await handle(message)
            done += len(messages)

    else:

        @broker.subscriber(  # type: ignore[untyped-decorator]
            job.topic, group_id=job.group, auto_offset_reset="earliest", ack_policy=AckPolicy.ACK, **more
        )
        async def one(message: bytes) -> None:
            nonlocal done
            await handle(message)
            done += 1

    await broker.start()
    if job.options.get("handler") == "stamp":
        job.start_sender()
    else:
        job.watch(lambda: done)
    await asyncio.Event().wait()


def produce(job: Job) -> dict[str, float]:
    return asyncio.run(_produce(job))


async def _produce(job: Job) -> dict[str, float]:
    """`publish` waits for the acknowledgement, so many are under way at a time."""
    broker = _broker(job)
    await broker.start()
    meter, number = Meter(), 0
    while number < job.count and meter.seconds < job.seconds:
        await asyncio.gather(*(broker.publish(VALUE, topic=job.topic, key=key(number + each)) for each in range(1000)))
        number += 1000
    return meter.figures(number)
