"""Deletes dead letters up to a point, for good."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import attrs

from flux.consuming.topic_setup import REQUEST_TIMEOUT
from flux.core.errors import BrokerError, ConfigurationError
from flux.core.policy import Policy
from flux.core.ports import AdminPort, Cluster, System
from flux.operate.dlq.dead_letters import dead_letter_of
from flux.operate.dlq.replay_progress import DeadLetterState, ReplayProgress, replay_group
from flux.operate.formatting import many
from flux.operate.held_keys import held_by, read_key_order
from flux.operate.reading import Span, Spans, read, spans_of
from flux.system import SYSTEM

_NEWEST = 100
"""Offsets at the end of a partition, among which there is a record although transactions leave markers."""


@attrs.frozen
class PurgePlan:
    """`before`: the first offset that stays, of each partition that loses any. `counts`: the dead letters to delete of
    each; `open`: those that are neither replayed nor rejected. `exact`: all were read; else what was not read counts by
    its offsets, of which transactions take some, and as open."""

    topic: str
    before: Mapping[int, int]
    counts: Mapping[int, int]
    open: int
    exact: bool = True

    @property
    def records(self) -> int:
        return sum(self.counts.values())


def plan_purge(
    adapter: Cluster,
    admin: AdminPort,
    policy: Policy,
    *,
    before: Mapping[int, int] | None = None,
    until_ms: int | None = None,
    replayed: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
    system: System = SYSTEM,
) -> PurgePlan:
    """Up to an offset in each partition, up to a time (milliseconds since the epoch), or all below the committed offset
    of replays; without any of these, all. Reads them to count them, until `should_stop()`. Raises ConfigurationError
    for an offset beyond the end and for dead letters that hold their keys, and BrokerError where the broker cannot tell
    yet what is younger than a time."""
    topic = policy.stages[policy.stages.dead].topic
    spans = spans_of(admin, topic)
    stored = admin.committed_offsets(replay_group(policy), topic, REQUEST_TIMEOUT)
    progress = {number: ReplayProgress.of(stored[number]) for number in spans if number in stored}
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
        points = {number: each.offset for number, each in progress.items()}
    else:
        points = {number: span.end for number, span in spans.items()}
    ends = {n: min(points[n], span.end) for n, span in spans.items() if points.get(n, 0) > span.start}
    deleted = {number: Span(spans[number].start, end) for number, end in ends.items()}
    counts, open_, left = dict.fromkeys(ends, 0), 0, dict(deleted)
    now_ms = int(system.now() * 1000)
    view, holding = read_key_order(adapter, admin, policy, system), 0
    for batch in read(adapter, topic, deleted, should_stop=should_stop, system=system):
        number = batch.partition
        known = progress.get(number, ReplayProgress(0))
        counts[number] += len(batch.records)
        letters = [dead_letter_of(record, policy, now_ms) for record in batch.records]
        holding += sum(held_by(view, each.message) is not None for each in letters)
        open_ += sum(known.state_of(each) is DeadLetterState.OPEN for each in letters)
        left[number] = Span(batch.reached, ends[number])
    if holding:
        raise ConfigurationError(
            f"{many(holding, 'dead letter')} of {topic} would leave {'its' if holding == 1 else 'their'} key held for"
            " ever: replay or reject first, see `flux dlq list`"
        )
    for number, span in left.items():
        counts[number] += span.end - span.start
        open_ += span.end - span.start
    exact = all(span.start >= span.end for span in left.values())
    return PurgePlan(topic, ends, counts, open_, exact)


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
