"""Metrics by prometheus-client. Hooks count calls, one notification a run; the rest is read from the engines at a
scrape.

`flux process --metrics-port` and `Worker(metrics_port=…)` serve them. A program with its own endpoint calls
`Metrics().watch(worker)` before its worker runs, and finds them in prometheus-client's registry.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import accumulate
from operator import sub
from typing import Any, Protocol

from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from flux._version import __version__
from flux.consuming.coordinator import StageRuntime
from flux.consuming.task_runtime import TaskRuntime
from flux.core.hooks import CallsReport, Hooks, StageInfo
from flux.core.message import Message
from flux.core.monitoring.health import Health
from flux.core.monitoring.snapshot import calls_of, in_place, limited_by_name
from flux.core.ports import TopicPartition
from flux.observe import names
from flux.observe.lags import Lags
from flux.observe.names import Metric
from flux.producing.registry import PRODUCERS
from flux.system import Lock


class Histogram:
    """Observes many values at once: prometheus-client's needs a microsecond for each. `bounds`: the inclusive
    upper bounds of the buckets, ascending. Thread-safe."""

    __slots__ = ("_bounds", "_counts", "_lock", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = (*bounds, math.inf)
        self._counts = [0] * len(self._bounds)
        self._sum = 0.0
        self._lock = Lock()

    def observe(self, value: float) -> None:
        index = bisect_left(self._bounds, value)
        with self._lock:
            self._counts[index] += 1
            self._sum += value

    def observe_all(self, values: Sequence[float]) -> None:
        """`observe` for many values at once."""
        if len(values) < 2:
            for value in values:
                self.observe(value)
            return
        bounds, total = self._bounds, sum(values)
        low, high = bisect_left(bounds, min(values)), bisect_left(bounds, max(values))
        if low == high:
            numbers = [len(values)]
        else:
            ordered = sorted(values)
            below = [bisect_right(ordered, bound) for bound in bounds[low : high + 1]]
            numbers = [below[0], *map(sub, below[1:], below)]
        with self._lock:
            for index, number in enumerate(numbers, low):
                self._counts[index] += number
            self._sum += total

    def read(self) -> tuple[list[tuple[str, float]], float]:
        """Upper bounds, as text, with the number of values up to each; and the sum of all values."""
        with self._lock:
            counts, total = list(self._counts), self._sum
        ends = [*map(repr, map(float, self._bounds[:-1])), "+Inf"]
        return list(zip(ends, map(float, accumulate(counts)), strict=True)), total


MOST_ERRORS = 50
"""Types of errors with a label of their own in a stage; others share one."""
_REASONS = ("exhausted", "rejected", "undecodable", "tombstone", "expired", "crashed", "skipped")
_EVENTS = ("assigned", "revoked", "lost")


class Watched(Protocol):
    """The worker, as far as metrics need it."""

    @property
    def jobs(self) -> Sequence[TaskRuntime]: ...
    def health(self) -> Health: ...


class Metrics(Hooks, Collector):
    """`registry`: where the metrics are registered; None: their own, for `text`. One is enough for several workers.
    Raises ValueError when the registry has flux's metrics already."""

    def __init__(self, registry: CollectorRegistry | None = REGISTRY) -> None:
        self._registry = CollectorRegistry() if registry is None else registry
        self._own = registry is None
        self._workers: list[Watched] = []
        self._lags = Lags(self._jobs)
        self._lock = Lock()
        self._counts: dict[tuple[Metric, tuple[str, ...]], int] = {}
        self._errors: dict[StageInfo, set[str]] = {}
        self._histograms: dict[StageInfo, tuple[Histogram, Histogram]] = {}
        self._batches: dict[StageInfo, Histogram] = {}
        self._registry.register(self)

    def watch(self, worker: Watched) -> None:
        """Adds a worker's metrics. To be called before it runs, as handlers are wrapped at its start."""
        self._workers.append(worker)
        for job in worker.jobs:
            job.hooks = [*job.hooks, self]
            # A counter that starts with its first event hides that event from rate() and increase().
            for stage in job.policy.stages:
                where = StageInfo(job.name, stage.number, stage.topic, stage.group)
                for reason in _REASONS:
                    self._count(names.DEAD, where, reason, 0)
                for event in _EVENTS:
                    self._count(names.REBALANCES, where, event, 0)
        self._lags.start()

    def text(self) -> str:
        """The registry's metrics in the text format, with those of prometheus-client's default registry."""
        data: bytes = generate_latest(self._registry)
        if self._own:
            data += generate_latest(REGISTRY)
        return data.decode()

    def close(self) -> None:
        self._lags.stop()
        with suppress(KeyError):
            self._registry.unregister(self)

    # ---- hooks

    def on_calls(self, where: StageInfo, report: CallsReport) -> None:
        durations, lateness = self._of(where)
        durations.observe_all(report.seconds)
        lateness.observe_all(report.late)
        if report.batch and report.seconds:
            self._batches.setdefault(where, Histogram(names.BATCH.buckets)).observe(report.records)
        for name, number in report.failures.items():
            known = self._errors.setdefault(where, set())
            if name not in known:
                if len(known) >= MOST_ERRORS:
                    name = "other"
                known.add(name)
            self._count(names.FAILURES, where, name, number)

    def on_dead_letter(self, where: StageInfo, message: Message, reason: str, error: str) -> None:
        self._count(names.DEAD, where, reason)

    def on_assigned(self, where: StageInfo, partitions: Sequence[TopicPartition]) -> None:
        self._count(names.REBALANCES, where, "assigned")

    def on_revoked(self, where: StageInfo, partitions: Sequence[TopicPartition]) -> None:
        self._count(names.REBALANCES, where, "revoked")

    def on_lost(self, where: StageInfo, partitions: Sequence[TopicPartition]) -> None:
        self._count(names.REBALANCES, where, "lost")

    def _count(self, metric: Metric, where: StageInfo, kind: str, more: int = 1) -> None:
        key = metric, (where.task, str(where.stage), kind)
        with self._lock:
            self._counts[key] = self._counts.get(key, 0) + more

    def _of(self, where: StageInfo) -> tuple[Histogram, Histogram]:
        """Durations and lateness of a stage."""
        found = self._histograms.get(where)
        if found is None:
            made = Histogram(names.DURATION.buckets), Histogram(names.LATENESS.buckets)
            found = self._histograms.setdefault(where, made)
        return found

    # ---- read when scraped

    def describe(self) -> Iterable[Family]:
        """Lets a registry refuse a second instance."""
        return [_made(metric) for metric in names.ALL if metric is not names.UP]

    def collect(self) -> Iterator[Family]:
        families = _Families()
        with self._lock:
            counts = dict(self._counts)
        for (metric, labels), number in counts.items():
            families.set(metric, labels, number)
        for where, (durations, lateness) in list(self._histograms.items()):
            families.fill(names.DURATION, (where.task, str(where.stage)), durations)
            families.fill(names.LATENESS, (where.task, str(where.stage)), lateness)
        for where, sizes in list(self._batches.items()):
            families.fill(names.BATCH, (where.task, str(where.stage)), sizes)
        for job in self._jobs():
            self._read(job, families)
        for topic, records in _buffered().items():
            families.set(names.BUFFERED, (topic,), records)
        healths = [worker.health() for worker in self._workers]
        families.set(names.READY, (), all(health.ready for health in healths))
        families.set(names.LIVE, (), all(health.live for health in healths))
        families.set(names.BUILD, (__version__,), 1)
        return iter(families)

    def _jobs(self) -> list[TaskRuntime]:
        return [job for worker in self._workers for job in worker.jobs]

    def _read(self, job: TaskRuntime, families: _Families) -> None:
        families.set(names.LIMIT, (job.name,), job.policy.concurrency)
        coordinator = job.coordinator
        if coordinator is None:
            return
        paused, pauses = coordinator.verdicts.paused()
        ended = coordinator.ending.ended
        paused_names = 0 if ended else max(coordinator.inspection.read(_paused_names), default=0)
        families.set(names.PAUSED, (job.name,), paused or (bool(coordinator.control.held) and not ended))
        families.set(names.PAUSED_NAMES, (job.name,), paused_names)
        if coordinator.control.rate_here is not None:
            families.set(names.RATE_LIMIT, (job.name,), coordinator.control.rate_here)
        families.set(names.PAUSES, (job.name,), pauses.number)
        families.set(names.PAUSED_SECONDS, (job.name,), pauses.seconds)
        coordinator.inspection.read(lambda runtime, now: self._read_stage(job.name, runtime, now, families))

    def _read_stage(self, task: str, runtime: StageRuntime, now: float, families: _Families) -> None:
        engine, stats = runtime.engine, runtime.engine.stats
        stage = (task, str(engine.stage.number))
        topic = (*stage, engine.stage.topic)
        families.set(names.CALLS, (*stage, "done"), stats.done)
        families.set(names.CALLS, (*stage, "failed"), stats.failed)
        families.set(names.TRANSFERS, (*stage, "retry"), stats.retried)
        families.set(names.TRANSFERS, (*stage, "dlq"), stats.dead)
        families.set(names.LATE, stage, stats.late)
        families.set(names.REPLACED, stage, stats.replaced)
        families.set(names.COMMITS, (*stage, "done"), stats.commits)
        families.set(names.COMMITS, (*stage, "failed"), stats.commit_failures)
        families.set(names.WAITING, stage, engine.waiting)
        families.set(names.IN_PLACE, stage, in_place(engine))
        families.set(names.LIMITED, stage, sum(records for *_, records in limited_by_name(engine)))
        families.set(names.IN_FLIGHT, stage, len(calls_of(engine)))
        families.set(names.OPEN, stage, engine.open_forwards)
        families.set(names.PARTITIONS, topic, len(engine.partitions))
        families.set(names.CRASH_SUSPECTS, stage, len(engine.suspicious))
        if not runtime.left:
            families.set(names.POLL_AGE, stage, max(0.0, now - runtime.stepped_at))
        lag = self._lags.of(engine)
        if lag is not None:
            families.set(names.LAG, topic, lag.all)
            families.set(names.DUE, topic, lag.due)


_FAMILIES: dict[str, Any] = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
}


def _made(metric: Metric) -> Any:
    return _FAMILIES[metric.kind](metric.name, metric.help, labels=metric.labels)


class _Families:
    """Metric families of one scrape."""

    def __init__(self) -> None:
        self._families: dict[str, Any] = {}

    def set(self, metric: Metric, labels: Sequence[str], value: float) -> None:
        self._of(metric).add_metric(labels, float(value))

    def fill(self, metric: Metric, labels: Sequence[str], histogram: Histogram) -> None:
        buckets, total = histogram.read()
        self._of(metric).add_metric(labels, buckets, total)

    def _of(self, metric: Metric) -> Any:
        family = self._families.get(metric.name)
        if family is None:
            family = self._families[metric.name] = _made(metric)
        return family

    def __iter__(self) -> Iterator[Family]:
        return iter(self._families.values())


def _buffered() -> Counter[str]:
    found: Counter[str] = Counter()
    for buffer in PRODUCERS.all():
        found[buffer.topic] += len(buffer.filling)
    return found


def _paused_names(runtime: StageRuntime, now: float) -> int:
    """All stages of a task share them."""
    breakers = runtime.engine.call_limits.breakers
    return 0 if breakers is None else len(breakers.paused)
