"""Writes transactions, one at a time, by a transactional client; replaces the client after any failure.

A failed transaction is not aborted here. The next client of the same id ends it on the broker, one way or the other,
which is the only way that works in every case: an abort soon after the first record may hang or be lost in librdkafka
(confluentinc/librdkafka#4849), and a client that lost its connection in a commit cannot tell how the commit ended.

A commit whose end is not known is never guessed. It is repeated, which changes nothing if it was done. If the client
can do no more, the next one of its id ends the transaction, and then the group's committed offsets, which are part of
it, say how: they are those of the transaction, or those before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs

from flux.consuming.coordinator.sealing import Part
from flux.core.engine.due_times import whole_ms
from flux.core.engine.forwarding import Forward
from flux.core.engine.forwards import ForwardedCopy
from flux.core.engine.transactions import CallOutputs
from flux.core.errors import BrokerError, DeliveryError, FailedRecord, Fault
from flux.core.ports import (
    AdminPort,
    InDoubt,
    ProducerRecord,
    Superseded,
    System,
    TransactionalCluster,
    TransactionPort,
    TransactionSettings,
)

_REQUEST = 10.0  # seconds for a request to the cluster
_COMMIT = 15.0
_DOUBT = 20.0  # seconds that a commit is repeated before another client finds out how it ended
_LOST = 30.0  # seconds until a consumer has reported that it lost its partitions
_REST = 0.2
_OF_THE_CLUSTER = frozenset({Fault.UNAVAILABLE, Fault.FENCED, Fault.LOGIN, Fault.METADATA, Fault.FATAL})
"""Faults for which no record can be the reason."""

Source = tuple[Forward | CallOutputs, ForwardedCopy | ProducerRecord]
"""A record to be written, and whose it is."""


@attrs.define
class Refused(Exception):
    """Records that their topics refuse: nothing of the transaction was committed. `unavailable`: why others were not
    written, for which no record is the reason."""

    forwards: dict[Forward, BrokerError] = attrs.field(factory=dict)
    outputs: dict[CallOutputs, Exception] = attrs.field(factory=dict)
    unavailable: BrokerError | None = None

    def add(self, source: Source, topic: str, record: ProducerRecord, error: BrokerError) -> None:
        if error.fault in _OF_THE_CLUSTER:
            self.unavailable = error
        elif isinstance(owner := source[0], Forward):
            self.forwards[owner] = error
        else:
            failed = FailedRecord(topic, record.partition, record.key, record.value, error)
            self.outputs.setdefault(owner, DeliveryError([failed]))

    def check(self) -> None:
        """Raises it if it has records; else BrokerError if the cluster was unavailable."""
        if self.forwards or self.outputs:
            raise self
        if self.unavailable is not None:
            raise self.unavailable


class TransactionWriter:
    """For one thread. `settings.id`: see `renamed`, which returns another id when a stranger uses this one. `limit`: a
    topic's largest record in bytes, if known. `goes_on`: whether it is still to wait for an unavailable cluster."""

    def __init__(
        self,
        adapter: TransactionalCluster,
        settings: TransactionSettings,
        renamed: Callable[[], str],
        limit: Callable[[str], int | None],
        system: System,
        goes_on: Callable[[], bool],
    ) -> None:
        self._adapter = adapter
        self._settings = settings
        self._renamed = renamed
        self._limit = limit
        self._system = system
        self._goes_on = goes_on
        self._client: TransactionPort | None = None
        self._superseded = 0
        """How often in a row another client, or the transaction's timeout, took its place."""
        self._admin: AdminPort | None = None

    def warm_up(self) -> None:
        """Connects, and ends what a former process of this id left open. Raises BrokerError."""
        self._started(one_by_one=False)

    def write(self, parts: Sequence[Part], step: Callable[[], None]) -> None:
        """Commits these parts in one transaction. `step`: called on progress. Raises BrokerError, or Refused, if
        nothing of it was committed; InDoubt if it could not be found out before the end of this process."""
        alone = any(part.sealed.alone for part in parts)
        try:
            self._write(parts, alone, step)
        except InDoubt:
            self._find_out(parts, step)
        except Superseded as error:
            self._drop()
            self._superseded += 1
            if self._superseded > 1:
                self._settings = attrs.evolve(self._settings, id=self._renamed())
            raise BrokerError(str(error), Fault.UNAVAILABLE) from error
        except BrokerError as error:
            self._drop()
            if alone or error.fault in _OF_THE_CLUSTER:
                raise
            self._write_one_by_one(parts, step)
        except BaseException:
            self._drop()
            raise

    def _write_one_by_one(self, parts: Sequence[Part], step: Callable[[], None]) -> None:
        """Once more, to find the record because of which it failed."""
        try:
            self._write(parts, True, step)
        except InDoubt:
            self._find_out(parts, step)
        except BaseException:
            self._drop()
            raise

    def _write(self, parts: Sequence[Part], one_by_one: bool, step: Callable[[], None]) -> None:
        client = self._started(one_by_one)
        refused = Refused()
        client.begin()
        for topic, sources in _by_topic(parts).items():
            step()
            self._write_to(client, topic, sources, refused, one_by_one)
        if one_by_one:
            client.flush(_COMMIT)
        refused.check()
        for part in parts:
            if part.sealed.offsets:
                step()
                if part.task.has_lapsed(part):  # the group refuses it too, but may learn of it later
                    raise BrokerError(f"partitions of {part} were lost", Fault.FENCED)
                client.add_offsets(part.membership, part.sealed.offsets, _REQUEST)
        step()
        self._commit(client, step)

    def _write_to(
        self, client: TransactionPort, topic: str, sources: Sequence[Source], refused: Refused, one_by_one: bool
    ) -> None:
        records: list[ProducerRecord] = []
        try:
            partitions = client.partitions(topic, _REQUEST)
        except BrokerError as error:
            if error.fault in _OF_THE_CLUSTER:
                raise
            partitions = 0
            for source in sources:
                record = ProducerRecord(None) if isinstance(source[1], ForwardedCopy) else source[1]
                refused.add(source, topic, record, error)
            return
        now_ms, limit = whole_ms(self._system.now()), self._limit(topic)
        for _, each in sources:
            if isinstance(each, ForwardedCopy):
                each.partitions = partitions
                records.append(each.producer_record(now_ms, limit))
            else:
                records.append(each)
        if not one_by_one:
            client.write(topic, records)
            return
        client.write(topic, records, lambda at, error: refused.add(sources[at], topic, records[at], error))

    def _commit(self, client: TransactionPort, step: Callable[[], None]) -> None:
        until = self._system.monotonic() + _DOUBT
        while True:
            try:
                client.commit(_COMMIT)
                self._superseded = 0
                return
            except InDoubt as error:
                if not error.retriable or self._system.monotonic() >= until:
                    raise
            step()
            self._system.sleep(_REST)

    def _find_out(self, parts: Sequence[Part], step: Callable[[], None]) -> None:
        """Returns if the transaction was committed; raises BrokerError if it was not, and InDoubt if that cannot be
        found out."""
        self._drop()
        error: BrokerError | None = None
        while self._goes_on():
            step()
            try:
                self._started(one_by_one=False)
                if self._is_committed(parts, step):
                    return
                raise BrokerError("the connection broke in its commit, and it was not committed", Fault.FENCED)
            except InDoubt:
                raise
            except Superseded:
                break  # whoever uses the id now has ended the transaction, but may have ended others too
            except BrokerError as failed:
                if failed.fault is Fault.FENCED:
                    raise
                error = failed
                self._drop()
                self._system.sleep(1.0)
        raise InDoubt(f"it is not known whether the last transaction was committed ({error})", Fault.FATAL)

    def _is_committed(self, parts: Sequence[Part], step: Callable[[], None]) -> bool:
        until = self._system.monotonic() + _LOST
        while (found := self._look(parts)) is None:
            # Another member commits for partitions that this one has lost, which its next polls will report.
            if self._system.monotonic() >= until or not self._goes_on():
                raise InDoubt("its committed offsets were changed by somebody else", Fault.FATAL)
            step()
            self._system.sleep(_REST)
        return found

    def _look(self, parts: Sequence[Part]) -> bool | None:
        """Whether the transaction was committed; None: the committed offsets do not say it."""
        if self._admin is None:
            self._admin = self._adapter.admin()
        for part in parts:
            stage = part.runtime.engine.stage
            owned = part.task.owned(part)
            if not owned:
                continue
            found = self._admin.committed_offsets(stage.group, stage.topic, _REQUEST)
            for partition, (offset, before) in owned.items():
                committed = found.get(partition.partition)
                if committed == offset:
                    return True
                if committed == before:
                    return False
        if any(part.task.owned(part) for part in parts):
            return None
        return False  # nothing is owned any more: what is put back is dropped

    # ---- the client

    def _started(self, one_by_one: bool) -> TransactionPort:
        if self._client is not None and self._settings.one_by_one != one_by_one:
            self._drop()
        if self._client is None:
            self._settings = attrs.evolve(self._settings, one_by_one=one_by_one)
            self._client = self._adapter.transactions(self._settings)
            try:
                self._client.start(_REQUEST)
            except BaseException:
                self._drop()
                raise
        return self._client

    def _drop(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def close(self) -> None:
        self._drop()
        if self._admin is not None:
            self._admin.close()


def _by_topic(parts: Sequence[Part]) -> dict[str, list[Source]]:
    """What is written to each topic, in order."""
    found: dict[str, list[Source]] = {}
    for part in parts:
        for forward in part.sealed.forwards:
            for copy in (forward.forwarded_copy, forward.forwarded_copy.companion):
                if copy is not None:
                    found.setdefault(copy.target.topic, []).append((forward, copy))
        for outputs in part.sealed.outputs:
            for topic, record in outputs.records:
                found.setdefault(topic, []).append((outputs, record))
    return found
