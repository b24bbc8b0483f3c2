"""A producer is given one callback for all records, or one for each."""

from __future__ import annotations

from flux.core.ports import ProducerRecord, each_of

RECORDS = [ProducerRecord(b"x"), ProducerRecord(b"y")]


def test_one_callback_is_repeated_for_each_record() -> None:
    assert list(each_of(print, RECORDS)) == [print, print]


def test_callbacks_for_each_record_stay_in_order() -> None:
    def other(error: object, record: object) -> None: ...

    assert list(each_of([print, other], RECORDS)) == [print, other]
