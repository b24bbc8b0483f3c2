"""A dead letter for machines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flux.operate.dlq.dead_letters import Letter


def as_json(letter: Letter) -> dict[str, Any]:
    """A row of `flux dlq list`, for machines. Times in milliseconds since the epoch; bytes that are not UTF-8 as
    \\xNN."""
    from flux.operate.dlq.causes import cause_of
    from flux.operate.formatting import text_of

    message = letter.message
    return {
        "partition": letter.partition,
        "offset": letter.offset,
        "key": None if message.key is None else text_of(message.key),
        "reason": letter.reason or None,
        "error_type": letter.error_type or None,
        "error_message": letter.error_message or None,
        "cause": cause_of(letter).id,
        "first_failed_at": letter.first_failed_at,
        "failed_at": letter.failed_at,
        "attempts": letter.attempts,
        "replays": letter.replays,
        "id": message.id,
    }
