"""What a record's headers say of its way, whoever wrote them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux.core import flux_headers as trail
from flux.core.ports import Headers
from unit.support.engine_support import DAY, T0_MS

DELAY = int(30 * DAY * 1000)
READ = [
    trail.ATTEMPTS,
    trail.DUE,
    trail.ORIGIN_TOPIC,
    trail.ORIGIN_PARTITION,
    trail.ORIGIN_OFFSET,
    trail.ORIGIN_TIMESTAMP,
    trail.FIRST_FAILED_AT,
    trail.REPLAYS,
]


def read(*headers: tuple[str, bytes | None], stage: int = 2) -> trail.Trail:
    return trail.read(headers, stage, T0_MS, DELAY)


def test_without_headers_a_record_had_one_call_in_each_stage_before() -> None:
    assert read() == trail.Trail(stage=2, attempts=2)


def test_a_record_that_was_replayed_has_its_attempts_anew() -> None:
    assert read((trail.ATTEMPTS, b"0"), stage=1).attempts == 0


def test_all_headers_are_read() -> None:
    made = read(
        (trail.STAGE, b"1"),
        (trail.ATTEMPTS, b"7"),
        (trail.DUE, str(T0_MS + 5).encode()),
        (trail.ORIGIN_TOPIC, b"t"),
        (trail.ORIGIN_PARTITION, b"3"),
        (trail.ORIGIN_OFFSET, b"99"),
        (trail.ORIGIN_TIMESTAMP, b"-1"),
        (trail.FIRST_FAILED_AT, b"5"),
        (trail.REPLAYS, b"2"),
    )
    assert made == trail.Trail(2, 7, T0_MS + 5, ("t", 3, 99), -1, 5, 2)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (trail.DUE, b"253402300799000"),  # the year 9999
        (trail.DUE, str(T0_MS + DELAY + DELAY).encode()),
        (trail.DUE, b"-5"),
        (trail.DUE, b"1e12"),
        (trail.DUE, b"9" * 19),
        (trail.DUE, b"9" * 5000),
        (trail.DUE, b""),
        (trail.DUE, None),
        (trail.DUE, b"12 "),
        (trail.DUE, b"12\n"),
        (trail.DUE, b"+12"),
        (trail.DUE, "١٢".encode()),
        (trail.DUE, b"\xff"),
        (trail.ATTEMPTS, b"-3"),
        (trail.ATTEMPTS, b"99999999"),
        (trail.ATTEMPTS, b"three"),
        (trail.REPLAYS, b"-1"),
        (trail.FIRST_FAILED_AT, b"9" * 18),
        (trail.ORIGIN_TIMESTAMP, b"-2"),
        (trail.ORIGIN_PARTITION, str(2**31).encode()),
        (trail.ORIGIN_OFFSET, str(2**63).encode()),
        (trail.ORIGIN_TOPIC, b"a b"),
        (trail.ORIGIN_TOPIC, b"x" * 250),
        (trail.ORIGIN_TOPIC, None),
    ],
)
def test_a_header_that_cannot_be_is_as_if_it_were_not_there(name: str, value: bytes | None) -> None:
    assert read((name, value)) == trail.Trail(stage=2, attempts=2, ignored=(name,))


def test_a_header_that_cannot_be_takes_no_other_down() -> None:
    made = read((trail.DUE, b"soon"), (trail.ATTEMPTS, b"4"))
    assert (made.due, made.attempts) == (None, 4)


def test_of_repeats_the_last_counts() -> None:
    assert read((trail.ATTEMPTS, b"4"), (trail.ATTEMPTS, b"5")).attempts == 5
    assert read((trail.ATTEMPTS, b"4"), (trail.ATTEMPTS, None)).attempts == 2


def test_an_origin_is_whole_or_absent() -> None:
    assert read((trail.ORIGIN_TOPIC, b"t"), (trail.ORIGIN_OFFSET, b"9")).origin is None


def test_the_stage_is_where_it_was_read_whatever_a_header_says() -> None:
    assert read((trail.STAGE, b"-7")).stage == 2


def test_the_longest_wait_is_believed_by_a_clock_that_is_behind() -> None:
    due = T0_MS + DELAY + 60_000
    assert read((trail.DUE, str(due).encode())).due == due


def test_a_record_of_the_main_topic_has_no_way_behind_it() -> None:
    assert trail.start() == trail.Trail(stage=0, attempts=0)


values = st.one_of(
    st.none(), st.binary(max_size=30), st.integers(-(10**22), 10**22).map(lambda number: str(number).encode())
)


@given(st.lists(st.tuples(st.one_of(st.sampled_from(READ), st.text(max_size=20)), values), max_size=20))
def test_no_headers_break_the_reader(headers: Headers) -> None:
    made = trail.read(headers, 1, T0_MS, DELAY)
    replayed = any(name == trail.ATTEMPTS and value and not value.strip(b"0") for name, value in headers)
    assert made.attempts >= (0 if replayed else 1)
    assert made.due is None or made.due >= 0
    assert set(made.ignored) <= {name for name, _ in headers}


def unread() -> trail.UnreadHeaders:
    return trail.UnreadHeaders(2, T0_MS, DELAY, lambda message, names: None)


def test_unread_headers_are_those_of_their_stage() -> None:
    assert unread().read([(trail.ATTEMPTS, b"4")]) == trail.Trail(stage=2, attempts=4)


@pytest.mark.parametrize(
    ("headers", "due"),
    [
        ([], None),
        ([("other", b"1")], None),
        ([(trail.DUE, b"1"), (trail.DUE, b"5"), ("other", b"9")], 5),
        ([(trail.DUE, b"5"), (trail.DUE, b"soon")], None),
        ([(trail.DUE, None)], None),
        ([(trail.DUE, b"9" * 20)], None),
        ([(trail.DUE, str(T0_MS + DELAY + DELAY).encode())], None),
    ],
)
def test_a_due_time_is_read_alone_if_it_is_plainly_valid(headers: Headers, due: int | None) -> None:
    assert unread().due(headers) == due
