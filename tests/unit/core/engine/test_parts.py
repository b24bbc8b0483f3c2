"""The engine's parts, each alone: facts in, commands out."""

from __future__ import annotations

from flux.core.engine.assignment import Assignment, Entry
from flux.core.engine.common import Common
from flux.core.engine.dispatch import Dispatch
from flux.core.engine.forwards import Failure
from flux.core.engine.partitions import Partitions
from flux.core.engine.queued_work import QueuedWork
from flux.core.engine.retries import Retries
from flux.core.engine.runs import Run
from flux.core.engine.verdicts import Move
from flux.core.flux_headers import start
from flux.core.limits.circuit_breaker import Gate
from flux.core.message import Message
from flux.core.ports import Batch, CommittedOffset, TopicPartition
from unit.support.engine_support import STAGES, T0, FakeRecord, policy, record

P0 = TopicPartition(STAGES[0].topic, 0)


def common(**settings: object) -> Common:
    return Common(policy(**settings), STAGES[0], Gate())


def assignment() -> Assignment:
    return Assignment(P0, 0, [], None, 0, 4095)


def made(offset: int) -> FakeRecord:
    return record(offset, b"k", P0)


def entry_of(at: Assignment, offset: int) -> Entry:
    list(at.deliver([made(offset)]))
    return Entry(at, Message.of(made(offset), b"x", start()), offset, offset + 1)


def test_a_partition_that_is_gone_is_dropped_by_all_and_commits_nothing() -> None:
    dropped: list[Assignment] = []
    partitions = Partitions(common(), dropped.append)
    partitions.assigned({P0: CommittedOffset(3)}, {P0: 0}, T0)
    [old] = partitions.of([P0])
    partitions.reached({P0: 7})
    assert partitions.commit(T0, None, at_once=True) == {P0: CommittedOffset(7)}
    partitions.lost([P0])
    assert dropped == [old]
    assert partitions.commit(T0, None, at_once=True) is None


def test_dispatch_tells_of_calls_that_it_finds_failed_and_gives_what_is_cut_to_others() -> None:
    shared, told = common(), list[tuple[Run, int]]()
    work = QueuedWork(shared)
    dispatch = Dispatch(shared, work, lambda run, entry, failure: told.append((run, entry.offset)))
    at = assignment()
    work.delivered([Batch(P0, [made(offset) for offset in range(4)])], {P0: at}, T0)
    run = dispatch.take(100, T0)
    assert run is not None
    run.note(Failure(ValueError()), Message.of(made(0), b"x", start()))
    run.index = 1
    dispatch.cut_all(at)
    assert told == [(run, 0)]
    assert run.limit == 2
    assert at.backlogged == 2
    assert shared.stats.done == 0


def test_a_failure_is_open_until_its_copy_is_written() -> None:
    shared, cut = common(), list[Assignment]()
    retries = Retries(shared, cut.append)
    at = assignment()
    entry, run = entry_of(at, 0), Run(1, T0)
    assert retries.fail(run, entry, Failure(ValueError()), T0) is Move.NEXT
    assert list(at.open) == [entry]
    [forward] = retries.forwards.take(T0)
    assert at.position == CommittedOffset(0)
    assert retries.all_written([forward], T0) == [forward]
    assert at.position == CommittedOffset(1)
    assert (cut, shared.stats.retried) == ([], 1)


def test_a_try_in_place_has_the_runs_of_its_partition_cut() -> None:
    shared, cut = common(in_place_retries=1), list[Assignment]()
    retries = Retries(shared, cut.append)
    at = assignment()
    entry = entry_of(at, 0)
    assert retries.fail(Run(1, T0), entry, Failure(ValueError()), T0) is Move.AGAIN
    assert cut == [at]
    assert retries.forwards.take(T0) == []
    retries.readmit_due(T0 + 60)
    assert shared.key_queues.take(1, T0 + 60) == [entry]
