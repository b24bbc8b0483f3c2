"""A history, indexed: what was known about each record of each topic, and when."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from proof.history.events import Began, Call, Committed, Deleted, Died, Ended, Event, Output, Produced, Stored, calls
from proof.history.metadata import ranges

CLOCK = 2.0
"""Milliseconds by which times of the wall clock may differ that are rounded to one."""


class Place(NamedTuple):
    """One record of a topic. `era`: how often the topic had been deleted before."""

    stage: int
    era: int
    partition: int
    offset: int

    @property
    def log(self) -> tuple[int, int, int]:
        return self[:3]


class Facts:
    def __init__(self, events: Sequence[Event], exactly_once: bool = False) -> None:
        self._exactly_once = exactly_once
        self.deleted = [event for event in events if isinstance(event, Deleted)]
        self.died = {event.pid: event.at.mono for event in events if isinstance(event, Died)}
        self.calls = calls(events)
        self.dead: set[Place] = set()
        self.ids: dict[Place, int] = {}
        self.called: defaultdict[Place, list[Call]] = defaultdict(list)
        self.asked: defaultdict[tuple[int, int], list[Call]] = defaultdict(list)
        """Calls that sent a record on, or may have done so, by record and the stage it went to."""
        self.copies: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        """Stamps, by record and stage."""
        self.outputs: defaultdict[int, list[int]] = defaultdict(list)
        self.commits: defaultdict[tuple[int, int, int], list[Committed]] = defaultdict(list)
        apart: list[int] = []
        for event in events:
            if not isinstance(event, Stored | Output | Committed):
                apart.append(event.at.wall - event.at.mono)
            match event:
                case Produced():
                    self.ids[Place(0, 0, event.partition, event.offset)] = event.id
                case Stored():
                    era = sum(each.below is None and each.stage == event.stage for each in self.deleted)
                    place = Place(event.stage, era, event.partition, event.offset)
                    self.ids[place] = event.id
                    if event.dead:
                        self.dead.add(place)
                    self.copies[event.id, event.stage].append(event.stamp)
                case Output():
                    self.outputs[event.id].append(event.stamp)
                case Committed():
                    era = self._era(event.stage, wall=event.stamp * 1_000_000)
                    self.commits[event.stage, era, event.partition].append(event)
        for call in self.calls:
            place = self.place(call)
            self.ids[place] = call.began.id
            self.called[place].append(call)
            if call.ended is not None:
                for stage in targets(call.began, call.ended):
                    self.asked[call.began.id, stage].append(call)
        self.clock = CLOCK + (max(apart) - min(apart)) / 1e6 if apart else CLOCK
        """Milliseconds of difference that prove nothing; more if the wall clock was set."""

    def _era(self, stage: int, mono: float = math.inf, wall: float = math.inf) -> int:
        return sum(
            each.below is None and each.stage == stage and each.at.mono <= mono and each.at.wall <= wall
            for each in self.deleted
        )

    def place(self, call: Call) -> Place:
        began = call.began
        return Place(began.stage, self._era(began.stage, mono=began.at.mono), began.partition, began.offset)

    def calls_of_id(self, id: int) -> tuple[Event, ...]:
        return tuple(event for call in self.calls if call.began.id == id for event in (call.began, call.ended) if event)

    def is_deleted(self, place: Place) -> bool:
        """Whether an operator may have deleted it."""
        return place.era < self._era(place.stage) or any(
            each.stage == place.stage and place.offset < dict(each.below or ()).get(place.partition, 0)
            for each in self.deleted
        )

    def until(self, call: Call) -> float:
        """When a call was over, on the monotonic clock: at its end, or that of its process."""
        if call.ended is not None:
            return call.ended.at.mono
        return max(self.died.get(call.began.pid, math.inf), call.began.at.mono)

    def done_at(self, call: Call) -> float:
        """From when on a record may count as done for the sake of this call, in milliseconds; inf: never."""
        if call.ended is None:
            return math.inf
        id, ended = call.began.id, call.ended.at.wall / 1e6
        if call.ended.next is None and not call.ended.output:
            return ended
        stamps = [stamp for stage in targets(call.began, call.ended) for stamp in self.copies[id, stage]]
        if call.ended.output:
            stamps += self.outputs[id]
        ended_at = call.ended.at.mono
        if any(self._era(stage, ended_at) < self._era(stage) for stage in targets(call.began, call.ended)):
            stamps.append(0)  # a copy may have been deleted with its topic
        if self._exactly_once and stamps:
            return ended  # they and the commit are visible together, whichever was stored first
        return max(ended, min(stamps, default=math.inf))

    def first_commits(self) -> dict[Place, Committed]:
        """The first commit that says of a record that it is done."""
        found: dict[Place, Committed] = {}
        places: defaultdict[tuple[int, int, int], list[Place]] = defaultdict(list)
        for place in sorted(self.ids):
            places[place.log].append(place)
        for log, commits in self.commits.items():
            here = places[log]
            offsets = [place.offset for place in here]
            passed = 0
            for commit in commits:
                reached = bisect_left(offsets, commit.offset)
                for place in here[passed:reached]:
                    found.setdefault(place, commit)
                passed = max(passed, reached)
                for start, end in ranges(commit.offset, commit.metadata):
                    for place in here[bisect_left(offsets, start) : bisect_left(offsets, end)]:
                        found.setdefault(place, commit)
        return found


def targets(began: Began, ended: Ended) -> list[int]:
    """Where a copy may come from this call: what could not be delivered makes a call fail that ended well."""
    if ended.next is not None:
        return [ended.next]
    return [began.stage + 1] if ended.output else []
