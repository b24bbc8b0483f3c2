"""What a replay writes: a dead letter once more, for the first retry stage or the main topic."""

from __future__ import annotations

from flux.core import flux_headers as t
from flux.core.ports import ProducerRecord
from flux.core.stage import Role, Stage
from flux.operate.dlq.dead_letters import Letter

_KEPT = (t.FIRST_FAILED_AT, t.FAILED_AT, t.REASON, t.ERROR_TYPE, t.ERROR_MESSAGE)
"""Of flux's own: what is known of the failure. Not the trace, so that the copy is no larger than the dead letter."""


def copy_of(letter: Letter, target: Stage, group: str, now_ms: int, partitions: int) -> ProducerRecord:
    """The record to write to `target`, which has `partitions`. Key, value and the headers that it came with stay.

    In the main topic it is new work: nothing of flux's is left, and it goes to the partition that it came from. In a
    retry topic it is the same work, due now, as if no call had been made yet; its replays are counted.
    """
    message = letter.message
    headers = [pair for pair in message.headers if not pair[0].startswith(t.PREFIX)]
    home = message.partition
    if target.role is Role.MAIN:
        if message.trail.origin is not None:
            home = message.trail.origin[1]
    else:
        headers += _trail(letter, target, group, now_ms)
    return ProducerRecord(
        value=message.raw_value, key=message.key, headers=headers, partition=home % partitions, timestamp=now_ms
    )


def _trail(letter: Letter, target: Stage, group: str, now_ms: int) -> list[tuple[str, bytes | None]]:
    message, trail = letter.message, letter.message.trail
    topic, partition, offset = message.origin
    numbers = {
        t.STAGE: target.number,
        t.ATTEMPTS: 0,
        t.DUE: now_ms,
        t.ORIGIN_PARTITION: partition,
        t.ORIGIN_OFFSET: offset,
        t.REPLAYS: trail.replays + 1,
    }
    if trail.origin_timestamp is not None:
        numbers[t.ORIGIN_TIMESTAMP] = trail.origin_timestamp
    pairs: list[tuple[str, bytes | None]] = [(name, str(number).encode()) for name, number in numbers.items()]
    pairs += [(t.GROUP, group.encode()), (t.ORIGIN_TOPIC, topic.encode())]
    pairs += [(name, value) for name in _KEPT if (value := message.headers.get(name)) is not None]
    return pairs
