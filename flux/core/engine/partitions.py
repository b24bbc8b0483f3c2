"""The assigned partitions of a stage: their offset trackers, commits and resets."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from types import MappingProxyType

from flux.core.engine.assignment import Assignment, Event, Phase
from flux.core.engine.commands import Level
from flux.core.engine.common import SHOWN, Common
from flux.core.engine.crashes import Crashes
from flux.core.engine.new_topic import TopicPropagation
from flux.core.engine.restored import crashes_after, done_above
from flux.core.engine.slices import Entry
from flux.core.engine.start_offsets import StartOffsets
from flux.core.errors import BrokerError, Fault
from flux.core.ports import BEGINNING, CommittedOffset, TopicPartition, Watermarks

Noted = Callable[[Assignment, bool, float], None]


class Partitions:
    """Of one stage. `drop`: makes the other parts discard what they hold of a partition that is gone. `noted`: called
    for a partition whose next commit would change nothing, or could not be made (False)."""

    __slots__ = (
        "_common",
        "_drop",
        "_max_crashes",
        "_noted",
        "_with_metadata",
        "assignments",
        "resets",
        "start_offsets",
        "suspicious",
        "topic_propagation",
        "uncommitted",
    )

    def __init__(self, common: Common, drop: Callable[[Assignment], None], noted: Noted = lambda *_: None) -> None:
        self._common = common
        self._drop = drop
        self._noted = noted
        self._max_crashes = common.policy.max_crashes if common.policy.max_metadata else None
        self.assignments: dict[TopicPartition, Assignment] = {}
        self.resets: set[TopicPartition] = set()
        """Partitions whose fetch position was out of range, until `reset`."""
        self.uncommitted: dict[TopicPartition, CommittedOffset] = {}
        """The offsets that could not be committed at a stop."""
        self.start_offsets = StartOffsets(common.policy, common.stage)
        self.topic_propagation = TopicPropagation()
        self._with_metadata = True
        self.suspicious: dict[Assignment, None] = {}
        """Those whose former owner vanished."""

    # ---- assignments

    def of(self, partitions: Iterable[TopicPartition]) -> list[Assignment]:
        """The assignments of those partitions that are assigned."""
        return [self.assignments[partition] for partition in partitions if partition in self.assignments]

    def assigned(
        self,
        offsets: Mapping[TopicPartition, CommittedOffset | None],
        jitters: Mapping[TopicPartition, int],
        now: float,
        chosen: Container[TopicPartition] = (),
    ) -> dict[TopicPartition, int]:
        """The group assigned these partitions to this member. Returns each one's start offset, or BEGINNING.
        `offsets`: the committed offsets, or None; `jitters`: a random number from 0 to 29 for each; `chosen`:
        partitions whose offset was not committed but chosen now, and is committed soon so that it is chosen once
        only."""
        starts: dict[TopicPartition, int] = {}
        most = self._common.policy.max_metadata
        if offsets:
            self.topic_propagation.known()
        for partition, committed_offset in offsets.items():
            old = self.assignments.get(partition)
            if old is not None:
                self._forget(old, Event.LOST)
            starts[partition] = BEGINNING if committed_offset is None else committed_offset.offset
            done = done_above(partition, committed_offset, self._common.log_events)
            committed = None if partition in chosen else committed_offset
            crashes = crashes_after(partition, committed_offset, self._max_crashes, self._common.log_events)
            assignment = self.assignments[partition] = Assignment(
                partition, starts[partition], done, committed, jitters[partition], most, crashes
            )
            if crashes.crashes:
                self.suspicious[assignment] = None
                self._common.commits.soon(now)
        if chosen:
            self._common.commits.soon(now)
        self._count_owned()
        return starts

    def revoking(self, partitions: Iterable[TopicPartition]) -> list[Assignment]:
        """The partitions will be revoked."""
        draining = self.of(partitions)
        for assignment in draining:
            assignment.to(Event.REVOKING)
        return draining

    def drained(self, partitions: Iterable[TopicPartition], in_flight: Callable[[Entry], bool]) -> bool:
        """Whether no record of the partitions is running or, by `in_flight` for open ones, in flight."""
        return not any(assignment.running or any(map(in_flight, assignment.open)) for assignment in self.of(partitions))

    def revoked(self, partitions: Iterable[TopicPartition]) -> None:
        """The partitions were revoked: calls that have not ended count for nothing here."""
        for assignment in self.of(partitions):
            self._forget(assignment, Event.REVOKED)

    def lost(self, partitions: Iterable[TopicPartition]) -> None:
        """The partitions were lost: another member may own them already."""
        for assignment in self.of(partitions):
            self._forget(assignment, Event.LOST)

    def reset(self, partition: TopicPartition, marks: Watermarks, now: float) -> int | None:
        """The fetch position was out of range, and `marks` is what the partition holds. Returns the offset to continue
        at, that of the oldest record; None if the partition is not owned any more."""
        self.resets.discard(partition)
        old = self.assignments.get(partition)
        if old is None or old.phase is not Phase.WORKING:
            return None
        at = old.offset_tracker.end if old.offset_tracker is not None else marks.low
        # an offset that was out of range and is not below the oldest record means another log, which may have grown
        recreated = old.offset_tracker is None or at >= marks.low
        if recreated:
            why = f"the log ends at {marks.high} (was the topic recreated?)"
        else:
            why = f"{marks.low - at} offset(s) are gone before they were processed (deleted by retention?)"
        self._common.log_events.add(
            Level.ERROR,
            f"{partition}: offset {at} is out of range: {why}; continuing at the oldest, {marks.low}",
            about=partition,
        )
        self._common.commits.soon(now)
        if not recreated:
            # a gap like any other: records in memory are processed, failures are forwarded, what is done stays done
            assert old.offset_tracker is not None
            old.offset_tracker.delivered(marks.low, marks.low)
            return marks.low
        self._forget(old, Event.LOST)
        limits = self._common.policy.max_metadata, Crashes(self._max_crashes)
        self.assignments[partition] = Assignment(partition, marks.low, [], None, old.jitter, *limits)
        return marks.low

    def _forget(self, assignment: Assignment, event: Event) -> None:
        assignment.to(event)
        assignment.open.clear()
        self.suspicious.pop(assignment, None)
        self._drop(assignment)
        del self.assignments[assignment.partition]
        self.resets.discard(assignment.partition)
        self._count_owned()

    def _count_owned(self) -> None:
        change = self._common.call_limits.owns(self._common.stage.number, len(self.assignments))
        if change is not None:
            self._common.log_events.add(Level.INFO, change)

    # ---- offsets

    def reached(self, reached: Mapping[TopicPartition, int]) -> list[Assignment]:
        """The client has read up to these offsets, even if the last ones before them held no record. Returns these
        partitions."""
        for partition, offset in reached.items():
            assignment = self.assignments.get(partition)
            # a stage that stops drops polled records, so the client has read further than what was delivered
            if assignment is not None and self._common.begins(assignment):
                self._common.commits.done += assignment.read_to(offset)
        return self.of(reached)

    def commit(
        self,
        now: float,
        partitions: Iterable[TopicPartition] | None,
        at_once: bool,
        ended: Mapping[Assignment, list[tuple[int, int]]] = MappingProxyType({}),
    ) -> dict[TopicPartition, CommittedOffset] | None:
        """The offsets that have changed since they were committed. `at_once`: the caller waits for the commit, so none
        will be in flight. `ended`: offset ranges that are done with this commit."""
        offsets = {}
        for assignment in list(self.assignments.values()) if partitions is None else self.of(partitions):
            ranges, crashes = ended.get(assignment), assignment.crashes
            if crashes.mark is not None and assignment.survives(now):
                self._noted(assignment, False, now)
            committed_offset = assignment.committable if ranges is None else assignment.committable_after(ranges)
            if committed_offset is not None and not self._with_metadata:
                committed_offset = CommittedOffset(committed_offset.offset)
            if not crashes.opened and committed_offset is not None and not assignment.notes(committed_offset):
                crashes.give_up()
                self._noted(assignment, False, now)
            if committed_offset is not None and committed_offset != assignment.committed:
                offsets[assignment.partition] = committed_offset
            elif not crashes.opened or crashes.unclear:
                self._noted(assignment, True, now)
        if partitions is None:
            self._common.commits.checked(now)
        if offsets and not at_once:
            self._common.commits.began(offsets, now)
        return offsets or None

    def committed(
        self, offsets: Mapping[TopicPartition, CommittedOffset], error: BrokerError | None, now: float
    ) -> None:
        """A commit has ended."""
        common = self._common
        common.commits.ended(error is None, now)
        if error is None:
            common.stats.commits += 1
            self.start_offsets.committed(offsets)
            for partition, committed_offset in offsets.items():
                if partition in self.assignments:
                    self.assignments[partition].committed = committed_offset
                    self._committed(self.assignments[partition], True, now)
            return
        common.stats.commit_failures += 1
        if error.fault is Fault.METADATA:
            self._with_metadata, self._max_crashes = False, None
            for assignment in self.assignments.values():
                assignment.crashes.give_up()
                self._noted(assignment, False, now)
            common.log_events.add(
                Level.ERROR,
                f"the broker refuses metadata of this length with a committed offset ({error}): set the task's"
                " max_metadata to its offset.metadata.max.bytes; until then records completed past a committed offset"
                " are processed again after a crash",
            )
        elif not error.retriable and error.fault is not Fault.FENCED:
            common.log_events.add(
                Level.ERROR,
                f"offsets of {common.stage.group} cannot be committed: {error}",
                kind=("commit", error.fault),
            )
        for assignment in self.of(offsets):
            self._committed(assignment, False, now)

    def _committed(self, assignment: Assignment, succeeded: bool, now: float) -> None:
        waits = not assignment.crashes.opened or assignment.crashes.unclear
        if waits and (not succeeded or assignment.is_noted):
            self._noted(assignment, succeeded, now)

    def must_commit(self, offsets: Mapping[TopicPartition, CommittedOffset]) -> dict[TopicPartition, CommittedOffset]:
        """Those of `offsets` that must be committed so that nothing is repeated or skipped."""
        latest = self._common.policy.start_from == "latest"
        return {each.partition: offsets[each.partition] for each in self.of(offsets) if each.owes(offsets, latest)}

    def commit_abandoned(self, offsets: Mapping[TopicPartition, CommittedOffset], error: BrokerError) -> None:
        """The last offsets cannot be committed: records done since the commit before are processed again."""
        self.uncommitted = dict(offsets)
        shown = [
            f"{partition} up to {committed_offset.offset}" for partition, committed_offset in sorted(offsets.items())
        ]
        more = f" and {len(shown) - SHOWN} more" if len(shown) > SHOWN else ""
        self._common.log_events.add(
            Level.ERROR,
            f"not committed: {', '.join(shown[:SHOWN])}{more} ({error}):"
            " records done since the last commit are processed again",
        )

    # ---- state

    def done_at(self, partition: TopicPartition, offset: int) -> bool | None:
        """Whether the record at `offset` is done; None: the partition is not assigned."""
        assignment = self.assignments.get(partition)
        if assignment is None:
            return None
        return assignment.offset_tracker is not None and assignment.offset_tracker.is_done(offset)

    def read_offsets(self) -> dict[TopicPartition, int]:
        """The offset after the last delivered one for each partition; negative if not known."""
        return {a.partition: a.offset_tracker.end if a.offset_tracker else BEGINNING for a in self.assignments.values()}

    def waiting_offsets(self) -> dict[TopicPartition, int]:
        """The offsets of records that are not due yet, for each partition."""
        return {a.partition: a.waiting_offsets for a in self.assignments.values()}

    def unfinished_offsets(self) -> dict[TopicPartition, int]:
        """The offsets that were delivered and are not done, for each partition."""
        return {a.partition: a.offset_tracker.unfinished if a.offset_tracker else 0 for a in self.assignments.values()}

    def uncommitted_progress(self) -> dict[TopicPartition, int]:
        """The offset to commit next for each partition where it is above the committed one."""
        known = {a.partition: a.start if a.committed is None else a.committed.offset for a in self.assignments.values()}
        return {at: offset for at, offset in self.committable_offsets().items() if offset > known[at]}

    def committable_offsets(self) -> dict[TopicPartition, int]:
        """The offset to commit next for each partition; negative if not known."""
        return {
            a.partition: a.offset_tracker.committable if a.offset_tracker else BEGINNING
            for a in self.assignments.values()
        }
