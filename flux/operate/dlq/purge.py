"""Deletes dead letters up to a point, for good."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from flux.consuming.topic_setup import REQUEST_TIMEOUT
from flux.core.errors import BrokerError, ConfigurationError
from flux.core.policy import Policy
from flux.core.ports import AdminPort, Cluster
from flux.operate.dlq.replay_plan import ReplayProgress, replay_group
from flux.operate.reading import Span, Spans, read, spans_of

_NEWEST = 100
"""Offsets at the end of a partition, among which there is a record although transactions leave markers."""


@attrs.frozen
class PurgePlan:
    """`before`: the first offset that stays, of each partition that loses any. `records`: offsets to delete.
    `not_replayed`: those of them that no replay without filters has passed."""

    topic: str
    before: Mapping[int, int]
    records: int
    not_replayed: int


def plan_purge(
    adapter: Cluster,
    admin: AdminPort,
    policy: Policy,
    *,
    before: Mapping[int, int] | None = None,
    until_ms: int | None = None,
    replayed: bool = False,
) -> PurgePlan:
    """Up to an offset in each partition, up to a time (milliseconds since the epoch), or all that is replayed; without
    any of these, all. Raises ConfigurationError for an offset beyond the end, and BrokerError where the broker cannot
    tell yet what is younger than a time."""
    topic = policy.stages[policy.stages.dead].topic
    spans = spans_of(admin, topic)
    stored = admin.committed_offsets(replay_group(policy), topic, REQUEST_TIMEOUT)
    done = {number: ReplayProgress.of(stored[number]).offset for number in spans if number in stored}
    if before is not None:
        points = dict(before)
        for number, offset in points.items():
            if number not in spans or offset > spans[number].end:
                there = f"ends at {spans[number].end}" if number in spans else "does not exist"
                raise ConfigurationError(f"partition {number} of {topic} {there}: nothing is before {offset}")
    elif until_ms is not None:
        points = admin.offsets_at(topic, until_ms, REQUEST_TIMEOUT)
        _check_newest(adapter, topic, spans, points, until_ms)
    elif replayed:
        points = done
    else:
        points = {number: span.end for number, span in spans.items()}
    ends = {n: min(points[n], span.end) for n, span in spans.items() if points.get(n, 0) > span.start}
    return PurgePlan(
        topic,
        ends,
        sum(end - spans[n].start for n, end in ends.items()),
        sum(max(0, end - max(done.get(n, 0), spans[n].start)) for n, end in ends.items()),
    )


def _check_newest(adapter: Cluster, topic: str, spans: Spans, points: Mapping[int, int], until_ms: int) -> None:
    """After a deletion, Kafka finds no record for a time before that of the deleted ones, until it removes their
    segment: the point would be the end, and younger records would be deleted too."""
    doubtful = {
        number: Span(max(span.start, span.end - _NEWEST), span.end)
        for number, span in spans.items()
        if 0 < span.start < span.end <= points.get(number, 0)
    }
    for batch in read(adapter, topic, doubtful):
        if any(record.timestamp()[1] >= until_ms for record in batch.records):
            raise BrokerError(
                f"{topic} has younger dead letters, which the broker does not find by their time just after others"
                " were deleted: try again in ten minutes"
            )


def purge(admin: AdminPort, plan: PurgePlan) -> None:
    """Raises BrokerError."""
    admin.delete_records(plan.topic, plan.before, REQUEST_TIMEOUT)
