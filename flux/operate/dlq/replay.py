"""Replays dead letters: writes a copy of each, and commits how far it got.

At least once: an offset is committed only after all in-sync replicas have acknowledged the copies below it. Whatever
stops a replay (a signal, a limit, an error), the offset is committed up to the last copy, and the next replay continues
there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import attrs

from flux.core.engine.key_order import KeyOrder
from flux.core.errors import FluxError
from flux.core.flux_headers import ORDER
from flux.core.ports import AdminPort, Cluster, CommittedOffset, ProducerRecord, System
from flux.operate.dlq.dead_letters import DeadLetter, dead_letter_of
from flux.operate.dlq.replay_plan import ReplayDecision, ReplayPlan, copy_of, decide
from flux.operate.dlq.replay_progress import DeadLetterState, ReplayProgress, commit_progress
from flux.operate.formatting import many
from flux.operate.held_keys import held_by, read_key_order
from flux.operate.reading import ReadBatch, read_pieces
from flux.operate.writing import CHUNK, TopicWriter
from flux.system import SYSTEM

_COMMIT_EVERY = 5.0  # seconds
_NAP = 0.1


@attrs.define
class ReplayResult:
    """What a replay did. `stopped`: why it stopped early; empty: it read all."""

    replayed: int = 0
    unmatched: int = 0
    replayed_before: int = 0
    rejected: int = 0
    """Passed over, as they are rejected."""
    missing: int = 0
    """Places that were chosen and have no dead letter."""
    stopped: str = ""
    failed: bool = False
    """Whether somebody has to act on it."""
    interrupted: bool = False


@attrs.define
class Replay:
    """Runs a plan once. `on_progress` gets numbers of offsets; `should_stop` is called between records."""

    _plan: ReplayPlan
    _adapter: Cluster
    _admin: AdminPort
    _should_stop: Callable[[], bool] = attrs.field(default=lambda: False, kw_only=True)
    _on_progress: Callable[[int], object] = attrs.field(default=lambda count: None, kw_only=True)
    _system: System = attrs.field(default=SYSTEM, kw_only=True)
    result: ReplayResult = attrs.field(factory=ReplayResult, init=False)
    _replayed: dict[int, ReplayProgress] = attrs.field(init=False)
    _stored: dict[int, CommittedOffset] = attrs.field(init=False)
    places: list[tuple[int, int]] = attrs.field(factory=list, init=False)
    """Partition and offset of those that are replayed one by one."""
    _met: int = attrs.field(default=0, init=False)
    _changed: set[int] = attrs.field(factory=set, init=False)
    _outstanding: KeyOrder | None = attrs.field(default=None, init=False)
    """The records that hold their keys or follow others (`retry_order`)."""
    _began: float = attrs.field(init=False)
    _committed_at: float = attrs.field(init=False)
    _writing: TopicWriter = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        plan = self._plan
        self._replayed, self._stored = dict(plan.replayed), dict(plan.stored)
        self._began = self._committed_at = self._system.monotonic()
        self._writing = TopicWriter(self._adapter, plan.target.topic, plan.limit_bytes, self._system)

    def run(self) -> ReplayResult:
        """Stops between records, with the offsets committed; an error of the cluster is in the result. Raises any other
        error."""
        try:
            self._run()
        except FluxError as error:
            # Overrides a reason to stop after this chunk, such as a limit, which was not reached.
            self.result.stopped, self.result.failed = str(error), True
        finally:
            self._finish()
        return self.result

    def _finish(self) -> None:
        result = self.result
        try:
            self._commit()
        except FluxError as error:
            if str(error) not in result.stopped:
                stopped = f"{result.stopped}; " if result.stopped else ""
                result.stopped = f"{stopped}the progress was not committed: {error}"
            result.failed = True
        self._writing.close()

    def _run(self) -> None:
        plan = self._plan
        self._outstanding = read_key_order(self._adapter, self._admin, plan.policy, self._system)
        batches = read_pieces(
            self._adapter, plan.source.topic, plan.pieces, should_stop=self._should_stop, system=self._system
        )
        for batch in batches:
            for chunk in self._chunks(batch):
                self._write(chunk)
                if self._system.monotonic() - self._committed_at >= _COMMIT_EVERY:
                    self._commit()
            if self.result.stopped:
                return
        if self._should_stop():
            self._interrupted()
        elif plan.options.criteria.only is not None:
            self.result.missing = len(plan.options.criteria.only) - self._met

    def _chunks(self, batch: ReadBatch) -> Iterator[Chunk]:
        """The copies of a batch, in the number that may be written at once, until the replay is to stop."""
        options, result = self._plan.options, self.result
        most = CHUNK if options.rate is None else max(1, min(CHUNK, int(options.rate * _NAP)))
        chunk = Chunk(batch.partition)
        for record in batch.records:
            if self._should_stop():
                self._interrupted()
                break
            dead_letter = dead_letter_of(record, self._plan.policy, self._now_ms())
            only = options.criteria.only
            if only is not None:
                if (dead_letter.partition, dead_letter.offset) not in only:
                    continue  # read between chosen ones
                self._met += 1
            decision = decide(dead_letter, options, self._plan.replayed[batch.partition])
            if decision is ReplayDecision.COPY:
                if options.limit is not None and result.replayed + len(chunk.copies) >= options.limit:
                    self._stop(f"stopped after {options.limit:,}, the --limit")
                    break
                chunk.copies.append((dead_letter.offset, self._copy(dead_letter)))
            elif decision is ReplayDecision.TOO_OFTEN:
                self._stop(
                    f"{dead_letter.place} was replayed {many(dead_letter.replays, 'time')} and failed again"
                    f" ({dead_letter.error}): fix the cause, choose others, or raise --max-replays",
                    failed=True,
                )
                break
            elif decision is ReplayDecision.DONE:
                result.replayed_before += 1
            elif decision is ReplayDecision.REJECTED:
                result.rejected += 1
            else:
                result.unmatched += 1
            chunk.passed += 1
            chunk.end = dead_letter.offset + 1
            if len(chunk.copies) >= most:
                yield chunk
                chunk = Chunk(batch.partition)
        else:
            chunk.end = batch.reached
        if chunk.end is not None:
            yield chunk

    def _copy(self, dead_letter: DeadLetter) -> ProducerRecord:
        plan = self._plan
        edit = plan.options.edits.get((dead_letter.partition, dead_letter.offset))
        copy = copy_of(dead_letter, plan.target, plan.policy.stages[0].group, self._now_ms(), plan.partitions, edit)
        if self._outstanding is None:
            return copy
        entry = held_by(self._outstanding, dead_letter.message)
        if entry is not None:
            if copy.key != dead_letter.message.key:
                raise FluxError(f"{dead_letter.place} holds its key for others: replay it with the key that it has")
            return _with_version(copy, entry.version)  # written twice, when an acknowledgement was lost
        state = plan.replayed[dead_letter.partition].state_of(dead_letter)
        outstanding = self._outstanding.entry(dead_letter.message.origin[1:]) is not None
        if outstanding or state is DeadLetterState.OPEN:
            return copy  # a newer one is on its way, or was done: this one is dropped
        return _with_version(copy, None)  # it was rejected, or a person wants it again: it has no place in the order

    # -- effects

    def _write(self, chunk: Chunk) -> None:
        """Returns when all copies are acknowledged. Raises BrokerError; those before the first failed one count as
        replayed."""
        copies = [copy for _, copy in chunk.copies]
        there, failure = (len(copies), None) if self._plan.options.dry else self._writing.write(copies)
        self.result.replayed += there
        if there < len(copies):
            self._advance(chunk, there, chunk.copies[there][0])
        else:
            assert chunk.end is not None
            self._advance(chunk, there, chunk.end)
            self._on_progress(chunk.passed)
        if failure is not None:
            raise failure
        self._keep_rate()

    def _keep_rate(self) -> None:
        """Sleeps until the rate allows the next copy."""
        rate = self._plan.options.rate
        if rate is not None:
            until = self._began + self.result.replayed / rate
            while not self._should_stop() and (left := until - self._system.monotonic()) > 0:
                self._system.sleep(min(left, _NAP))

    # -- committed offsets

    def _advance(self, chunk: Chunk, there: int, offset: int) -> None:
        """`there`: how many of the copies are acknowledged; `offset`: the partition is done below it."""
        before = self._replayed[chunk.partition]
        if self._plan.options.one_by_one:
            offsets = [each for each, _ in chunk.copies[:there]]
            self.places += [(chunk.partition, each) for each in offsets]
            after = before.choosing(offsets)
        else:
            after = before.advanced(self._plan.options.criteria, offset)
        self._replayed[chunk.partition] = after
        if after != before:
            self._changed.add(chunk.partition)

    def _commit(self) -> None:
        self._committed_at = self._system.monotonic()
        if not self._changed or self._plan.options.dry:
            return
        plan = self._plan
        new = {number: self._replayed[number].to_commit(plan.policy.max_metadata) for number in self._changed}
        commit_progress(self._admin, plan.policy, self._stored, new)
        self._stored |= new
        self._changed.clear()

    def _interrupted(self) -> None:
        self.result.interrupted = True
        self._stop("interrupted")

    def _stop(self, why: str, failed: bool = False) -> None:
        if not self.result.stopped:
            self.result.stopped, self.result.failed = why, failed

    def _now_ms(self) -> int:
        return int(self._system.now() * 1000)


@attrs.define
class Chunk:
    """Copies to write, with the offsets of their dead letters; `end`: the partition is done below it afterwards."""

    partition: int
    copies: list[tuple[int, ProducerRecord]] = attrs.field(factory=list)
    passed: int = 0
    end: int | None = None


def _with_version(copy: ProducerRecord, version: int | None) -> ProducerRecord:
    """The copy with another place in the order of its key; None: with none."""
    headers = [pair for pair in copy.headers if pair[0] != ORDER]
    return copy._replace(headers=headers if version is None else [*headers, (ORDER, b"%d" % version)])
