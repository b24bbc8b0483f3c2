"""The lag of stages. A thread of its own reads the ends of topics every 10 s, so that no scrape waits for a cluster."""

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
"""Seconds between two readings."""
_TIMEOUT = 10.0


@attrs.frozen
class Lag:
    """In offsets, which may be more than records."""

    all: int
    """From the committed offset to the end."""
    due: int
    """Without records that are not due yet."""


def lag_of(engine: Engine, marks: Mapping[int, Watermarks]) -> Lag:
    """The lag of a stage's assigned partitions. `marks`: their watermarks, by partition number. What a partition of a
    retry stage has not delivered yet is due after what waits there: its due order is its offset order."""
    ends, unfinished, waiting = engine.read_offsets(), engine.unfinished_offsets(), engine.waiting_offsets()
    lag = due = 0
    for partition, committed in engine.committable_offsets().items():
        mark = marks.get(partition.partition)
        if mark is None:
            continue
        behind = max(0, mark.high - max(committed, mark.low))
        unread = max(0, mark.high - max(ends[partition], mark.low))
        lag += behind
        if engine.stage.role is not Role.MAIN:
            behind = unfinished[partition] - waiting[partition] + (0 if waiting[partition] else unread)
        due += behind
    return Lag(lag, due)


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
        """None: not known yet."""
        marks = self._marks.get(engine)
        return None if marks is None or not engine.partitions else lag_of(engine, marks)

    def _run(self) -> None:
        while not self._stopped.wait(EVERY if self._marks else 1.0):
            for job in self._jobs():
                self._read(job)

    def _read(self, job: TaskRuntime) -> None:
        coordinator = job.coordinator
        if coordinator is None or not job.started or coordinator.ending.ended or self._stopped.is_set():
            return
        for runtime in coordinator.runtimes:
            engine = runtime.engine
            try:
                self._marks[engine] = job.admin.watermarks(engine.stage.topic, _TIMEOUT)
            except Exception:  # of the cluster, or because the client is being closed
                self._marks.pop(engine, None)  # better none than an old one
                logger.debug("the ends of %s cannot be read", engine.stage.topic, exc_info=True)
