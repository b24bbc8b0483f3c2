"""What a forwarded copy writes: everything that came, flux's own headers replaced, and no more than fits."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux.core import flux_headers
from flux.core.engine.forwards import MAX_MESSAGE_CHARS, MAX_TRACE_BYTES, Detail, Failure, ForwardedCopy, describe
from flux.core.engine.verdicts import Reject, Undecodable
from flux.core.message import Message
from flux.core.ports import Headers, ProducerRecord, TopicPartition
from unit.support.engine_support import DAY, STAGES, T0_MS, record

P3 = TopicPartition("t", 3)
RETRY0 = TopicPartition(STAGES[1].topic, 0)
OWN: Headers = [("a", b"1"), ("b", None), ("a", b"2"), ("", b"")]


def forwarded_copy(message: Message, to: int | None = None, **fields: Any) -> ForwardedCopy:
    stage = STAGES[message.stage]
    target = STAGES.after(stage) if to is None else STAGES[to]
    assert target is not None
    given: dict[str, Any] = {
        "reason": "error",
        "wait": 10.0,
        "group": "g",
        "failed_at": T0_MS + 1000,
        "error_type": "ValueError",
        "error_text": "bad",
        "error_trace": "line 1\n",
    }
    return ForwardedCopy(message, target, **{**given, **fields})


def arrived(outgoing: ProducerRecord, stage: int, offset: int = 7) -> Message:
    """The forwarded copy's copy, as the next stage reads it."""
    copy = record(
        offset, outgoing.key, TopicPartition(STAGES[stage].topic, 0), value=outgoing.value, headers=outgoing.headers
    )
    copy.the_timestamp = outgoing.timestamp or -1
    message = Message.of(copy, copy.value(), flux_headers.of_main_topic())
    message.place(flux_headers.read(message.headers, stage, T0_MS, int(30 * DAY * 1000)))
    return message


def first(headers: Headers | None = OWN, **fields: Any) -> Message:
    made = record(42, headers=headers, partition=P3, **fields)
    return Message.of(made, made.value(), flux_headers.of_main_topic())


def kept(outgoing: ProducerRecord) -> list[tuple[str, bytes | None]]:
    return [pair for pair in outgoing.headers if not pair[0].startswith("flux-")]


def flux(outgoing: ProducerRecord) -> dict[str, bytes | None]:
    pairs = [pair for pair in outgoing.headers if pair[0].startswith("flux-")]
    assert len(dict(pairs)) == len(pairs), "piled up"
    return dict(pairs)


@pytest.mark.parametrize(("key", "value"), [(b"k", b"v"), (None, None), (b"", b""), (b"\xff\x00", b"\xff\x00")])
def test_key_value_and_headers_stay_as_they_came(key: bytes | None, value: bytes | None) -> None:
    made = record(42, key, value=value, headers=OWN)
    outgoing = forwarded_copy(Message.of(made, "decoded", flux_headers.of_main_topic())).producer_record(T0_MS, None)
    assert (outgoing.key, outgoing.value) == (key, value)
    assert kept(outgoing) == OWN


def test_the_first_forward_says_where_the_record_came_from() -> None:
    outgoing = forwarded_copy(first()).producer_record(T0_MS + 1500, None)
    assert outgoing.timestamp == T0_MS + 1500
    assert flux(outgoing) == {
        "flux-stage": b"1",
        "flux-attempts": b"1",
        "flux-due": str(T0_MS + 11_500).encode(),
        "flux-group": b"g",
        "flux-origin-topic": b"t",
        "flux-origin-partition": b"3",
        "flux-origin-offset": b"42",
        "flux-origin-timestamp": str(T0_MS).encode(),
        "flux-first-failed-at": str(T0_MS + 1000).encode(),
        "flux-failed-at": str(T0_MS + 1000).encode(),
        "flux-reason": b"error",
        "flux-error-type": b"ValueError",
        "flux-error-message": b"bad",
        "flux-error-trace": b"line 1\n",
    }


def test_over_several_forwards_origin_and_first_failure_stay_and_the_rest_is_replaced() -> None:
    message = first()
    for stage, at in ((1, 0), (2, 5000), (3, 9000)):
        outgoing = forwarded_copy(message, failed_at=T0_MS + at, error_text=f"text {stage}").producer_record(
            T0_MS + at, None
        )
        message = arrived(outgoing, stage)
        headers = flux(outgoing)
        assert kept(outgoing) == OWN
        assert message.id == "t/3/42"
        assert message.attempt == stage + 1
        assert headers["flux-stage"] == str(stage).encode()
        assert headers["flux-first-failed-at"] == str(T0_MS).encode()
        assert headers["flux-failed-at"] == str(T0_MS + at).encode()
        assert headers["flux-origin-timestamp"] == str(T0_MS).encode()
        assert headers["flux-error-message"] == f"text {stage}".encode()
    assert "flux-due" not in headers


def test_what_a_forward_writes_is_read_back() -> None:
    message = arrived(forwarded_copy(first()).producer_record(T0_MS, None), 1)
    assert message.flux_headers == flux_headers.FluxHeaders(1, 1, T0_MS + 10_000, ("t", 3, 42), T0_MS, T0_MS + 1000)


def test_forged_headers_of_the_main_topic_are_dropped_at_the_first_forward() -> None:
    forged = [
        ("flux-attempts", b"99"),
        ("x", b"1"),
        ("flux-due", b"0"),
        ("flux-origin-topic", b"other"),
        ("flux-", b""),
    ]
    outgoing = forwarded_copy(first([*forged, ("flux-replays", b"7")])).producer_record(T0_MS, None)
    assert kept(outgoing) == [("x", b"1")]
    headers = flux(outgoing)
    assert headers["flux-attempts"] == b"1"
    assert headers["flux-origin-topic"] == b"t"
    assert "flux-replays" not in headers
    assert "flux-" not in headers


def test_replays_are_counted_on() -> None:
    copy = record(7, partition=RETRY0, headers=[("flux-replays", b"2")])
    message = Message.of(copy, b"v", flux_headers.read(copy.headers() or (), 1, T0_MS, 1000))
    assert flux(forwarded_copy(message).producer_record(T0_MS, None))["flux-replays"] == b"2"


def test_a_record_without_an_origin_is_its_own() -> None:
    copy = record(7, partition=RETRY0, timestamp=123)
    message = Message.of(copy, b"v", flux_headers.read((), 1, T0_MS, 1000))
    headers = flux(forwarded_copy(message).producer_record(T0_MS, None))
    assert headers["flux-origin-topic"] == STAGES[1].topic.encode()
    assert headers["flux-attempts"] == b"2"
    assert headers["flux-origin-timestamp"] == b"123"


@pytest.mark.parametrize(("count", "partition"), [(0, None), (1, 0), (3, 0), (2, 1), (10, 3)])
def test_a_forward_goes_to_its_partition_modulo_the_targets_count(count: int, partition: int | None) -> None:
    made = forwarded_copy(first())
    made.partitions = count
    assert made.producer_record(T0_MS, None).partition == partition


def test_each_detail_level_leaves_out_more() -> None:
    made, errors = forwarded_copy(first()), []
    for detail in (Detail.FULL, Detail.TYPE, Detail.NONE):
        made.detail = detail
        errors.append([name for name in flux(made.producer_record(T0_MS, None)) if name.startswith("flux-error")])
    assert errors == [["flux-error-type", "flux-error-message", "flux-error-trace"], ["flux-error-type"], []]


def size(outgoing: ProducerRecord) -> int:
    """More than the record takes in Kafka's format, batch header included."""
    fields = sum(len(name.encode()) + len(value or b"") + 10 for name, value in outgoing.headers)
    return fields + len(outgoing.key or b"") + len(outgoing.value or b"") + 61 + 40


texts = st.one_of(
    st.text(max_size=50), st.sampled_from(["", "é" * 3000, "x" * 20_000, "\ud800\udfff" * 500, "😀" * 900])
)


@given(texts, texts, st.integers(0, 30_000), st.integers(0, 3000))
def test_details_are_cut_so_that_the_record_fits(text: str, trace: str, limit: int, value: int) -> None:
    made = forwarded_copy(first(value=b"v" * value), error_text=text, error_trace=trace)
    outgoing = made.producer_record(T0_MS, limit)
    made.detail = Detail.TYPE
    assert size(outgoing) <= max(limit, size(made.producer_record(T0_MS, limit)))
    for name, cut in flux(outgoing).items():
        assert cut is not None
        cut.decode("utf-8")
        if name == "flux-error-trace":
            assert len(cut) <= MAX_TRACE_BYTES
            assert trace.encode("utf-8", "replace").endswith(cut)
        if name == "flux-error-message":
            assert text.encode("utf-8", "replace").startswith(cut)
            assert len(cut.decode()) <= MAX_MESSAGE_CHARS


def test_a_name_longer_than_any_is_cut_at_a_character() -> None:
    outgoing = forwarded_copy(first(), error_type="ü" * 400).producer_record(T0_MS, None)
    assert flux(outgoing)["flux-error-type"] == ("ü" * 125).encode()


class Local(Exception): ...


def hostile() -> Exception:
    class Hostile(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    return Hostile()


def test_how_much_of_an_error_leaves_the_process() -> None:
    failure = Failure(ValueError("secret"), "trace")
    assert describe(failure, "full") == ("ValueError", "secret", "trace")
    assert describe(failure, "type") == ("ValueError", "", "")
    assert describe(failure, lambda error: f"{len(str(error))} letters") == ("ValueError", "6 letters", "")
    assert describe(Failure(Local("x")), "type")[0].endswith("test_forwards.Local")


def test_a_callable_that_raises_or_gives_no_text_loses_no_record() -> None:
    def broken(error: BaseException) -> str:
        raise KeyError("secret")

    assert describe(Failure(ValueError("x"), "trace"), broken) == ("ValueError", "(error_headers raised KeyError)", "")
    assert describe(Failure(ValueError("x")), lambda error: None)[1] == "None"  # type: ignore[arg-type, return-value]


def test_an_error_whose_text_cannot_be_had_loses_no_record() -> None:
    assert describe(Failure(hostile()), "full")[1] == "(its message cannot be read)"


def test_of_what_cannot_be_decoded_the_cause_is_told() -> None:
    error = Undecodable("ValueError: bad json")
    error.__cause__ = ValueError("bad json")
    assert describe(Failure(error), "full")[:2] == ("ValueError", "bad json")
    own = KeyError("own")
    own.__cause__ = error
    assert describe(Failure(own), "full")[:2] == ("KeyError", "'own'")


def test_fluxs_own_errors_are_named_as_users_import_them() -> None:
    assert describe(Failure(Reject("no")), "full")[0] == "flux.Reject"


def test_an_origin_without_a_timestamp_has_none_in_its_copy() -> None:
    message = first(headers=None)
    message.place(flux_headers.FluxHeaders(1, 1, origin=("t", 0, 5)))
    written = forwarded_copy(message, to=2).producer_record(T0_MS, None)
    assert flux_headers.ORIGIN_TIMESTAMP not in dict(written.headers)


def test_an_interrupt_in_error_headers_is_not_hidden() -> None:
    def interrupted(error: BaseException) -> str:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        describe(Failure(ValueError()), interrupted)


def test_with_much_room_the_headers_are_not_counted() -> None:
    written = forwarded_copy(first(headers=None)).producer_record(T0_MS, 10**6)
    assert dict(written.headers)[flux_headers.ERROR_TRACE] == b"line 1\n"


def test_a_record_that_was_not_called_has_made_no_attempt() -> None:
    attempts = [
        flux(forwarded_copy(first(), called=called).producer_record(T0_MS, None))["flux-attempts"]
        for called in (True, False)
    ]
    assert attempts == [b"1", b"0"]


@pytest.mark.parametrize("own", [[], [("a", b"x" * 25_000)], [("ä" * 3000, b"")]])
def test_details_fill_the_room_that_the_record_leaves_and_no_more(own: Headers) -> None:
    taken = 1000 + sum(len(name.encode()) + len(value or b"") for name, value in own)
    made = record(42, b"k" * 500, P3, value=b"v" * 500, headers=own)
    copy = forwarded_copy(
        Message.of(made, b"", flux_headers.of_main_topic()), error_text="m" * 300, error_trace="t" * 3000
    )
    for limit in range(taken + 700, taken + 3500, 50):
        outgoing = copy.producer_record(T0_MS, limit)
        assert limit - 200 < size(outgoing) <= limit


def test_characters_that_cannot_be_encoded_are_replaced() -> None:
    headers = flux(forwarded_copy(first(), error_text="a\ud800b", error_trace="c\ud800d").producer_record(T0_MS, None))
    assert (headers["flux-error-message"], headers["flux-error-trace"]) == (b"a?b", b"c?d")


def test_a_copy_carries_the_version_of_the_entry_that_announced_it() -> None:
    copy = forwarded_copy(first())
    assert flux_headers.ORDER not in flux(copy.producer_record(T0_MS, None))
    copy.order = 17
    assert flux(copy.producer_record(T0_MS, None))[flux_headers.ORDER] == b"17"


def test_the_size_of_an_open_copy_grows_with_its_record_and_its_trace() -> None:
    small = forwarded_copy(first(value=None, key=None), error_trace="")
    large = forwarded_copy(first(value=b"v" * 100, key=b"k" * 10), error_trace="t" * 1000)
    assert large.size == small.size + 1110
