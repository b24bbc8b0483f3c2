"""Whether a stage has anything left to do, when it has to act without a new fact, and how long a poll may wait."""

from __future__ import annotations

from collections.abc import Iterator

from flux.core.engine.common import Common
from flux.core.engine.dispatch import Dispatch
from flux.core.engine.forwarding import Forward
from flux.core.engine.partitions import Partitions
from flux.core.engine.retries import Retries
from flux.core.engine.slices import Entry
from flux.core.engine.suspects import Suspects
from flux.core.engine.transactions import Transactions

IDLE_REST = 0.5
"""Longest poll in seconds if no record is in memory, so the longest delay of a stop."""
REST = 0.25
"""Longest poll if nothing is due, while others may make calls."""
PAUSED_REST = 0.05
"""Longest poll while a partition is paused, because it may have to be resumed."""
BUSY_REST = 0.005
"""Longest poll while records can be processed."""
LATE = 1.0
"""Seconds without an answer of the cluster after which no short poll waits for the next one, as in an outage."""
LEAST_REST = 0.001
"""Clients count milliseconds: with a shorter poll a stage would run a hot loop until a record is due."""


class Deadlines:
    """Of one stage."""

    __slots__ = ("_answers", "_common", "_dispatch", "_partitions", "_retries", "_since", "_suspects", "_transactions")

    def __init__(
        self,
        common: Common,
        partitions: Partitions,
        dispatch: Dispatch,
        retries: Retries,
        transactions: Transactions,
        suspects: Suspects,
    ) -> None:
        self._common = common
        self._partitions = partitions
        self._dispatch = dispatch
        self._retries = retries
        self._transactions = transactions
        self._suspects = suspects
        self._answers: int | None = None
        """Number of the cluster's answers at the last look; None: none was awaited."""
        self._since = 0.0
        """When that number changed, or the first answer was awaited."""

    @property
    def blocked(self) -> bool:
        """Whether no call may start, whatever the time."""
        retries = self._retries
        full = retries.forwards.blocked or retries.unacknowledged.blocked
        held = self._common.stage.number in self._common.call_limits.held
        return self._common.stopping or held or full or self._transactions.blocked

    def wants_alone(self, now: float) -> bool:
        """Whether its call is, or its next one is to be, the only one of the process: no other run may start."""
        suspects = self._suspects
        return bool(suspects.calls or suspects.named) or (suspects.wanted(now) and self.admits(now))

    def admits(self, now: float) -> bool:
        """Whether a call may start, if there is a record."""
        limits = self._common.call_limits
        return not (self.blocked or (limits.limited and not limits.most(now)))

    def available(self, now: float) -> int:
        """About how many callers could get a run, without regard to pauses and the rate limit."""
        in_place = self._retries.in_place.next_due
        if self.wants_alone(now):
            return self._suspects.available
        return self._dispatch.work.available(now) + (in_place is not None and in_place <= now)

    def ready(self, now: float) -> int:
        """About how many callers could get a run from `take` now."""
        return self.available(now) if self.admits(now) else 0

    def begins_at(self, now: float, probes: bool = True) -> float | None:
        """When the next call may start that only waits for time: for the rate limit, a retry in place, a batch that is
        not full, or, with `probes`, the end of a pause."""
        if self.blocked or (self._common.call_limits.breaker.paused and not probes):
            return None
        ends = (self._retries.in_place.next_due, self._common.key_queues.deadline(probes))
        times = [time for time in ends if time is not None and time > now]
        opens = self._common.call_limits.opens_at(now)
        if opens is not None and opens > now and self.available(now):
            times.append(opens)
        return min(times, default=None)

    def deadline(self, now: float) -> float | None:
        """When the stage has to act without a new fact: a record is due, a forwarded copy is retried, a commit."""
        due = self._dispatch.work.delay_queue.next_due
        if due is not None and (self.blocked or due <= self._common.wall_ms(now)):
            due = None  # it waits for the cluster or a caller, or the stage stops: time does not change that
        times = (
            None if due is None else due / 1000 - self._common.epoch,
            self.begins_at(now),
            self._transactions.postponed(self._retries.forwards.deadline),
            self._transactions.postponed(self._common.commits.deadline(now)),
        )
        return min((time for time in times if time is not None), default=None)

    def rest(self, now: float) -> float:
        """Seconds that a poll may wait."""
        deadline, ready = self.deadline(now), self.ready(now)
        if deadline is None:
            rest = IDLE_REST if self.empty else REST
        else:
            # one in the past is that of a forwarded copy that is being written, or will be in this turn
            rest = min(deadline - now if deadline > now else BUSY_REST, REST)
        order = self._retries.order
        if self._dispatch.work.paused or (order is not None and order.parked) or self._dispatch.work.backlogs.held:
            rest = min(rest, PAUSED_REST)
        soon = self._answers_soon(now)
        if ready and not self._dispatch.dispatch_mode.slow:
            rest = LEAST_REST  # a record became due after the poller's last check, and the poller has to process it
        elif ready or soon:
            rest = min(rest, BUSY_REST)
        return max(rest, LEAST_REST)

    def _answers_soon(self, now: float) -> bool:
        """Whether an answer of the cluster that the stage waits for is likely to come in the next poll."""
        retries, order = self._retries, self._retries.order
        forwards, unacknowledged = retries.forwards, retries.unacknowledged
        if not (
            self._calls_wait()
            or unacknowledged.blocked
            or ((forwards.queued or forwards.writing) and not self._common.policy.exactly_once)
            or (order is not None and order.moves.waiting)
        ):
            self._answers = None
            return False
        answers = self._common.stats.commits + forwards.answers + unacknowledged.answers
        if order is not None:
            answers += order.moves.answers
        if answers != self._answers:
            self._answers, self._since = answers, now
        return now - self._since < LATE

    @property
    def empty(self) -> bool:
        """Whether no record is in memory: none in flight, queued or waiting."""
        return not (
            self._dispatch.running
            or len(self._dispatch.work)
            or len(self._retries.forwards)
            or self._partitions.resets
            or any(assignment.open for assignment in self._partitions.assignments.values())
        )

    def rests(self, now: float) -> bool:
        """Whether nothing will progress without help: `empty`, except for records that the next topic refuses and
        records that wait for the keys of those."""
        forwards = self._retries.forwards
        return self.empty or not (
            self._dispatch.running
            or len(forwards.refused) < len(forwards)
            or len(self._dispatch.work.delay_queue)
            or self._partitions.resets
            or self._dispatch.work.backlogs.held
            or self.available(now)
            or self._common.held_back
            or any(not forwards.has(entry) for entry in self._open())
        )

    def records_to_poll(self, patient: bool) -> int:
        """`patient`: the stage is full. It polls all the same while calls wait for a commit, as some clients report its
        end in a poll only."""
        if not patient:
            return self._common.batch
        return int(self._calls_wait())

    def _calls_wait(self) -> bool:
        """Whether calls wait for the end of a commit, and for nothing else."""
        held = self._dispatch.work.backlogs.held
        return self._suspects.unclear() or any(not assignment.crashes.has_window for assignment in held)

    def awaits_commit(self) -> bool:
        """Whether records wait for a commit before their calls."""
        return bool(self._dispatch.work.backlogs.held)

    @property
    def quiet(self) -> bool:
        """Whether no call runs or waits for a commit, no forward may still be acknowledged, and no record waits for
        what it produced."""
        retries = self._retries
        return not (
            self.awaits_commit()
            or self._dispatch.running
            or retries.forwards.any_moving
            or any(map(retries.in_flight, self._open()))
        )

    def open(self) -> Iterator[tuple[Entry, Forward | None]]:
        """Entries whose call has ended but that are not done, each with its forward, if it has one."""
        return ((entry, self._retries.forwards.of(entry)) for entry in self._open())

    def _open(self) -> Iterator[Entry]:
        return (entry for assignment in self._partitions.assignments.values() for entry in assignment.open)
