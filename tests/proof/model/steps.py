"""The steps of a sequence, and how they are drawn.

A step is abstract: a number stands for "this partition of those that there are" or "an offset between below the oldest
record and beyond the newest", so that any part of a sequence is a sequence, and a failing one shrinks.
"""

from __future__ import annotations

import attrs
from hypothesis import strategies as st

MEMBERS = 3
MOST_PARTITIONS = 4
_T0 = 1_700_000_000_000  # milliseconds since the epoch


@attrs.frozen
class Draft:
    value: bytes | None
    key: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()
    timestamp: int | None = None


@attrs.frozen
class Produce:
    """`partition` None: placed by the key, those without one left out. The number of partitions: one too far."""

    partition: int | None
    drafts: tuple[Draft, ...]


@attrs.frozen
class Transact:
    """Records in partition 0, and an offset of the group if it has members."""

    values: tuple[bytes, ...]
    partition: int
    place: int
    commits: bool


@attrs.frozen
class Join:
    member: int


@attrs.frozen
class Leave:
    """`commits`: what was delivered is committed before. Without it only the last member leaves."""

    member: int
    commits: bool


@attrs.frozen
class Drain:
    """Everybody polls until all that is there has come."""


@attrs.frozen
class Pause:
    partition: int


@attrs.frozen
class Resume:
    partition: int


@attrs.frozen
class Seek:
    """`place`: see `place`."""

    partition: int
    place: int


@attrs.frozen
class Commit:
    """By the partition's owner. `waits`: by `commit_now`."""

    partition: int
    place: int
    metadata: str
    waits: bool


@attrs.frozen
class StaleCommit:
    """A member that was evicted, as it did not poll for longer than it may, commits. There may be no other members."""


@attrs.frozen
class CommitFromOutside:
    partition: int
    place: int


@attrs.frozen
class DeleteRecords:
    partition: int
    place: int


@attrs.frozen
class AddPartition:
    pass


@attrs.frozen
class Recreate:
    """The topic is deleted and made again under its name. Only without members."""


@attrs.frozen
class Read:
    """By a reader without a group."""

    partition: int
    place: int


@attrs.frozen
class Look:
    """Watermarks, committed offsets, members, offsets by time."""

    time: int


Step = (
    Produce
    | Transact
    | Join
    | Leave
    | Drain
    | Pause
    | Resume
    | Seek
    | Commit
    | StaleCommit
    | CommitFromOutside
    | DeleteRecords
    | AddPartition
    | Recreate
    | Read
    | Look
)

_KEYS = st.sampled_from([None, b"", b"a", b"b", b"key-\xff", "schlüssel".encode()])
_VALUES = st.one_of(st.none(), st.binary(max_size=20))
_NAMES = st.sampled_from(["", "h", "flux-stage", "ä"])
_HEADERS = st.lists(st.tuples(_NAMES, st.one_of(st.none(), st.binary(max_size=5))), max_size=3).map(tuple)
_TIMES = st.one_of(st.none(), st.integers(_T0, _T0 + 10_000))
_DRAFTS = st.builds(Draft, _VALUES, _KEYS, _HEADERS, _TIMES)
_PARTITIONS = st.integers(0, MOST_PARTITIONS - 1)
_PLACES = st.integers(0, 11)
"""See `place`."""
_TRANSACTED = st.lists(st.binary(min_size=1, max_size=5), min_size=1, max_size=4).map(tuple)
_METADATA = st.sampled_from(["", "m", "flux", "ü" * 10, "x" * 4000, "x" * 5000])

_USUAL = (
    st.builds(
        Produce,
        st.one_of(st.none(), st.integers(0, MOST_PARTITIONS)),
        st.lists(_DRAFTS, min_size=1, max_size=6).map(tuple),
    ),
    st.builds(Produce, _PARTITIONS, st.lists(_DRAFTS, min_size=1, max_size=6).map(tuple)),
    st.builds(Transact, _TRANSACTED, _PARTITIONS, _PLACES, st.booleans()),
    st.builds(Join, st.integers(0, MEMBERS - 1)),
    st.builds(Leave, st.integers(0, MEMBERS - 1), st.booleans()),
    st.just(Drain()),
    st.builds(Pause, _PARTITIONS),
    st.builds(Resume, _PARTITIONS),
    st.builds(Seek, _PARTITIONS, _PLACES),
    st.builds(Commit, _PARTITIONS, _PLACES, _METADATA, st.booleans()),
    st.builds(CommitFromOutside, _PARTITIONS, _PLACES),
    st.builds(DeleteRecords, _PARTITIONS, _PLACES),
    st.just(AddPartition()),
    st.just(Recreate()),
    st.builds(Read, _PARTITIONS, _PLACES),
    st.builds(Look, st.integers(_T0 - 1, _T0 + 10_001)),
)


@st.composite
def sequences(draw: st.DrawFn, steps: int = 14) -> tuple[Step, ...]:
    """Of up to so many steps. It begins with records and a member, without which most steps do nothing."""
    begin: tuple[Step, ...] = (draw(_USUAL[1]), Join(0))
    rest = draw(st.lists(st.one_of(*_USUAL), min_size=1, max_size=steps))
    slow = draw(st.integers(0, 19))
    more: tuple[Step, ...] = (StaleCommit(),) if slow == 19 else ()  # not the simplest number, which begins
    return (*begin, *rest, *more, Drain(), Look(_T0))


def place(number: int, low: int, high: int) -> int:
    """What a place stands for in a partition whose oldest record is at `low` and whose end is `high`."""
    if number <= 7:
        return low + round((high - low) * number / 7)
    return {8: max(0, low - 1), 9: high + 1, 10: high + 1000, 11: 0}[number]
