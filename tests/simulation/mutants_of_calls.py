"""Ways to break what a task uses beyond retries: pauses, tries in place, age, rate, time limits, batches, schedules."""

from __future__ import annotations

from typing import Any

import flux.scheduling as scheduling
from flux.consuming import call_chain as pipeline
from flux.consuming import call_results
from flux.core import flux_headers
from flux.core.engine import next_stage
from flux.core.engine.batches import Batches
from flux.core.engine.crashes import Crashes, Mark
from flux.core.engine.forwards import ForwardedCopy
from flux.core.engine.in_place import InPlace
from flux.core.engine.queued_work import QueuedWork
from flux.core.engine.retries import Retries
from flux.core.engine.runs import KeyQueueRun
from flux.core.engine.slices import Entry
from flux.core.engine.verdicts import Move
from flux.core.message import Message
from flux.core.named_work import Names
from flux.producing.produced import Produced, Scopes
from flux.producing.registry import PRODUCERS
from simulation.mutants import Mutation, mutant

# ---- tries in place


@mutant(features=("quick",))
def a_record_is_not_tried_in_place() -> Mutation:
    def retry_or_forward(self: Retries, entry: Entry, verdict: Any, failure: Any, now: float) -> Move:
        self._forward(entry, verdict, failure, now)
        return verdict.move  # type: ignore[no-any-return]

    return Retries, "_retry_or_forward", retry_or_forward


@mutant(features=("quick",))
def tries_in_place_are_not_counted() -> Mutation:
    again = Message.again

    def uncounted(self: Message, failed_at: int) -> Message:
        made = again(self, failed_at)
        made.place(self.flux_headers)
        return made

    return Message, "again", uncounted


@mutant(features=("quick",))
def tries_in_place_do_not_wait() -> Mutation:
    add = InPlace.add
    return InPlace, "add", lambda self, waiting, due: add(self, waiting, waiting.failed_at)


@mutant(features=("quick",))
def a_try_in_place_holds_back_nothing() -> Mutation:
    retry_or_forward = Retries._retry_or_forward

    def open_key_queue(self: Retries, entry: Entry, *arguments: Any) -> Move:
        key, entry.message._record._key = entry.message._record._key, None
        try:
            return retry_or_forward(self, entry, *arguments)
        finally:
            entry.message._record._key = key

    return Retries, "_retry_or_forward", open_key_queue


@mutant("stop", "join", features=("quick",))
def what_waits_in_place_is_given_up_with_its_partition() -> Mutation:
    def end_in_place(self: Retries, begun: Any, assignment: Any = None) -> None:
        for waiting in self.in_place.take(assignment):
            waiting.entry.assignment.open.pop(waiting.entry, None)

    return Retries, "end_in_place", end_in_place


@mutant("stop", features=("quick",))
def a_try_that_was_not_made_is_counted() -> Mutation:
    end_in_place = Retries.end_in_place

    def counting(self: Retries, begun: Any, assignment: Any = None) -> None:
        for _, _, waiting in self.in_place._heap:
            waiting.entry.message = waiting.entry.message.again(0)
        end_in_place(self, begun, assignment)

    return Retries, "end_in_place", counting


# ---- age


@mutant(features=("expiry",))
def nothing_is_too_old_for_a_call() -> Mutation:
    return pipeline, "expires", lambda message, give_up_after, at: False


@mutant(features=("expiry",))
def a_record_waits_longer_than_its_work_may_take() -> Mutation:
    return next_stage, "expires", lambda message, give_up_after, at: False


@mutant(features=("expiry",))
def age_counts_from_the_last_forward() -> Mutation:
    return Message, "origin_timestamp", property(lambda self: self.timestamp)


@mutant(features=("expiry",))
def what_has_expired_counts_a_call() -> Mutation:
    outgoing = ForwardedCopy.producer_record

    def counting(self: ForwardedCopy, now_ms: int, limit: Any) -> Any:
        self.called = True
        return outgoing(self, now_ms, limit)

    return ForwardedCopy, "producer_record", counting


# ---- batches


@mutant(features=("batches",))
def a_failure_moves_the_whole_batch() -> Mutation:
    report = call_results.report_batch

    def blaming(coordinator: Any, runtime: Any, run: Any, messages: Any, failures: Any, products: Any) -> Any:
        first = next(iter(failures.values()), None)
        return report(coordinator, runtime, run, messages, dict.fromkeys(messages, first) if first else {}, products)

    return call_results, "report_batch", blaming


@mutant(features=("batches",))
def a_failure_in_a_batch_is_forgotten() -> Mutation:
    report = call_results.report_batch

    def forgiving(coordinator: Any, runtime: Any, run: Any, messages: Any, failures: Any, products: Any) -> Any:
        return report(coordinator, runtime, run, messages, dict(list(failures.items())[:1]), products)

    return call_results, "report_batch", forgiving


@mutant(features=("batches",))
def batches_run_beside_each_other() -> Mutation:
    ripe = Batches._can_be_taken

    def hasty(self: Batches, assignment: Any, queue: Any, now: float) -> bool:
        running, assignment.running = assignment.running, {}
        try:
            return ripe(self, assignment, queue, now)
        finally:
            assignment.running = running

    return Batches, "_can_be_taken", hasty


@mutant(features=("batches",))
def a_batch_does_not_wait_for_more() -> Mutation:
    return (
        Batches,
        "_can_be_taken",
        lambda self, assignment, queue, now: not assignment.running and bool(self._free(queue)),
    )


@mutant(features=("batches",))
def a_batch_waits_until_it_is_full() -> Mutation:
    return (
        Batches,
        "_can_be_taken",
        lambda self, assignment, queue, now: not assignment.running and len(self._free(queue)) >= self._batch.most,
    )


@mutant(features=("pauses", "batches"), first=750)
def a_batch_waits_again_after_a_pause() -> Mutation:
    release = QueuedWork.release_due

    def late(self: QueuedWork, now: float, most: int) -> bool:
        waiting = {assignment: len(assignment.backlog) for assignment in self.backlogs}
        released = release(self, now, most)
        for assignment in self.backlogs:
            for piece in list(assignment.backlog)[waiting.get(assignment, 0) :]:
                piece.since = now
        return released

    return QueuedWork, "release_due", late


@mutant(features=("batches",))
def a_batch_is_done_before_its_call_has_ended() -> Mutation:
    settle = KeyQueueRun.settle

    def early(self: KeyQueueRun, index: int, key_queues: Any) -> Any:
        return settle(self, len(self.entries) if self.batched else index, key_queues)

    return KeyQueueRun, "settle", early


@mutant(features=("batches",))
def what_a_batch_produced_is_not_waited_for() -> Mutation:
    report = call_results.report_batch

    def hasty(coordinator: Any, runtime: Any, run: Any, messages: Any, failures: Any, products: Any) -> Any:
        products.when_done(lambda error: None)
        products.touched = False
        return report(coordinator, runtime, run, messages, failures, products)

    return call_results, "report_batch", hasty


@mutant()
def what_a_failed_call_holds_leaves_all_the_same() -> Mutation:
    renewed = call_results.renewed

    def generous(ended: Produced) -> Produced:
        ended.when_done(lambda error: None)
        return renewed(ended)

    return call_results, "renewed", generous


@mutant(features=("batches",))
def what_was_produced_for_a_failed_record_of_a_batch_leaves_all_the_same() -> Mutation:
    return Produced, "drop", lambda self, failed: None


@mutant()
def what_a_call_produces_leaves_at_once() -> Mutation:
    return Scopes, "new", lambda self, owns: Produced(False, None, owns)


# ---- schedules


@mutant(features=("enqueued",))
def enqueued_work_is_due_at_once() -> Mutation:
    due = scheduling._due

    def hasty(policy: Any, delay: Any, at: Any) -> int | None:
        found = due(policy, delay, at)
        return None if found is None else int(PRODUCERS.system.now() * 1000)

    return scheduling, "_due", hasty


@mutant(features=("enqueued",))
def enqueued_work_goes_to_the_main_topic() -> Mutation:
    return scheduling, "_due", lambda policy, delay, at: None


@mutant(features=("enqueued",))
def enqueued_work_counts_an_attempt_that_it_never_had() -> Mutation:
    return flux_headers, "ATTEMPTS", "flux-tries"


@mutant(features=("enqueued",))
def the_last_work_of_an_id_is_void() -> Mutation:
    arrived = Names.arrived

    def all_void(self: Names, work: Any, offset: int, due: int) -> int:
        taken_back = arrived(self, work, offset, due)
        work.void = True
        return taken_back

    return Names, "arrived", all_void


@mutant(features=("enqueued",))
def work_with_an_id_waits_for_ever() -> Mutation:
    return QueuedWork, "reached", lambda self, partitions, now: None


# ---- processes that vanish


@mutant(features=("kills",))
def a_record_may_end_any_number_of_processes() -> Mutation:
    return Crashes, "kills", lambda self, offset: False


@mutant(features=("kills",))
def the_next_record_is_blamed_for_what_another_did() -> Mutation:
    return Crashes, "kills", lambda self, offset: self._limit is not None and self.crashes >= self._limit


@mutant(features=("kills",))
def a_record_in_doubt_is_not_called_alone() -> Mutation:
    return Crashes, "doubts", lambda self, offset: False


@mutant(features=("kills",))
def a_suspect_is_not_named_before_its_call() -> Mutation:
    return Crashes, "name", lambda self, offset: setattr(self, "mark", Mark(self.crashes))
