"""What of a stage's work nobody has begun: slices of backlogs, single records in key queues, records that are not
due."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping

from flux.core import flux_headers as trails
from flux.core.engine.assignment import Assignment, Phase, Slice
from flux.core.engine.backlog import Backlogs
from flux.core.engine.common import Common
from flux.core.engine.delay_queue import DelayQueue
from flux.core.limits.backpressure import Backpressure
from flux.core.message import Message
from flux.core.ports import Batch, TopicPartition
from flux.core.stage import Role


class QueuedWork:
    """Of one stage."""

    __slots__ = ("_backpressure", "_common", "_main", "backlogs", "delay_queue")

    def __init__(self, common: Common) -> None:
        self._common = common
        self._main = common.stage.role is Role.MAIN
        self._backpressure = Backpressure(common.policy, common.stage.role)
        self.backlogs = Backlogs()
        self.delay_queue = DelayQueue()

    def __len__(self) -> int:
        """0: there is none."""
        return len(self.backlogs) + len(self._common.key_queues) + len(self.delay_queue)

    def delivered(self, batches: Iterable[Batch], assignments: Mapping[TopicPartition, Assignment], now: float) -> None:
        """A poll brought these: they are put into the backlog (main stage), or among the delays."""
        common = self._common
        now_ms = common.wall_ms(now)
        for batch in batches:
            assignment = assignments.get(batch.partition)
            if assignment is None or not common.begins(assignment):
                continue
            for piece in assignment.deliver(batch.records):
                piece.since = now
                if self._main:
                    self.backlogs.add(assignment, piece)
                    continue
                timed, size = common.dues.timed(assignment, piece, now_ms)
                common.stats.late += bisect_left(timed.dues or (), now_ms - 1000)
                self.delay_queue.add(assignment, timed, size)

    def give_back(self, assignment: Assignment, piece: Slice) -> None:
        """A slice that was taken, or its rest. What came to a retry stage in the meantime may be due before some of
        it, so all that nobody has begun is sorted anew."""
        if self._main:
            self.backlogs.give_back(assignment, piece)
            return
        pieces = [piece, *assignment.backlog]
        self.backlogs.drop(assignment)
        for each in pieces:
            self.delay_queue.add(assignment, each, each.size)

    def unload(self, assignment: Assignment) -> None:
        """Forgets what of a partition has not been begun."""
        self.backlogs.drop(assignment)
        self._common.key_queues.drop(assignment)
        self.delay_queue.drop(assignment)

    def may_split(self, assignment: Assignment) -> bool:
        """Whether more of a partition may be put into key queues."""
        # in a retry stage the record that all wait for may be the last: what is here is bounded otherwise
        return assignment.laned < self._backpressure.full or not self._main

    def split(self) -> None:
        """Puts the records of the next slice into key queues, one by one."""
        key_queues, assignment, trail = self._common.key_queues, self.backlogs.next, trails.start()
        piece = self.backlogs.take()
        for index, record in enumerate(piece.records):
            message = Message.of(record, record.value(), trail) if piece.messages is None else piece.messages[index]
            key_queues.add(piece.entry(assignment, index, message))

    def ripen(self, now: float, most: int) -> bool:
        """Records of one partition that are due become its backlog, if nothing is left of that: what comes later may
        be due before what is here. Whether there were any."""
        due = self.delay_queue.due(self._common.wall_ms(now), most)
        if due is None:
            return False
        assignment, pieces = due
        for piece in pieces:
            piece.since = now
            self.backlogs.add(assignment, piece)
        return True

    def spread_due(self, now: float, wanted: int) -> None:
        """Single records that are due may be taken, the first due first."""
        while self._common.key_queues.ready(now) < wanted and (len(self.backlogs) or self.ripen(now, wanted)):
            self.split()

    def ripen_due(self, now: float, wanted: int) -> None:
        """As many records that are due may be taken, the first due first."""
        key_queues, backlogs = self._common.key_queues, self.backlogs
        while key_queues.ready(now) + sum(a.backlogged for a in backlogs) < wanted and self.ripen(now, wanted):
            pass

    def at_hand(self, now: float) -> int:
        """About how many callers could get some of it."""
        due = self.delay_queue.next_due
        return (
            self._common.key_queues.ready(now)
            + len(self.backlogs)
            + (due is not None and due <= self._common.wall_ms(now))
        )

    @property
    def paused(self) -> bool:
        """Whether any partition was when they were last looked at."""
        return self._backpressure.paused

    def pauses(
        self, assignments: Mapping[TopicPartition, Assignment], forwarding: bool, now: float
    ) -> tuple[list[TopicPartition], list[TopicPartition], bool]:
        """(to pause, to resume, whether it is better not to poll) now. `forwarding`: records are on their way to the
        next stage."""
        common = self._common
        if not (common.stopping or common.key_queues or forwarding) and self._backpressure.idle(self.backlogs):
            return [], [], False
        phase = Phase.WORKING  # an enumeration's attribute costs more than all else here
        working = [a for a in assignments.values() if a.phase is phase]
        patient = self._backpressure.patient(working, now)
        return *self._backpressure.changes(working, patient, common.stopping), patient
