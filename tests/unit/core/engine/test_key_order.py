"""What the topic of keys says is outstanding."""

from __future__ import annotations

import attrs

from flux.core.engine.key_order import KeyOrder, OrderEntry, entry_name


@attrs.frozen
class Stored:
    at: int
    the_key: bytes | None
    the_value: bytes | None

    def key(self) -> bytes | None:
        return self.the_key

    def value(self) -> bytes | None:
        return self.the_value

    def offset(self) -> int:
        return self.at


def set_(at: int, partition: int, offset: int, key: bytes = b"k", stage: int = 1, dead: bool = False) -> Stored:
    return Stored(at, entry_name((partition, offset)), OrderEntry(key, stage, 5, 1, dead).value())


def removed(at: int, partition: int, offset: int) -> Stored:
    return Stored(at, entry_name((partition, offset)), None)


def test_an_entry_is_read_as_it_was_written() -> None:
    for entry in (OrderEntry(b"\xff\x00", 3, 17, 2, True), OrderEntry(b"", 1, 0, 0)):
        assert OrderEntry.read(entry.value(), 9) == entry
        assert OrderEntry.read(entry.value(), 9).version == 9  # type: ignore[union-attr]


def test_the_first_record_of_a_key_is_the_outstanding_one_with_the_lowest_offset() -> None:
    view = KeyOrder()
    view.take([set_(0, 0, 7), set_(1, 0, 3), set_(2, 1, 1), set_(3, 0, 5, b"other")])
    assert (view.head((0, b"k")), view.head((1, b"k")), view.head((0, b"other"))) == (3, 1, 5)
    assert view.head((1, b"other")) is None
    assert [(1, name) in view.names for name in (b"k", b"other")] == [True, False]
    assert len(view) == 4
    assert sorted((name, offset, count) for name, offset, _, count in view.heads()) == [
        ((0, b"k"), 3, 2),
        ((0, b"other"), 5, 1),
        ((1, b"k"), 1, 1),
    ]


def test_a_removed_entry_is_outstanding_no_more() -> None:
    view = KeyOrder()
    view.take([set_(0, 0, 3), set_(1, 0, 7)])
    assert view.take([removed(2, 0, 3)]) == [((0, 3), None, (0, b"k"), False, False)]
    assert (view.head((0, b"k")), view.entry((0, 3)), view.holds(0)) == (7, None, True)
    view.take([removed(3, 0, 7)])
    assert (view.head((0, b"k")), view.holds(0), len(view)) == (None, False, 0)


def test_a_key_is_freed_when_its_dead_letter_is_replayed_or_removed() -> None:
    view = KeyOrder()
    view.take([set_(0, 0, 3), set_(1, 0, 7), set_(2, 0, 9)])
    [held] = view.take([set_(3, 0, 3, dead=True)])
    assert (held.freed, view.behind_dead) == (False, 2)
    [replayed] = view.take([set_(4, 0, 3)])
    assert (replayed.freed, view.behind_dead) == (True, 0)
    [done] = view.take([removed(5, 0, 3)])
    assert not done.freed
    view.take([set_(6, 0, 7, dead=True)])
    assert view.behind_dead == 1
    [rejected] = view.take([removed(7, 0, 7)])
    assert (rejected.freed, view.behind_dead) == (True, 0)


def test_a_follower_is_due_when_nothing_before_it_waits() -> None:
    def follower(at: int, offset: int) -> Stored:
        return Stored(at, entry_name((0, offset)), OrderEntry(b"k", 2, 900, 0, follows=True).value())

    name = 0, b"k"
    view = KeyOrder()
    view.take([set_(0, 0, 3), follower(1, 7), follower(2, 9)])
    assert view.due(name, (0, 3), 0) is None  # its due time is its own
    assert view.due(name, (0, 7), 1) == 5
    assert view.due(name, (0, 9), 2) == 5
    assert view.due(name, (0, 9), 1) is None  # an older copy
    assert view.due(name, (0, 8), 1) is None
    view.take([set_(3, 0, 3, dead=True)])
    assert view.due(name, (0, 7), 1) is None
    view.take([removed(4, 0, 3)])
    assert (view.due(name, (0, 7), 1), view.due(name, (0, 9), 2)) == (0, 0)


def test_the_last_entry_of_a_record_counts_with_its_version() -> None:
    view = KeyOrder()
    first, (origin, entry, name, is_new, _) = view.take([set_(4, 0, 3), set_(9, 0, 3, stage=2)])
    assert (first.is_new, is_new) == (True, False)
    assert (origin, name, view.entry((0, 3))) == ((0, 3), (0, b"k"), entry)
    assert entry is not None
    assert (entry.version, entry.stage) == (9, 2)
    assert view.head((0, b"k")) == 3


def test_what_flux_has_not_written_changes_nothing() -> None:
    view = KeyOrder()
    view.take([set_(0, 0, 3)])
    strange = [b"", b"{}", b"[1]", b'{"key": "?", "stage": 1, "due": 1, "attempts": 1, "dead": false}']
    records = [Stored(1 + at, entry_name((0, 3)), value) for at, value in enumerate(strange)]
    assert view.take([*records, Stored(8, None, b"x"), Stored(9, b"0:x", None), removed(10, 0, 99)]) == []
    assert (view.head((0, b"k")), view.position) == (3, 11)


def test_a_record_is_read_once() -> None:
    view = KeyOrder()
    view.take([set_(0, 0, 3), removed(1, 0, 3)])
    assert view.take([set_(0, 0, 3)]) == []
    assert len(view) == 0


def test_the_position_is_behind_all_that_was_read_or_does_not_exist() -> None:
    view = KeyOrder()
    view.take([set_(4, 0, 3)])
    assert view.position == 5
    view.read_to(8)
    view.read_to(2)
    assert view.position == 8
