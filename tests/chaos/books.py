"""The books of all workers beside what the topics hold: for each record, whether it was lost, and what was repeated.

Nothing here asks flux. A *call* is one row of a worker's books; a *copy* is one record of a topic as a plain client
reads it. Each copy is to be called once. A call more is a repeat, and is excused only when the process that made the
call before it died, stood still or was cut off, and that call had ended shortly before that, or not at all; or when the
process that repeats it has just come back.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import attrs

from chaos import plan

Place = tuple[int, int, int, int]
"""(stage, partition, offset, number): one copy, also of a topic that was made anew."""


class Call(NamedTuple):
    pid: int
    began: float
    """Seconds of the machine's monotonic clock, as all times here."""
    ended: float | None
    number: int
    stage: int
    partition: int
    offset: int
    key: bytes | None
    due: int
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
    problems: list[str] = attrs.field(factory=list)

    def problem(self, text: str, examples: Iterable[object] = ()) -> None:
        shown = [str(each) for each in examples]
        more = f" and {len(shown) - 5} more" if len(shown) > 5 else ""
        self.problems.append(text + (": " + "; ".join(shown[:5]) + more if shown else ""))


def read(directory: Path) -> list[Call]:
    calls = []
    for path in sorted(directory.glob("*.db")):
        pid = int(path.name.split("-")[0])
        db = sqlite3.connect(path)
        columns = "began, ended, number, stage, partition, offset, key, due, step"
        # a process may have died before its first call
        if db.execute("select count(*) from sqlite_master where name = 'calls'").fetchone()[0]:
            for began, ended, *rest in db.execute(f"select {columns} from calls"):
                calls.append(Call(pid, began / 1e9, None if ended is None else ended / 1e9, *rest))
        db.close()
    return sorted(calls, key=lambda call: call.began)


def audit(
    sent: Iterable[int],
    calls: list[Call],
    copies: Mapping[int, list[Any]],
    echoes: Iterable[Any],
    faults: list[Fault],
    window: float,
    in_order: bool,
) -> Figures:
    """`copies`: the records of each stage's topic, 0 to the dead letters; `echoes`: what calls produced."""
    numbers = set(sent)
    figures = Figures(records=len(numbers), calls=len(calls), dead=len(copies[plan.DEAD]))
    _check_ends(figures, numbers, calls, copies, echoes)
    _check_copies(figures, calls, copies)
    if figures.doubled and not any(fault.pid is None and fault.excuses for fault in faults):
        figures.problem(f"{figures.doubled} copies that no call has asked for")
    _check_repeats(figures, calls, faults, window)
    if in_order and not any(fault.kind == STALLED for fault in faults):
        _check_order(figures, calls)
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


def _check_copies(figures: Figures, calls: list[Call], copies: Mapping[int, list[Any]]) -> None:
    failed = Counter((call.number, _next(call)) for call in calls if call.step not in (None, "done"))
    failed.update((call.number, _next(call)) for call in calls if call.step == "done" and plan.echoes(call.number))
    changed = []
    for stage, messages in copies.items():
        for message in messages:
            number = plan.number_of(message.value())
            own = [pair for pair in message.headers() or [] if not pair[0].startswith("flux-")]
            if (message.value(), message.key(), own) != (plan.value(number), plan.key(number), plan.headers(number)):
                changed.append((stage, message.partition(), message.offset()))
    if changed:
        figures.problem("copies that are not as the record was (stage, partition, offset)", changed)
    for stage in range(1, plan.DEAD + 1):
        for number, count in Counter(plan.number_of(message.value()) for message in copies[stage]).items():
            figures.doubled += max(0, count - failed[number, stage])


def _undelivered(message: Any) -> bool:
    return dict(message.headers() or []).get("flux-error-type") == b"flux.DeliveryError"


def _next(call: Call) -> int:
    return plan.DEAD if call.step == "reject" else call.stage + 1


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


def _check_order(figures: Figures, calls: list[Call]) -> None:
    """Within a stage a key's records are called one after the other: in stage 0 by offset, in others by due time."""
    queues: defaultdict[tuple[int, int, bytes], list[Call]] = defaultdict(list)
    for call in calls:
        if call.key is not None:
            queues[call.stage, call.partition, call.key].append(call)
    wrong = []
    for queue in queues.values():
        queue.sort(key=lambda call: (call.due, call.offset))
        for first, second in itertools.pairwise(queue):
            if first.ended is None or second.began < first.ended:
                wrong.append((first, second))
    if wrong:
        figures.problem("calls of one key out of order or at once", wrong)
