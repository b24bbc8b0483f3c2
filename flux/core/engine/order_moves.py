"""The moves of one stage (`retry_order`): what is written before what, until the offset of a record may be committed.

A move is a list of writes. An entry that it sets has to be acknowledged and read back before the copy that carries its
version is written, and so do the entries of all earlier moves of the key: otherwise a later record could be called by
another stage before one that no stage has yet announced. The moves of a key are closed in order too: if a later one
was done and an earlier one was not, a crash would repeat the earlier one alone.

With `exactly_once` each write is a part of a transaction, and the last one is in that of the record's offset.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import takewhile

from flux.core.engine.assignment import Assignment
from flux.core.engine.commits import Commits
from flux.core.engine.forwarding import Forward, Forwards
from flux.core.engine.forwards import ForwardedCopy
from flux.core.engine.key_order import KeyName, OrderEntry, Origin
from flux.core.engine.order_writes import EntryWrite
from flux.core.engine.slices import Entry


class Move:
    __slots__ = ("acked", "begun", "ended", "entered", "entry", "name", "origin", "steps", "version")

    def __init__(self, entry: Entry, name: KeyName, origin: Origin, steps: list[ForwardedCopy]) -> None:
        self.entry = entry
        self.name = name
        self.origin = origin
        self.steps = deque(steps)
        first = steps[0]
        self.entered = first.entry if isinstance(first, EntryWrite) else None
        """The entry that it sets."""
        self.acked = False
        self.version: int | None = None
        """That of the entry that it has set, once that was read back."""
        self.begun = self.entered is None
        """Whether the writes after the entry may be made."""
        self.ended = False


class Moves:
    """`close`: the record of an entry is done in this stage. `transactions`: when the next one is due; None: writes are
    in none."""

    __slots__ = ("_close", "_forwards", "_of", "_queues", "_transactions", "_waiting", "answers")

    def __init__(self, forwards: Forwards, close: Callable[[Entry], None], transactions: Commits | None = None) -> None:
        self._transactions = transactions
        self._forwards = forwards
        self._close = close
        self._queues: dict[KeyName, deque[Move]] = {}
        self._of: dict[Entry, Move] = {}
        self._waiting = 0
        self.answers = 0
        """Number of entries that were read back."""

    def __contains__(self, name: KeyName) -> bool:
        return name in self._queues

    def has(self, name: KeyName, origin: Origin) -> bool:
        """Whether a record is moved at the moment."""
        return any(move.origin == origin for move in self._queues.get(name, ()))

    @property
    def waiting(self) -> bool:
        """Whether an entry was acknowledged and is to be read back."""
        return self._waiting > 0

    def leader(self, name: KeyName) -> OrderEntry | None:
        """The entry that the first move of a key sets."""
        return next((move.entered for move in self._queues.get(name, ()) if move.entered is not None), None)

    def add(self, move: Move) -> None:
        move.entry.assignment.open[move.entry] = None
        self._queues.setdefault(move.name, deque()).append(move)
        self._of[move.entry] = move
        self._write(move)

    def written(self, forward: Forward) -> KeyName | None:
        """A write was acknowledged. Returns its key if it belongs to a move."""
        move = self._of.get(forward.entry)
        if move is None:
            return None
        move.steps.popleft()
        if not move.begun:
            move.acked = True
            self._waiting += move.version is None
        elif move.steps:
            self._write(move)
        else:
            move.ended = True
        self.advance(move.name)
        return move.name

    def read(self, name: KeyName, origin: Origin, entry: OrderEntry | None) -> None:
        """An entry was read from the topic of keys."""
        for move in self._queues.get(name, ()):
            if entry is not None and move.origin == origin and move.version is None and move.entered == entry:
                move.version = entry.version
                self._waiting -= move.acked
                self.answers += 1
                return

    def advance(self, name: KeyName) -> None:
        """Begins and closes the moves of a key, in order, as far as possible."""
        queue = self._queues.get(name)
        if queue is None:
            return
        for move in queue:
            if not move.begun:
                if not move.acked or move.version is None:
                    break
                move.begun = True
                move.steps[0].order = move.version
                self._write(move)
        while queue and queue[0].ended:
            entry = queue.popleft().entry
            del self._of[entry]
            self._close(entry)
        if not queue:
            del self._queues[name]

    def forget(self, assignment: Assignment) -> None:
        """The partition is gone: its moves are discarded."""
        gone = {move.name: None for move in self._of.values() if move.entry.assignment is assignment}
        for name in gone:
            kept: deque[Move] = deque()
            for move in self._queues[name]:
                if move.entry.assignment is assignment:
                    del self._of[move.entry]
                    self._waiting -= move.acked and move.version is None
                else:
                    kept.append(move)
            if kept:
                self._queues[name] = kept
            else:
                del self._queues[name]

    def names(self) -> Iterable[KeyName]:
        return self._queues

    def sealed(self, forwards: Sequence[Forward]) -> tuple[list[Forward], list[Forward]]:
        """Of forwards that a transaction could write: those whose records are done with it, and those that must wait
        for another one because an earlier record of their key is not done before or with it."""
        last = {
            move
            for forward in forwards
            if (move := self._of.get(forward.entry)) is not None and move.begun and len(move.steps) == 1
        }
        closed: set[Move] = set()
        for name in {move.name for move in last}:
            closed.update(takewhile(lambda move: move.ended or move in last, self._queues[name]))
        done: list[Forward] = []
        later: list[Forward] = []
        for forward in forwards:
            move = self._of.get(forward.entry)
            if move is None or move in closed:
                done.append(forward)
            elif move in last and not forward.alone:  # one that is written alone would keep back all others
                later.append(forward)
        return done, later

    def _write(self, move: Move) -> None:
        if self._transactions is not None:
            self._transactions.done += 1
        step = move.steps[0]
        self._forwards.add(Forward(move.entry, step, step.size))
