"""Replays dead letters: writes each once more, and remembers how far it came.

At least once: a position is committed only for copies that all in-sync replicas have acknowledged. Whatever ends it
(a signal, a limit, an error), the position is committed up to the last record before, and the next one goes on there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import attrs

from flux.consuming.topic_setup import ASK
from flux.core.errors import BrokerError
from flux.core.ports import AdminPort, Cluster, ProducerRecord, System
from flux.operate.dlq.dead_letters import Letter, letter_of
from flux.operate.dlq.replay_plan import ReplayPlan, ReplayVerdict, copy_of, judge
from flux.operate.reading import Piece, read
from flux.operate.writing import CHUNK, Writing
from flux.system import SYSTEM

_COMMIT_EVERY = 5.0  # seconds
_NAP = 0.1


@attrs.define
class Receipt:
    """What a replay did. `stopped`: why it ended before the end of what there was; empty: it did not."""

    replayed: int = 0
    unmatched: int = 0
    done_before: int = 0
    stopped: str = ""
    failed: bool = False
    """Whether somebody has to do something about it."""
    interrupted: bool = False


class Replay:
    """One run of a plan. `progressed` is told how many offsets were passed; `stopping` is asked between records."""

    def __init__(
        self,
        plan: ReplayPlan,
        adapter: Cluster,
        admin: AdminPort,
        *,
        stopping: Callable[[], bool] = lambda: False,
        progressed: Callable[[int], object] = lambda count: None,
        system: System = SYSTEM,
    ) -> None:
        self.receipt = Receipt()
        self._plan = plan
        self._adapter = adapter
        self._admin = admin
        self._stopping = stopping
        self._progressed = progressed
        self._system = system
        self._replayed = dict(plan.replayed)
        self._stored = dict(plan.stored)
        self._changed: set[int] = set()
        self._committed_at = self._began = system.monotonic()
        self._writing = Writing(adapter, plan.target.topic, plan.limit_bytes, system)

    def run(self) -> Receipt:
        """Ends at a record's boundary, with the positions committed; what went wrong is in the receipt. Raises what is
        no error of the cluster's."""
        try:
            self._run()
        except BrokerError as error:
            # Over what was to stop it after this chunk, such as a limit: that was not reached.
            self.receipt.stopped, self.receipt.failed = str(error), True
        finally:
            self._finish()
        return self.receipt

    def _finish(self) -> None:
        receipt = self.receipt
        try:
            self._commit()
        except BrokerError as error:
            if str(error) not in receipt.stopped:
                stopped = f"{receipt.stopped}; " if receipt.stopped else ""
                receipt.stopped = f"{stopped}how far it is was not committed: {error}"
            receipt.failed = True
        self._writing.close()

    def _run(self) -> None:
        plan = self._plan
        pieces = read(self._adapter, plan.source.topic, plan.spans, stopping=self._stopping, system=self._system)
        for piece in pieces:
            for chunk in self._chunks(piece):
                self._write(chunk)
                if self._system.monotonic() - self._committed_at >= _COMMIT_EVERY:
                    self._commit()
            if self.receipt.stopped:
                return
        if self._stopping():
            self._interrupted()

    def _chunks(self, piece: Piece) -> Iterator[Chunk]:
        """The copies of a piece, as many at once as may be written at once, until it is to stop."""
        order, receipt = self._plan.order, self.receipt
        most = CHUNK if order.rate is None else max(1, min(CHUNK, int(order.rate * _NAP)))
        chunk = Chunk(piece.partition)
        for record in piece.records:
            if self._stopping():
                self._interrupted()
                break
            letter = letter_of(record, self._plan.policy, self._now_ms())
            verdict = judge(letter, order, self._plan.replayed[piece.partition])
            if verdict is ReplayVerdict.COPY:
                if order.limit is not None and receipt.replayed + len(chunk.copies) >= order.limit:
                    self._stop(f"{order.limit:,} replayed, as many as --limit says")
                    break
                chunk.copies.append((letter.offset, self._copy(letter)))
            elif verdict is ReplayVerdict.TOO_OFTEN:
                self._stop(
                    f"{letter.place} was replayed {letter.replays} time(s) and failed again ({letter.error}):"
                    " mend the cause, choose others, or raise --max-replays",
                    failed=True,
                )
                break
            elif verdict is ReplayVerdict.DONE:
                receipt.done_before += 1
            else:
                receipt.unmatched += 1
            chunk.passed += 1
            chunk.end = letter.offset + 1
            if len(chunk.copies) >= most:
                yield chunk
                chunk = Chunk(piece.partition)
        else:
            chunk.end = piece.reached
        if chunk.end is not None:
            yield chunk

    def _copy(self, letter: Letter) -> ProducerRecord:
        plan = self._plan
        return copy_of(letter, plan.target, plan.policy.stages[0].group, self._now_ms(), plan.partitions)

    # -- effects

    def _write(self, chunk: Chunk) -> None:
        """Returns when all copies are acknowledged. Raises BrokerError; what was acknowledged before the first that
        was not counts as replayed."""
        copies = [copy for _, copy in chunk.copies]
        there, failure = (len(copies), None) if self._plan.order.dry else self._writing.write(copies)
        self.receipt.replayed += there
        if there < len(copies):
            self._advance(chunk.partition, chunk.copies[there][0])
        else:
            assert chunk.end is not None
            self._advance(chunk.partition, chunk.end)
            self._progressed(chunk.passed)
        if failure is not None:
            raise failure
        self._dispatch_mode()

    def _dispatch_mode(self) -> None:
        """Sleeps until the rate allows the next one."""
        rate = self._plan.order.rate
        if rate is not None:
            until = self._began + self.receipt.replayed / rate
            while not self._stopping() and (left := until - self._system.monotonic()) > 0:
                self._system.sleep(min(left, _NAP))

    # -- positions

    def _advance(self, partition: int, offset: int) -> None:
        before = self._replayed[partition]
        after = self._replayed[partition] = before.advanced(self._plan.order.which, offset)
        if after != before:
            self._changed.add(partition)

    def _commit(self) -> None:
        self._committed_at = self._system.monotonic()
        if not self._changed or self._plan.order.dry:
            return
        plan, admin = self._plan, self._admin
        found = admin.committed_offsets(plan.group, plan.source.topic, ASK)
        positions = {number: self._replayed[number].position(plan.policy.max_metadata) for number in self._changed}
        for number in self._changed:
            if found.get(number) not in (self._stored.get(number), positions[number]):
                raise BrokerError(
                    f"the position of {plan.group} in partition {number} was moved by somebody else, such as another"
                    " replay: some records may have been replayed twice"
                )
        admin.set_committed_offsets(plan.group, plan.source.topic, positions, ASK)
        self._stored |= positions
        self._changed.clear()

    def _interrupted(self) -> None:
        self.receipt.interrupted = True
        self._stop("interrupted")

    def _stop(self, why: str, failed: bool = False) -> None:
        if not self.receipt.stopped:
            self.receipt.stopped, self.receipt.failed = why, failed

    def _now_ms(self) -> int:
        return int(self._system.now() * 1000)


@attrs.define
class Chunk:
    """Copies to write, with the offsets of their letters; `end`: where the partition is done to after that."""

    partition: int
    copies: list[tuple[int, ProducerRecord]] = attrs.field(factory=list)
    passed: int = 0
    end: int | None = None
