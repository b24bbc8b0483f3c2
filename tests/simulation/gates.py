"""Whether a task may call at all: how many at once, how often a second, and what a pause lets through."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

import attrs

from simulation.machine import Process
from simulation.records import Call, Copy, name_of_number

if TYPE_CHECKING:
    from simulation.truth import Truth

FIRST, LONGEST, JITTER = 1.0, 60.0, 0.1
"""Of pauses, in seconds, as flux.Pause promises them."""
_TAKEN = 0.5
"""Seconds within which a caller begins what it had taken when the pause began."""
_AT_ONCE, _CREDIT = 0.01, 0.05
_LATE = 0.05
_TRIES = 3
"""Probes that a record may fail before it is blamed itself."""


@attrs.define(eq=False)
class Book:
    """Of one task in one process. A batch counts as its first call. Times are the machine's."""

    running: list[Call] = attrs.field(factory=list)
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
    results: list[bool] = attrs.field(factory=list)
    """Of the calls since the last pause: whether each has failed."""
    probed: Counter[Copy] = attrs.field(factory=Counter)
    """Failed probes of each record in this pause."""


def has_names(settings: dict[str, Any]) -> bool:
    """Whether outages are of one name."""
    return settings.get("pause_when") is not None and settings["pause_when"].by is not None


def by_share(settings: dict[str, Any]) -> bool:
    """Whether outages are found by the share of calls that fail."""
    return settings.get("pause_when") is not None and settings["pause_when"].of < 1000


def _name(call: Call) -> str:
    return name_of_number(call.copy.plan.number)


class Gates:
    def __init__(self, truth: Truth) -> None:
        self._truth = truth
        self._books: defaultdict[tuple[Process, str], Book] = defaultdict(Book)
        self._names: defaultdict[tuple[Process, str, str], Book] = defaultdict(Book)
        self._begun: defaultdict[tuple[Any, ...], list[tuple[float, Process]]] = defaultdict(list)
        """Of what a rate limits: when each call has begun."""
        self._assigned: defaultdict[str, list[float]] = defaultdict(list)
        """By topic: when partitions were assigned."""

    def assigned(self, topic: str) -> None:
        self._assigned[topic.partition("-")[0]].append(self._truth.machine.time)

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
                self._check_rate(call, settings)
            if self.of(call).paused_at is not None:
                self._check_pause(call, self.of(call))
        book.running.append(call)
        self._begun_of(call, settings).append((now, call.process))

    def _begun_of(self, call: Call, settings: dict[str, Any]) -> list[tuple[float, Process]]:
        """The calls that share the rate with this one."""
        name = _name(call) if "rate_limit_key" in settings else None
        process = None if settings.get("rate_limit_scope") == "group" else call.process
        return self._begun[call.epoch.task.topic, name, process]

    def _check_rate(self, call: Call, settings: dict[str, Any]) -> None:
        """In any time; of a group, each member may begin with a call, and again with each share that it is given."""
        truth, now, rate = self._truth, self._truth.machine.time, settings["rate_limit"]
        of_group = settings.get("rate_limit_scope") == "group"
        if of_group and truth.excused:
            return  # a member that was evicted does not know that others have its share
        at_once = int(_AT_ONCE * rate) * settings["concurrency"]  # what one caller may take at once, and begin later
        members = {call.process}
        for number, (since, process) in enumerate(reversed(self._begun_of(call, settings)), 2):
            members.add(process)
            firsts = len(members) * (1 + at_once)
            if of_group:
                firsts += sum(at >= since - 1 / rate for at in self._assigned[call.epoch.task.topic])
            if number > firsts + rate * (now - since + _CREDIT + _LATE):
                raise truth.broken(f"{call} is one of {number} in {now - since:.3f} s, and the rate is {rate}")

    def _check_pause(self, call: Call, book: Book) -> None:
        truth, now = self._truth, self._truth.machine.time
        assert book.paused_at is not None
        if book.probe is None and now >= book.earliest - 0.001:
            book.probe = call
            truth.counted["probes"] += 1
            since = max(call.copy.stored_at, truth.due_at(call.copy), book.latest)
            settings = call.epoch.task.settings
            prompt = truth.scenario.prompt and not settings.get("rate_limit")
            prompt = prompt and not (has_names(settings) or by_share(settings))
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
            book.results.append(False)
            if probing and call.outcome != "stop":
                book.paused_at, book.resumed_at = None, now
                book.results.clear()
                book.probed.clear()
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

    def forgotten(self, process: Process, topic: str, name: str) -> None:
        """No record of a paused name is in the memory of a process."""
        book = self._names[process, topic, name]
        book.paused_at, book.resumed_at = None, self._truth.machine.time
        book.results.clear()
        book.probed.clear()

    def judged(self, call: Call, outage: bool) -> None:
        """A call has failed, by an outage or not, where so many failures are one."""
        truth, book, settings = self._truth, self.of(call), call.epoch.task.settings
        rate, now = settings["pause_when"], truth.machine.time
        book.results.append(True)
        book.probed[call.copy] += book.probe is call
        if book.paused_at is None:
            failures = sum(book.results[-rate.of :])
            if not outage and failures >= rate.failures:
                raise truth.broken(f"{call} is the {failures}th to fail of {rate.of}, and no outage")
            late = settings["concurrency"]  # calls that have ended, and flux has not heard of
            lasts = now - book.resumed_at < 0.1  # the call that has ended the pause is one of them
            if outage and not lasts and sum(book.results[-rate.of - late :]) < rate.failures:
                raise truth.broken(f"{call} is the {failures}th to fail of {rate.of}, and an outage")
            if outage:
                truth.counted["pauses by share"] += 1
        elif not outage:
            observed = call.process not in truth.stalled and call.process not in truth.jumped
            if observed and book.probed[call.copy] < _TRIES:
                raise truth.broken(f"{call} is blamed after {book.probed[call.copy]} tries")
            truth.counted["probes blamed"] += 1
            book.probed[call.copy] = 0
        if outage or book.paused_at is not None:
            self.end(call, True, None)
            book.results.clear()
