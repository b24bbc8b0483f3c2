"""Entries that wait for their name's limit: which may go on, in which order, and what is forgotten."""

from __future__ import annotations

import pytest

from flux.core.engine.commands import Level, LogEvent
from flux.core.engine.held_back import HeldByName
from flux.core.engine.key_queue import KeyQueue
from flux.core.engine.slices import Entry
from flux.core.limits.breakers import BreakersByName
from flux.core.limits.concurrency import ConcurrencyByName
from flux.core.limits.failure_rate import FailureRate
from flux.core.limits.name_limits import NameOf, NameResumed
from flux.core.limits.rate_limit import RateByName
from flux.core.message import Message
from unit.support.engine_support import P1, assignment, entry


def by_key(message: Message) -> bytes | None:
    return message.key


def by_topic(message: Message) -> str | None:
    return message.topic if message.key else None


class Lab:
    def __init__(self, rate: float | None = None, calls: int = 1, name_of: NameOf = by_key) -> None:
        self.logged: list[LogEvent] = []
        self.rates = RateByName(rate, name_of)
        self.calls = ConcurrencyByName(calls, name_of)
        self.held_back = HeldByName((self.rates, self.calls), self.logged.append)
        self.owner = assignment()

    def entries(self, *keys: bytes | None) -> list[Entry]:
        return [entry(self.owner, offset, key) for offset, key in enumerate(keys)]

    def admitted(self, *entries: Entry, now: float = 0.0) -> list[int]:
        return [each.offset for each in entries if self.held_back.admits(each, now)]

    def reopened(self, now: float, most: int = 9) -> list[int]:
        return self.admitted(*self.held_back.open(now, most), now=now)


def test_a_paused_name_opens_with_time_by_a_probe_only() -> None:
    breakers = BreakersByName(FailureRate(0.5, of=2, within=9, by=by_key), by_key)
    logged: list[LogEvent] = []
    held_back = HeldByName((breakers,), logged.append)
    failed, waits = (entry(assignment(), offset, b"a") for offset in (0, 1))
    assert held_back.admits(failed, 0.0)
    assert breakers.counts("a")
    breakers.pause("a", failed, ValueError(), 5, 0.0, 0.0)
    held_back.ended(failed)
    assert not held_back.admits(waits, 1.0)
    assert (held_back.deadline(), held_back.deadline(probes=False)) == (5.0, None)


def test_those_that_wait_go_on_in_the_order_in_which_they_came() -> None:
    lab = Lab()
    first, *others = lab.entries(b"a", b"a", b"a")
    assert lab.admitted(first, *others) == [0]
    assert (len(lab.held_back), bool(lab.held_back), lab.held_back.ready(0.0)) == (2, True, 0)
    lab.held_back.ended(first)
    assert lab.held_back.ready(0.0) == 1
    assert lab.reopened(0.0) == [1]
    lab.held_back.ended(others[0])
    assert lab.reopened(0.0) == [2]
    assert not lab.held_back


def test_a_newcomer_waits_behind_those_of_its_name() -> None:
    lab = Lab()
    first, second, newcomer = lab.entries(b"a", b"a", b"a")
    assert lab.admitted(first, second) == [0]
    lab.held_back.ended(first)
    assert lab.admitted(newcomer) == []
    assert lab.reopened(0.0) == [1]


def test_a_name_with_room_for_several_gets_them_one_after_the_other() -> None:
    lab = Lab(calls=2)
    entries = lab.entries(b"a", b"a", b"a", b"a")
    assert lab.admitted(*entries) == [0, 1]
    for each in entries[:2]:
        lab.held_back.ended(each)
    assert [lab.reopened(0.0), lab.reopened(0.0), lab.reopened(0.0)] == [[2], [3], []]


def test_a_rate_opens_with_time_and_says_when() -> None:
    lab = Lab(rate=2, calls=9)
    entries = lab.entries(b"a", b"a", b"b")
    assert lab.admitted(*entries, now=100.0) == [0, 2]
    deadline = lab.held_back.deadline() or 0.0
    assert deadline == pytest.approx(100.49, abs=0.011)
    assert lab.held_back.deadline(probes=False) == deadline
    assert lab.reopened(100.4) == []
    assert lab.held_back.ready(deadline) == 1
    assert lab.reopened(deadline) == [1]
    assert lab.held_back.deadline() is None


def test_no_more_are_opened_than_wanted() -> None:
    lab = Lab()
    entries = lab.entries(b"a", b"b", b"a", b"b")
    assert lab.admitted(*entries) == [0, 1]
    for each in entries[:2]:
        lab.held_back.ended(each)
    assert lab.reopened(0.0, most=1) == [2]
    assert lab.reopened(0.0, most=1) == [3]


def test_an_entry_that_was_opened_and_not_asked_for_lets_the_next_one_go() -> None:
    lab = Lab()
    first, second, third = lab.entries(b"a", b"a", b"a")
    lab.admitted(first, second, third)
    lab.held_back.ended(first)
    assert lab.held_back.open(0.0, 9) == [second]
    lab.held_back.set_aside(second, 0.0)  # the metadata had no room for it
    lab.held_back.set_aside(first, 0.0)  # nor for one that never waited here
    assert (lab.held_back.ready(0.0), lab.reopened(0.0)) == (1, [2])
    assert lab.admitted(second) == []


def test_one_that_another_limit_refuses_then_waits_for_that_one() -> None:
    lab = Lab(rate=2)
    first, second = lab.entries(b"a", b"a")
    assert lab.admitted(first, second, now=100.0) == [0]
    assert lab.reopened(101.0) == []
    assert lab.held_back.deadline() is None
    lab.held_back.ended(first)
    assert lab.reopened(101.0) == [1]


def test_two_that_wait_for_each_others_limit_both_go_on() -> None:
    lab = Lab(rate=2, calls=1)
    entries = lab.entries(*[b"a"] * 6)
    done, now = lab.admitted(*entries, now=100.0), 100.0
    running = [entries[0]]
    while len(done) < 6 and now < 200:
        now += 0.3
        for each in running:
            lab.held_back.ended(each)
        running = [each for each in lab.held_back.open(now, 9) if lab.held_back.admits(each, now)]
        done += [each.offset for each in running]
    assert done == [0, 1, 2, 3, 4, 5]


def test_an_entry_without_a_name_never_waits() -> None:
    lab = Lab()
    assert lab.admitted(*lab.entries(None, None, b"a", None)) == [0, 1, 2, 3]
    assert len(lab.calls) == 1


def test_a_name_is_asked_for_once() -> None:
    asked: list[int] = []

    def name_of(message: Message) -> str:
        asked.append(message.offset)
        return "a"

    lab = Lab(name_of=name_of)
    first, second = lab.entries(b"a", b"a")
    lab.admitted(first, second)
    lab.held_back.ended(first)
    lab.reopened(0.0)
    assert asked == [0, 0, 1, 1]  # two limits


def test_a_function_that_fails_gives_no_name_and_is_reported() -> None:
    def name_of(message: Message) -> str:
        raise LookupError(f"no tenant of {message.offset}")

    lab = Lab(name_of=name_of)
    assert lab.admitted(*lab.entries(b"a", b"a")) == [0, 1]
    text = "rate_limit_key failed with LookupError: no tenant of 0: such a record counts for no name"
    assert (lab.logged[0].text, lab.logged[0].level) == (text, Level.ERROR)
    assert len({each.kind for each in lab.logged}) == 2, "one kind for each setting, whatever the text"


def test_an_interrupt_in_such_a_function_is_none_of_its_failures() -> None:
    def name_of(message: Message) -> str:
        raise KeyboardInterrupt

    lab = Lab(name_of=name_of)
    with pytest.raises(KeyboardInterrupt):
        lab.admitted(*lab.entries(b"a"))


def test_the_end_of_a_call_counts_once() -> None:
    lab = Lab()
    first, second = lab.entries(b"a", b"a")
    lab.admitted(first)
    lab.held_back.ended(first)
    lab.held_back.ended(first)
    lab.held_back.ended(second)
    assert lab.admitted(second) == [1]


def test_what_waits_for_a_partition_that_is_gone_is_forgotten() -> None:
    lab = Lab(rate=2, calls=9)
    first, second, third = lab.entries(b"a", b"a", b"b")
    other = entry(assignment(partition=P1), 7, b"a")
    lab.admitted(first, second, other, third, now=100.0)
    lab.held_back.drop(lab.owner)
    assert len(lab.held_back) == 1
    assert lab.reopened(101.0) == [7]
    lab.admitted(second, now=101.0)
    lab.held_back.drop(lab.owner)
    assert (len(lab.held_back), lab.held_back.deadline(), lab.held_back.ready(999.0)) == (0, None, 0)
    assert lab.held_back.open(999.0, 9) == []


def test_a_name_whose_entry_has_gone_since_it_was_freed_opens_nothing() -> None:
    lab = Lab()
    first, second = lab.entries(b"a", b"a")
    lab.admitted(first, second)
    lab.held_back.ended(first)
    lab.held_back.drop(lab.owner)
    assert lab.held_back.open(0.0, 9) == []


def test_the_entry_of_a_key_queue_that_is_held_is_taken_out() -> None:
    lab = Lab()
    first, second, third, *others = lab.entries(b"a", b"a", b"a", b"b", b"b")
    key_queue = object()
    second.key_queue = key_queue
    lab.admitted(first, second, third, *others)
    assert lab.held_back.take(key_queue) == [second]
    lab.held_back.ended(first)
    assert lab.reopened(0.0) == [2]


def test_the_end_of_a_pause_of_a_name_is_logged_and_news_for_hooks() -> None:
    class Resuming(ConcurrencyByName):
        def ended(self, name: str, call: object, called: bool) -> NameResumed | None:
            super().ended(name, call, called)
            return NameResumed(name, 5.0)

    logged: list[LogEvent] = []
    held_back = HeldByName([Resuming(1, by_key)], logged.append)
    named, nameless = entry(assignment(), 0, b"a"), entry(assignment(), 1, None)
    for each in (named, nameless):
        assert held_back.admits(each, 0.0)
        held_back.ended(each)
    [event] = logged
    assert (event.level, event.text, event.news) == (Level.INFO, "calls for 'a' go on", NameResumed("a", 5.0))


def test_the_entries_of_a_name_are_taken_of_some_partitions_alone() -> None:
    lab = Lab()
    first, second, third = lab.entries(b"a", b"a", b"b")
    elsewhere = entry(assignment(partition=P1), 7, b"a")
    lab.admitted(first, second, elsewhere, third)
    assert lab.held_back.take_name(lab.calls, "a", [lab.owner]) == [second]
    assert lab.held_back.take_name(lab.calls, "c", [lab.owner]) == []
    lab.held_back.ended(first)
    assert lab.reopened(0.0) == [7]


def test_a_time_that_has_come_for_a_name_that_waits_no_more_opens_nothing() -> None:
    lab = Lab(rate=2, calls=9)
    first, second = lab.entries(b"a", b"a")
    lab.admitted(first, second, now=100.0)
    lab.held_back.drop(lab.owner)
    assert (lab.held_back.ready(200.0), lab.held_back.open(200.0, 9)) == (0, [])


def test_a_name_has_records_that_wait_until_the_last_one_goes_on() -> None:
    lab = Lab()
    first, second = lab.entries(b"a", b"a")
    assert lab.held_back.names_for(lab.calls) == set()
    lab.admitted(first, second)
    assert lab.held_back.names_for(lab.calls) == {"a"}
    lab.held_back.ended(first)
    lab.reopened(0.0)
    assert lab.held_back.names_for(lab.calls) == set()


def test_a_record_has_its_names_for_all_limits_whichever_it_waits_for() -> None:
    """Otherwise an outage of a name would be forgotten while its record waits for its rate."""
    rates = RateByName(1, by_key)
    breakers = BreakersByName(FailureRate(0.5, of=2, within=9, by=by_topic), by_topic)
    held_back = HeldByName((rates, breakers), lambda event: None)
    first, second = (entry(assignment(), offset, b"a") for offset in (0, 1))
    nameless = entry(assignment(), 2, None)
    assert held_back.admits(first, 100.0)
    assert not held_back.admits(second, 100.0)
    assert held_back.admits(nameless, 100.0)
    assert (held_back.names_for(rates), held_back.names_for(breakers)) == ({"a"}, {second.message.topic})


def test_what_waits_is_counted_by_setting_and_name() -> None:
    lab = Lab(rate=2, calls=1)
    first, second, third, fourth = lab.entries(b"a", b"a", b"a", b"b")
    assert list(lab.held_back.waiting()) == []
    lab.admitted(first, second, third, fourth, now=100.0)
    assert list(lab.held_back.waiting()) == [("rate_limit_key", "a", 2)]
    assert lab.reopened(101.0) == []
    assert sorted(lab.held_back.waiting()) == [("concurrency_key", "a", 1), ("rate_limit_key", "a", 1)]
    second.key_queue = KeyQueue(lab.owner, "a", busy=True)
    second.key_queue.queue.append(fourth)
    assert sorted(lab.held_back.waiting()) == [("concurrency_key", "a", 2), ("rate_limit_key", "a", 1)]
