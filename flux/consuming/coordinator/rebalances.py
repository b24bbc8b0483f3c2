"""Tells, in the log and to hooks, which partitions come and go."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from flux.consuming.coordinator.common import Shared
from flux.consuming.coordinator.stage_runtime import StageRuntime
from flux.consuming.hook_dispatch import Event, log_fields
from flux.core.hooks import StageInfo
from flux.core.ports import TopicPartition

logger = logging.getLogger("flux.worker")


class Rebalances:
    def __init__(self, common: Shared) -> None:
        self._common = common
        self._lost: dict[StageInfo, list[TopicPartition]] = {}
        """Not told yet: a cause that takes partitions from one stage takes them from all, one after the other."""

    def announce(self, runtime: StageRuntime, event: str, partitions: Sequence[TopicPartition]) -> None:
        """A line for the log, unless nothing changed."""
        if partitions or not runtime.joined:
            numbers = ", ".join(str(each.partition) for each in partitions)
            logger.info("%s %s: %s", runtime, event, numbers or "nothing", extra=log_fields(runtime.where))

    def tell(self, runtime: StageRuntime, event: Event, partitions: Sequence[TopicPartition]) -> None:
        """Hooks hear of it."""
        if partitions:
            self._common.heard.tell(event, runtime.where, tuple(partitions))

    def lost(self, runtime: StageRuntime, partitions: Sequence[TopicPartition]) -> None:
        """They are another member's by now."""
        with self._common.lock:
            runtime.engine.lost(partitions)
            if partitions:
                self._lost.setdefault(runtime.where, []).extend(partitions)

    def name_lost(self) -> None:
        """Names in the log what was lost since."""
        with self._common.lock:
            lost, self._lost = self._lost, {}
        if lost:
            self._common.task_log.lost(list(lost.items()))
