"""What `retry_order` writes besides the copies of failed records: entries of the topic of keys, and copies of records
that follow another one, without a call.
"""

from __future__ import annotations

import attrs

from flux.core import flux_headers
from flux.core.engine.forwards import Detail, ForwardedCopy
from flux.core.engine.key_order import OrderEntry, Origin, entry_name
from flux.core.message import Message
from flux.core.ports import ProducerRecord
from flux.core.stage import Role, Stage

_RENEWED = {flux_headers.STAGE, flux_headers.ATTEMPTS, flux_headers.DUE, flux_headers.ORDER}


@attrs.define(eq=False)
class EntryWrite(ForwardedCopy):
    """Sets the entry of a record in the topic of keys, or removes it: `entry` None."""

    origin: Origin = (0, 0)
    entry: OrderEntry | None = None

    def producer_record(self, now_ms: int, limit: int | None) -> ProducerRecord:
        value = None if self.entry is None else self.entry.value()
        return ProducerRecord(value, entry_name(self.origin), (), 0, now_ms)


def entry_write(message: Message, topic: str, origin: Origin, entry: OrderEntry | None) -> EntryWrite:
    stage = Stage(-1, topic, "", Role.RETRY)
    return EntryWrite(message, stage, "", 0.0, "", 0, "", "", "", False, Detail.NONE, origin=origin, entry=entry)


@attrs.define(eq=False)
class FollowingCopy(ForwardedCopy):
    """A copy of a record that was not called: it follows another one of its key, or is written once more as `entry`
    says. What an earlier failure has left in its headers stays."""

    entry: OrderEntry = attrs.field(kw_only=True)

    def producer_record(self, now_ms: int, limit: int | None) -> ProducerRecord:
        message, target, entry = self.message, self.target, self.entry
        moved = message.stage > 0
        headers = [
            pair
            for pair in message.headers
            if not pair[0].startswith(flux_headers.PREFIX) or (moved and pair[0] not in _RENEWED)
        ]
        headers.append((flux_headers.STAGE, b"%d" % target.number))
        headers.append((flux_headers.ATTEMPTS, b"%d" % entry.attempts))
        if target.role is not Role.DEAD:
            headers.append((flux_headers.DUE, b"%d" % entry.due))
        headers.append((flux_headers.ORDER, b"%d" % (self.order or 0)))
        if not moved:
            topic, partition, offset = message.origin
            headers.append((flux_headers.GROUP, self.group.encode()))
            headers.append((flux_headers.ORIGIN_TOPIC, topic.encode()))
            headers.append((flux_headers.ORIGIN_PARTITION, b"%d" % partition))
            headers.append((flux_headers.ORIGIN_OFFSET, b"%d" % offset))
            headers.append((flux_headers.ORIGIN_TIMESTAMP, b"%d" % (message.origin_timestamp or 0)))
        place = message.partition % self.partitions if self.partitions else None
        return ProducerRecord(message.raw_value, message.key, headers, place, now_ms)


def following_copy(message: Message, target: Stage, group: str, entry: OrderEntry, wait: float) -> FollowingCopy:
    return FollowingCopy(message, target, "", wait, group, 0, "", "", "", False, Detail.NONE, entry=entry)
