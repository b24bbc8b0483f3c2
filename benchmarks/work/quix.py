"""Quix Streams: at least once is its default, positions are committed every 5 s with what is processed:
https://quix.io/docs/quix-streams/advanced/checkpointing.html"""

from __future__ import annotations

from typing import Any

from quixstreams import Application

from benchmarks.measure import VALUE, Job, Meter, key


def _application(job: Job) -> Application:
    return Application(
        broker_address=job.bootstrap,
        consumer_group=job.group,
        auto_offset_reset="earliest",
        auto_create_topics=False,
        loglevel=None,
        state_dir=job.directory,
        # https://github.com/confluentinc/librdkafka/blob/master/CONFIGURATION.md
        consumer_extra_config={"fetch.queue.backoff.ms": 5},
        producer_extra_config={"acks": "all", "queue.buffering.max.messages": 500_000},
    )


def consume(job: Job) -> dict[str, float]:
    application = _application(job)
    handle = job.handler()
    done = 0

    def call(value: Any) -> None:
        nonlocal done
        handle(value)
        done += 1

    topic = application.topic(job.topic, key_deserializer="bytes", value_deserializer="bytes")
    application.dataframe(topic).update(call)
    if job.options.get("handler") == "stamp":
        job.start_sender()
    else:
        job.watch(lambda: done)
    application.run()
    raise SystemExit("it ended")


def produce(job: Job) -> dict[str, float]:
    """https://quix.io/docs/quix-streams/producer.html"""
    meter, number = Meter(), 0
    with _application(job).get_producer() as producer:
        while number < job.count and (number % 1000 or meter.seconds < job.seconds):
            producer.produce(topic=job.topic, value=VALUE, key=key(number))
            number += 1
        producer.flush()
        return meter.figures(number)
