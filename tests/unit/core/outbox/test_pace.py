from __future__ import annotations

import pytest

from flux.core.errors import BrokerError, Fault
from flux.core.outbox.pace import LONGEST_PAUSE, LONGEST_RETRY, MOST_KEYS, Pauses, Refusals
from flux.core.ports import ProducerRecord
from flux.core.ports.outbox import Excluded, OutboxRow

LARGE = BrokerError("too large", Fault.TOO_LARGE)


def row(key: int = 1, topic: str = "orders") -> OutboxRow:
    return OutboxRow(1, topic, ProducerRecord(b""), None, key)


def test_pauses_double_until_something_succeeds() -> None:
    pauses = Pauses()
    assert [pauses.failed() for _ in range(8)] == [0.5, 1, 2, 4, 8, 16, LONGEST_PAUSE, LONGEST_PAUSE]
    pauses.succeeded()
    assert pauses.failed() == 0.5


def test_a_refused_key_is_left_out_for_waits_that_double() -> None:
    refusals, now = Refusals(), 100.0
    for wait in (1, 2, 4, 8, 16, 32, 60, 60):
        refusals.refused(row(), LARGE, now)
        assert refusals.excluded(now + wait - 0.1) == Excluded((), (1,))
        assert refusals.excluded(now + wait) == Excluded()
        now += wait


@pytest.mark.parametrize("fault", [Fault.UNKNOWN_TOPIC, Fault.DENIED])
def test_a_topic_that_takes_nothing_is_left_out_as_a_whole(fault: Fault) -> None:
    refusals = Refusals()
    refusals.refused(row(), BrokerError("no", fault), 0.0)
    assert refusals.excluded(0.5) == Excluded(("orders",))


def test_rows_of_one_turn_make_the_wait_of_their_topic_no_longer() -> None:
    refusals = Refusals()
    for key in range(3):
        refusals.refused(row(key), BrokerError("no", Fault.UNKNOWN_TOPIC), 0.0)
    assert refusals.excluded(1.0) == Excluded()


def test_a_key_of_an_unavailable_partition_is_left_out() -> None:
    refusals = Refusals()
    refusals.unavailable(row(7), 0.0)
    assert refusals.excluded(0.5) == Excluded((), (7,))


def test_what_is_delivered_starts_again_with_a_short_wait() -> None:
    refusals = Refusals()
    refusals.delivered(row())
    for now in (0.0, 1.0, 3.0):
        refusals.refused(row(), LARGE, now)
    assert refusals.excluded(6.9) == Excluded((), (1,))
    refusals.delivered(row())
    assert refusals.excluded(3.0) == Excluded()
    refusals.refused(row(), LARGE, 10.0)
    assert refusals.excluded(11.0) == Excluded()


def test_a_topic_that_takes_a_row_of_any_key_is_not_left_out() -> None:
    refusals = Refusals()
    refusals.refused(row(), BrokerError("no", Fault.UNKNOWN_TOPIC), 0.0)
    refusals.delivered(row(2))
    assert refusals.excluded(0.5) == Excluded()


def test_what_has_been_due_for_long_is_forgotten() -> None:
    refusals = Refusals()
    for now in (0.0, 1.0):
        refusals.refused(row(), LARGE, now)
    refusals.excluded(3 + LONGEST_RETRY)
    refusals.refused(row(), LARGE, 100.0)
    assert refusals.excluded(101.0) == Excluded()


def test_beyond_a_thousand_keys_their_topic_is_left_out() -> None:
    refusals = Refusals()
    for key in range(MOST_KEYS):
        refusals.refused(row(key), LARGE, 0.0)
    assert refusals.excluded(0.5) == Excluded((), tuple(range(MOST_KEYS)))
    refusals.refused(row(MOST_KEYS), LARGE, 0.0)
    refusals.refused(row(5), LARGE, 0.0)
    excluded = refusals.excluded(0.5)
    assert (excluded.topics, len(excluded.key_hashes)) == (("orders",), MOST_KEYS)
