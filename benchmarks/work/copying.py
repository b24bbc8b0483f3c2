"""A record in, a record out: what flux and Quix Streams do at least once, and exactly once by Kafka's transactions.

Quix Streams' exactly-once: https://quix.io/docs/quix-streams/configuration.html#processing-guarantees
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from confluent_kafka import Consumer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from benchmarks.measure import Job

_PARTITIONS = 4


def flux_copy(job: Job) -> dict[str, float]:
    """Options: `exactly_once`, `interval` (of commits, in seconds), `handler`."""
    import flux

    handle = job.handler()

    class Copies(flux.Producer):
        topic = output(job)
        adapter = f"confluent://{job.bootstrap}"

    class Copy(flux.Task):
        topic = job.topic
        group_id = job.group
        retries = 0
        exactly_once = job.options.get("exactly_once", False)
        offset_commit_interval = job.options.get("interval", 0.2)
        adapter = f"confluent://{job.bootstrap}"

        def call(self, message: flux.Message) -> None:
            value = message.value
            handle(value)
            Copies.produce(value, key=message.key)

    worker = flux.Worker(Copy, stages="0", create_topics=True)
    _measure(job, lambda: sum(each.done for each in worker.stats().values()))
    worker.run()
    raise SystemExit("it ended")


def quix_copy(job: Job) -> dict[str, float]:
    """Options: `exactly_once`, `interval`."""
    from quixstreams import Application

    handled = 0

    application = Application(
        broker_address=job.bootstrap,
        consumer_group=job.group,
        auto_offset_reset="earliest",
        auto_create_topics=False,
        loglevel=None,
        state_dir=job.directory,
        commit_interval=job.options.get("interval", 0.2),
        processing_guarantee="exactly-once" if job.options.get("exactly_once") else "at-least-once",
        consumer_extra_config={"fetch.queue.backoff.ms": 5},
        producer_extra_config={"acks": "all", "queue.buffering.max.messages": 500_000},
    )

    def count(value: Any) -> None:
        nonlocal handled
        handled += 1

    kinds = {"key_deserializer": "bytes", "value_deserializer": "bytes"}
    source = application.topic(job.topic, **kinds)
    target = application.topic(output(job), key_serializer="bytes", value_serializer="bytes")
    application.dataframe(source).update(count).to_topic(target)
    _measure(job, lambda: handled)
    application.run()
    raise SystemExit("it ended")


def latency(job: Job) -> dict[str, float]:
    """From produce to a read_committed reader of what `copy` (a function of this module) has made of the record."""
    given = {**job.given, "options": {**job.options, "handler": "noop"}}
    command = [sys.executable, "-m", "benchmarks.child", f"copying:{job.options['copy']}", json.dumps(given)]
    reader = Consumer(
        {
            "bootstrap.servers": job.bootstrap,
            "group.id": f"{job.group}-reader",
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
        }
    )
    reader.subscribe([output(job)])
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL):
        job.start_sender()
        while True:
            message = reader.poll(0.1)
            if message is not None and message.error() is None:
                job.stamped(message.value() or b"")


def output(job: Job) -> str:
    """The topic that is written to. Made if it is not there."""
    name = f"{job.topic}-{job.group}-out"
    admin = AdminClient({"bootstrap.servers": job.bootstrap, "log_level": 0})
    if name not in admin.list_topics(timeout=10).topics:
        admin.create_topics([NewTopic(name, _PARTITIONS, 1)])[name].exception(30)
        time.sleep(0.5)
    return name


def _measure(job: Job, done: Callable[[], int]) -> None:
    if "copy" not in job.options:
        job.watch(done)
