"""Ways to break what a member knows of its partitions: offsets and their metadata, rebalances, late joins."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from flux.consuming.coordinator import late_joins
from flux.consuming.coordinator.late_joins import LateJoins
from flux.core.engine import Engine
from flux.core.engine import partitions as engine_partitions
from flux.core.engine.assignment import Assignment, Phase
from flux.core.engine.forwarding import Forwards
from flux.core.engine.offset_tracker import OffsetTracker
from flux.core.engine.partitions import Partitions
from flux.core.engine.slices import Slice
from flux.core.ports import CommittedOffset
from simulation.mutants import Mutation, mutant


@mutant()
def duplicate_fetches_are_worked() -> Mutation:
    def deliver(self: Assignment, records: Any) -> Iterator[Slice]:
        if self.offset_tracker is None:
            self.offset_tracker = OffsetTracker(records[0].offset(), (), self.max_metadata)
        self.offset_tracker.delivered(records[0].offset(), records[-1].offset() + 1)
        yield Slice(records, records[-1].offset() + 1)

    return Assignment, "deliver", deliver


@mutant()
def metadata_claims_one_offset_too_many() -> Mutation:
    metadata = OffsetTracker.metadata

    def claiming(self: OffsetTracker) -> str:
        if not self._ends:
            return metadata(self)
        self._ends[-1] += 1
        try:
            return metadata(self)
        finally:
            self._ends[-1] -= 1

    return OffsetTracker, "metadata", claiming


@mutant()
def metadata_is_not_read() -> Mutation:
    return engine_partitions, "done_above", lambda partition, position, log_events: []


@mutant()
def metadata_is_not_written() -> Mutation:
    return OffsetTracker, "metadata", lambda self: ""


@mutant()
def positions_are_not_read() -> Mutation:
    assigned = Partitions.assigned

    def forgetful(self: Partitions, positions: Any, jitters: Any, now: float, chosen: Any = ()) -> Any:
        return assigned(self, dict.fromkeys(positions, CommittedOffset(0)), jitters, now, chosen)

    return Partitions, "assigned", forgetful


@mutant("crash", first=50)
def a_revocation_does_not_wait_for_calls() -> Mutation:
    return Engine, "drained", lambda self, partitions: True


@mutant("crash", first=80)
def a_revocation_goes_on_feeding() -> Mutation:
    def revoking(self: Engine, partitions: Any) -> None:
        for assignment in self._partitions.of(partitions):
            assignment.phase = Phase.DRAINING

    return Engine, "revoking", revoking


@mutant("crash", first=80)
def what_is_done_is_not_committed_at_a_revocation() -> Mutation:
    commit = Engine.commit

    def lazy(self: Engine, now: float, partitions: Any = None, at_once: bool = False) -> Any:
        return None if partitions is not None else commit(self, now, partitions, at_once)

    return Engine, "commit", lazy


@mutant()
def a_stop_does_not_commit() -> Mutation:
    commit = Engine.commit

    def lazy(self: Engine, now: float, partitions: Any = None, at_once: bool = False) -> Any:
        return None if at_once else commit(self, now, partitions, at_once)

    return Engine, "commit", lazy


@mutant("kick", "freeze")
def lost_partitions_are_worked_on() -> Mutation:
    return Partitions, "lost", lambda self, partitions: None


@mutant("kick", "writes")
def transfers_outlive_their_assignment() -> Mutation:
    return Forwards, "forget", lambda self, assignment: None


@mutant("delete")
def what_retention_deletes_takes_what_is_here_along() -> Mutation:
    reset = Partitions.reset

    def forgetful(self: Partitions, partition: Any, marks: Any, now: float) -> Any:
        old = self.assignments.get(partition)
        if old is not None and old.phase is Phase.WORKING and old.offset_tracker is not None:
            old.offset_tracker.end = marks.high + 1
        return reset(self, partition, marks, now)

    return Partitions, "reset", forgetful


@mutant()
def a_stage_that_is_needed_does_not_join() -> Mutation:
    return LateJoins, "_join_locked", lambda self, runtime: None


@mutant(first=125)
def a_topic_counts_as_empty_whatever_it_has() -> Mutation:
    return late_joins, "is_empty", lambda marks: True
