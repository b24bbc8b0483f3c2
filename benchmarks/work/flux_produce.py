"""flux.Producer, every record acknowledged by all in-sync replicas."""

from __future__ import annotations

import flux
from benchmarks.measure import VALUE, Job, Meter, key

_HEADERS = {"trace": "00-0af7651916cd43dd-b7ad6b71-01", "source": "benchmark"}
_UNDER_WAY = 100_000


class Benchmark(flux.Producer):
    topic = "set below"


def _ready(job: Job) -> None:
    flux.configure(adapter=f"confluent://{job.bootstrap}")
    Benchmark.topic = job.topic
    Benchmark.send(VALUE).result(30)


def produce(job: Job) -> dict[str, float]:
    _ready(job)
    write, headers = Benchmark.produce, _HEADERS if job.options.get("headers") else None
    meter, number = Meter(), 0
    while number < job.count and (number % 1000 or meter.seconds < job.seconds):
        write(VALUE, key=key(number), headers=headers)
        number += 1
    Benchmark.flush()
    return meter.figures(number)


def send(job: Job) -> dict[str, float]:
    _ready(job)
    write, futures = Benchmark.send, []
    meter, number = Meter(), 0
    while number < job.count and (number % 1000 or meter.seconds < job.seconds):
        futures.append(write(VALUE, key=key(number)))
        number += 1
        if len(futures) == _UNDER_WAY:
            for future in futures:
                future.result(30)
            futures.clear()
    for future in futures:
        future.result(30)
    return meter.figures(number)
