"""Logs rebalances and notifies hooks of them."""

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
        """Not logged yet: if one stage loses partitions, the others usually lose theirs a moment later."""

    def announce(self, runtime: StageRuntime, event: str, partitions: Sequence[TopicPartition]) -> None:
        """Logs a rebalance, unless nothing changed."""
        if partitions or not runtime.joined:
            numbers = ", ".join(str(each.partition) for each in partitions)
            logger.info("%s %s: %s", runtime, event, numbers or "nothing", extra=log_fields(runtime.where))

    def notify(self, runtime: StageRuntime, event: Event, partitions: Sequence[TopicPartition]) -> None:
        """Notifies hooks."""
        if partitions:
            self._common.hook_dispatch.notify(event, runtime.where, tuple(partitions))

    def lost(self, runtime: StageRuntime, partitions: Sequence[TopicPartition]) -> None:
        """The partitions were lost: another member may own them."""
        with self._common.lock:
            runtime.engine.lost(partitions)
            if partitions:
                self._lost.setdefault(runtime.where, []).extend(partitions)

    def log_lost(self) -> None:
        """Logs all partitions that were lost since the last call, in one line."""
        with self._common.lock:
            lost, self._lost = self._lost, {}
        if lost:
            self._common.task_log.lost(list(lost.items()))
