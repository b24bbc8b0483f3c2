"""What may be called is taken from key queues and backlogs; with `retry_order`, what the order allows."""

from __future__ import annotations

from flux.core.engine.backlog import Backlogs
from flux.core.engine.ordered_retries import OrderedRetries
from flux.core.engine.ordering import Queues
from flux.core.engine.slices import Entry


def taken(key_queues: Queues, order: OrderedRetries | None, most: int, now: float) -> list[Entry]:
    """Takes up to `most` entries that may be called."""
    entries = key_queues.take(most, now)
    if order is None:
        return entries
    while entries:
        admitted = order.admitted(entries, now)
        if admitted:
            return admitted
        entries = key_queues.take(most, now)
    if key_queues:
        order.make_room(now)
    return entries


def sifted(backlogs: Backlogs, order: OrderedRetries, now: float) -> bool:
    """Takes the records that may not be called out of the next slice. Returns whether there is any that may."""
    while len(backlogs):
        assignment = backlogs.next
        if not order.sifts(assignment):
            return True
        piece = order.sift(assignment, assignment.backlog[0], now)
        backlogs.replace_next(piece)
        if piece is not None:
            return True
    return False
