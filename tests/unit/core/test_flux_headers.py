"""What a record's headers say of its way, whoever wrote them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux.core import flux_headers
from flux.core.ports import Headers
from unit.support.engine_support import DAY, T0_MS

DELAY = int(30 * DAY * 1000)
READ = [
    flux_headers.ATTEMPTS,
    flux_headers.DUE,
    flux_headers.ORIGIN_TOPIC,
    flux_headers.ORIGIN_PARTITION,
    flux_headers.ORIGIN_OFFSET,
    flux_headers.ORIGIN_TIMESTAMP,
    flux_headers.FIRST_FAILED_AT,
    flux_headers.REPLAYS,
]


def read(*headers: tuple[str, bytes | None], stage: int = 2) -> flux_headers.FluxHeaders:
    return flux_headers.read(headers, stage, T0_MS, DELAY)


def test_without_headers_a_record_had_one_call_in_each_stage_before() -> None:
    assert read() == flux_headers.FluxHeaders(stage=2, attempts=2)


def test_a_record_that_was_replayed_has_its_attempts_anew() -> None:
    assert read((flux_headers.ATTEMPTS, b"0"), stage=1).attempts == 0


def test_all_headers_are_read() -> None:
    made = read(
        (flux_headers.STAGE, b"1"),
        (flux_headers.ATTEMPTS, b"7"),
        (flux_headers.DUE, str(T0_MS + 5).encode()),
        (flux_headers.ORIGIN_TOPIC, b"t"),
        (flux_headers.ORIGIN_PARTITION, b"3"),
        (flux_headers.ORIGIN_OFFSET, b"99"),
        (flux_headers.ORIGIN_TIMESTAMP, b"-1"),
        (flux_headers.FIRST_FAILED_AT, b"5"),
        (flux_headers.REPLAYS, b"2"),
    )
    assert made == flux_headers.FluxHeaders(2, 7, T0_MS + 5, ("t", 3, 99), -1, 5, 2)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (flux_headers.DUE, b"253402300799000"),  # the year 9999
        (flux_headers.DUE, str(T0_MS + DELAY + DELAY).encode()),
        (flux_headers.DUE, b"-5"),
        (flux_headers.DUE, b"1e12"),
        (flux_headers.DUE, b"9" * 19),
        (flux_headers.DUE, b"9" * 5000),
        (flux_headers.DUE, b""),
        (flux_headers.DUE, None),
        (flux_headers.DUE, b"12 "),
        (flux_headers.DUE, b"12\n"),
        (flux_headers.DUE, b"+12"),
        (flux_headers.DUE, "١٢".encode()),
        (flux_headers.DUE, b"\xff"),
        (flux_headers.ATTEMPTS, b"-3"),
        (flux_headers.ATTEMPTS, b"99999999"),
        (flux_headers.ATTEMPTS, b"three"),
        (flux_headers.REPLAYS, b"-1"),
        (flux_headers.FIRST_FAILED_AT, b"9" * 18),
        (flux_headers.ORIGIN_TIMESTAMP, b"-2"),
        (flux_headers.ORIGIN_PARTITION, str(2**31).encode()),
        (flux_headers.ORIGIN_OFFSET, str(2**63).encode()),
        (flux_headers.ORIGIN_TOPIC, b"a b"),
        (flux_headers.ORIGIN_TOPIC, b"x" * 250),
        (flux_headers.ORIGIN_TOPIC, None),
    ],
)
def test_a_header_that_cannot_be_is_as_if_it_were_not_there(name: str, value: bytes | None) -> None:
    assert read((name, value)) == flux_headers.FluxHeaders(stage=2, attempts=2, ignored=(name,))


def test_a_header_that_cannot_be_takes_no_other_down() -> None:
    made = read((flux_headers.DUE, b"soon"), (flux_headers.ATTEMPTS, b"4"))
    assert (made.due, made.attempts) == (None, 4)


def test_of_repeats_the_last_counts() -> None:
    assert read((flux_headers.ATTEMPTS, b"4"), (flux_headers.ATTEMPTS, b"5")).attempts == 5
    assert read((flux_headers.ATTEMPTS, b"4"), (flux_headers.ATTEMPTS, None)).attempts == 2


def test_an_origin_is_whole_or_absent() -> None:
    assert read((flux_headers.ORIGIN_TOPIC, b"t"), (flux_headers.ORIGIN_OFFSET, b"9")).origin is None


def test_the_stage_is_where_it_was_read_whatever_a_header_says() -> None:
    assert read((flux_headers.STAGE, b"-7")).stage == 2


def test_the_longest_wait_is_believed_by_a_clock_that_is_behind() -> None:
    due = T0_MS + DELAY + 60_000
    assert read((flux_headers.DUE, str(due).encode())).due == due


def test_a_record_of_the_main_topic_has_no_way_behind_it() -> None:
    assert flux_headers.of_main_topic() == flux_headers.FluxHeaders(stage=0, attempts=0)


values = st.one_of(
    st.none(), st.binary(max_size=30), st.integers(-(10**22), 10**22).map(lambda number: str(number).encode())
)


@given(st.lists(st.tuples(st.one_of(st.sampled_from(READ), st.text(max_size=20)), values), max_size=20))
def test_no_headers_break_the_reader(headers: Headers) -> None:
    made = flux_headers.read(headers, 1, T0_MS, DELAY)
    replayed = any(name == flux_headers.ATTEMPTS and value and not value.strip(b"0") for name, value in headers)
    assert made.attempts >= (0 if replayed else 1)
    assert made.due is None or made.due >= 0
    assert set(made.ignored) <= {name for name, _ in headers}


def unread() -> flux_headers.UnreadHeaders:
    return flux_headers.UnreadHeaders(2, T0_MS, DELAY, lambda message, names: None)


def test_unread_headers_are_those_of_their_stage() -> None:
    assert unread().read([(flux_headers.ATTEMPTS, b"4")]) == flux_headers.FluxHeaders(stage=2, attempts=4)


@pytest.mark.parametrize(
    ("headers", "due"),
    [
        ([], None),
        ([("other", b"1")], None),
        ([(flux_headers.DUE, b"1"), (flux_headers.DUE, b"5"), ("other", b"9")], 5),
        ([(flux_headers.DUE, b"5"), (flux_headers.DUE, b"soon")], None),
        ([(flux_headers.DUE, None)], None),
        ([(flux_headers.DUE, b"9" * 20)], None),
        ([(flux_headers.DUE, str(T0_MS + DELAY + DELAY).encode())], None),
    ],
)
def test_a_due_time_is_read_alone_if_it_is_plainly_valid(headers: Headers, due: int | None) -> None:
    assert unread().due(headers) == due


def test_the_latest_due_time_is_the_longest_wait_and_an_hour_from_now() -> None:
    unread = flux_headers.UnreadHeaders(1, T0_MS, 1000, lambda message, names: None)
    latest = T0_MS + 1000 + 3_600_000
    for due, expected in ((latest, latest), (latest + 1, None)):
        own = [(flux_headers.DUE, b"%d" % due)]
        assert unread.due(own) == expected
        assert unread.read(own).due == expected


def test_an_origin_without_a_topic_is_none() -> None:
    own = [(flux_headers.ORIGIN_PARTITION, b"1"), (flux_headers.ORIGIN_OFFSET, b"2")]
    assert flux_headers.read(own, 1, T0_MS, 0).origin is None


def test_the_highest_partition_is_valid() -> None:
    own = [
        (flux_headers.ORIGIN_TOPIC, b"t"),
        (flux_headers.ORIGIN_PARTITION, b"2147483647"),
        (flux_headers.ORIGIN_OFFSET, b"2"),
    ]
    assert flux_headers.read(own, 1, T0_MS, 0).origin == ("t", 2147483647, 2)


def test_all_invalid_headers_are_named() -> None:
    own = [(flux_headers.DUE, b"soon"), (flux_headers.ATTEMPTS, b"many")]
    assert flux_headers.read(own, 1, T0_MS, 0).ignored == (flux_headers.DUE, flux_headers.ATTEMPTS)


@pytest.mark.parametrize(("name", "kind"), [("flux-id", "id"), ("flux-cancelled", "cancelled")])
def test_a_name_is_the_last_header(name: str, kind: str) -> None:
    named = read((flux_headers.DUE, b"5"), (name, "ä".encode())).named
    assert named is not None
    assert (named.kind, named.name, named.tick) == (kind, "ä", 0)
    assert read((name, b"x"), (flux_headers.DUE, b"5")).named is None
    assert read((name, b"")).named is None
    assert read((name, None)).named is None


def test_a_tick_of_a_schedule_has_its_time() -> None:
    named = read((flux_headers.TICK, b"60000"), (flux_headers.SCHEDULE, b"s")).named
    assert named is not None
    assert (named.kind, named.name, named.tick) == ("schedule", "s", 60_000)


def test_a_record_with_a_name_is_read_wholly() -> None:
    unread = flux_headers.UnreadHeaders(1, T0_MS, DELAY, lambda message, names: None)
    assert unread.due([(flux_headers.DUE, b"5"), (flux_headers.ID, b"x")]) is None
