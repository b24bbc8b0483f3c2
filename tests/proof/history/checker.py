"""Finds in a history what must not happen.

Calls are compared with each other by the monotonic clock, and with brokers' times by the wall clock. The time at which
a copy or an output was stored stands for its acknowledgement, which came later: so no finding is a false alarm, and a
commit in the milliseconds between the two is not found.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

import attrs

from proof.history.events import Call, Event
from proof.history.facts import Facts

LOST = "lost"
"""No call ended, or the one that failed has no copy, or what the call has produced is nowhere."""
SKIPPED = "skipped"
"""Never called, though a commit has passed it or names it as done."""
COMMITTED_EARLY = "committed early"
"""A commit passed it, or named it as done, before it was: its call had not ended, or its copy was not yet written."""
COMMITTED_BACKWARDS = "committed backwards"
EARLY = "called before due"
OUT_OF_ORDER = "out of order"
"""Called before a record of its key that comes first in its stage: by due time, then by offset."""
AT_ONCE = "at once"
"""Called while another call of its key in its stage ran."""
UNASKED = "unasked copy"
"""There are more copies in a stage than calls which sent the record there."""
OUTPUT_TWICE = "output twice"
COPY_TWICE = "copy twice"
"""These two: under exactly-once."""
KINDS = (
    LOST,
    SKIPPED,
    COMMITTED_EARLY,
    COMMITTED_BACKWARDS,
    EARLY,
    OUT_OF_ORDER,
    AT_ONCE,
    UNASKED,
    OUTPUT_TWICE,
    COPY_TWICE,
)


@attrs.frozen
class Finding:
    kind: str
    ids: tuple[int, ...]
    text: str
    events: tuple[Event, ...] = ()

    def __str__(self) -> str:
        shown = "".join(f"\n    {event}" for event in self.events)
        return f"{self.kind}: record {', '.join(map(str, self.ids))}: {self.text}{shown}"


def check(events: Iterable[Event], exactly_once: bool = False) -> list[Finding]:
    """`exactly_once`: whether each output and each copy may be there only once, however often a call was repeated."""
    facts = Facts(list(events), exactly_once)
    findings = [*_unfinished(facts), *_backwards(facts), *_early(facts), *_disorder(facts), *_unasked(facts)]
    return [*findings, *_twice(facts)] if exactly_once else findings


def counts(events: Iterable[Event]) -> Counter[str]:
    """How much a history holds: events by kind."""
    return Counter(type(event).__name__.lower() for event in events)


def _unfinished(facts: Facts) -> Iterator[Finding]:
    first = facts.first_commits()
    for place, id in facts.ids.items():
        if place in facts.dead:
            continue
        made = facts.called[place]
        commit = first.get(place)
        events: tuple[Event, ...] = tuple(event for call in made for event in (call.began, call.ended) if event)
        events += () if commit is None else (commit,)
        done = min((facts.done_at(call) for call in made), default=math.inf)
        if done < math.inf:
            if commit is not None and done > commit.stamp + facts.clock:
                yield Finding(COMMITTED_EARLY, (id,), f"{place} by {done - commit.stamp:.0f} ms", events)
        elif not facts.is_deleted(place):
            kind = SKIPPED if commit is not None and not made else LOST
            what = "never called" if not made else "no call ended"
            if any(call.ended for call in made):
                what = "the call ended, and neither its copy nor its output is in a topic"
            yield Finding(kind, (id,), f"{place}: {what}", events)


def _backwards(facts: Facts) -> Iterator[Finding]:
    for log, commits in facts.commits.items():
        furthest = commits[0]
        for commit in commits[1:]:
            if commit.offset < furthest.offset:
                yield Finding(COMMITTED_BACKWARDS, (), f"(stage, era, partition) {log}", (furthest, commit))
            else:
                furthest = commit


def _early(facts: Facts) -> Iterator[Finding]:
    for call in facts.calls:
        began = call.began
        if not began.stage:
            continue
        askers = [each.ended for each in facts.asked[began.id, began.stage] if each.ended]
        asked = min((ended.at.wall / 1e6 + ended.after * 1000 for ended in askers), default=0)
        early = max(began.due, asked) - began.at.wall / 1e6
        if early > facts.clock:
            yield Finding(EARLY, (began.id,), f"{early:.1f} ms before it was due", (began, *askers))


def _disorder(facts: Facts) -> Iterator[Finding]:
    """Order by key, whoever makes the calls: within an owner and across owners."""
    queues: defaultdict[tuple[int, int, int, str], list[Call]] = defaultdict(list)
    reached = _Reached(facts)
    for call in facts.calls:
        if call.began.key is not None:
            queues[*facts.place(call).log, call.began.key].append(call)
    for queue in queues.values():
        yield from _at_once(facts, queue)
        yield from _overtaken(facts, queue, reached)


def _at_once(facts: Facts, queue: Sequence[Call]) -> Iterator[Finding]:
    running = queue[0]
    for call in queue[1:]:
        if call.began.at.mono < facts.until(running):
            yield _pair(AT_ONCE, running, call)
        if facts.until(call) > facts.until(running):
            running = call


def _overtaken(facts: Facts, queue: Sequence[Call], reached: _Reached) -> Iterator[Finding]:
    """A record overtakes one before it that had not been called, or whose calls were all cut off, though it was known:
    either it came first, or the caller had begun one behind it."""
    first: dict[int, Call] = {}
    ended: dict[int, int] = {}
    for call in queue:
        first.setdefault(call.began.offset, call)
        if call.ended is not None:
            ended[call.began.offset] = min(call.ended.at.mono, ended.get(call.began.offset, call.ended.at.mono))
    ordered = sorted(first.values(), key=lambda call: (call.began.due, call.began.offset))
    latest: list[Call] = []  # those before, of which only late ones matter
    for call in ordered:
        began = call.began
        latest = [each for each in latest if ended[each.began.offset] > began.at.mono] if not began.stage else latest
        for before in latest:
            end = ended[before.began.offset]
            if end <= began.at.mono or before.began.at.mono <= began.at.mono < facts.until(before):
                continue
            if before.began.offset < began.offset or reached.by(call) > before.began.offset:
                yield _pair(OUT_OF_ORDER, before, call)
                break
        if began.offset in ended:
            latest.append(call)


class _Reached:
    """How far each process had got in each topic's partition when it began a call."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._begun: defaultdict[tuple[int, ...], tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
        for call in facts.calls:
            times, furthest = self._begun[self._owner(call)]
            times.append(call.began.at.mono)
            furthest.append(max(call.began.offset, furthest[-1] if furthest else 0))

    def _owner(self, call: Call) -> tuple[int, ...]:
        return call.began.pid, *self._facts.place(call).log

    def by(self, call: Call) -> int:
        """The highest offset of the calls that its process had begun before."""
        times, furthest = self._begun[self._owner(call)]
        at = bisect_left(times, call.began.at.mono)
        return furthest[at - 1] if at else -1


def _pair(kind: str, before: Call, call: Call) -> Finding:
    events = [event for each in (before, call) for event in (each.began, each.ended) if event]
    where = "within an owner" if before.began.pid == call.began.pid else "across owners"
    began = call.began
    text = f"key {began.key} in stage {began.stage}, partition {began.partition}, {where}"
    return Finding(kind, (before.began.id, began.id), text, tuple(events))


def _unasked(facts: Facts) -> Iterator[Finding]:
    for (id, stage), stamps in facts.copies.items():
        if stage and (more := len(stamps) - len(facts.asked[id, stage])) > 0:
            yield Finding(UNASKED, (id,), f"{more} of {len(stamps)} copies in stage {stage}", facts.calls_of_id(id))


def _twice(facts: Facts) -> Iterator[Finding]:
    for id, stamps in facts.outputs.items():
        if len(stamps) > 1:
            yield Finding(OUTPUT_TWICE, (id,), f"{len(stamps)} outputs", facts.calls_of_id(id))
    for (id, stage), stamps in facts.copies.items():
        if stage and len(stamps) > 1:
            yield Finding(COPY_TWICE, (id,), f"{len(stamps)} copies in stage {stage}", facts.calls_of_id(id))
