"""`python -m benchmarks.loop`: what a record costs between poll and commit, and what each thing adds that can be on.

No broker and no client: flux's own engine and call loop work records of plain Python, 500 at a time. Contestants take
turns over the rounds; of each the quickest round counts, as nothing makes a loop quicker than it is. Rounds are short,
so that some are not disturbed by what else the machine does.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import flux
from flux.adapters.memory import MemoryAdapter
from flux.core import flux_headers
from flux.core.engine import BATCH
from flux.core.engine.key_order import OrderEntry, entry_name
from flux.core.message import Message
from flux.core.ports import Batch, PollResult, TopicPartition

TOPIC = "loop"
Cycle = Callable[[list[Any]], None]
"""Works records of one poll to their end."""
_names = itertools.count()
_WRITTEN = int(time.time() * 1000)


class Record:
    """Of partition 0, and one of 1,000 keys."""

    __slots__ = ("_at", "_key")

    def __init__(self, at: int) -> None:
        self._at = at
        self._key = b"k%d" % (at % 1000)

    def topic(self) -> str:
        return TOPIC

    def partition(self) -> int:
        return 0

    def offset(self) -> int:
        return self._at

    def key(self) -> bytes:
        return self._key

    def value(self) -> bytes:
        return b"value"

    def headers(self) -> None:
        return None

    def timestamp(self) -> tuple[int, int]:
        return 1, _WRITTEN


class Held(Record):
    """An entry of the topic of keys."""

    __slots__ = ()

    def key(self) -> bytes:
        return entry_name((0, 10**12 + self._at))  # no record that is worked

    def value(self) -> bytes:
        return OrderEntry(b"held %d" % self._at, 1, 0, 1).value()


def handle(message: flux.Message) -> None:
    message.value  # noqa: B018


class Dead(flux.Hooks):
    def on_dead_letter(self, where: flux.StageInfo, message: flux.Message, reason: str, error: str) -> None: ...


class Failing(flux.Hooks):
    def on_failure(
        self, where: flux.StageInfo, message: flux.Message, error: BaseException, seconds: float | None
    ) -> None: ...


class Batched(flux.BatchTask):
    topic, group_id, retries = TOPIC, "loop", 0
    max_wait = 0.0

    def call(self, messages: Sequence[flux.Message]) -> None:
        for message in messages:
            message.value  # noqa: B018


@contextmanager
def bare() -> Iterator[Cycle]:
    """No flux, but a message of each record, and a `try`."""

    def cycle(records: list[Any]) -> None:
        start = flux_headers.of_main_topic()
        for record in records:
            try:
                handle(Message.of(record, record.value(), start))
            except Exception:
                raise

    yield cycle


@contextmanager
def working(task: type[flux.Task] | flux.Task, watch: Any = None, outstanding: int = 0) -> Iterator[Cycle]:
    """`watch` gets the worker before it begins. `outstanding`: keys that wait (`retry_order`)."""
    worker = flux.Worker(task, adapter=MemoryAdapter(f"loop-{next(_names)}"))
    if watch is not None:
        watch(worker)
    [job] = worker.jobs
    job.prepare("0", True)
    coordinator = job.coordinator
    assert coordinator is not None
    [runtime], call, here = coordinator.runtimes, job.caller(job.handler), TopicPartition(TOPIC, 0)
    runtime.engine.assigned({here: None}, {here: 0}, time.time())
    if runtime.engine.key_order is not None:
        runtime.engine.key_order.take(Held(number) for number in range(outstanding))

    def cycle(records: list[Any]) -> None:
        with coordinator.lock:
            runtime.engine.polled(PollResult([Batch(here, records)]), time.time())
        while not runtime.engine.empty:
            run = coordinator.take(runtime, polling=True)
            if run is not None:
                call(runtime, run)
                coordinator.finished(runtime, run, None)
            else:
                commit()
        with coordinator.lock:
            runtime.engine.commit(time.time())

    def commit() -> None:
        """For what waits for it before its first call (`max_crashes`)."""
        with coordinator.lock:
            runtime.engine.committed(runtime.engine.commit(time.time(), at_once=True) or {}, None, time.time())

    yield cycle
    job.end()


@contextmanager
def ordering(outstanding: int) -> Iterator[Cycle]:
    """`outstanding`: keys of the partition that are held while records of others are worked."""
    with working(_task(retries=1, retry_order="key"), outstanding=outstanding) as cycle:
        yield cycle


@contextmanager
def measuring() -> Iterator[Cycle]:
    from flux.observe.prometheus import Metrics

    metrics = Metrics(registry=None)
    with working(_task(), metrics.watch) as cycle:
        yield cycle
    metrics.close()


@contextmanager
def tracing(share: float) -> Iterator[Cycle]:
    """`share`: of the calls, whose spans are recorded; none is exported."""
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.sampling import TraceIdRatioBased

    from flux.observe.opentelemetry import Tracing

    with working(_task(hooks=[Tracing(TracerProvider(TraceIdRatioBased(share)))])) as cycle:
        yield cycle


def _task(**settings: Any) -> flux.Task:
    return flux.task(**{"topic": TOPIC, "group_id": "loop", "retries": 0, **settings})(handle)


def _middleware(message: Any, call_next: Any) -> Any:
    return call_next(message)


def _name(message: flux.Message) -> bytes | None:
    """One of 50."""
    return str(message.offset % 50).encode()


CONTESTANTS: Mapping[str, Callable[[], Any]] = {
    "no flux: a message of each record": bare,
    "flux, nothing on": lambda: working(_task()),
    "hooks that hear of dead letters": lambda: working(_task(hooks=[Dead()])),
    "`pause_on`, `in_place_retries` that nothing needs": lambda: working(
        _task(pause_on=(OSError,), in_place_retries=3)
    ),
    "hooks that hear of failures": lambda: working(_task(hooks=[Failing()])),
    "metrics": measuring,
    "traces, 1 % recorded": lambda: tracing(0.01),
    "traces, all recorded": lambda: tracing(1.0),
    "`deserializer`": lambda: working(_task(deserializer=bytes)),
    "`middleware`, one": lambda: working(_task(middleware=[_middleware])),
    "`give_up_after`": lambda: working(_task(give_up_after=3600)),
    "`rate_limit`, never reached": lambda: working(_task(rate_limit=1e9)),
    "`concurrency_key`, of 50 names": lambda: working(_task(concurrency_key=_name, concurrency_per_key=10)),
    "`rate_limit_key`, of 50 names, never reached": lambda: working(_task(rate_limit=1e9, rate_limit_key=_name)),
    "`pause_when` by name, of 50": lambda: working(_task(pause_when=flux.FailureRate(0.5, by=_name))),
    "`max_crashes = None`": lambda: working(_task(max_crashes=None)),
    "`retry_order`, nothing outstanding": lambda: ordering(0),
    "`retry_order`, 10 keys outstanding": lambda: ordering(10),
    "`retry_order`, 10,000 keys outstanding": lambda: ordering(10_000),
    "`timeout`": lambda: working(_task(timeout=60)),
    "`BatchTask`, 100 a call": lambda: working(Batched),
}


def measure(rounds: int, polls: int) -> dict[str, float]:
    """Nanoseconds per record, by contestant. `polls`: of each round, of 500 records each."""
    least: dict[str, float] = {}
    for _ in range(rounds):
        for name, make in CONTESTANTS.items():
            with make() as cycle:
                cycle([Record(at) for at in range(BATCH)])  # what is made once is made
                batches = [[Record(at) for at in range(n * BATCH, (n + 1) * BATCH)] for n in range(1, polls + 1)]
                began = time.perf_counter_ns()
                for records in batches:
                    cycle(records)
                took = (time.perf_counter_ns() - began) / (polls * BATCH)
            least[name] = min(took, least.get(name, took))
    return least


def table(found: Mapping[str, float]) -> str:
    off = found["flux, nothing on"]
    lines = ["| | ns/record | beyond nothing on |", "|---|---:|---:|"]
    for name, took in found.items():
        lines.append(f"| {name} | {took:,.0f} | {took - off:+,.0f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loop", description="Measures flux's own loop.")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--polls", type=int, default=2)
    given = parser.parse_args()
    print(table(measure(given.rounds, given.polls)))


if __name__ == "__main__":
    main()
