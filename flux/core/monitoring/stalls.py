"""Finds partitions that have records to process and make no progress, and what they wait for."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from flux.core.engine.assignment import Assignment
from flux.core.engine.commands import Stall
from flux.core.engine.common import Common
from flux.core.engine.forwarding import Forwards
from flux.core.engine.runs import Run


@attrs.define
class _WatchedPartition:
    changes: int
    since: float
    report_at: float


class StallDetector:
    """Of one stage. `patience`: a partition with records that completes none in as many seconds is stalled. It is
    reported again after twice the time."""

    __slots__ = ("_patience", "_watched")

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._watched: dict[Assignment, _WatchedPartition] = {}

    def stalled(self, assignments: Iterable[Assignment], now: float) -> list[tuple[Assignment, float]]:
        """The partitions to report now, with the seconds since their last progress."""
        watched: dict[Assignment, _WatchedPartition] = {}
        stalled = []
        for assignment in assignments:
            changes = 0 if assignment.offset_tracker is None else assignment.offset_tracker.changes
            watch = self._watched.get(assignment)
            if watch is None or watch.changes != changes or now < watch.since or not _has_work(assignment):
                watch = _WatchedPartition(changes, now, now + self._patience)
            elif now >= watch.report_at:
                standing = now - watch.since
                watch.report_at = now + standing
                stalled.append((assignment, standing))
            watched[assignment] = watch
        self._watched = watched
        return stalled


def what_holds(
    assignment: Assignment,
    standing: float,
    running: Iterable[Run],
    forwards: Forwards,
    common: Common,
    now: float,
) -> Stall:
    """What a partition waits for that has made no progress for `standing` seconds."""
    at = assignment.partition
    where = f"{at} has made no progress for {standing:.0f} s: it waits for"
    for run in running:
        if assignment in run.assignments():
            ago = now - run.started
            return Stall(f"{where} the call of record {run.offset}, which has run for {ago:.0f} s", run, at)
    for entry in assignment.open:
        forward = forwards.of(entry)
        if entry.waits:
            return Stall(f"{where} record {entry.offset} to be tried again in place", about=at)
        if forward is None:
            return Stall(f"{where} the acknowledgement of what the call of record {entry.offset} produced", about=at)
        target, state = forward.forwarded_copy.target.topic, forward.state.value
        return Stall(
            f"{where} the write of record {entry.offset} to {target} ({state}, {forward.failures} failures)", about=at
        )
    if forwards.blocked:
        return Stall(f"{where} {len(forwards)} writes of its stage that are under way", about=at)
    paused_at, committing = common.call_limits.breaker.since, common.commits.waited(now)
    hold = common.call_limits.held.get(common.stage.number)
    if hold is not None:
        return Stall(f"{where} flux resume, as {hold.by} has paused it", about=at)
    if paused_at is not None:
        return Stall(f"{where} the end of a pause, which began {now - paused_at:.0f} s ago", about=at)
    if committing >= standing:
        return Stall(f"{where} a commit, since {committing:.0f} s", about=at)
    return Stall(f"{where} a free call (concurrency = {common.policy.concurrency})", about=at)


def _has_work(assignment: Assignment) -> bool:
    return bool(assignment.running or assignment.open or assignment.backlogged or assignment.in_key_queues)
