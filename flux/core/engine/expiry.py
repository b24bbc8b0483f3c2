"""When work is too old to be tried: `give_up_after`, counted from the timestamp of the record in the main topic."""

from __future__ import annotations

from flux.core.message import Message


def expires(message: Message, give_up_after: float | None, at: float) -> bool:
    """Whether a call at `at` (seconds since the epoch) would come too late. A record without a timestamp, or whose
    origin's is not known, never expires."""
    if give_up_after is None:
        return False
    born = message.origin_timestamp
    return born is not None and at * 1000 > born + give_up_after * 1000 and born > 0
