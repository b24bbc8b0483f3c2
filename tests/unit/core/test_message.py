"""What a handler gets."""

from __future__ import annotations

from typing import Any

import pytest

from flux.core import flux_headers
from flux.core.message import Headers, Message
from flux.core.named_work import NamedWork
from unit.support.engine_support import T0_MS, FakeRecord, record


def of(made: FakeRecord, way: flux_headers.FluxHeaders | None = None) -> Message:
    return Message.of(made, made.value(), way or flux_headers.of_main_topic())


def test_a_message_is_its_record() -> None:
    message = of(record(42, b"key", value=b"v", headers=[("a", b"1")]))
    assert (message.topic, message.partition, message.offset) == ("t", 0, 42)
    assert (message.key, message.value, message.timestamp) == (b"key", b"v", T0_MS)
    assert message.headers == (("a", b"1"),)
    assert (message.stage, message.attempt, message.id, message.delivery_id) == (0, 1, "t/0/42", "t/0/42/0/0")


def test_in_a_retry_stage_the_id_stays_and_the_delivery_id_changes() -> None:
    message = of(record(7), flux_headers.FluxHeaders(stage=2, attempts=5, origin=("t", 3, 42), replays=1))
    assert (message.stage, message.attempt, message.id, message.delivery_id) == (2, 6, "t/3/42", "t/3/42/2/1")


def test_of_repeated_headers_the_last_counts_and_all_are_there() -> None:
    headers = Headers([("a", b"1"), ("b", None), ("a", b"2")])
    assert headers.get("a") == b"2"
    assert headers.get("b", b"x") is None
    assert headers.get("c") is None
    assert headers.get("c", b"x") == b"x"
    assert headers.all("a") == [b"1", b"2"]
    assert headers.all("c") == []


class Once(FakeRecord):
    """As confluent-kafka's: a second reading after a failed one gives pointers to nowhere."""

    def headers(self) -> Any:
        assert not hasattr(self, "asked")
        self.asked = True
        raise SystemError("UTF-8")


def test_headers_that_cannot_be_read_are_asked_for_once() -> None:
    message = of(Once(0))
    assert message.headers == ()
    assert not message.headers_readable
    assert message.headers == ()


def test_headers_that_could_not_be_read_at_first_stay_so() -> None:
    message = of(Once(0))
    assert message.read_headers() is None
    assert (message.headers, message.headers_readable) == ((), False)


@pytest.mark.parametrize("nothing", [None, []])
def test_a_record_without_headers_is_readable(nothing: Any) -> None:
    message = of(record(0, headers=nothing))
    assert message.headers == ()
    assert message.headers_readable


def test_the_raw_value_stays_whatever_was_decoded() -> None:
    message = of(record(0, value=b"5"))
    message.value = 5
    assert message.raw_value == b"5"


def test_a_messages_repr_tells_neither_key_nor_value() -> None:
    shown = repr(of(record(0, b"secret", value=b"secret")))
    assert "secret" not in shown
    assert "t[0]@0" in shown


def test_added_headers_come_after_the_records_own() -> None:
    message = of(record(0, headers=[("a", b"1")]))
    message.carry("b", b"2")
    made: list[str] = []

    def make() -> list[tuple[str, bytes]]:
        made.append("now")
        return [("c", b"3")]

    message.carry_later(make)
    assert made == []
    assert message.headers == (("a", b"1"), ("b", b"2"), ("c", b"3"))
    assert message.headers == (("a", b"1"), ("b", b"2"), ("c", b"3"))
    assert made == ["now"]


def test_headers_may_be_added_before_the_records_own_are_read() -> None:
    message = of(record(0, headers=[("a", b"1")]))
    message.carry_later(lambda: [("b", b"2")])
    assert message.headers == (("a", b"1"), ("b", b"2"))


def test_no_headers_are_added_to_those_that_cannot_be_read() -> None:
    message = of(Once(0))
    message.carry("a", b"1")
    message.carry_later(lambda: [("b", b"2")])
    assert (message.headers, message.headers_readable) == ((), False)


def test_flux_headers_are_read_once_and_invalid_ones_reported() -> None:
    reported: list[tuple[Message, tuple[str, ...]]] = []
    unread = flux_headers.UnreadHeaders(1, T0_MS, 0, lambda message, names: reported.append((message, names)))
    message = of(record(7, headers=[(flux_headers.ATTEMPTS, b"3"), (flux_headers.DUE, b"soon")]))
    message.place(unread)
    assert message.stage == 1
    assert (message.attempt, message.delivery_id) == (4, "t/0/7/1/0")
    assert reported == [(message, (flux_headers.DUE,))]


def test_valid_flux_headers_are_not_reported() -> None:
    unread = flux_headers.UnreadHeaders(1, T0_MS, 0, lambda message, names: pytest.fail("reported"))
    message = of(record(7, headers=[(flux_headers.ATTEMPTS, b"3")]))
    message.place(unread)
    assert message.attempt == 4


def test_the_origins_timestamp_is_the_records_own_in_the_main_topic_and_without_an_origin() -> None:
    assert of(record(0)).origin_timestamp == T0_MS
    assert of(record(0), flux_headers.FluxHeaders(1, 1)).origin_timestamp == T0_MS
    assert of(record(0), flux_headers.FluxHeaders(1, 1, origin=("t", 0, 5))).origin_timestamp is None
    assert of(record(0), flux_headers.FluxHeaders(1, 1, origin=("t", 0, 5), origin_timestamp=9)).origin_timestamp == 9


def test_one_more_call_in_place_is_an_attempt_and_keeps_the_first_failure() -> None:
    message = of(record(0, value=b"5", headers=[("a", b"1")]))
    message.value = 5
    message.carry("b", b"2")
    again = message.again(1_000)
    assert (again.attempt, again.flux_headers.first_failed_at, again.value) == (2, 1_000, b"5")
    assert again.headers == (("a", b"1"), ("b", b"2"))
    once_more = again.again(2_000)
    assert (once_more.attempt, once_more.flux_headers.first_failed_at) == (3, 1_000)


def test_headers_that_cannot_be_read_are_not_read_again_in_place() -> None:
    message = of(Once(0))
    assert not message.headers_readable
    assert not message.again(1_000).headers_readable


def test_a_name_counts_until_the_first_call_was_made() -> None:
    named = NamedWork("id", "x")
    message = of(record(0), flux_headers.FluxHeaders(stage=1, attempts=0, named=named))
    assert message.named is named
    assert message.again(T0_MS).named is None
    assert of(record(0)).named is None
    unread = flux_headers.UnreadHeaders(1, T0_MS, 0, lambda message, names: None)
    assert Message.of(record(0), b"v", unread).named is None
