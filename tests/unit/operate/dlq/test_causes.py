"""Dead letters by cause."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux.operate.dlq.causes import MAX_CAUSES, MAX_TEXT, Causes, cause_of, fold, place_of
from unit.support.operate_support import NOW_MS, dead_letter, headers_of


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("no customer 17", "no customer #"),
        ("no customer -17.5 of 1,000,000", "no customer # of #"),
        ("user 3f2504e0-4f89-11d3-9a0c-0305e82c3301 is gone", "user # is gone"),
        ("at 0x7f3a9c", "at #"),
        ("commit deadbeefcafe lost", "commit # lost"),
        ("order ord_8fa3 is closed", "order # is closed"),
        ("KeyError: 'customer' in \"orders\" and `x y`", "KeyError: # in # and #"),
        ("bytes b'\\x00abc' left", "bytes # left"),
        ("don't know, can't say", "don't know, can't say"),
        ("ids [1, 2, 3]", "ids [#]"),
        ("ids [1, 2]", "ids [#]"),
        ("at 2026-11-24T11:28:50Z from 10.0.0.7:9092", "at # from #"),
        ("several\n  lines\tof 2", "several lines of #"),
        ("no numbers, no quotes", "no numbers, no quotes"),
        ("", ""),
    ],
)
def test_what_varies_in_a_message_is_folded(text: str, folded: str) -> None:
    assert fold(text) == folded


@given(st.lists(st.sampled_from(["no", "customer", "of", "is", "gone"]), min_size=1), st.integers(), st.uuids())
def test_messages_that_differ_in_numbers_and_ids_only_are_one_cause(
    words: list[str], number: int, uuid: object
) -> None:
    text = " ".join(words)
    assert fold(f"{text} {number} for {uuid}") == fold(f"{text} 1 for 00000000-0000-0000-0000-000000000000")


@given(st.text(max_size=5000))
def test_any_text_is_folded_to_one_short_line(text: str) -> None:
    folded = fold(text)
    assert len(folded) <= MAX_TEXT
    assert len(folded.splitlines()) <= 1


TRACE = """\
  File "/srv/releases/20261124/app/billing.py", line 17, in call
    charge(message)
  File "/srv/releases/20261124/app/{file}", line {line}, in charge
    client.post(url)
    ^^^^^^^^^^^^^^^^
  File "/usr/lib/python3.11/site-packages/requests/api.py", line 115, in post
    return request("post", url)
"""


def test_the_place_is_the_innermost_frame_of_the_users_own_code() -> None:
    assert place_of(TRACE.format(file="cards.py", line=88)) == "app/cards.py in charge"


def test_the_place_is_the_same_after_another_release_moved_the_line() -> None:
    trace = TRACE.format(file="cards.py", line=88)
    assert place_of(trace) == place_of(trace.replace("88", "91").replace("20261124", "20261201"))
    assert place_of('  File "/srv/20261124/billing.py", line 1, in call\n') == "#/billing.py in call"


def test_the_place_is_a_librarys_where_there_are_no_other_frames() -> None:
    assert place_of('  File "/x/site-packages/a/b.py", line 1, in post\n') == "a/b.py in post"
    assert place_of("") == ""
    assert place_of('  File "C:\\app\\tasks\\billing.py", line 1, in call\n') == "tasks/billing.py in call"


def test_another_type_place_or_message_is_another_cause() -> None:
    base = cause_of(dead_letter(headers_of(text="no customer 1")))
    assert cause_of(dead_letter(headers_of(text="no customer 2"))) == base
    assert len(base.id) == 8
    others = [
        headers_of(text="no order 1"),
        headers_of(error="KeyError", text="no customer 1"),
        headers_of(text="no customer 1", trace='  File "/srv/app/cards.py", line 17, in call\n'),
    ]
    assert len({cause_of(dead_letter(headers)).id for headers in others} | {base.id}) == 4


def test_a_dead_letter_without_an_error_has_a_cause_too() -> None:
    assert str(cause_of(dead_letter())) == "(no error recorded)"


def test_causes_are_counted_with_first_last_and_latest_example() -> None:
    causes = Causes()
    for offset in range(5):
        causes.add(dead_letter(headers_of(offset, text=f"no customer {offset}"), offset=offset))
    causes.add(dead_letter(headers_of(7, error="KeyError")))
    first, second = causes.ranked()
    assert (first.count, second.count, causes.total, causes.others) == (5, 1, 6, 0)
    assert (first.first_seen, first.last_seen) == (NOW_MS - 10_000, NOW_MS - 9_996)
    assert first.example.offset == 4


def test_causes_take_bounded_memory() -> None:
    causes = Causes(3)
    for name in "abcdea":
        causes.add(dead_letter(headers_of(error=name)))
    assert next(tally.cause.error_type for tally in causes.ranked()) == "a"
    assert (len(causes.ranked()), causes.others, causes.total) == (3, 2, 6)
    assert MAX_CAUSES > 1000
