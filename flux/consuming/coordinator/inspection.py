"""The state of a task: logs what makes no progress, and answers probes, reports and metrics."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from flux.consuming.call_timing import SlowCalls
from flux.consuming.coordinator.common import Shared, StageRuntime
from flux.consuming.hook_dispatch import log_fields
from flux.consuming.open_transactions import held_back
from flux.consuming.topic_setup import REQUEST_TIMEOUT
from flux.core.backoff import in_words
from flux.core.engine.commands import Stall
from flux.core.errors import BrokerError
from flux.core.monitoring.health import Pulse
from flux.core.ports import AdminPort, TopicPartition
from flux.system import stack_of_thread

T = TypeVar("T")
logger = logging.getLogger("flux.worker")

_MOST_NAMED = 5
_EVERY = 1.0  # seconds between two checks for stalls


class Inspection:
    """`log_rebalances`: logs the partitions that changed since its last call."""

    ENTRANCES = ("check",)

    def __init__(self, common: Shared, log_rebalances: Callable[[], None]) -> None:
        self._common = common
        self._log_rebalances = log_rebalances
        self.slow_calls: SlowCalls | None = None
        """For a blocking handler with a time limit."""
        self._again_at = 0.0

    def check(self) -> None:
        """Logs partitions without progress, and stages without an assignment."""
        common = self._common
        task_log, runtimes = common.task_log, common.runtimes
        with common.lock:
            now = common.system.monotonic()
            if now < self._again_at:
                return
            self._again_at = now + _EVERY
            stalls = [(runtime, stall) for runtime in runtimes for stall in runtime.engine.stalled(now)]
            stalls += [(runtime, stall) for runtime in runtimes for stall in self._unjoined_locked(runtime, now)]
        self._log_rebalances()
        self.log_counts(now)
        for late in self.slow_calls.found(now) if self.slow_calls is not None else ():
            where = common.hook_dispatch.of(late.message.stage)
            task_log.slow_calls(where, late, now - late.began, stack_of_thread(late.thread))
        for runtime, stall in stalls:
            task_log.stalled(runtime.where, stall, "" if stall.run is None else common.driver.stack_of(stall.run))

    def log_counts(self, now: float, at_end: bool = False) -> None:
        """Logs how often calls have failed since that was logged; `at_end`: also what a later line would count."""
        common = self._common
        with common.lock:
            counts = [(runtime, each) for runtime in common.runtimes for each in runtime.failures.counts(now, at_end)]
        for runtime, count in counts:
            common.task_log.counted(runtime.where, count)

    def _unjoined_locked(self, runtime: StageRuntime, now: float) -> list[Stall]:
        patience = self._common.policy.stalled_after
        if runtime.has_joined or runtime.left or not 0 < patience <= now - max(runtime.began_at, runtime.reported_at):
            return []
        runtime.reported_at = now
        return [Stall(f"{runtime} has waited for an assignment for {now - runtime.began_at:.0f} s")]

    def starved(self) -> list[StageRuntime]:
        """Stages without records for `stalled_after`; each again after as long. The caller checks whether the cluster
        has any."""
        common = self._common
        with common.lock:
            now = common.system.monotonic()
            starved = []
            for runtime in common.runtimes:
                waits = runtime.joined and not runtime.left
                if not runtime.engine.empty:
                    runtime.received_at = now
                elif waits and 0 < common.policy.stalled_after <= now - runtime.received_at:
                    runtime.received_at = now
                    starved.append(runtime)
        return starved

    # ---- state

    def read(self, look: Callable[[StageRuntime, float], T]) -> list[T]:
        """The results of `look`, called with each stage and the time under the lock; it must be quick."""
        with self._common.lock:
            return [look(runtime, runtime.now_locked()) for runtime in self._common.runtimes]

    def stage_health(self) -> list[Pulse]:
        """The state of each stage for probes."""
        patience = self._common.policy.stalled_after
        return self.read(
            lambda runtime, now: Pulse(
                str(runtime),
                runtime.has_joined,
                runtime.left,
                waited=now - runtime.began_at,
                still=0.0 if runtime.dormant else now - runtime.stepped_at,
                patience=patience,
            )
        )

    def calls(self) -> int:
        """Number of running runs."""
        return sum(self.read(lambda runtime, now: runtime.engine.calls))

    def idle(self) -> bool:
        """Whether no record is in flight or waiting here, except those `refused`; the cluster may have more."""
        return all(self.read(lambda runtime, now: runtime.dormant or (runtime.joined and runtime.engine.rests(now))))

    def _read_offsets(self) -> list[tuple[str, Mapping[TopicPartition, int]]]:
        """Each stage's topic, with the offset after the last delivered record of each partition; negative if not
        known."""
        return self.read(lambda runtime, now: (str(runtime), runtime.engine.read_offsets()))

    # ---- records that the task does not get to

    def has_unread(self, admin: AdminPort) -> bool:
        """Whether any assigned partition holds more than was delivered; True also when the cluster does not answer."""
        try:
            return any(_unread(admin, topic, ends) for topic, ends in self._read_offsets())
        except BrokerError:
            return True

    def log_starved(self, runtimes: Sequence[StageRuntime], admin: AdminPort, cluster: str) -> None:
        """Names in the log the partitions of these stages that hold unread records."""
        ends = dict(self._read_offsets())
        for runtime in runtimes:
            try:
                unread = _unread(admin, str(runtime), ends[str(runtime)])
                stable = admin.stable_offsets(str(runtime), REQUEST_TIMEOUT) if unread else {}
            except BrokerError as error:
                logger.warning(
                    "%s has had no records for long, and the cluster does not answer: %s",
                    runtime,
                    error,
                    extra=log_fields(runtime.where),
                )
                continue
            read = ends[str(runtime)]
            held = [each for each in unread if stable.get(each.partition, math.inf) <= read[each]]
            if held:
                first = held_back(admin, held[0], stable[held[0].partition], cluster, self._common.system)
                logger.warning(
                    "%s: an open transaction holds back all records from there on, for %s: %s",
                    ", ".join(f"{partition}@{stable[partition.partition]}" for partition in held),
                    in_words(round(self._common.system.now() - first.since)),
                    first.remedy,
                    extra=log_fields(runtime.where),
                )
            unread = [each for each in unread if each not in held]
            if unread:
                logger.warning(
                    "%s has had no records for %.0f s, but there are some: it waits for a fetch",
                    ", ".join(map(str, unread)),
                    self._common.policy.stalled_after,
                    extra=log_fields(runtime.where),
                )

    def log_refused(self, task: str) -> bool:
        """Names in the log the records that their next topic refuses. Returns whether there are any."""
        forwards = [each for all_ in self.read(lambda runtime, now: list(runtime.engine.refused)) for each in all_]
        if forwards:
            named = "; ".join(map(str, forwards[:_MOST_NAMED]))
            more = f" and {len(forwards) - _MOST_NAMED:,} more" if len(forwards) > _MOST_NAMED else ""
            logger.error("%s: not forwarded, and still to be processed: %s%s", task, named, more)
        return bool(forwards)


def _unread(admin: AdminPort, topic: str, ends: Mapping[TopicPartition, int]) -> list[TopicPartition]:
    """The partitions that hold more than was read. `ends`: the offset after the last record read."""
    marks = admin.watermarks(topic, REQUEST_TIMEOUT)
    found = ((partition, end, marks.get(partition.partition)) for partition, end in ends.items())
    return [partition for partition, end, mark in found if mark is not None and mark.high > max(end, mark.low)]
