"""Entries that a limit of their name holds back, so that others pass. The limits: `flux/core/limits/name_limits.py`.

An entry that waits here is the first of its key queue, so records of its key wait behind it. Per name it is called in
the order in which it came; a name that may go on is found without a look at the others.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from typing import Any

from flux.core.engine.assignment import Assignment
from flux.core.engine.commands import Level, LogEvent
from flux.core.engine.slices import Entry
from flux.core.error_text import brief, error_name
from flux.core.limits.name_limits import NameLimit, plain_name

_Name = tuple[int, str]
"""(index of the limit, name)"""


class HeldByName:
    """Of one stage. `limits`: shared by all stages. `log`: gets what to log. A record for which a function that gives
    names raises has no name."""

    __slots__ = ("_indices", "_limits", "_log", "_may_open", "_opened", "_opens", "_started", "_waiting")

    def __init__(self, limits: Sequence[NameLimit], log: Callable[[LogEvent], None]) -> None:
        self._limits = limits
        self._log = log
        self._indices = {id(limit): index for index, limit in enumerate(limits)}
        self._waiting: dict[_Name, deque[Entry]] = {}
        self._opens: list[tuple[float, _Name]] = []
        """A heap of when names may go on; may contain outdated items."""
        self._may_open: dict[_Name, None] = {}
        """Names that may go on now."""
        self._opened: dict[Entry, _Name] = {}
        """Entries that `open` returned, until `admits` has decided about them."""
        self._started: set[Entry] = set()
        """Entries that limits count, until their calls have ended."""
        for limit in limits:
            limit.watchers.append(self)

    def __len__(self) -> int:
        """Entries that wait here."""
        return sum(map(len, self._waiting.values()))

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def names(self, entry: Entry) -> Sequence[str | None]:
        """Its name for each limit."""
        names = entry.names
        if names is None:
            names = entry.names = tuple(self._name(limit, entry) for limit in self._limits)
        return names

    def _name(self, limit: NameLimit, entry: Entry) -> str | None:
        try:
            return plain_name(limit.name_of(entry.message))
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            text = f"{limit.setting} failed with {brief(error)}: such a record counts for no name"
            self._log(LogEvent(Level.ERROR, text, kind=("name", limit.setting, error_name(type(error)))))
            return None

    def admits(self, entry: Entry, now: float) -> bool:
        """Whether the call of an entry may start now; it is then counted. Otherwise the entry waits here."""
        opened = self._opened.pop(entry, None)
        names = self.names(entry)
        for index, (limit, name) in enumerate(zip(self._limits, names, strict=True)):
            if name is None:
                continue
            key = index, name
            opens_at = limit.opens_at(name, now)
            # one that was opened passes those that wait for another limit: otherwise two could wait for each other
            if (opened is None and key in self._waiting) or opens_at is None or opens_at > now:
                self._wait(key, entry, key == opened, opens_at)
                break
        else:
            for limit, name in zip(self._limits, names, strict=True):
                if name is not None:
                    limit.started(name, entry, now)
            self._started.add(entry)
        if opened is not None:
            self._look_at(opened, now)
        return entry in self._started

    def set_aside(self, entry: Entry, now: float) -> None:
        """The call of an entry may not start now for another reason: the next one of its name may."""
        opened = self._opened.pop(entry, None)
        if opened is not None:
            self._look_at(opened, now)

    def _wait(self, key: _Name, entry: Entry, first: bool, opens_at: float | None) -> None:
        waiting = self._waiting.get(key)
        if waiting is None:
            waiting = self._waiting[key] = deque()
            if opens_at is not None:
                heapq.heappush(self._opens, (opens_at, key))
        (waiting.appendleft if first else waiting.append)(entry)

    def _look_at(self, key: _Name, now: float) -> None:
        """The first entry of a name has left: finds when the next one may."""
        index, name = key
        if key in self._waiting:
            opens_at = self._limits[index].opens_at(name, now)
            if opens_at is not None:
                heapq.heappush(self._opens, (opens_at, key))

    def freed(self, limit: NameLimit, name: str) -> None:
        """A name that was at its limit is no longer."""
        key = self._indices[id(limit)], name
        if key in self._waiting:
            self._may_open[key] = None

    def waiting(self) -> Iterator[tuple[str, str, int]]:
        """(setting, name, number of records that wait for it): those behind them in their key queues included."""
        for (index, name), entries in self._waiting.items():
            behind = sum(0 if entry.key_queue is None else len(entry.key_queue.queue) for entry in entries)
            yield self._limits[index].setting, name, len(entries) + behind

    def names_for(self, limit: NameLimit) -> set[str]:
        """The names that entries have for a limit: of all that wait here, also for another limit."""
        own = self._indices[id(limit)]
        found = {name for index, name in self._waiting if index == own}
        for (index, _), entries in self._waiting.items():
            if index != own:
                found |= {name for entry in entries if (name := self.names(entry)[own]) is not None}
        return found

    def ended(self, entry: Entry, called: bool = True) -> None:
        """The call of an entry has ended. `called`: whether it was made."""
        if entry not in self._started:
            return
        self._started.discard(entry)
        for limit, name in zip(self._limits, self.names(entry), strict=True):
            if name is not None:
                news = limit.ended(name, entry, called)
                if news is not None:
                    self._log(LogEvent.of_name(Level.INFO, news))

    def ready(self, now: float) -> int:
        """About how many entries `open` would return."""
        self._collect(now)
        return len(self._may_open)

    def deadline(self, probes: bool = True) -> float | None:
        """When the first name may go on that waits for time only. `probes`: also one that an outage pauses."""
        opens = self._opens
        if not probes:
            by_rate = [at for at, key in opens if key in self._waiting and not self._limits[key[0]].pauses]
            return min(by_rate, default=None)
        while opens and opens[0][1] not in self._waiting:
            heapq.heappop(opens)
        return opens[0][0] if opens else None

    def open(self, now: float, most: int) -> list[Entry]:
        """Takes up to `most` entries that may start now, of a name each; `admits` decides about each, or `set_aside`
        is called."""
        self._collect(now)
        for key in list(self._may_open)[:most]:
            del self._may_open[key]
            waiting = self._waiting.get(key)
            if waiting is not None:
                self._opened[self._pop(key, waiting)] = key
        return list(self._opened)

    def _collect(self, now: float) -> None:
        opens = self._opens
        while opens and opens[0][0] <= now:
            key = heapq.heappop(opens)[1]
            if key in self._waiting:
                self._may_open[key] = None

    def _pop(self, key: _Name, waiting: deque[Entry]) -> Entry:
        entry = waiting.popleft()
        if not waiting:
            del self._waiting[key]
        return entry

    def take(self, key_queue: Any) -> list[Entry]:
        """Takes the entry of a key queue that is to be held, if it waits here."""
        return self._remove(lambda entry: entry.key_queue is key_queue)

    def take_name(self, limit: NameLimit, name: str, assignments: Container[Assignment]) -> list[Entry]:
        """Takes the entries of some partitions that wait for a limit of one name."""
        key = self._indices[id(limit)], name
        waiting = self._waiting.get(key, deque())
        return self._remove(lambda entry: entry.assignment in assignments, {key: waiting} if waiting else {})

    def drop(self, assignment: Assignment) -> None:
        """Discards the entries of a partition."""
        self._remove(lambda entry: entry.assignment is assignment)

    def _remove(
        self, removed: Callable[[Entry], bool], among: Mapping[_Name, deque[Entry]] | None = None
    ) -> list[Entry]:
        taken: list[Entry] = []
        for key, waiting in list((self._waiting if among is None else among).items()):
            those = [entry for entry in waiting if removed(entry)]
            if those:
                taken += those
                left = deque(entry for entry in waiting if not removed(entry))
                if left:
                    self._waiting[key] = left
                else:
                    del self._waiting[key]
        return taken
