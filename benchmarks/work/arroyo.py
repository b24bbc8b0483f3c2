"""Arroyo: positions are committed by the last strategy, at most once a second:
https://getsentry.github.io/arroyo/offsets.html; threads for calls that wait:
https://getsentry.github.io/arroyo/strategies/run_task_in_threads.html"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from arroyo import Topic
from arroyo.backends.kafka import KafkaConsumer, KafkaPayload, KafkaProducer
from arroyo.backends.kafka.configuration import build_kafka_configuration, build_kafka_consumer_configuration
from arroyo.commit import ONCE_PER_SECOND
from arroyo.processing import StreamProcessor
from arroyo.processing.strategies import CommitOffsets, ProcessingStrategyFactory, RunTask, RunTaskInThreads

from benchmarks.measure import VALUE, Job, Meter, key


class _Steps(ProcessingStrategyFactory[KafkaPayload]):  # type: ignore[misc]
    def __init__(self, job: Job) -> None:
        self._handle = job.handler()
        self._threads = job.options.get("threads", 0)
        self.done = 0

    def create_with_partitions(self, commit: Any, partitions: Mapping[Any, int]) -> Any:
        def call(message: Any) -> Any:
            self._handle(message.payload.value)
            return message.payload

        def count(message: Any) -> Any:
            self.done += 1
            return message.payload

        last = RunTask(count, CommitOffsets(commit))
        if self._threads:
            return RunTaskInThreads(call, self._threads, self._threads * 10, last)
        return RunTask(call, last)


def consume(job: Job) -> dict[str, float]:
    # https://getsentry.github.io/arroyo/getting_started.html, and a queue that is refilled at once
    settings = build_kafka_consumer_configuration(
        {"fetch.queue.backoff.ms": 5},
        bootstrap_servers=[job.bootstrap],
        auto_offset_reset="earliest",
        group_id=job.group,
    )
    steps = _Steps(job)
    if job.options.get("handler") == "stamp":
        job.start_sender()
    else:
        job.watch(lambda: steps.done)
    StreamProcessor(KafkaConsumer(settings), Topic(job.topic), steps, ONCE_PER_SECOND).run()
    raise SystemExit("it ended")


def produce(job: Job) -> dict[str, float]:
    settings = {"acks": "all", "queue.buffering.max.messages": 500_000}
    producer = KafkaProducer(
        build_kafka_configuration(settings, bootstrap_servers=[job.bootstrap]), use_simple_futures=True
    )
    topic, futures = Topic(job.topic), deque[Any]()
    meter, number = Meter(), 0
    while number < job.count and (number % 1000 or meter.seconds < job.seconds):
        futures.append(producer.produce(topic, KafkaPayload(key(number), VALUE, [])))
        number += 1
        if len(futures) > 100_000:
            futures.popleft().result(30)
    while futures:
        futures.popleft().result(30)
    return meter.figures(number)
