"""Ways to break flux, each by one method: what the simulation must notice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import attrs

from flux.consuming.coordinator.verdicts import Products
from flux.consuming.forwarder import ForwardWriter
from flux.core.engine import forwards
from flux.core.engine.assignment import Phase
from flux.core.engine.delay_queue import DelayQueue
from flux.core.engine.due_times import DueTimes
from flux.core.engine.forwards import ForwardedCopy
from flux.core.engine.key_queues import KeyQueues
from flux.core.engine.offset_tracker import OffsetTracker
from flux.core.engine.retries import Retries
from flux.core.engine.runs import Run
from flux.core.engine.slice_runs import SliceRun
from flux.core.engine.verdicts import NEXT, Move, Rules
from flux.core.limits.backpressure import Backpressure

Mutation = tuple[Any, str, Any]
Breaking = Callable[[], Mutation]
MUTANTS: dict[str, Mutant] = {}


@attrs.frozen
class Mutant:
    """`focus`: the kinds of events that bring it to light; none: any. `features`: what tasks use. `first`: the seed to
    begin with."""

    mutation: Breaking
    focus: tuple[str, ...]
    features: tuple[str, ...]
    first: int


def mutant(*focus: str, features: tuple[str, ...] = (), first: int = 0) -> Callable[[Breaking], Breaking]:
    def add(function: Breaking) -> Breaking:
        MUTANTS[function.__name__.replace("_", " ")] = Mutant(function, focus, features, first)
        return function

    return add


@contextmanager
def mutated(name: str) -> Iterator[None]:
    owner, attribute, value = MUTANTS[name].mutation()
    before = owner.__dict__[attribute]
    _clear_caches()
    setattr(owner, attribute, value)
    try:
        yield
    finally:
        setattr(owner, attribute, before)
        _clear_caches()


def _clear_caches() -> None:
    """Headers are cached: a mutant of their names would outlive its end, or never begin."""
    for each in vars(forwards).values():
        if hasattr(each, "cache_clear"):
            each.cache_clear()


@mutant()
def the_highest_finished_offset_is_committed() -> Mutation:
    def done(self: OffsetTracker, start: int, end: int) -> None:
        self.committable = max(self.committable, end)

    return OffsetTracker, "done", done


@mutant()
def the_call_that_runs_counts_as_done() -> Mutation:
    settle = SliceRun.settle

    def early(self: SliceRun, index: int, key_queues: KeyQueues) -> Any:
        return settle(self, min(index + 1, len(self.records)), key_queues)

    return SliceRun, "settle", early


@mutant()
def what_is_open_does_not_hold_the_position() -> Mutation:
    fail = Retries.fail

    def closed(self: Retries, run: Any, entry: Any, *arguments: Any) -> Any:
        if entry.assignment.offset_tracker is not None:
            entry.assignment.offset_tracker.done(entry.offset, entry.end)
        return fail(self, run, entry, *arguments)

    return Retries, "fail", closed


@mutant()
def a_failure_is_forgotten() -> Mutation:
    return Run, "_noted", lambda self, index: []


@mutant(features=("pauses",), first=1520)
def a_failure_is_forgotten_where_its_run_is_cut() -> Mutation:
    cut = Run.cut

    def forgetting(self: Run) -> int:
        self.failures.clear()
        return cut(self)

    return Run, "cut", forgetting


@mutant()
def a_failure_is_counted_twice() -> Mutation:
    def noted(self: Run, index: int) -> Any:
        return [each for each in self.failures if self.marked >= index > each[0]]  # and takes none of them out

    return Run, "_noted", noted


@mutant()
def a_position_passes_a_failure_before_its_forward() -> Mutation:
    settle = SliceRun.settle

    def early(self: SliceRun, index: int, key_queues: KeyQueues) -> Any:
        start = self.marked
        found = settle(self, index, key_queues)
        if start < index and self.assignment.offset_tracker is not None and self.assignment.phase is not Phase.GONE:
            self.assignment.offset_tracker.all_done(sorted(self._piece.ranges(start, index)))
        return found

    return SliceRun, "settle", early


@mutant()
def a_forward_counts_as_written_once_it_is_handed_over() -> Mutation:
    write = ForwardWriter.write

    def hasty(self: ForwardWriter, forwards: Any, limit: Any, ended: Any, *more: Any) -> Any:
        for forward in forwards:
            ended(forward, None)
        return write(self, forwards, limit, lambda *_: None, *more)

    return ForwardWriter, "write", hasty


@mutant("writes")
def a_forward_that_is_refused_is_dropped() -> Mutation:
    return Retries, "unwritten", lambda self, forward, error, now: self.written(forward, now)


@mutant()
def products_are_not_waited_for() -> Mutation:
    def produced(self: Products, runtime: Any, run: Any, message: Any, products: Any) -> None:
        products.when_done(lambda _: None)

    return Products, "produced", produced


@mutant()
def a_failure_of_the_process_moves_its_record() -> Mutation:
    verdict = Rules.verdict

    def blaming(self: Rules, error: BaseException) -> Any:
        found = verdict(self, error)
        return NEXT if found.move is Move.STOP and isinstance(error, MemoryError) else found

    return Rules, "verdict", blaming


@mutant()
def waits_are_skipped() -> Mutation:
    timed = DueTimes.timed

    def hasty(self: DueTimes, assignment: Any, piece: Any, now_ms: int) -> Any:
        found, size = timed(self, assignment, piece, now_ms)
        found.due_times = [now_ms] * len(found)
        return found, size

    return DueTimes, "timed", hasty


@mutant()
def due_times_are_not_written() -> Mutation:
    return DueTimes, "wait", lambda self, target, after, jitter: 0.0


@mutant()
def keys_are_not_ordered() -> Mutation:
    return KeyQueues, "_key_queue", lambda self, entry: None


@mutant()
def a_run_takes_no_keys() -> Mutation:
    claim = KeyQueues.claim

    def blind(self: KeyQueues, *arguments: Any) -> Any:
        key_queues, self._key_queues = self._key_queues, {}
        try:
            return claim(self, *arguments)
        finally:
            self._key_queues = key_queues

    return KeyQueues, "claim", blind


@mutant("writes refused")
def a_key_queue_is_never_held() -> Mutation:
    return (
        KeyQueues,
        "hold",
        lambda self, entry: setattr(entry.assignment, "in_key_queues", entry.assignment.in_key_queues + 1),
    )


@mutant()
def a_cut_gives_a_record_twice() -> Mutation:
    divide = SliceRun.divide

    def twice(self: SliceRun, index: int, key_queues: KeyQueues) -> Any:
        rest = divide(self, index, key_queues)
        return None if rest is None else self._piece.part(index)

    return SliceRun, "divide", twice


@mutant()
def a_cut_loses_a_record() -> Mutation:
    divide = SliceRun.divide

    def losing(self: SliceRun, index: int, key_queues: KeyQueues) -> Any:
        rest = divide(self, index, key_queues)
        return None if rest is None or len(rest) < 2 else rest.part(1)

    return SliceRun, "divide", losing


@mutant()
def nobody_looks_when_a_record_is_due() -> Mutation:
    return DelayQueue, "next_due", property(lambda self: None)


@mutant()
def a_paused_partition_stays_paused() -> Mutation:
    changes = Backpressure.changes

    def stuck(self: Backpressure, working: Any, patient: bool, stopping: bool) -> Any:
        return changes(self, working, patient, stopping)[0], []

    return Backpressure, "changes", stuck


@mutant(features=("enqueued",))
def nothing_is_ever_paused() -> Mutation:
    return Backpressure, "changes", lambda self, working, patient, stopping: ([], [])


@mutant()
def headers_are_left_behind() -> Mutation:
    outgoing = ForwardedCopy.producer_record

    def bare(self: ForwardedCopy, now_ms: int, limit: Any) -> Any:
        made = outgoing(self, now_ms, limit)
        return made._replace(headers=[pair for pair in made.headers if pair[0].startswith("flux-")])

    return ForwardedCopy, "producer_record", bare


@mutant()
def hops_are_placed_by_their_key() -> Mutation:
    outgoing = ForwardedCopy.producer_record
    return (
        ForwardedCopy,
        "producer_record",
        lambda self, now_ms, limit: outgoing(self, now_ms, limit)._replace(partition=None),
    )


@mutant()
def a_rejected_record_is_tried_again() -> Mutation:
    verdict = Rules.verdict

    def kind(self: Rules, error: BaseException) -> Any:
        found = verdict(self, error)
        return NEXT if found.move is Move.DEAD else found

    return Rules, "verdict", kind
