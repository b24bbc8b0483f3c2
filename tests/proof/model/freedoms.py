"""What may differ between two clusters, each with its reason. All else that a port returns must be equal."""

from __future__ import annotations

import time
from typing import Any

from proof.model.subject import Drained

FREEDOMS = {
    "owner": "Which member gets which partition: assignors differ. How many each gets is compared.",
    "batching": "How many records a poll brings, and in how many polls: only the order within a partition is compared.",
    "clock": "The timestamp of a record that was written without one: it is the client's time.",
    "fetched ahead": "A client may deliver records that it fetched before they were deleted. Records are deleted when "
    "all was delivered.",
    "metadata age": "How soon a client sees a new partition, or a topic that was made again: within the contract's "
    "time.",
    "deleted segments": "A lookup by time searches the first segment with a record that is young enough, also if that "
    "record was deleted, and finds nothing if there is no other; then the broker removes the segment. Topics have one.",
    "null keys": "Where a record without key and partition goes: at random, or by batch. Not drawn.",
}

_DAY = 86_400_000


def eased(found: Any) -> Any:
    """`found` without what may differ."""
    if isinstance(found, Drained):
        return {number: [_timeless(each) for each in records] for number, records in found.records.items()}, (
            found.out_of_range,
            found.ends,
        )
    if isinstance(found, tuple) and found and isinstance(found[0], list):
        return [_timeless(each) for each in found[0]], found[1:]
    return found


def _timeless(shown: tuple[Any, ...]) -> tuple[Any, ...]:
    *rest, kind, at = shown
    now = time.time() * 1000
    return (*rest, kind, "now" if abs(now - at) < _DAY else at)
