"""Entries of the topic of keys, and copies of records that follow another one."""

from __future__ import annotations

from flux.core import flux_headers
from flux.core.engine.key_order import OrderEntry
from flux.core.engine.order_writes import entry_write, following_copy
from unit.support.engine_support import P0, STAGES, T0_MS, message, record

SAID = OrderEntry(b"k", 2, 77, 1)


def test_an_entry_is_written_to_the_only_partition() -> None:
    written = entry_write(message(record(3)), "keys", (4, 3), SAID).producer_record(9, None)
    assert (written.key, written.value, written.partition) == (b"4:3", SAID.value(), 0)


def test_a_removal_has_no_value() -> None:
    assert entry_write(message(record(3)), "keys", (4, 3), None).producer_record(9, None).value is None


def test_a_follower_from_the_main_topic_gets_its_origin_and_no_forged_header() -> None:
    one = record(3, headers=[("flux-due", b"1"), ("mine", b"x"), ("flux-reason", b"y")])
    copy = following_copy(message(one), STAGES[2], "g", SAID, 0.0)
    copy.order, copy.partitions = 12, 1
    written = copy.producer_record(9, None)
    assert (written.key, written.value, written.partition) == (b"k", b"v", 0)
    assert dict(written.headers) == {
        "mine": b"x",
        "flux-stage": b"2",
        "flux-attempts": b"1",
        "flux-due": b"77",
        "flux-order": b"12",
        "flux-group": b"g",
        "flux-origin-topic": b"t",
        "flux-origin-partition": b"0",
        "flux-origin-offset": b"3",
        "flux-origin-timestamp": b"%d" % T0_MS,
    }


def test_a_follower_in_a_retry_topic_keeps_what_an_earlier_failure_has_left() -> None:
    headers: list[tuple[str, bytes | None]] = [
        (flux_headers.ATTEMPTS, b"9"),
        (flux_headers.ERROR_TYPE, b"ValueError"),
        (flux_headers.ORIGIN_OFFSET, b"1"),
        (flux_headers.ORDER, b"2"),
    ]
    copy = following_copy(message(record(3, headers=headers), 1), STAGES[2], "g", SAID, 0.0)
    written = copy.producer_record(9, None)
    assert written.partition is None
    assert [pair for pair in written.headers if pair[0] == flux_headers.ATTEMPTS] == [(flux_headers.ATTEMPTS, b"1")]
    assert dict(written.headers)[flux_headers.ERROR_TYPE] == b"ValueError"
    assert dict(written.headers)[flux_headers.ORIGIN_OFFSET] == b"1"


def test_a_dead_letter_is_not_due() -> None:
    copy = following_copy(message(record(3, partition=P0)), STAGES[3], "g", SAID, 0.0)
    assert flux_headers.DUE not in dict(copy.producer_record(9, None).headers)
