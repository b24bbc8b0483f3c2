from __future__ import annotations

import math
import sys
import threading

from hypothesis import given
from hypothesis import strategies as st

from flux.core.ports import ProducerRecord
from flux.core.producing.buffer import Buffer, Limits

LIMITS = Limits(records=3, bytes=10, age=1.0)


def record(number: int = 0) -> ProducerRecord:
    return ProducerRecord(str(number).encode())


def opened(limits: Limits = LIMITS, now: float = 0.0) -> Buffer:
    buffer = Buffer(limits)
    buffer.opened(now)
    return buffer


def taken_from(buffer: Buffer) -> list[ProducerRecord]:
    records = buffer.take()
    buffer.taken = []
    return records


def test_the_first_record_asks_for_a_deadline() -> None:
    buffer = Buffer(LIMITS)
    assert buffer.add(record(), 1)
    assert buffer.deadline is None
    assert buffer.opened(now=5.0) == 6.0
    assert not buffer.add(record(), 1)


def test_it_is_full_at_so_many_records() -> None:
    buffer = opened()
    assert [buffer.add(record(), 0) for _ in range(3)] == [False, False, True]
    assert buffer.full


def test_it_is_full_at_so_many_bytes() -> None:
    buffer = opened()
    assert [buffer.add(record(), 5) for _ in range(2)] == [False, True]
    assert buffer.full


def test_it_is_due_at_its_age_and_not_before() -> None:
    buffer = opened(now=100.0)
    assert not buffer.due(100.999)
    assert buffer.due(101.0)


def test_it_is_due_sooner_when_a_record_is_wanted_sooner_but_never_later() -> None:
    buffer = opened(now=100.0)
    assert buffer.opened(now=100.0, within=0.25) == 100.25
    assert buffer.opened(now=100.1, within=0.25) == 100.25
    assert buffer.opened(now=100.1, within=5.0) == 100.25
    assert opened(now=100.0).opened(now=100.5, within=5.0) == 101.0


def test_it_needs_no_earlier_deadline_while_it_is_due_in_time_or_empty() -> None:
    buffer = Buffer(LIMITS)
    assert buffer.due_within(0.25, now=100.0)
    buffer.add(record(), 1)
    assert not buffer.due_within(math.inf, now=100.0)
    buffer.opened(now=100.0)
    assert [buffer.due_within(seconds, now=100.0) for seconds in (0.25, 1.0, math.inf)] == [False, True, True]


def test_a_deadline_is_that_of_the_first_record() -> None:
    buffer = opened(now=100.0)
    assert buffer.opened(now=100.9) == 101.0


def test_a_clock_that_was_set_back_makes_it_due_rather_than_wait_for_hours() -> None:
    assert opened(now=10_000.0).due(400.0)


def test_taking_begins_a_new_batch() -> None:
    buffer = opened()
    buffer.add(record(1), 9)
    assert taken_from(buffer) == [record(1)]
    assert (len(buffer), buffer.full, buffer.deadline) == (0, False, None)
    assert not buffer.due(1e9)
    buffer.opened(now=50.0)
    assert not buffer.add(record(2), 9)


def test_what_was_taken_and_not_put_elsewhere_comes_again_before_later_records() -> None:
    buffer = opened()
    buffer.add(record(1), 1)
    assert buffer.take() == [record(1)]
    buffer.add(record(2), 1)
    assert taken_from(buffer) == [record(1)]
    assert taken_from(buffer) == [record(2)]


@given(
    st.integers(1, 5),
    st.integers(1, 30),
    st.lists(st.one_of(st.integers(0, 12), st.none()), max_size=60),
)
def test_nothing_is_lost_repeated_or_reordered_and_no_batch_grows_beyond_its_limits(
    records: int, size: int, steps: list[int | None]
) -> None:
    """A step is a record of so many bytes, or an early take."""
    buffer = opened(Limits(records, size, 1.0))
    batches: list[list[ProducerRecord]] = []
    added: list[ProducerRecord] = []
    sizes: dict[ProducerRecord, int] = {}
    for number, step in enumerate(steps):
        if step is None:
            batches.append(taken_from(buffer))
        else:
            added.append(record(number))
            sizes[added[-1]] = step
            assert buffer.add(added[-1], step) or buffer.deadline is not None
            if buffer.full:
                batches.append(taken_from(buffer))
        buffer.opened(0.0)
    batches.append(taken_from(buffer))
    assert [one for batch in batches for one in batch] == added
    for batch in batches:
        assert len(batch) <= records
        assert sum(sizes[one] for one in batch[:-1]) < size


def test_threads_that_add_while_another_takes_lose_nothing() -> None:
    buffer = Buffer(Limits(10, 1000, 1.0))
    taken: list[ProducerRecord] = []
    adding = 4
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:

        def add(thread: int) -> None:
            for number in range(2000):
                buffer.add(record(thread * 2000 + number), 1)

        threads = [threading.Thread(target=add, args=(thread,)) for thread in range(adding)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            taken += taken_from(buffer)
    finally:
        sys.setswitchinterval(interval)
    taken += taken_from(buffer)
    numbers = [int(one.value or b"") for one in taken]
    assert sorted(numbers) == list(range(adding * 2000))
    for start in range(adding):
        mine = [number for number in numbers if number // 2000 == start]
        assert mine == sorted(mine)


def test_a_buffer_in_a_hurry_is_full_with_each_record() -> None:
    buffer = opened()
    assert not buffer.add(record(), 1)
    buffer.hurry()
    assert buffer.full
    taken_from(buffer)
    assert not buffer.full
    assert buffer.add(record(), 1)


def test_a_new_buffer_is_empty_and_admits_records() -> None:
    buffer = Buffer(Limits(10, 10, 5.0))
    assert (len(buffer), buffer.taken, buffer.blocked, buffer.deadline, buffer.full) == (0, [], False, None, False)
    buffer.add(ProducerRecord(b"v"), 9)
    assert not buffer.full
    buffer.add(ProducerRecord(b"v"), 1)
    assert buffer.full


def test_a_batch_is_not_due_when_it_begins() -> None:
    buffer = Buffer(Limits(10, 10, 5.0))
    buffer.opened(100.0)
    assert not buffer.due(100.0)
    assert buffer.due(99.9)
