"""flux at work on a topic."""

from __future__ import annotations

from typing import Any

from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

import flux
from benchmarks.measure import Job


def consume(job: Job) -> dict[str, float]:
    """Options: `client` (confluent or aiokafka), `style` (sync or async), `concurrency`, `handler`."""
    kind = job.options.get("handler", "noop")
    handle, handle_async = job.handler(), job.async_handler()

    class Benchmark(flux.Task):
        topic = job.topic
        group_id = job.group
        retries = 0
        concurrency = job.options.get("concurrency", 10)
        adapter = f"{job.options.get('client', 'confluent')}://{job.bootstrap}"

    if job.options.get("style") == "async":
        if kind == "noop":

            async def call(self: Any, message: flux.Message) -> None:
                message.value  # noqa: B018
        else:

            async def call(self: Any, message: flux.Message) -> None:
                await handle_async(message.value)

        Benchmark.call = call  # type: ignore[method-assign]
    else:
        if kind == "noop":

            def call(self: Any, message: flux.Message) -> None:  # type: ignore[misc]
                message.value  # noqa: B018
        else:

            def call(self: Any, message: flux.Message) -> None:  # type: ignore[misc]
                handle(message.value)

        Benchmark.call = call  # type: ignore[method-assign]
    if job.options.get("small_dlq"):  # another thousand partitions would be the broker's work, not what is measured
        admin = AdminClient({"bootstrap.servers": job.bootstrap})
        name = f"{job.topic}-{job.group}-dlq"
        admin.create_topics([NewTopic(name, 1, 1)])[name].result(30)
    return _run(job, Benchmark, "0", watched=kind not in ("stamp", "first"))


def stuck(job: Job) -> dict[str, float]:
    """One call in a thousand takes 20 ms."""
    import time

    class Stuck(flux.Task):
        topic = job.topic
        group_id = job.group
        retries = 0
        adapter = f"confluent://{job.bootstrap}"

        def call(self, message: flux.Message) -> None:
            group, place = divmod(message.offset, 1000)
            if place == group * 37 % 1000:  # not all of one key, which order by key would make one after the other
                time.sleep(0.02)

    return _run(job, Stuck, "0")


def storm(job: Job) -> dict[str, float]:
    """Options: `fails` (the share of records whose first call fails, in per cent), `exactly_once`."""
    fails = job.options["fails"]

    class Storm(flux.Task):
        topic = job.topic
        group_id = job.group
        retries = 1
        wait = 0
        concurrency = job.options.get("concurrency", 10)
        exactly_once = job.options.get("exactly_once", False)
        adapter = f"confluent://{job.bootstrap}"

        def call(self, message: flux.Message) -> None:
            message.value  # noqa: B018
            if fails and message.stage == 0 and message.offset % 100 < fails:
                raise ValueError("once")

    return _run(job, Storm, "0-1")


def _run(job: Job, task: type[flux.Task], stages: str, watched: bool = True) -> dict[str, float]:
    port = 0 if job.options.get("metrics") else None
    worker = flux.Worker(task, stages=stages, create_topics=True, metrics_port=port)
    if watched:
        job.watch(lambda: sum(each.done for each in worker.stats().values()))
    elif job.options.get("handler") == "stamp":
        job.start_sender()
    worker.run()
    raise SystemExit("it ended")
