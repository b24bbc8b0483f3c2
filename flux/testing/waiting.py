"""What waits in a retry topic of a task, for the assertions of a test."""

from __future__ import annotations

import attrs

from flux.adapters.memory import Broker
from flux.core import flux_headers
from flux.core.engine.offset_tracker import read_metadata
from flux.core.named_work import NamedWork, Names
from flux.core.stage import Stage
from flux.testing.records import StoredRecord


@attrs.frozen(repr=False)
class WaitingRecord:
    """A record that waits in a retry topic. `due`: seconds since the epoch by the kit's clock; `seconds`: from now
    (negative: overdue). None for a record that flux did not write, which gets a due time when it is read."""

    record: StoredRecord
    stage: int
    due: float | None
    seconds: float | None

    def __repr__(self) -> str:
        when = "when it is read" if self.seconds is None else f"in {self.seconds:g} s"
        return f"stage {self.stage}, due {when}: {self.record!r}"


def waiting_records(stage: Stage, broker: Broker, now: float) -> list[WaitingRecord]:
    """What of a retry topic is not done, without what was replaced or cancelled. `now`: seconds since the epoch."""
    committed = broker.committed_offsets(stage.group, stage.topic)
    names: dict[int, Names] = {}
    found: list[tuple[WaitingRecord, NamedWork | None]] = []
    for record in map(StoredRecord.of, broker.records(stage.topic)):
        stored = committed.get(record.partition)
        before = 0 if stored is None else stored.offset
        done = [] if stored is None else read_metadata(stored.offset, stored.metadata) or []
        due = record.header(flux_headers.DUE)
        at = int(due) / 1000 if due is not None and due.isdecimal() else None
        named = flux_headers.read(record.headers, stage.number, 0, 0).named if stage.has_names else None
        if named is not None and record.offset >= before:
            names.setdefault(record.partition, Names()).arrived(named, record.offset, int((at or 0) * 1000))
        if record.offset >= before and not any(start <= record.offset < end for start, end in done):
            seconds = None if at is None else round(at - now, 3)
            found.append((WaitingRecord(record, stage.number, at, seconds), named))
    return [each for each, named in found if named is None or not named.void]
