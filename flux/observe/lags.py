"""How far stages are behind: asks the cluster for the ends of topics now and then, on a thread of its own, so that no
scrape waits for a cluster."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence

import attrs

from flux.consuming.task_runtime import TaskRuntime
from flux.core.engine import Engine
from flux.core.ports import Watermarks
from flux.core.stage import Role

logger = logging.getLogger("flux.observe")

EVERY = 10.0
"""Seconds between two looks."""
_ASK = 10.0


@attrs.frozen
class Lag:
    """In records, as far as offsets tell."""

    all: int
    """From the position to the end."""
    due: int
    """Without those that wait."""


def lag_of(engine: Engine, marks: Mapping[int, Watermarks]) -> Lag:
    """Of the partitions that a stage has, `marks` being what its topic holds. What a retry stage has not read comes
    due after what waits there already: its due order is its offset order."""
    ends = engine.ends()
    lag = unread = 0
    for partition, position in engine.positions().items():
        mark = marks.get(partition.partition)
        if mark is not None:
            lag += max(0, mark.high - max(position, mark.low))
            unread += max(0, mark.high - max(ends[partition], mark.low))
    waiting = engine.waiting
    behind = unread if waiting and engine.stage.role is not Role.MAIN else 0
    return Lag(lag, max(0, lag - waiting - behind))


class Lags:
    """`of` needs the lock of the engine's coordinator."""

    def __init__(self, jobs: Callable[[], Sequence[TaskRuntime]]) -> None:
        self._jobs = jobs
        self._marks: dict[Engine, Mapping[int, Watermarks]] = {}
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="flux-lag", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        self._stopped.set()

    def of(self, engine: Engine) -> Lag | None:
        """None: the cluster has not told."""
        marks = self._marks.get(engine)
        return None if marks is None or not engine.partitions else lag_of(engine, marks)

    def _run(self) -> None:
        while not self._stopped.wait(EVERY if self._marks else 1.0):
            for job in self._jobs():
                self._ask(job)

    def _ask(self, job: TaskRuntime) -> None:
        coordinator = job.coordinator
        if coordinator is None or not job.started or coordinator.ending.ended or self._stopped.is_set():
            return
        for runtime in coordinator.runtimes:
            engine = runtime.engine
            try:
                self._marks[engine] = job.admin.watermarks(engine.stage.topic, _ASK)
            except Exception:  # of the cluster, or of a client that is being closed meanwhile
                self._marks.pop(engine, None)  # rather none than an old one
                logger.debug("the ends of %s cannot be had", engine.stage.topic, exc_info=True)
