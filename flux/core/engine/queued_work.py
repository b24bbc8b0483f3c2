"""The records of a stage that were not started: slices in backlogs, entries in key queues, the delay queue."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence

from flux.core import flux_headers
from flux.core.engine.assignment import Assignment, Phase
from flux.core.engine.backlog import Backlogs
from flux.core.engine.common import Common
from flux.core.engine.ordered_retries import OrderedRetries
from flux.core.engine.slices import Entry, Slice
from flux.core.limits.backpressure import Backpressure
from flux.core.message import Message
from flux.core.named_work import NamedWork
from flux.core.ports import Batch, TopicPartition
from flux.core.stage import Role

Passed = tuple[int, NamedWork, int]
"""A record that is done: its offset, its name, and its due time in milliseconds since the epoch."""
LONGEST_WITHHELD = 30.0
"""Seconds for which records are withheld until their partition was read to its end."""


class QueuedWork:
    """Of one stage."""

    __slots__ = ("_backpressure", "_common", "_main", "_named", "_order", "backlogs", "delay_queue")

    def __init__(self, common: Common, order: OrderedRetries | None = None) -> None:
        self._common = common
        self._order = order
        self._main = common.stage.role is Role.MAIN
        self._named = common.stage.has_names
        self._backpressure = Backpressure(common.policy, common.stage.role)
        self.backlogs = Backlogs()
        self.delay_queue = common.delay_queue

    def __len__(self) -> int:
        """0 if there are none; otherwise only a rough number."""
        parked = len(self.backlogs.held) + (0 if self._order is None else len(self._order.parked))
        return len(self.backlogs) + len(self._common.key_queues) + len(self.delay_queue) + parked

    def delivered(self, batches: Iterable[Batch], assignments: Mapping[TopicPartition, Assignment], now: float) -> None:
        """A poll has returned these: they go into the backlogs (main stage) or the delay queue."""
        common = self._common
        now_ms = common.wall_ms(now)
        timed_pieces: list[tuple[Assignment, Slice, int]] = []
        for batch in batches:
            assignment = assignments.get(batch.partition)
            if assignment is None or not common.begins(assignment):
                continue
            done = self._named_and_done(assignment, batch, now_ms) if self._named else ()
            for piece in assignment.deliver(batch.records):
                done = self._pass(assignment, done, piece.records[0].offset())
                piece.since = now
                if self._main:
                    self._add(assignment, piece, now)
                    continue
                timed, size = common.due_times.timed(assignment, piece, now_ms)
                timed.since, timed.epoch = now, common.epoch
                common.stats.late += bisect_left(timed.due_times or (), now_ms - 1000)
                timed_pieces.append((assignment, timed, size))
            self._pass(assignment, done)
        for assignment, timed, size in timed_pieces:  # all of a poll together, since they have an order
            self.delay_queue.add(assignment, timed, size, self._withholds(assignment, now))

    def reached(self, partitions: Iterable[Assignment], now: float) -> None:
        """The client has read these partitions to their ends."""
        if not self._named:
            return
        for assignment in partitions:
            assignment.names.complete = True
        for assignment in self.delay_queue.withheld:
            names = assignment.names
            # no wait without a bound: an end may move away as fast as it is read
            names.complete |= assignment.paused or now - names.since >= LONGEST_WITHHELD
            if names.complete:
                self.delay_queue.release(assignment)

    def _withholds(self, assignment: Assignment, now: float) -> bool:
        """Whether to withhold records of a partition: what replaces or cancels one of them may be unread yet."""
        names = assignment.names
        if names.complete or not names:
            return False
        names.since = min(names.since, now)
        return True

    def _named_and_done(self, assignment: Assignment, batch: Batch, now_ms: int) -> Sequence[Passed]:
        """The records with names that another owner has completed: they may make void one that waits."""
        tracker, records = assignment.offset_tracker, batch.records
        found: list[Passed] = []
        if tracker is None or records[0].offset() >= assignment.restored:
            return found
        for record in records:
            offset = record.offset()
            if tracker.is_done(offset):
                headers = Message.of(record, None, flux_headers.of_main_topic()).headers
                parsed = flux_headers.read(headers, 1, now_ms, int(self._common.policy.max_delay * 1000))
                if parsed.named is not None:
                    parsed.named.begun = True
                    found.append((offset, parsed.named, parsed.due or now_ms))
        return found

    def _pass(self, assignment: Assignment, done: Sequence[Passed], before: float = math.inf) -> Sequence[Passed]:
        """Notes the names of those below offset `before`, in the order of the log. Returns the others."""
        index = 0
        while index < len(done) and done[index][0] < before:
            offset, named, due = done[index]
            self._common.stats.replaced += assignment.names.arrived(named, offset, due)
            index += 1
        return done[index:]

    def give_back(self, assignment: Assignment, piece: Slice) -> None:
        """Puts back a slice that was taken, or its rest. In a retry stage, records that came later may be due before
        some of it, so it goes back into the delay queue with the whole backlog."""
        if self._main:
            self.backlogs.give_back(assignment, piece)
            return
        pieces = [piece, *assignment.backlog, *assignment.held]
        assignment.crashes.waits = False
        self.backlogs.drop(assignment)
        for each in pieces:
            self.delay_queue.add(assignment, each, each.size)

    def hold_alone(self, entry: Entry) -> None:
        """Puts back a record that is to be called alone."""
        self.backlogs.hold(entry.assignment, Slice.of(entry))

    def discard(self, assignment: Assignment) -> None:
        """Discards the records of a partition that were not started: its owner gives it up."""
        assignment.crashes.ends()
        self.backlogs.drop(assignment)
        self._common.key_queues.drop(assignment)
        self.delay_queue.drop(assignment)
        if self._order is not None:
            self._order.discard(assignment)

    def may_split(self, assignment: Assignment) -> bool:
        """Whether more records of a partition may be put into key queues."""
        # in a retry stage the record that all others wait for may be the last; `max_waiting` bounds it instead
        return assignment.in_key_queues < self._backpressure.full or not self._main

    def split(self) -> None:
        """Puts the records of the next slice into key queues as entries."""
        key_queues, assignment, parsed = self._common.key_queues, self.backlogs.next, flux_headers.of_main_topic()
        piece = self.backlogs.take()
        for index, record in enumerate(piece.records):
            message = Message.of(record, record.value(), parsed) if piece.messages is None else piece.messages[index]
            key_queues.add(piece.entry(assignment, index, message))

    def split_any(self) -> bool:
        """As `split`, for the next partition that may have more entries. Returns whether there was one."""
        for _ in range(len(self.backlogs)):
            if self.may_split(self.backlogs.next):
                self.split()
                return True
            self.backlogs.pass_on()
        return False

    def release_due(self, now: float, most: int) -> bool:
        """Moves due records of one partition without a backlog into its backlog: with one, later records could be due
        before it. Returns whether there were any."""
        due = self.delay_queue.due(self._common.wall_ms(now), most)
        if due is None:
            return False
        assignment, pieces = due
        for piece in pieces:
            self._add(assignment, piece, now)
        return True

    def _add(self, assignment: Assignment, piece: Slice, now: float) -> None:
        """Appends a slice to its partition's backlog: its records may be called."""
        crashes = assignment.crashes
        if not crashes.opened and crashes.begins(assignment.offset_tracker.changes, now):  # type: ignore[union-attr]
            self._common.commits.soon(now)
        self.backlogs.add(assignment, piece)

    def split_due(self, now: float, wanted: int) -> None:
        """Makes up to about `wanted` due records ready in key queues, by due time."""
        while self._common.key_queues.ready(now) < wanted and (len(self.backlogs) or self.release_due(now, wanted)):
            if len(self.backlogs):  # what was released may be of a partition that is not open
                self.split()

    def release_up_to(self, now: float, wanted: int) -> None:
        """Makes up to about `wanted` due records ready in backlogs, by due time."""
        key_queues, backlogs = self._common.key_queues, self.backlogs
        while key_queues.ready(now) + sum(a.backlogged for a in backlogs) < wanted and self.release_due(now, wanted):
            pass

    def available(self, now: float) -> int:
        """About how many callers could get records now."""
        due = self.delay_queue.next_due
        slices = len(self.backlogs) if self._common.held_back is None else sum(map(self.may_split, self.backlogs))
        return self._common.key_queues.ready(now) + slices + (due is not None and due <= self._common.wall_ms(now))

    @property
    def paused(self) -> bool:
        """Whether any partition was paused at the last turn."""
        return self._backpressure.paused

    def pauses(
        self, assignments: Mapping[TopicPartition, Assignment], forwarding: bool, now: float, blocked: bool = False
    ) -> tuple[list[TopicPartition], list[TopicPartition], bool]:
        """(to pause, to resume, whether not to poll) now. `forwarding`: some forwards are not acknowledged. `blocked`:
        too much of what calls produced is not."""
        common = self._common
        busy = common.stopping or common.key_queues or forwarding or blocked
        if not busy and self._backpressure.idle(self.backlogs.all):
            return [], [], False
        phase = Phase.WORKING  # once: an enum attribute costs more than everything else here
        working = [a for a in assignments.values() if a.phase is phase]
        patient = self._backpressure.patient(working, now, blocked)
        return *self._backpressure.changes(working, patient, common.stopping), patient
