"""Whether a task may call at all: how many at once, how often a second, and what a pause lets through."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import attrs

from simulation.machine import Process
from simulation.records import Call, name_of_number

if TYPE_CHECKING:
    from simulation.truth import Truth

FIRST, LONGEST, JITTER = 1.0, 60.0, 0.1
"""Of pauses, in seconds, as flux.Pause promises them."""
_TAKEN = 0.5
"""Seconds within which a caller begins what it had taken when the pause began."""
_AT_ONCE, _CREDIT = 0.01, 0.05
_LATE = 0.05


@attrs.define(eq=False)
class Book:
    """Of one task in one process. A batch counts as its first call. Times are the machine's."""

    running: list[Call] = attrs.field(factory=list)
    begun: list[float] = attrs.field(factory=list)
    paused_at: float | None = None
    """When it was last paused, anew or by a probe."""
    resumed_at: float = -1.0
    pauses: int = 0
    """Of probes that have found the outage still there."""
    earliest: float = 0.0
    latest: float = 0.0
    """When the next probe may begin."""
    probe: Call | None = None
    doubted: bool = False
    """It began as another one ended: which of the two flux heard of first is not known."""
    taken: int = 0
    """Calls that have begun since the pause, as they had been taken before it."""


def has_names(settings: dict[str, Any]) -> bool:
    """Whether outages are of one name."""
    return settings.get("pause_when") is not None


def _name(call: Call) -> str:
    return name_of_number(call.copy.plan.number)


class Gates:
    def __init__(self, truth: Truth) -> None:
        self._truth = truth
        self._books: defaultdict[tuple[Process, str], Book] = defaultdict(Book)
        self._names: defaultdict[tuple[Process, str, str], Book] = defaultdict(Book)

    def of(self, call: Call) -> Book:
        """Of the pauses of its task, or of its name alone."""
        if not has_names(call.epoch.task.settings):
            return self.task_of(call)
        return self._names[call.process, call.epoch.task.topic, name_of_number(call.copy.plan.number)]

    def task_of(self, call: Call) -> Book:
        return self._books[call.process, call.epoch.task.topic]

    def all_paused(self, process: Process) -> bool:
        """Whether all that a process works is paused, and nothing is called."""
        books = [book for (of, _), book in self._books.items() if of is process]
        return (
            len(books) == len(self._truth.tasks)
            and all(book.paused_at is not None for book in books)
            and not any(call.running for book in books for call in book.running)
        )

    def begin(self, call: Call) -> None:
        truth, book = self._truth, self.task_of(call)
        settings = call.epoch.task.settings
        now = truth.machine.time
        book.running = [each for each in book.running if each.running]
        if len(book.running) >= settings["concurrency"]:
            raise truth.broken(f"{call} runs beside {len(book.running)} others")
        same = [each for each in book.running if name_of_number(each.copy.plan.number) == _name(call)]
        if "concurrency_key" in settings and len(same) >= settings["concurrency_per_key"]:
            raise truth.broken(f"{call} runs beside {len(same)} others of {_name(call)}")
        if call.process not in truth.stalled and call.process not in truth.jumped:
            if settings.get("rate_limit"):
                self._check_rate(call, book, settings["rate_limit"], settings["concurrency"])
            if self.of(call).paused_at is not None:
                self._check_pause(call, self.of(call))
        book.running.append(call)
        book.begun.append(now)

    def _check_rate(self, call: Call, book: Book, rate: float, concurrency: int) -> None:
        now = self._truth.machine.time
        at_once = int(_AT_ONCE * rate)  # what one caller may take at once, and begin later
        for number, since in enumerate(reversed(book.begun), 2):
            if number > 1 + at_once * concurrency + rate * (now - since + _CREDIT + _LATE):
                raise self._truth.broken(f"{call} is one of {number} in {now - since:.3f} s, and the rate is {rate}")

    def _check_pause(self, call: Call, book: Book) -> None:
        truth, now = self._truth, self._truth.machine.time
        assert book.paused_at is not None
        if book.probe is None and now >= book.earliest - 0.001:
            book.probe = call
            truth.counted["probes"] += 1
            since = max(call.copy.stored_at, truth.due_at(call.copy), book.latest)
            settings = call.epoch.task.settings
            prompt = truth.scenario.prompt and not settings.get("rate_limit") and not has_names(settings)
            if prompt and now > since + truth.patience(call.epoch.task) + truth.slack(call.epoch.task):
                raise truth.broken(f"{call} probes {now - since:.3f} s late")
            return
        if book.doubted:
            book.paused_at = None
            return
        book.taken += 1
        if now - book.paused_at > _TAKEN or book.taken > call.epoch.task.settings["concurrency"]:
            raise truth.broken(f"{call} begins while its task is paused, since {now - book.paused_at:.3f} s")

    def end(self, call: Call, paused: bool, seconds: float | None) -> None:
        """`seconds`: of the pause, where the call knew."""
        truth, book = self._truth, self.of(call)
        now = truth.machine.time
        probing = book.probe is call
        if probing:
            book.probe = None
        if not paused:
            if probing and call.outcome != "stop":
                book.paused_at, book.resumed_at = None, now
            return
        if book.paused_at is None or probing:
            book.doubted = not probing and now - book.resumed_at < 0.1
            truth.counted["pauses" if book.paused_at is None else "pauses found to last"] += 1
            book.pauses = book.pauses + 1 if probing else 0
            span = min(FIRST * 2**book.pauses, LONGEST)
            book.taken = 0
            book.paused_at = now
            book.earliest = now + (span if seconds is None else seconds)
            book.latest = now + (span * (1 + JITTER) if seconds is None else seconds)
            for number in range(11):
                at = book.earliest + (book.latest - book.earliest) * number / 10
                truth.machine.at(at, truth.machine.touch)
        elif seconds is not None and book.probe is None:
            book.latest = max(book.latest, now + seconds)
