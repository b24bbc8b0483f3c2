"""`flux process --processes N` with a handler that computes. Records come when all members have their partitions."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from benchmarks.measure import Job, compute

_PARTITIONS = 4


def processes(job: Job) -> dict[str, float]:
    number = job.options["processes"]
    admin = AdminClient({"bootstrap.servers": job.bootstrap})
    command = [sys.executable, "-m", "flux.cli.main", "process", "--load", str(Path(__file__).parent / "computing.py")]
    command += ["--adapter", f"confluent://{job.bootstrap}", "--create-topics", "--processes", str(number), "Computing"]
    marks = Path(job.directory)
    environment = {
        **os.environ,
        "BENCHMARK_TOPIC": job.topic,
        "BENCHMARK_GROUP": job.group,
        "BENCHMARK_DIRECTORY": job.directory,
    }
    process = subprocess.Popen(command, env=environment)
    try:
        _wait_for_members(admin, job.group, number)
        _write(job)
        deadline = time.monotonic() + job.seconds + 20
        while True:
            marked = [[float(part) for part in each.read_text().split()] for each in marks.iterdir()]
            read = [each for each in marked if len(each) == 3]
            if sum(each[0] for each in read) >= job.count:
                break
            if time.monotonic() > deadline:
                raise SystemExit(f"{sum(each[0] for each in read):.0f} of {job.count} calls by {len(read)} processes")
            time.sleep(0.1)
    finally:
        process.terminate()
        process.wait(30)
    return {"rate": job.count / (max(each[2] for each in read) - min(each[1] for each in read))}


def alone(job: Job) -> dict[str, float]:
    """The same computing without Kafka: what this machine's cores add up to."""
    number, context = job.options["processes"], multiprocessing.get_context("spawn")
    ready, times = context.Barrier(number), context.SimpleQueue()
    started = [context.Process(target=_compute, args=(job.count // number, ready, times)) for _ in range(number)]
    for each in started:
        each.start()
    marks = [times.get() for _ in started]
    for each in started:
        each.join()
    return {"rate": job.count / (max(end for _, end in marks) - min(begin for begin, _ in marks))}


def _compute(count: int, ready: Any, times: Any) -> None:
    ready.wait(30)
    begin = time.time()
    for _ in range(count):
        compute()
    times.put((begin, time.time()))


def _wait_for_members(admin: AdminClient, group: str, number: int) -> None:
    deadline = time.monotonic() + 40
    while time.monotonic() < deadline:
        try:
            members = admin.describe_consumer_groups([group])[group].result(5).members
        except Exception:
            members = []
        owned = [len(each.assignment.topic_partitions) for each in members if each.assignment]
        if len(owned) == number and all(owned) and sum(owned) == _PARTITIONS:
            return
        time.sleep(0.3)
    raise SystemExit(f"{number} processes did not share the partitions")


def _write(job: Job) -> None:
    producer = Producer({"bootstrap.servers": job.bootstrap})
    for number in range(job.count):
        producer.produce(job.topic, b"x", partition=number % _PARTITIONS)
    producer.flush(30)
