"""Of the records with one id the last counts; of a schedule's ticks the first of each, and none after a later tick."""

from __future__ import annotations

from flux.core import named_work
from flux.core.named_work import NamedWork, Names


def ids(names: Names, *offsets: int, name: str = "x") -> list[NamedWork]:
    works = [NamedWork("id", name) for _ in offsets]
    for work, offset in zip(works, offsets, strict=True):
        names.arrived(work, offset, 1000)
    return works


def test_the_last_record_of_an_id_is_called_and_the_ones_before_are_void() -> None:
    first, second, third = ids(Names(), 3, 5, 9)
    assert [each.begin() for each in (first, second, third)] == [False, False, True]


def test_ids_are_apart() -> None:
    names = Names()
    [one], [other] = ids(names, 1), ids(names, 2, name="y")
    assert one.begin()
    assert other.begin()
    assert len(names) == 2


def test_what_replaces_or_cancels_counts_what_it_takes_back_and_no_started_work() -> None:
    names = Names()
    assert names.arrived(NamedWork("id", "x"), 0, 0) == 0
    assert names.arrived(NamedWork("id", "x"), 1, 0) == 1
    assert names.arrived(NamedWork("cancelled", "x"), 2, 0) == 1
    assert names.arrived(NamedWork("cancelled", "x"), 3, 0) == 0
    started = NamedWork("id", "x")
    assert names.arrived(started, 4, 0) == 0
    assert started.begin()
    assert names.arrived(NamedWork("cancelled", "x"), 5, 0) == 0


def test_a_cancellation_is_never_called_and_work_after_it_is() -> None:
    names = Names()
    [before] = ids(names, 1)
    cancellation = NamedWork("cancelled", "x")
    names.arrived(cancellation, 2, 0)
    [after] = ids(names, 3)
    assert [each.begin() for each in (before, cancellation, after)] == [False, False, True]


def test_a_record_that_is_delivered_again_is_not_replaced_by_itself() -> None:
    names = Names()
    for kind in ("id", "schedule"):
        again = NamedWork(kind, "x", 60)
        names.arrived(NamedWork(kind, "x", 60), 1, 60)
        names.arrived(again, 1, 60)
        assert again.begin()


def ticks(names: Names, *places: tuple[int, int]) -> list[NamedWork]:
    """Records of a schedule. `places`: (tick, due)."""
    works = [NamedWork("schedule", "s", tick) for tick, _ in places]
    for offset, (work, (_, due)) in enumerate(zip(works, places, strict=True)):
        assert names.arrived(work, len(names) * 100 + offset, due) == 0
    return works


def test_the_first_record_of_a_tick_counts_and_none_after_a_later_tick() -> None:
    made = ticks(Names(), (60, 60), (60, 60), (120, 90), (120, 120), (60, 60), (60, 61))
    assert [tick.void for tick in made] == [False, True, False, True, True, True]
    assert [tick.last for tick in made] == [False, False, True, False, False, False]


def test_a_tick_that_was_due_may_be_written_again_to_wait_longer() -> None:
    names = Names()
    [first] = ticks(names, (900, 60))
    assert first.begin()
    same, longer, other = ticks(names, (900, 60), (900, 120), (900, 180))
    assert [each.void for each in (same, longer, other)] == [True, False, True]
    assert (first.last, longer.last) == (False, True)


def test_what_is_delivered_again_changes_nothing() -> None:
    names = Names()
    [last] = ids(names, 8)
    [before] = ids(names, 7)
    assert before.void
    assert last.begin()


def test_a_schedule_and_an_id_of_one_name_are_apart() -> None:
    names = Names()
    [work] = ids(names, 1)
    names.arrived(NamedWork("schedule", "x", 60), 2, 60)
    assert work.begin()


def test_ids_whose_work_has_begun_are_forgotten_and_those_that_wait_are_not() -> None:
    names = Names()
    names.arrived(NamedWork("schedule", "s", 60), 0, 60)
    waiting = ids(names, 1, name="waits")[0]
    names.arrived(NamedWork("cancelled", "c"), 2, 0)
    for offset in range(3, named_work._PRUNED_AT + 10):
        ids(names, offset, name=str(offset))[0].begin()
    assert len(names) < 20
    ids(names, named_work._PRUNED_AT + 10, name="waits")
    assert waiting.void
    late = NamedWork("schedule", "s", 60)
    names.arrived(late, named_work._PRUNED_AT + 11, 60)
    assert late.void


def test_with_many_that_wait_names_are_looked_through_rarely() -> None:
    names = Names()
    for offset in range(named_work._PRUNED_AT + 1):
        ids(names, offset, name=str(offset))
    assert names._most == 2 * named_work._PRUNED_AT
