"""Ways to break limits by name and of the group, and outages that the share of failures tells."""

from __future__ import annotations

from typing import Any

from flux.core.engine.held_back import HeldByName
from flux.core.engine.outages import Outages
from flux.core.engine.queued_work import QueuedWork
from flux.core.engine.retries import Retries
from flux.core.limits import backpressure
from flux.core.limits.breakers import BreakersByName
from flux.core.limits.failure_rate import FailureCount
from flux.core.limits.group_share import GroupShare
from flux.core.limits.rate_limit import RateByName
from flux.core.message import Message
from simulation.limited import LIMITED
from simulation.mutants import Mutation, mutant

_LIMITED = (LIMITED,)


@mutant("join", "stop", features=_LIMITED)
def each_member_has_the_whole_rate_of_the_group() -> Mutation:
    return GroupShare, "part", property(lambda self: 1.0)


@mutant("join", "stop", features=_LIMITED)
def a_member_keeps_its_first_share_of_the_rate() -> Mutation:
    owns = GroupShare.owns

    def kept(self: GroupShare, stage: int, partitions: int) -> None:
        if stage not in self._owned:
            owns(self, stage, partitions)

    return GroupShare, "owns", kept


@mutant(features=_LIMITED)
def calls_for_a_name_do_not_count_for_its_rate() -> Mutation:
    return RateByName, "started", lambda self, name, call, now: None


@mutant(features=_LIMITED)
def nobody_looks_at_a_name_when_the_first_of_it_has_gone_on() -> Mutation:
    return HeldByName, "_look_at", lambda self, key, now: None


@mutant(features=_LIMITED)
def so_many_failures_are_no_outage() -> Mutation:
    return FailureCount, "exceeded", lambda self, now: False


@mutant(features=_LIMITED)
def the_first_failure_is_an_outage() -> Mutation:
    return FailureCount, "exceeded", lambda self, now: True


@mutant(features=_LIMITED)
def failures_before_a_pause_count_after_it() -> Mutation:
    def resumed(self: FailureCount) -> None:
        self.paused = False

    return FailureCount, "resumed", resumed


@mutant(features=_LIMITED)
def the_first_probe_that_fails_is_to_blame() -> Mutation:
    return FailureCount, "is_to_blame", lambda self, record: True


@mutant(features=_LIMITED)
def no_probe_is_to_blame() -> Mutation:
    return FailureCount, "is_to_blame", lambda self, record: False


@mutant(features=_LIMITED, first=20)
def nobody_looks_at_a_name_again_when_its_probe_is_to_blame() -> Mutation:
    is_outage = BreakersByName.is_outage

    def silent(self: BreakersByName, *given: Any) -> bool:
        watchers, self.watchers = self.watchers, []
        try:
            return is_outage(self, *given)
        finally:
            self.watchers = watchers

    return BreakersByName, "is_outage", silent


@mutant(features=_LIMITED, first=30)
def what_moves_on_without_a_call_counts_an_attempt() -> Mutation:
    forward = Retries._forward

    def counted(self: Any, entry: Any, verdict: Any, failure: Any, now: float, called: bool = True) -> None:
        forward(self, entry, verdict, failure, now)

    return Retries, "_forward", counted


@mutant(features=_LIMITED)
def what_should_move_on_without_a_call_is_forgotten() -> Mutation:
    def forget(self: Outages, assignments: Any, now: float) -> None:
        breakers, held_back = self._common.call_limits.breakers, self._common.held_back
        if breakers is not None and held_back is not None:
            for name in breakers.paused:
                held_back.take_name(breakers, name, list(assignments))

    return Outages, "relieve", forget


@mutant(features=_LIMITED)
def records_move_on_although_there_is_room() -> Mutation:
    relieve = Outages.relieve

    def eager(self: Outages, assignments: Any, now: float) -> None:
        full = [assignment for assignment in assignments if assignment.in_key_queues]
        for assignment in full:
            assignment.in_key_queues += backpressure.FULL
        relieve(self, full, now)
        for assignment in full:
            assignment.in_key_queues -= backpressure.FULL

    return Outages, "relieve", eager


@mutant(features=_LIMITED)
def key_queues_take_any_number_of_records() -> Mutation:
    return QueuedWork, "may_split", lambda self, assignment: True


@mutant(features=_LIMITED)
def an_outage_is_a_failure_too() -> Mutation:
    found = Outages.found

    def blamed(self: Outages, run: Any, index: int, message: Message, failure: Any, now: float) -> Any:
        found(self, run, index, message, failure, now)

    return Outages, "found", blamed
