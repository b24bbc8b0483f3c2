"""Entries that a former owner of a partition of the main topic wrote too late (`retry_order`): after its successor had
read the topic of keys. Nothing may ever remove such an entry, so its key would wait for ever: the successor removes it
once it has done the record itself.
"""

from __future__ import annotations

import attrs

from flux.core import flux_headers
from flux.core.engine.assignment import Assignment, Phase
from flux.core.engine.key_order import KeyName, OrderEntry, Origin
from flux.core.engine.order_moves import Moves
from flux.core.engine.order_places import Place
from flux.core.engine.order_steps import OrderSteps
from flux.core.engine.slices import Entry
from flux.core.message import Message


@attrs.frozen
class _Record:
    """Stands for a record that is done."""

    place: Place
    main_topic: str

    def topic(self) -> str:
        return self.main_topic

    def partition(self) -> int:
        return self.place[1][0]

    def offset(self) -> int:
        return self.place[1][1]

    def key(self) -> bytes | None:
        return self.place[0][1]

    def value(self) -> bytes | None:
        return None

    def headers(self) -> None:
        return None

    def timestamp(self) -> tuple[int, int]:
        return 0, -1


class LateEntries:
    """Of the main stage."""

    __slots__ = ("_entries", "_moves", "_owners", "_steps")

    def __init__(self, moves: Moves, steps: OrderSteps) -> None:
        self._moves = moves
        self._steps = steps
        self._owners: dict[int, Assignment] = {}
        self._entries: dict[Origin, KeyName] = {}

    def owned(self, assignment: Assignment) -> None:
        """The topic of keys was read for this partition."""
        self._owners[assignment.partition.partition] = assignment

    def read(self, name: KeyName, origin: Origin, entry: OrderEntry | None, is_new: bool) -> None:
        """An entry was read. `is_new`: its record was not outstanding before."""
        if entry is None:
            self._entries.pop(origin, None)
        elif is_new and origin[0] in self._owners and not self._moves.has(name, origin):
            self._entries[origin] = name

    def moved(self, origin: Origin) -> None:
        """A record moves on: its entry leads it."""
        self._entries.pop(origin, None)

    def remove(self) -> None:
        """Removes the entries of records that are done here."""
        for origin, name in list(self._entries.items()):
            assignment = self._owners.get(origin[0])
            if assignment is None or assignment.phase is not Phase.WORKING:
                del self._entries[origin]
            elif assignment.offset_tracker is not None and assignment.offset_tracker.is_done(origin[1]):
                del self._entries[origin]
                place = name, origin, -1
                record = _Record(place, assignment.partition.topic)
                message = Message.of(record, None, flux_headers.of_main_topic())
                self._steps.done(Entry(assignment, message, origin[1], origin[1] + 1), place)

    def forget(self, assignment: Assignment) -> None:
        """A partition is gone."""
        partition = assignment.partition.partition
        if self._owners.get(partition) is assignment:
            del self._owners[partition]
            for origin in [origin for origin in self._entries if origin[0] == partition]:
                del self._entries[origin]
