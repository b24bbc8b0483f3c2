"""One key queue and one claim."""

from __future__ import annotations

from flux.core.engine.key_queue import Claim, KeyQueue
from unit.support.engine_support import assignment, entry


def test_an_entry_that_is_put_back_stands_where_it_was() -> None:
    owner = assignment()
    key_queue = KeyQueue(owner, "k", busy=True)
    for offset in (5, 1, 3):
        key_queue.insert(entry(owner, offset))
    assert [each.offset for each in key_queue.queue] == [1, 3, 5]


def test_due_times_come_before_offsets() -> None:
    owner = assignment()
    key_queue = KeyQueue(owner, "k", busy=False)
    for offset, due in ((1, 9), (2, 3)):
        key_queue.insert(entry(owner, offset, due=due))
    assert [each.offset for each in key_queue.queue] == [2, 1]


def test_only_an_earlier_record_that_is_retried_in_place_leads_a_queue() -> None:
    owner = assignment()
    key_queue, first, second = KeyQueue(owner, "k", busy=False), entry(owner, 1), entry(owner, 2)
    assert not key_queue.is_led_by_earlier(second)
    key_queue.insert(first)
    assert not key_queue.is_led_by_earlier(second)
    first.tries = 1
    assert key_queue.is_led_by_earlier(second)
    assert not key_queue.is_led_by_earlier(entry(owner, 0))


def test_a_new_claim_has_no_records_and_nothing_waits_behind_it() -> None:
    owner = assignment()
    claim = Claim(owner)
    assert (claim.assignment, claim.indices, claim.names, claim.last, claim.stop) == (owner, [], [], {}, 0)
    assert not claim.queue
