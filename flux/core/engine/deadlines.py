"""What is ahead of a stage: whether anything is left to do, and when, though no fact comes; so for how long a poll may
wait."""

from __future__ import annotations

from collections.abc import Iterator

from flux.core.engine.assignment import Entry
from flux.core.engine.common import Common
from flux.core.engine.dispatch import Dispatch
from flux.core.engine.partitions import Partitions
from flux.core.engine.retries import Retries

REST = 0.25
"""Seconds that a poll may wait when nothing is due: how long a stop or a wake-up may take."""
PAUSED_REST = 0.05
"""The same while a partition is paused, and may be resumed meanwhile."""
BUSY_REST = 0.005
"""The same while there is work at hand."""
LEAST_REST = 0.001
"""Clients count milliseconds: a shorter wait is none, and a stage would poll in a hot loop until a record is due."""


class Deadlines:
    """Of one stage."""

    __slots__ = ("_common", "_dispatch", "_partitions", "_retries")

    def __init__(self, common: Common, partitions: Partitions, dispatch: Dispatch, retries: Retries) -> None:
        self._common = common
        self._partitions = partitions
        self._dispatch = dispatch
        self._retries = retries

    @property
    def blocked(self) -> bool:
        """Whether nothing may begin, whatever the time."""
        return self._common.stopping or self._retries.forwards.blocked

    def at_hand(self, now: float) -> int:
        """About how many callers could get work, if the gate let them."""
        in_place = self._retries.in_place.next_due
        return self._dispatch.work.at_hand(now) + (in_place is not None and in_place <= now)

    def ready(self, now: float) -> int:
        """About how many callers could get work from `take` now."""
        gate = self._common.gate
        if self.blocked or (gate.limited and not gate.most(now)):
            return 0
        return self.at_hand(now)

    def begins_at(self, now: float) -> float | None:
        """When calls of records that are here and due may begin, where only time keeps them: the rate, a pause, a try
        in place, a batch that is not full."""
        if self.blocked:
            return None
        ends = (self._retries.in_place.next_due, self._common.key_queues.deadline())
        times = [time for time in ends if time is not None and time > now]
        opens = self._common.gate.opens_at(now)
        if opens is not None and opens > now and self.at_hand(now):
            times.append(opens)
        return min(times, default=None)

    def deadline(self, now: float) -> float | None:
        """When something is to be done although no fact comes: a record is due, a forwarded copy is tried again, a
        commit."""
        due = self._dispatch.work.delay_queue.next_due
        if due is not None and (self.blocked or due <= self._common.wall_ms(now)):
            due = None  # nothing begins any more, or it waits for the cluster or a caller: no time changes that
        times = (
            None if due is None else due / 1000 - self._common.epoch,
            self.begins_at(now),
            self._retries.forwards.deadline,
            self._common.commits.deadline(now),
        )
        return min((time for time in times if time is not None), default=None)

    def rest(self, now: float) -> float:
        """Seconds for which a poll may wait."""
        deadline, ready, forwards = self.deadline(now), self.ready(now), self._retries.forwards
        # a time that is past is a forwarded copy's that somebody writes already, or is to be written in this very turn
        rest = REST if deadline is None else min(deadline - now if deadline > now else BUSY_REST, REST)
        if self._dispatch.work.paused:
            rest = min(rest, PAUSED_REST)
        if ready and not self._dispatch.dispatch_mode.slow:
            rest = LEAST_REST  # it became due since the poller looked, who is to work it
        elif ready or forwards.queued or forwards.writing:
            rest = min(rest, BUSY_REST)
        return max(rest, LEAST_REST)

    @property
    def empty(self) -> bool:
        """Nothing is in flight, here and not begun, or waiting."""
        return not (
            self._dispatch.running
            or len(self._dispatch.work)
            or len(self._retries.in_place)
            or len(self._retries.forwards)
            or self._partitions.resets
            or any(assignment.open for assignment in self._partitions.assignments.values())
        )

    def rests(self, now: float) -> bool:
        """Nothing goes on by itself: as `empty`, but for records that the next topic refuses and what waits behind
        them for their keys."""
        forwards = self._retries.forwards
        return self.empty or not (
            self._dispatch.running
            or len(forwards.refused) < len(forwards)
            or len(self._dispatch.work.delay_queue)
            or len(self._retries.in_place)
            or self._partitions.resets
            or self.at_hand(now)
            or any(not forwards.has(entry) for entry in self._open())
        )

    @property
    def quiet(self) -> bool:
        """No call is running, no transfer may still end by itself, nothing waits for what it produced."""
        retries = self._retries
        return not (self._dispatch.running or retries.forwards.any_moving or any(map(retries.in_flight, self._open())))

    def _open(self) -> Iterator[Entry]:
        return (entry for assignment in self._partitions.assignments.values() for entry in assignment.open)
