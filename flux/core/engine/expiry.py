"""Expiry: whether a record is older than `give_up_after`, counted from its timestamp in the main topic."""

from __future__ import annotations

from flux.core.message import Message


def expires(message: Message, give_up_after: float | None, at: float) -> bool:
    """Whether the record has expired at `at` (seconds since the epoch). Without a known timestamp it never does."""
    if give_up_after is None:
        return False
    born = message.origin_timestamp
    return born is not None and at * 1000 > born + give_up_after * 1000 and born > 0
