"""The oldest unfinished record of each partition: the one at its committed offset."""

from __future__ import annotations

import attrs

from flux.core.monitoring.report import shown_key
from flux.core.policy import Policy
from flux.core.ports import Record
from flux.core.stage import Role, Stage
from flux.operate.reading import message_of
from flux.operate.record_history import due_of


@attrs.frozen
class OldestUnfinished:
    """Times in milliseconds since the epoch."""

    offset: int
    key: str | None
    attempt: int
    written_at: int
    due: int | None
    """None in the main stage, where nothing waits."""
    size: int = 0
    """Uncompressed bytes of value, key and headers."""

    def waits(self, now_ms: int) -> bool:
        return self.due is not None and self.due > now_ms

    def since(self, now_ms: int) -> float | None:
        """Seconds since it was written, or due. None: not known."""
        began = self.due if self.due is not None else self.written_at
        return None if began <= 0 else max(0.0, (now_ms - began) / 1000)


def oldest_unfinished_of(record: Record, stage: Stage, policy: Policy, now_ms: int) -> OldestUnfinished:
    message = message_of(record, stage, policy, now_ms)
    due = None if stage.role is Role.MAIN else due_of(message, stage, policy)
    size = len(record.value() or b"") + len(message.key or b"")
    size += sum(len(name) + len(value or b"") for name, value in message.headers)
    return OldestUnfinished(message.offset, shown_key(message.key), message.attempt, message.timestamp, due, size)
