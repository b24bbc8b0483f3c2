"""What one stage writes in transactions (`exactly_once`): what calls produced, forwarded copies, committed offsets.

Invariant: what a record's call produced, or the record's forwarded copy, becomes visible in the same transaction as the
committed offset by which the record is done. So offsets are computed as if all records of the transaction were done
already, and no offset of the stage is committed in any other way.

`seal` takes everything that waits for a transaction. The records stay open, and the offset trackers as they are, until
`committed`. If the transaction is not committed, `put_back` returns everything to its place, and the next transaction
takes it together with what came since. An abort takes nothing back that was visible, because nothing was. What belongs
to a partition that is gone is dropped: its records were never committed, and the next owner calls them again.

If offsets were computed without the sealed records, a crash after the commit would repeat their calls, and a reader
would see what they produced twice. If the trackers advanced at `seal`, an abort would leave them ahead of the group.
A record that ends above one that is still open is done by the metadata of the committed offset only: therefore tasks
with `exactly_once` need metadata, and fail if the broker refuses it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence

import attrs

from flux.core.engine.assignment import Assignment, Phase
from flux.core.engine.commands import Level, LogEvent
from flux.core.engine.common import Common
from flux.core.engine.dispatch import Dispatch
from flux.core.engine.forwarding import Forward
from flux.core.engine.partitions import Partitions
from flux.core.engine.retries import Retries
from flux.core.engine.slices import Entry
from flux.core.errors import BrokerError, Fault
from flux.core.ports import CommittedOffset, ProducerRecord, TopicPartition

MOST_OUTPUTS = 50_000
MOST_OUTPUT_BYTES = 32 * 1024 * 1024
_LONGEST_BACKOFF = 30.0
_REBALANCE = 0.1  # seconds until a transaction that a rebalance refused is written again
_LONGEST_REBALANCE = 5.0  # the same when it has been refused for long
_OFTEN = 10  # refusals in a row, from which on these seconds grow
_LONG = 5.0  # seconds of refusals, which a rebalance seldom takes
_OVERHEAD = 200  # about the bytes of bookkeeping of one record


@attrs.define(eq=False)
class CallOutputs:
    """What one call, or one batch, produced. Its records are done when a transaction with all of it is committed.
    `records`: with their topics, in the order in which the call produced them. `size`: bytes of their keys and
    values."""

    entries: Sequence[Entry]
    records: Sequence[tuple[str, ProducerRecord]]
    size: int


@attrs.define(eq=False)
class Sealed:
    """One stage's part of a transaction. `before`: what was committed for the partitions of `offsets` until now."""

    forwards: list[Forward]
    outputs: list[CallOutputs]
    offsets: dict[TopicPartition, CommittedOffset]
    before: dict[TopicPartition, CommittedOffset | None]
    assignments: list[Assignment]

    @property
    def owned(self) -> list[TopicPartition]:
        """Its partitions that are still assigned."""
        return [each.partition for each in self.assignments if each.phase is not Phase.GONE]

    @property
    def has_lapsed(self) -> bool:
        """Whether one of its partitions is gone: it must not be committed as it is."""
        return len(self.owned) < len(self.assignments)

    @property
    def alone(self) -> bool:
        """Whether it has a record that a topic has refused before, which is written by itself."""
        return any(forward.alone for forward in self.forwards)


class Transactions:
    """Of one stage."""

    __slots__ = (
        "_bytes",
        "_common",
        "_dispatch",
        "_failures",
        "_outputs",
        "_partitions",
        "_records",
        "_refusals",
        "_refused_since",
        "_retries",
        "_retry_at",
        "_sealed",
    )

    def __init__(self, common: Common, partitions: Partitions, dispatch: Dispatch, retries: Retries) -> None:
        self._common = common
        self._partitions = partitions
        self._dispatch = dispatch
        self._retries = retries
        self._outputs: deque[CallOutputs] = deque()
        self._records = 0
        """Records that calls produced, sealed ones included."""
        self._bytes = 0
        """Their keys and values."""
        self._sealed: Sealed | None = None
        self._failures = 0
        """Transactions in a row that failed because the cluster was unavailable."""
        self._retry_at = 0.0
        self._refusals = 0
        """Transactions in a row that the group refused."""
        self._refused_since = 0.0

    # ---- facts

    def produced(self, outputs: CallOutputs) -> None:
        """A call returned, and produced records; its entries are open."""
        order = self._retries.order
        if order is not None:
            removals = [removal for entry in outputs.entries if (removal := order.removal(entry)) is not None]
            outputs.records = [*outputs.records, *removals]
        self._outputs.append(outputs)
        self._records += len(outputs.records)
        self._bytes += outputs.size
        self._common.commits.done += 1

    def committed(self, sealed: Sealed, now: float) -> list[Forward]:
        """The transaction is committed. Returns the forwards that count: a partition may be gone."""
        self._sealed = None
        self._failures = self._refusals = 0
        counted = self._retries.all_written(sealed.forwards, now)
        self._retries.all_settled(entry for outputs in sealed.outputs for entry in outputs.entries)
        self._let_go(sealed.outputs)
        self._partitions.committed({partition: sealed.offsets[partition] for partition in sealed.owned}, None, now)
        return counted

    def put_back(
        self,
        sealed: Sealed,
        error: BrokerError,
        now: float,
        refused: Mapping[Forward, BrokerError] | None = None,
        blamed: bool = False,
    ) -> None:
        """The transaction was not committed. `refused`: forwards that their target topics refuse. `blamed`: because of
        refused records, of this stage or of another one, so that the next transaction, without them, may succeed."""
        self._sealed = None
        forwards = self._retries.forwards
        refused = refused or {}
        forwards.put_back(forward for forward in sealed.forwards if forward not in refused)
        for forward, why in refused.items():
            self._retries.unwritten(forward, why, now)
            forward.alone = True
        self._outputs.extendleft(reversed(sealed.outputs))
        self._common.commits.ended(False, now)
        if blamed:
            self._retry_at = now
            return
        if error.fault is Fault.FENCED:  # a rebalance, which the consumer's next polls complete
            self._refused(error, now)
            return
        self._failures += 1
        self._retry_at = now + min(0.1 * 2.0 ** min(self._failures, 10), _LONGEST_BACKOFF)
        self._common.stats.commit_failures += 1
        text = f"a transaction of {self._common.stage.group} was not committed ({error}): the stage pauses and retries"
        self._common.log_events.append(LogEvent(Level.WARNING, text, kind=("transaction", error.fault)))

    def _refused(self, error: BrokerError, now: float) -> None:
        if not self._refusals:
            self._refused_since = now
        self._refusals += 1
        self._retry_at = now + min(_REBALANCE * 2.0 ** min(max(0, self._refusals - _OFTEN), 10), _LONGEST_REBALANCE)
        seconds = now - self._refused_since
        if seconds >= _LONG:
            text = (
                f"group {self._common.stage.group} has refused {self._refusals} transactions in {seconds:.0f} s"
                f" ({error}): nothing is committed until it accepts one, so find out why it rebalances"
            )
            self._common.log_events.append(LogEvent(Level.WARNING, text, kind=("transaction", error.fault)))

    def withdraw(self, sealed: Sealed, outputs: CallOutputs) -> None:
        """The cluster refuses a record of these outputs: their call fails. Call it before `put_back`."""
        sealed.outputs.remove(outputs)
        self._let_go([outputs])

    # ---- commands

    def due(self, now: float) -> bool:
        """Whether a transaction should be written now."""
        if self._sealed is not None or now < self._retry_at:
            return False
        if self._pressing or self._retries.forwards.retries(now):
            return True
        if not self._common.commits.due(now):
            return False
        self._dispatch.settle_all()
        if self._outputs or self._retries.forwards.queued or self._partitions.commit(now, None, at_once=True):
            return True
        self._failures = 0  # what failed is gone with its partition
        return False

    def seal(self, now: float) -> Sealed | None:
        """Takes what waits for a transaction; None if there is nothing, or the last one has not ended. The caller
        reports its end with `committed` or `put_back`."""
        if self._sealed is not None or now < self._retry_at:
            return None
        self._dispatch.settle_all()
        forwards, done = self._take_forwards(now)
        outputs = [] if any(forward.alone for forward in forwards) else self._take_outputs()
        ranges: dict[Assignment, list[tuple[int, int]]] = {}
        for entry in _entries(done, outputs):
            ranges.setdefault(entry.assignment, []).append((entry.offset, entry.end))
        offsets = self._partitions.commit(now, None, at_once=False, ended=ranges) or {}
        if not (forwards or outputs or offsets):
            self._failures = 0
            return None
        assignments = self._partitions.of(offsets)
        before = {assignment.partition: assignment.committed for assignment in assignments}
        self._sealed = Sealed(forwards, outputs, offsets, before, assignments)
        return self._sealed

    # ---- state

    @property
    def sealed(self) -> Sealed | None:
        """The transaction that is being written; None: none is."""
        return self._sealed

    def postponed(self, at: float | None) -> float | None:
        """When what could be written from `at` on is written at the earliest; None: after a fact."""
        if at is None or self._sealed is not None:
            return None
        return max(at, self._retry_at)

    @property
    def blocked(self) -> bool:
        """Whether the stage must not start calls: the cluster is unavailable, or too much waits for a transaction."""
        return self._failures > 0 or self._records >= MOST_OUTPUTS or self._memory >= MOST_OUTPUT_BYTES

    @property
    def _memory(self) -> int:
        return self._bytes + self._records * _OVERHEAD

    @property
    def _pressing(self) -> bool:
        """Whether so much waits that the stage would soon have to stop."""
        return not self._failures and (
            self._records >= MOST_OUTPUTS // 2
            or self._memory >= MOST_OUTPUT_BYTES // 2
            or self._retries.forwards.pressing
        )

    def _take_forwards(self, now: float) -> tuple[list[Forward], list[Forward]]:
        """Those that the transaction writes, and those of them whose records are done with it."""
        order, forwards = self._retries.order, self._retries.forwards.take(now)
        if order is None:
            return forwards, forwards
        done, later = order.moves.sealed(forwards)
        self._retries.forwards.put_back(later)
        return [forward for forward in forwards if forward not in set(later)], done

    def _take_outputs(self) -> list[CallOutputs]:
        """Without those whose partition is gone: all entries of one have the same partition."""
        taken: list[CallOutputs] = []
        for outputs in self._outputs:
            first = outputs.entries[0]
            if first in first.assignment.open:
                taken.append(outputs)
            else:
                self._let_go([outputs])
        self._outputs.clear()
        return taken

    def _let_go(self, outputs: Iterable[CallOutputs]) -> None:
        for each in outputs:
            self._records -= len(each.records)
            self._bytes -= each.size


def _entries(forwards: Iterable[Forward], outputs: Iterable[CallOutputs]) -> Iterator[Entry]:
    for forward in forwards:
        yield forward.entry
    for each in outputs:
        yield from each.entries
