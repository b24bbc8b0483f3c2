"""Order kept through retries (`retry_order = "key"`): which records of one stage may be called, and what becomes of
the others.

Rule: a record is called only if no earlier one of its key is outstanding in any stage. Otherwise it is a follower: the
main stage forwards it without a call; a retry stage keeps it in memory if the first one is due soon, or else forwards
it to that one's stage and due time. Why this keeps the order: docs/explanation/ordering-through-retries.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from flux.core.engine.assignment import Assignment
from flux.core.engine.common import Common
from flux.core.engine.forwarding import Forward, Forwards
from flux.core.engine.forwards import ForwardedCopy
from flux.core.engine.key_order import Change, KeyName, KeyOrder, OrderEntry, Origin
from flux.core.engine.key_queues import KeyQueues
from flux.core.engine.late_entries import LateEntries
from flux.core.engine.order_moves import Moves
from flux.core.engine.order_places import Holds, Parked, Room, follower_of, holds_back, place_of
from flux.core.engine.order_steps import OrderSteps
from flux.core.engine.slices import Entry, Slice
from flux.core.ports import ProducerRecord
from flux.core.stage import Role

Does = Callable[[Entry], None]
MOST_PARKED = 1_000
"""Followers of one stage that wait in memory for the first record of their key."""
SOON_MS = 5_000
"""A follower waits in memory if the first record of its key is due within this time."""


class OrderedRetries:
    """Of one stage. `close`: an entry's record is done in this stage; `hold_alone`: puts one back to call it alone."""

    __slots__ = (
        "_active", "_ahead", "_close", "_common", "_hold_alone", "_key_queues", "_late", "_main",
        "_room", "_steps", "_view", "holds", "moves", "parked",
    )  # fmt: skip

    def __init__(self, common: Common, view: KeyOrder, forwards: Forwards, close: Does, hold_alone: Does) -> None:
        self._common, self._view, self._close, self._hold_alone = common, view, close, hold_alone
        assert isinstance(common.key_queues, KeyQueues)
        self._key_queues, self._main = common.key_queues, common.stage.role is Role.MAIN
        self.moves = Moves(forwards, close, common.commits if common.policy.exactly_once else None)
        self._steps = OrderSteps(common, self.moves)
        self._late = LateEntries(self.moves, self._steps)
        self.parked = Parked(self._main)
        """Records that wait in memory for another one of their key."""
        self._active: dict[KeyName, tuple[Entry, Origin]] = {}
        """In a retry stage, the record of each key that is being called, until its entry has changed."""
        self._ahead: dict[KeyName, None] = {}
        """Keys of parked records whose entries were not read yet."""
        self._room = Room()
        self.holds = Holds(common.key_queues)
        """In the main stage, the keys of records whose calls have produced what is not acknowledged yet."""

    # ---- what may be called

    def sifts(self, assignment: Assignment) -> bool:
        """Whether some records of a partition may not be called now."""
        if not self._main:
            return True
        partition = assignment.partition.partition
        self._late.owned(assignment)
        return self._view.holds(partition) or any(each[0] == partition for each in (*self.moves.names(), *self.parked))

    def sift(self, assignment: Assignment, piece: Slice, now: float) -> Slice | None:
        """The records of a slice that may be called. The others are placed: in a retry stage all, in key queues too."""
        if not self._main:
            for index in range(len(piece)):
                entry = piece.entry(assignment, index, piece.message(index))
                if self._place(entry, now):
                    self._key_queues.add(entry)
            return None
        partition, key_queues = assignment.partition.partition, self._key_queues
        held, busy, kept = self._view.names, {*self.moves.names(), *self.parked}, list[int]()
        for index, record in enumerate(piece.records):
            key = record.key()
            free = key is None or ((name := (partition, key)) not in held and name not in busy)
            if free or self._may_call(name, (partition, record.offset())):
                kept.append(index)
                continue
            entry = piece.entry(assignment, index, piece.message(index))
            if key_queues.has(entry):
                key_queues.add(entry)  # behind earlier ones, which are looked at first
            else:
                self._follow(entry, now)
        if len(kept) == len(piece):
            return piece
        return piece.picked(kept) if kept else None

    def admitted(self, entries: list[Entry], now: float) -> list[Entry]:
        """Those of the entries taken from key queues that may be called. The others are taken care of."""
        if not self._main:
            return entries
        admitted: list[Entry] = []
        for entry in entries:
            place = place_of(entry, self._main)
            if place is None or self._may_call(place[0], place[1]):
                admitted.append(entry)
            else:
                self._key_queues.end(entry)
                self._follow(entry, now)
        return admitted

    def admits(self, entry: Entry, now: float) -> bool:
        """Whether a record that is in no key queue may be called. If not, it is taken care of."""
        if not self._main:
            return self._place(entry, now)
        place = place_of(entry, True)
        self._late.owned(entry.assignment)
        if place is None or self._may_call(place[0], place[1]):
            return True
        self._follow(entry, now)
        return False

    def _may_call(self, name: KeyName, origin: Origin) -> bool:
        """In the main stage."""
        if name in self.moves or self.parked.has_before(name, origin[1]) or self._view.entry(origin) is not None:
            return False
        head = self._view.head(name)
        return head is None or head > origin[1]

    def _follow(self, entry: Entry, now: float) -> None:
        """In the main stage: a record that may not be called follows the first outstanding one of its key."""
        place = place_of(entry, self._main)
        assert place is not None
        name, origin, _ = place
        known = self._view.entry(origin)
        if name in self.parked or not self._room.has(entry, name):
            self.parked.add(name, entry)
        elif known is not None:
            self._late.moved(origin)
            self._steps.rewrite(entry, name, origin, known)
        elif (leader := self._leader(name, origin)) is not None:
            self._steps.behind(entry, name, origin, leader, now)
        else:
            self.parked.add(name, entry)

    def _leader(self, name: KeyName, origin: Origin) -> OrderEntry | None:
        """The entry of the record that one of the main stage follows."""
        head = self._view.head(name)
        if head is not None and head < origin[1]:
            return self._view.entry((name[0], head))
        return self.moves.leader(name)

    def _place(self, entry: Entry, now: float) -> bool:
        """In a retry stage: whether a record that is due may be called. If not, it is taken care of."""
        place = place_of(entry, self._main)
        if place is None:
            return True
        (name, origin, version), view = place, self._view
        if version >= view.position:
            self.parked.add(name, entry)
            self._ahead[name] = None
            return False
        known, head = view.entry(origin), view.head(name)
        if known is not None and known.version == version and head == origin[1]:
            active, active_origin = self._active.setdefault(name, (entry, origin))
            if active.assignment is entry.assignment and active.offset == entry.offset:
                return True
            if active_origin == origin and self._room.has(entry, name):
                self._close(entry)  # a second copy of the same, which must not hold back the committed offset
            else:
                self.parked.add(name, entry)
            return False
        if not self._room.has(entry, name):
            self.parked.add(name, entry)
        elif known is None:
            self._close(entry)  # it was done before, and the offset of this copy was not committed
        elif known.version > version:
            self._steps.rewrite(entry, name, origin, known)
        else:
            leader = view.entry((name[0], head if head is not None else origin[1]))
            assert leader is not None
            if self._waits_here(leader, now):
                self.parked.add(name, entry)
            else:
                self._steps.behind(entry, name, origin, leader, now)
        return False

    def _waits_here(self, leader: OrderEntry, now: float) -> bool:
        if self._common.stage.role is Role.DEAD:
            return True
        here = self._steps.stage_of(leader).number == self._common.stage.number and not leader.dead
        soon = leader.follows or leader.due <= self._common.wall_ms(now) + SOON_MS
        return here and soon and len(self.parked) < MOST_PARKED

    # ---- ends of calls

    def takes(self, entry: Entry) -> bool:
        """Whether the order decides what becomes of a record that has failed."""
        return place_of(entry, self._main) is not None

    def failed(self, entry: Entry, forwarded_copy: ForwardedCopy, now: float) -> None:
        """An open record is to be moved, after a call or because it has expired."""
        place = place_of(entry, self._main)
        assert place is not None
        known = self._view.entry(place[1])
        self._late.moved(place[1])
        if known is None and not self._main:
            self._close(entry)  # it was skipped meanwhile
        else:
            self._steps.failed(entry, place, forwarded_copy, known, now)

    def done(self, entry: Entry) -> None:
        """The call of a record of a retry stage has succeeded: it is outstanding until its entry is removed."""
        place = place_of(entry, self._main)
        if place is not None and self._view.entry(place[1]) is not None:
            return self._steps.done(entry, place)
        return self._close(entry)

    def removal(self, entry: Entry) -> tuple[str, ProducerRecord] | None:
        """What removes the entry of a record of a retry stage whose call has succeeded, with its topic."""
        place = None if self._main else place_of(entry, False)
        if place is None or self._view.entry(place[1]) is None:
            return None
        return self._steps.removal(entry, place[1])

    # ---- facts

    def read_to(self, position: int, now: float) -> None:
        """The topic of keys was read up to this offset."""
        self._view.read_to(position)
        self.read((), now)

    def read(self, changes: Sequence[Change], now: float) -> None:
        """These entries were read from the topic of keys."""
        names, self._ahead = self._ahead, {}
        freed = {change.name for change in changes if change.freed}
        if freed and not self._main:
            self._common.delay_queue.bring_forward(follower_of(freed, self._view), self._common.wall_ms(now))
        for origin, entry, name, is_new, _ in changes:
            self.moves.read(name, origin, entry)
            self._late.read(name, origin, entry, is_new)
            active = self._active.get(name)
            if active is not None and active[1] == origin:
                del self._active[name]
            names[name] = None
        for name in names:
            self.moves.advance(name)
            self._review(name, now)
        self._late.remove()

    def written(self, forward: Forward, now: float) -> bool:
        """A forward was acknowledged. Returns whether it belongs to a move, which closes its record by itself."""
        name = self.moves.written(forward)
        if name is None:
            return False
        self._review(name, now)
        self.ended(now)
        return True

    def ended(self, now: float) -> None:
        """The metadata may have room."""
        for name in list(self._room.narrow):
            self._review(name, now)
        self._late.remove()

    def turn(self, assignments: Iterable[Assignment], now: float) -> None:
        if self._room.may_be_wider(assignments):
            self.ended(now)

    def make_room(self, now: float) -> None:
        """In a retry stage: records that could be called may wait for room in the metadata, and a follower that waits
        for them may be what holds back the committed offset. It moves behind them."""
        for name in () if self._main else list(self.parked):
            for entry in self.parked.take(name):
                place = place_of(entry, self._main)
                head = self._view.head(name)
                leader = None if head is None else self._view.entry((name[0], head))
                if holds_back(entry) and place is not None and leader is not None and head != place[1][1]:
                    self._steps.behind(entry, name, place[1], leader, now)
                else:
                    self.parked.add(name, entry)

    def discard(self, assignment: Assignment) -> None:
        """No new calls for a partition: discards the records that wait in memory."""
        self.parked.discard(lambda entry: entry.assignment is assignment)

    def forget(self, assignment: Assignment) -> None:
        self.discard(assignment)
        self._late.forget(assignment)
        self.moves.forget(assignment)
        self._active = {name: each for name, each in self._active.items() if each[0].assignment is not assignment}
        self.holds.forget(assignment)

    # ---- records that wait in memory

    def _review(self, name: KeyName, now: float) -> None:
        self._room.narrow.pop(name, None)
        for entry in self.parked.take(name):
            if not self._common.begins(entry.assignment):
                continue
            if entry.assignment.crashes.careful:
                self._hold_alone(entry)
            elif self.admits(entry, now):
                (self._key_queues.add_first if self._main else self._key_queues.add)(entry)
