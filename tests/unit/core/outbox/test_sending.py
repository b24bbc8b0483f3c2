from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flux.core.errors import BrokerError, Fault
from flux.core.outbox.sending import Sending
from flux.core.ports import ProducerRecord
from flux.core.ports.outbox import OutboxRow

AWAY = BrokerError("not delivered in time", Fault.UNAVAILABLE)
LARGE = BrokerError("too large", Fault.TOO_LARGE)


def row(id: int, key: int = 0) -> OutboxRow:
    return OutboxRow(id, "orders", ProducerRecord(b"%d" % id), None, key)


def test_one_row_of_a_key_is_in_flight_and_others_go_beside_it() -> None:
    first, second, other = row(1), row(2), row(3, key=7)
    sending = Sending([first, second, other])
    assert sending.take() == [first, other]
    assert sending.take() == []
    sending.acknowledged(first)
    assert sending.take() == [second]
    assert sending.in_flight == 2
    sending.acknowledged(other)
    sending.acknowledged(second)
    assert sending.ended
    assert sending.done == [1, 3, 2]


def test_a_refused_row_stays_with_those_behind_it_and_others_go_on() -> None:
    sending = Sending([row(1), row(2), row(3, key=7)])
    sending.take()
    sending.failed(row(1), LARGE)
    sending.acknowledged(row(3, key=7))
    assert sending.take() == []
    assert sending.ended
    assert (sending.done, sending.refused) == ([3], {row(1): LARGE})
    assert sending.outage is None


def test_an_unavailable_partition_is_no_outage_while_others_take_rows() -> None:
    sending = Sending([row(1), row(2, key=7)])
    sending.take()
    sending.failed(row(1), AWAY)
    first = sending.outage
    sending.acknowledged(row(2, key=7))
    assert (first, sending.outage) == (AWAY, None)
    assert (sending.unavailable, sending.refused) == ({row(1): AWAY}, {})


def test_after_a_refused_login_nothing_more_is_written() -> None:
    sending = Sending([row(1), row(2, key=7), row(3, key=7)])
    sending.take()
    login = BrokerError("wrong password", Fault.LOGIN)
    sending.failed(row(1), login)
    sending.acknowledged(row(2, key=7))
    assert sending.take() == []
    assert sending.ended
    assert sending.unavailable == {row(1): login}


def test_rows_for_which_the_client_had_no_room_come_first() -> None:
    sending = Sending([row(1, 1), row(2, 2), row(3, 3), row(4, 1)])
    sending.take()
    sending.acknowledged(row(1, 1))
    sending.put_back([row(2, 2), row(3, 3)])
    assert sending.in_flight == 0
    assert not sending.ended
    assert sending.take() == [row(2, 2), row(3, 3), row(4, 1)]


def test_a_stopped_turn_ends_with_what_is_in_flight() -> None:
    sending = Sending([row(1), row(2)])
    sending.take()
    sending.stop()
    assert not sending.ended
    sending.acknowledged(row(1))
    assert sending.take() == []
    assert sending.ended
    assert sending.done == [1]


def test_an_answer_after_the_end_of_the_turn_counts_no_more() -> None:
    sending = Sending([row(1), row(2, 7)])
    sending.take()
    sending.give_up(AWAY)
    sending.acknowledged(row(1))
    sending.failed(row(2, 7), LARGE)
    assert sending.ended
    assert (sending.done, sending.refused) == ([], {})
    assert sending.unavailable == {row(1): AWAY, row(2, 7): AWAY}


def test_a_turn_that_is_given_up_writes_no_more_and_keeps_what_failed_before() -> None:
    away, late = BrokerError("no leader", Fault.UNAVAILABLE), AWAY
    sending = Sending([row(1), row(2), row(3, 7), row(4, 8)])
    sending.take()
    sending.acknowledged(row(1))
    sending.failed(row(3, 7), away)
    sending.give_up(late)
    assert (sending.take(), sending.ended) == ([], True)
    assert sending.unavailable == {row(3, 7): away, row(4, 8): late}


@given(st.lists(st.integers(0, 3), max_size=30), st.data())
def test_rows_of_a_key_are_written_in_order_and_none_behind_one_that_failed(
    keys: list[int], data: st.DataObject
) -> None:
    rows = [row(id, key) for id, key in enumerate(keys)]
    sending = Sending(rows)
    in_flight: list[OutboxRow] = []
    written: list[OutboxRow] = []
    failed: list[OutboxRow] = []
    while not sending.ended:
        taken = sending.take()
        written += taken
        in_flight += taken
        answered = in_flight.pop(data.draw(st.integers(0, len(in_flight) - 1)))
        if data.draw(st.booleans()):
            sending.acknowledged(answered)
        else:
            sending.failed(answered, data.draw(st.sampled_from([AWAY, LARGE])))
            failed.append(answered)
    for key in set(keys):
        of_the_key = [each for each in written if each.key_hash == key]
        assert of_the_key == [each for each in rows if each.key_hash == key][: len(of_the_key)]
        assert all(each == of_the_key[-1] for each in failed if each.key_hash == key)
    assert sorted(sending.done) == sorted(each.id for each in written if each not in failed)
    if not failed:
        assert len(written) == len(rows)
