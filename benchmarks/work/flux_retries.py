"""Records that wait in a retry stage: how late each is called, and what waiting costs.

They are written with the header that says when they are due (docs/reference.md), before the worker starts. Their value
is that time too, for the handler."""

from __future__ import annotations

import random
import threading
import time

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

import flux
from benchmarks.measure import Job, key, spread

_PARTITIONS = 4
_LEAD = 8.0  # seconds from the start until the first is due: written, fetched, and 2 s of rest


def waiting(job: Job) -> dict[str, float]:
    """Option `order`: "due" (as by a default wait, which grows with the offset) or "random" (as by `Retry(after=…)`);
    `over`: seconds over which they are due."""
    stage = f"{job.topic}-{job.group}-try-1"
    admin = AdminClient({"bootstrap.servers": job.bootstrap})
    admin.create_topics([NewTopic(stage, _PARTITIONS, 1)])[stage].result(30)
    began = time.time()
    start = began + _LEAD
    lateness: list[float] = []
    rest = threading.Event()

    class Waiting(flux.Task):
        topic = job.topic
        group_id = job.group
        retries = 1
        adapter = f"confluent://{job.bootstrap}"

        def call(self, message: flux.Message) -> None:
            lateness.append(time.time() * 1000 - int(message.value))

    _write(job, stage, start)
    worker = flux.Worker(Waiting, stages="1", create_topics=True)

    def watch() -> None:
        time.sleep(max(0.0, start - 2.2 - time.time()))
        cpu, then = time.process_time(), time.time()
        time.sleep(2.0)
        idle = (time.process_time() - cpu) / (time.time() - then) * 100
        rest.set()
        while len(lateness) < job.count:
            if time.time() > start + job.options["over"] + 30:
                raise SystemExit(f"{len(lateness)} of {job.count} calls")
            time.sleep(0.05)
        job.end(idle_cpu=idle, earliest_ms=min(lateness), **spread("ms", lateness))

    threading.Thread(target=watch, daemon=True).start()
    worker.run()
    raise SystemExit("it ended")


def _write(job: Job, stage: str, start: float) -> None:
    producer = Producer({"bootstrap.servers": job.bootstrap, "queue.buffering.max.messages": 500_000})
    chance = random.Random(1)
    over = job.options["over"] * 1000
    for number in range(job.count):
        share = number / job.count if job.options["order"] == "due" else chance.random()
        due = b"%d" % round(start * 1000 + share * over)
        headers: list[tuple[str, str | bytes | None]] = [("flux-stage", b"1"), ("flux-due", due)]
        producer.produce(stage, due, key(number), number % _PARTITIONS, headers=headers)
        if number % 10_000 == 0:
            producer.poll(0)
    if producer.flush(30):
        raise SystemExit("not written")
