"""The books of all workers beside what the topics hold: for each record, whether it was lost, and what was repeated.

Nothing here asks flux. A *call* is one row of a worker's books; a *copy* is one record of a topic as a plain client
reads it. Each copy is to be called once. A call more is a repeat, and is excused only when the process that made the
call before it died, stood still or was cut off, and that call had ended shortly before that, or not at all; or when the
process that repeats it has just come back.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import attrs
from proof.history import events as history
from proof.history.checker import AT_ONCE, UNASKED, Finding
from proof.history.events import Began, Ended, Timed

from chaos import plan

Place = tuple[int, int, int, int]
"""(stage, partition, offset, number): one copy, also of a topic that was deleted and created again."""


class Call(NamedTuple):
    pid: int
    began: float
    """Seconds of the machine's monotonic clock, as all times here."""
    ended: float | None
    number: int
    stage: int
    partition: int
    offset: int
    step: str | None

    @property
    def place(self) -> Place:
        return self.stage, self.partition, self.offset, self.number


STALLED = "cluster stalled"
"""The kind of a fault that nobody made: the cluster stood still by itself, so that sessions may have ended."""


@attrs.frozen
class Fault:
    """`pid`: whom it befell; None: everybody."""

    kind: str
    at: float
    until: float
    pid: int | None = None
    excuses: bool = True
    """Whether calls may be repeated because of it."""

    def forgets(self, call: Call, window: float) -> bool:
        """Whether the end of `call` may have been forgotten. `window`: seconds that an end may be uncommitted."""
        return (
            self.excuses
            and self.pid in (None, call.pid)
            and call.began < self.until + window
            and (call.ended is None or call.ended > self.at - window)
        )

    def misleads(self, call: Call, window: float) -> bool:
        """Whether the process that made `call` did not know yet what it had missed: that others had worked since."""
        lasted = self.until > self.at
        return self.excuses and lasted and self.pid in (None, call.pid) and self.at < call.began < self.until + window


@attrs.define
class Figures:
    records: int = 0
    calls: int = 0
    lost: int = 0
    repeated: int = 0
    """Calls beyond one for each copy."""
    allowed: int | None = 0
    """Calls of processes at fault that may have been forgotten: in flight, or ended within the window before. None: the
    cluster was at fault."""
    doubled: int = 0
    """Copies in the next topic beyond one for each call that failed."""
    dead: int = 0
    """Dead letters."""
    undelivered: int = 0
    """Of them, those whose calls had produced what could not be delivered in time."""
    findings: Counter[str] = attrs.field(factory=Counter)
    """Of the history, by kind; also those that a fault excuses."""
    problems: list[str] = attrs.field(factory=list)

    def problem(self, text: str, examples: Iterable[object] = ()) -> None:
        shown = [str(each) for each in examples]
        more = f" and {len(shown) - 5} more" if len(shown) > 5 else ""
        self.problems.append(text + (": " + "; ".join(shown[:5]) + more if shown else ""))


def events(directory: Path) -> list[Timed]:
    """All that the workers have written."""
    found = (event for path in sorted(directory.glob("*.jsonl")) for event in history.read(path))
    return [event for event in found if isinstance(event, Began | Ended)]


def read(directory: Path) -> list[Call]:
    """In the order in which they began."""
    found = []
    for call in history.calls(events(directory)):
        began, ended = call.began, call.ended
        end, step = (None, None) if ended is None else (ended.at.mono / 1e9, ended.outcome)
        place = began.stage, began.partition, began.offset
        found.append(Call(began.pid, began.at.mono / 1e9, end, began.id, *place, step))
    return found


def audit(
    sent: Iterable[int],
    calls: list[Call],
    copies: Mapping[int, list[Any]],
    echoes: Iterable[Any],
    faults: list[Fault],
    window: float,
    findings: Iterable[Finding] = (),
) -> Figures:
    """`copies`: the records of each stage's topic, 0 to the dead letters; `echoes`: what calls produced; `findings`: of
    the checker of the history."""
    numbers = set(sent)
    figures = Figures(records=len(numbers), calls=len(calls), dead=len(copies[plan.DEAD]))
    _check_ends(figures, numbers, calls, copies, echoes)
    _check_copies(figures, copies)
    _check_repeats(figures, calls, faults, window)
    _check_findings(figures, findings, faults, window)
    return figures


def _check_ends(
    figures: Figures, numbers: set[int], calls: list[Call], copies: Mapping[int, list[Any]], echoes: Iterable[Any]
) -> None:
    ended = {(call.number, call.stage) for call in calls if call.ended is not None}
    wanted = {(number, stage) for number in numbers for stage in range(len(plan.way(number)))}
    dead = {plan.number_of(message.value()) for message in copies[plan.DEAD]}
    # calls whose record could not be produced have failed, which their own books cannot know
    moved = (message for messages in copies.values() for message in messages)
    mute = {plan.number_of(message.value()) for message in moved if _undelivered(message)}
    mute &= {number for number in numbers if plan.echoes(number)}
    figures.undelivered = len(mute & dead)
    echoed = {plan.number_of(message.value()) for message in echoes}
    missing = sorted(wanted - ended)
    undead = sorted({number for number in numbers if plan.dies(number)} - dead)
    unechoed = sorted({number for number in numbers if plan.echoes(number)} - echoed - (mute & dead))
    figures.lost = len({number for number, _ in missing} | set(undead) | set(unechoed))
    if missing:
        figures.problem("records with a stage where no call ended (number, stage)", missing)
    if undead:
        figures.problem("records that are no dead letters", undead)
    if unechoed:
        figures.problem("records that were done before what they produced was acknowledged", unechoed)
    wanted |= {(number, stage) for number in mute for stage in range(plan.DEAD)}
    strange = sorted({(call.number, call.stage) for call in calls if call.number in numbers} - wanted)
    if strange:
        figures.problem("calls in stages where the record had no business", strange)
    living = sorted(number for number in dead if not plan.dies(number) and number not in mute)
    if living:
        figures.problem("dead letters that were done", living)


def _check_copies(figures: Figures, copies: Mapping[int, list[Any]]) -> None:
    changed = []
    for stage, messages in copies.items():
        for message in messages:
            number = plan.number_of(message.value())
            own = [pair for pair in message.headers() or [] if not pair[0].startswith("flux-")]
            if (message.value(), message.key(), own) != (plan.value(number), plan.key(number), plan.headers(number)):
                changed.append((stage, message.partition(), message.offset()))
    if changed:
        figures.problem("copies that are not as the record was (stage, partition, offset)", changed)


def _undelivered(message: Any) -> bool:
    return dict(message.headers() or []).get("flux-error-type") == b"flux.DeliveryError"


def _check_repeats(figures: Figures, calls: list[Call], faults: list[Fault], window: float) -> None:
    by_place: defaultdict[Place, list[Call]] = defaultdict(list)
    for call in calls:
        by_place[call.place].append(call)
    unexcused = []
    for made in by_place.values():
        figures.repeated += len(made) - 1
        for before, again in itertools.pairwise(made):
            if not any(fault.forgets(before, window) or fault.misleads(again, window) for fault in faults):
                near = min((abs(before.began - fault.at) for fault in faults), default=-1.0)
                unexcused.append((before, again, f"{near:.2f} s from the nearest fault"))
    excusing = [fault for fault in faults if fault.excuses]
    if any(fault.pid is None for fault in excusing):
        figures.allowed = None
    else:
        figures.allowed = sum(any(fault.forgets(call, window) for fault in excusing) for call in calls)
    if unexcused:
        figures.problem("calls repeated without an excuse", unexcused)


def _check_findings(figures: Figures, findings: Iterable[Finding], faults: list[Fault], window: float) -> None:
    kept: defaultdict[str, list[Finding]] = defaultdict(list)
    for finding in findings:
        figures.findings[finding.kind] += 1
        if not _excused(finding, faults, window):
            kept[finding.kind].append(finding)
    figures.doubled = figures.findings[UNASKED]
    for kind, found in kept.items():
        figures.problem(f"history: {len(found)} {kind}", found)


def _excused(finding: Finding, faults: list[Fault], window: float) -> bool:
    """A copy is written again if its acknowledgement was lost, and a key is called by two owners at once if one of them
    lost the partition and did not know it yet. Nothing else is excused."""
    if finding.kind == UNASKED:
        return any(fault.excuses and fault.pid is None for fault in faults)
    if finding.kind != AT_ONCE:
        return False
    began = [event for event in finding.events if isinstance(event, Began)]
    pids, at = {event.pid for event in began}, began[-1].at.mono / 1e9
    return len(pids) > 1 and any(
        fault.excuses and fault.pid in {None, *pids} and fault.at - window < at < fault.until + window
        for fault in faults
    )
