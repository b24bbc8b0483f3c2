"""One process of the stage `model`: `python -m proof.model.run BOOTSTRAP SEQUENCES SEED` prints one line of JSON."""

from __future__ import annotations

import json
import secrets
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from typing import Any

from brokers.operator import Operator
from hypothesis import HealthCheck, Phase, given, seed, settings

from flux.adapters.aiokafka import AiokafkaAdapter
from flux.adapters.confluent import ConfluentAdapter
from flux.adapters.memory import MemoryAdapter, forget
from flux.core.ports import ProducerRecord
from flux.testing.contract import Bench
from proof.model.play import PARTITIONS, record, replay
from proof.model.steps import Step, sequences
from proof.model.subject import Subject

SECONDS = 30.0
_CONFLUENT = {"heartbeat.interval.ms": 200, "topic.metadata.refresh.interval.ms": 1000}
_AIOKAFKA = {"heartbeat_interval_ms": 200, "metadata_max_age_ms": 1000}
_LATE_CONFLUENT = {**_CONFLUENT, "session.timeout.ms": 6000, "max.poll.interval.ms": 6000}
_LATE_AIOKAFKA = {**_AIOKAFKA, "max_poll_interval_ms": 2000}

Made = tuple[str, Callable[[], Bench]]


def kafka(bootstrap: str) -> list[Made]:
    """A real cluster by each adapter."""
    operator = Operator(bootstrap)

    def made(adapter: type, usual: dict[str, int], late: dict[str, int]) -> Callable[[], Bench]:
        return lambda: Bench(
            adapter(bootstrap, consumer=usual),
            impatient=adapter(bootstrap, consumer=late),
            transact=operator.transact,
            grow=operator.grow,
            seconds=SECONDS,
        )

    return [
        ("confluent", made(ConfluentAdapter, _CONFLUENT, _LATE_CONFLUENT)),
        ("aiokafka", made(AiokafkaAdapter, _AIOKAFKA, _LATE_AIOKAFKA)),
    ]


def memory(cluster: str) -> Bench:
    adapter = MemoryAdapter(cluster, auto_create=False)

    def transact(topic: str, values: Sequence[bytes], commits: bool) -> None:
        records = [ProducerRecord(value, partition=0) for value in values]
        adapter.broker.write_transaction(topic, records, commits=commits)

    late = MemoryAdapter(cluster, max_poll_interval=0.2)
    return Bench(adapter, impatient=late, transact=transact, grow=adapter.broker.grow_topic, seconds=SECONDS)


def play(steps: Sequence[Step], subjects: Sequence[Made], kinds: Counter[str]) -> None:
    cluster = f"proof-{secrets.token_hex(6)}"
    try:
        with memory(cluster) as bench:
            played = record(steps, Subject(bench, PARTITIONS))
    finally:
        forget(cluster)
    kinds.update(type(step).__name__ for step in steps)

    def repeat(made: Made) -> None:
        name, make = made
        with make() as bench:
            replay(played, Subject(bench, PARTITIONS), name)

    with ThreadPoolExecutor(len(subjects)) as pool:
        for end in [pool.submit(repeat, each) for each in subjects]:
            end.result()


def _differences(error: BaseException) -> Iterator[BaseException]:
    """hypothesis groups what it could not repeat, and hides the difference under its own error."""
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _differences(each)
    else:
        yield error


def run(bootstrap: str, count: int, number: int) -> dict[str, Any]:
    subjects = kafka(bootstrap)
    kinds: Counter[str] = Counter()
    began, tried = time.monotonic(), Counter[str]()

    @seed(number)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(sequences())
    def each_returns_the_same(steps: tuple[Step, ...]) -> None:
        tried["sequences"] += 1
        start = time.monotonic()
        # what is printed stays if this process is ended before it reports
        try:
            play(steps, subjects, kinds)
        except AssertionError as error:
            print(error, file=sys.stderr, flush=True)
            raise
        taken = time.monotonic() - start
        print(f"sequence {tried['sequences']}: {len(steps)} steps, {taken:.1f} s", file=sys.stderr, flush=True)

    problem = None
    try:
        each_returns_the_same()
    except Exception as error:
        problem = "\n".join(map(str, _differences(error)))
    return {
        "sequences": tried["sequences"],
        "steps": dict(kinds),
        "problem": problem,
        "seconds": round(time.monotonic() - began, 1),
    }


if __name__ == "__main__":
    with redirect_stdout(sys.stderr):  # hypothesis prints there
        ran = run(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
    print(json.dumps(ran), flush=True)
