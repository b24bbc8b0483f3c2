"""Records that a task does not get to: unread on the cluster, not arriving, or refused by their next topic."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from flux.consuming.coordinator import Coordinator, StageRuntime
from flux.consuming.topic_setup import REQUEST_TIMEOUT
from flux.core.errors import BrokerError
from flux.core.ports import AdminPort, TopicPartition

logger = logging.getLogger("flux.worker")

_MOST_NAMED = 5


def has_unread(coordinator: Coordinator, admin: AdminPort) -> bool:
    """Whether any assigned partition holds more than was delivered; True also when the cluster does not answer."""
    try:
        return any(_unread(admin, topic, ends) for topic, ends in coordinator.inspection.read_offsets())
    except BrokerError:
        return True


def log_starved(
    coordinator: Coordinator, admin: AdminPort, runtimes: Sequence[StageRuntime], stalled_after: float
) -> None:
    """Names in the log the partitions of these stages that hold unread records."""
    ends = dict(coordinator.inspection.read_offsets())
    for runtime in runtimes:
        try:
            unread = _unread(admin, str(runtime), ends[str(runtime)])
        except BrokerError as error:
            logger.warning("%s has had no records for long, and the cluster does not answer: %s", runtime, error)
            continue
        if unread:
            logger.warning(
                "%s has had no records for %.0f s, but there are some: it waits for a fetch",
                ", ".join(map(str, unread)),
                stalled_after,
            )


def log_refused(task: str, coordinator: Coordinator) -> bool:
    """Names in the log the records that their next topic refuses. Returns whether there are any."""
    refused = coordinator.inspection.refused()
    if refused:
        more = f" and {len(refused) - _MOST_NAMED:,} more" if len(refused) > _MOST_NAMED else ""
        logger.error("%s: not forwarded, and still to be processed: %s%s", task, "; ".join(refused[:_MOST_NAMED]), more)
    return bool(refused)


def _unread(admin: AdminPort, topic: str, ends: Mapping[TopicPartition, int]) -> list[TopicPartition]:
    """The partitions that hold more than was read. `ends`: the offset after the last record read."""
    marks = admin.watermarks(topic, REQUEST_TIMEOUT)
    found = ((partition, end, marks.get(partition.partition)) for partition, end in ends.items())
    return [partition for partition, end, mark in found if mark is not None and mark.high > max(end, mark.low)]
