"""Records that wait in a retry stage: how late each is called, and what waiting costs.

They are written with the header that says when they are due (docs/reference/headers.md), before the worker starts.
Their value is that time too, for the handler."""

from __future__ import annotations

import multiprocessing
import random
import threading
import time
from typing import Any

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

import flux
from benchmarks.measure import Job, key, spread

_PARTITIONS = 4
_LEAD = 8.0  # seconds from the start until the first is due: written, fetched, and 2 s of rest
_HELD = 12.0  # seconds in which what has room is fetched


def waiting(job: Job) -> dict[str, float]:
    """Option `order`: "due" (as by a default wait, which grows with the offset) or "random" (as by `Retry(after=…)`);
    `over`: seconds over which they are due."""
    stage = _stage(job)
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

    _write(job.bootstrap, stage, start, job.count, job.options)
    worker = flux.Worker(Waiting, stages="1", create_topics=True)

    def watch() -> None:
        time.sleep(max(0.0, start - 2.2 - time.time()))
        idle = _idle_cpu()
        rest.set()
        while len(lateness) < job.count:
            if time.time() > start + job.options["over"] + 30:
                raise SystemExit(f"{len(lateness)} of {job.count} calls")
            time.sleep(0.05)
        job.end(idle_cpu=idle, earliest_ms=min(lateness), **spread("ms", lateness))

    threading.Thread(target=watch, daemon=True).start()
    worker.run()
    raise SystemExit("it ended")


def held(job: Job) -> dict[str, float]:
    """None is due for an hour. Written by another process, so that the memory is the worker's alone."""
    stage = _stage(job)
    given = (job.bootstrap, stage, time.time() + 3600.0, job.count, {"order": "random", "over": 3600.0})
    writer = multiprocessing.get_context("spawn").Process(target=_write, args=given)
    writer.start()
    writer.join()
    if writer.exitcode:
        raise SystemExit("not written")

    class Waiting(flux.Task):
        topic = job.topic
        group_id = job.group
        retries = 1
        adapter = f"confluent://{job.bootstrap}"

        def call(self, message: flux.Message) -> None:
            raise SystemExit("a call before its time")

    def watch() -> None:
        time.sleep(_HELD)
        job.end(idle_cpu=_idle_cpu())

    threading.Thread(target=watch, daemon=True).start()
    flux.Worker(Waiting, stages="1", create_topics=True).run()
    raise SystemExit("it ended")


def _idle_cpu() -> float:
    """Per cent of one core, over two seconds."""
    cpu, then = time.process_time(), time.time()
    time.sleep(2.0)
    return (time.process_time() - cpu) / (time.time() - then) * 100


def _stage(job: Job) -> str:
    stage = f"{job.topic}-{job.group}-try-1"
    admin = AdminClient({"bootstrap.servers": job.bootstrap})
    admin.create_topics([NewTopic(stage, _PARTITIONS, 1)])[stage].result(30)
    return stage


def _write(bootstrap: str, stage: str, start: float, count: int, options: dict[str, Any]) -> None:
    producer = Producer({"bootstrap.servers": bootstrap, "queue.buffering.max.messages": 500_000})
    chance = random.Random(1)
    over = options["over"] * 1000
    for number in range(count):
        share = number / count if options["order"] == "due" else chance.random()
        due = b"%d" % round(start * 1000 + share * over)
        headers: list[tuple[str, str | bytes | None]] = [("flux-stage", b"1"), ("flux-due", due)]
        while True:
            try:
                producer.produce(stage, due, key(number), number % _PARTITIONS, headers=headers)
                break
            except BufferError:
                producer.poll(0.1)
        if number % 10_000 == 0:
            producer.poll(0)
    if producer.flush(30):
        raise SystemExit("not written")
