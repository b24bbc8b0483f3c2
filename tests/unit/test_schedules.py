"""`Task.every`: one call per tick, none lost over a restart, whatever version of the code a worker has."""

from __future__ import annotations

import builtins
from datetime import datetime
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest

import flux
from flux.core.errors import BrokerError, Fault
from flux.producing.delivery import Delivery
from flux.testing import Kit, kit
from flux.testing.records import StoredRecord


def task(call: Any = None, **settings: Any) -> Any:
    """A task class with its calls in `seen`: (value, seconds since 2001)."""

    def made(self: Any, message: flux.Message) -> None:
        self.seen.append(message)
        if call is not None:
            call(message)

    attributes = {"topic": "reports", "group_id": "office", "retries": 2, "wait": 5, "seen": [], "call": made}
    return type("Report", (flux.Task,), {**attributes, **settings})


def at_tick(flux_kit: Kit, seconds: float) -> None:
    """Moves the clock to the next multiple."""
    flux_kit.clock.advance(seconds - flux_kit.clock.now() % seconds)


def ticks(flux_kit: Kit) -> list[StoredRecord]:
    return list(flux_kit.topic("reports-office-try-1"))


def test_a_tick_is_called_once_and_the_next_one_waits(flux_kit: Kit) -> None:
    report = task()
    report.every(seconds=300, value=b"v", headers={"why": "often"})
    assert flux_kit.run(report).done == 0
    for number in range(1, 4):
        at_tick(flux_kit, 300)
        assert flux_kit.run(report).done == 1
        assert len(report.seen) == number
        [waiting] = flux_kit.waiting(report)
        assert waiting.seconds == 300
    message = report.seen[0]
    assert (message.value, message.key, message.headers.get("why")) == (b"v", b"every 300 s", b"often")
    assert int(message.headers.get("flux-tick")) % 300_000 == 0


def test_starts_add_no_ticks(flux_kit: Kit) -> None:
    report = task()
    report.every(seconds=300)
    for _ in range(5):
        flux_kit.run(report)
    assert len(flux_kit.waiting(report)) == 1
    at_tick(flux_kit, 300)
    assert flux_kit.run(report).done == 1


@pytest.mark.parametrize(("max_late", "called"), [(None, 1), (3600, 1), (60, 0)])
def test_ticks_that_nobody_was_there_for_are_called_once_unless_it_is_too_late(
    flux_kit: Kit, max_late: float | None, called: int
) -> None:
    report = task()
    report.every(seconds=300, max_late=max_late)
    flux_kit.run(report)
    at_tick(flux_kit, 300)
    flux_kit.clock.advance(1000)
    assert flux_kit.run(report).done == called
    [waiting] = flux_kit.waiting(report)
    assert 0 < (waiting.seconds or 0) <= 300
    at_tick(flux_kit, 300)
    assert flux_kit.run(report).done == 1


def test_a_tick_that_fails_is_retried_and_the_schedule_goes_on(flux_kit: Kit) -> None:
    def fail(message: flux.Message) -> None:
        if message.stage == 1 and len(report.seen) == 1:
            raise ValueError("bad")

    report = task(fail)
    report.every(seconds=300)
    flux_kit.run(report)
    at_tick(flux_kit, 300)
    assert flux_kit.run(report).failed == 1
    assert [each.stage for each in flux_kit.waiting(report)] == [2, 1]
    flux_kit.clock.advance(5)
    assert flux_kit.run(report).done == 1
    at_tick(flux_kit, 300)
    assert flux_kit.run(report).done == 1


def test_several_schedules_have_names(flux_kit: Kit) -> None:
    report = task()
    report.every(seconds=300, name="short", value=b"a")
    report.every(seconds=300, name="long", value=b"b", key="k")
    with pytest.raises(flux.ConfigurationError, match="two schedules are named 'short'"):
        report.every(seconds=600, name="short")
    flux_kit.run(report)
    at_tick(flux_kit, 300)
    assert flux_kit.run(report).done == 2
    assert sorted((each.value, each.key) for each in report.seen) == [(b"a", b"short"), (b"b", b"k")]


def test_an_interval_has_no_time_zone() -> None:
    with pytest.raises(flux.ConfigurationError, match="an interval has no time zone; give a cron expression for one"):
        task().every(seconds=300, timezone="Europe/Berlin")


def test_a_batch_task_and_a_coroutine_get_ticks(flux_kit: Kit) -> None:
    seen: list[Any] = []

    class Batched(flux.BatchTask):
        topic, group_id, max_wait = "batched", "office", 0

        def call(self, messages: Any) -> None:
            seen.extend(each.value for each in messages)

    class Awaited(flux.Task):
        topic, group_id = "awaited", "clerk"

        async def call(self, message: flux.Message) -> None:
            seen.append(message.value)

    Batched.every(seconds=300, value=b"batched")
    Awaited.every(seconds=300, value=b"awaited")
    flux_kit.run(Batched, Awaited)
    for _ in range(2):
        at_tick(flux_kit, 300)
        flux_kit.run(Batched, Awaited)
    assert sorted(seen) == [b"awaited"] * 2 + [b"batched"] * 2


def test_a_schedule_that_was_changed_is_another_one(flux_kit: Kit) -> None:
    former, report = task(), task()
    former.every(seconds=300, name="s", value=b"former")
    report.every(seconds=600, name="s", value=b"now")
    at_tick(flux_kit, 600)
    flux_kit.run(former)
    flux_kit.run(report)
    at_tick(flux_kit, 600)
    flux_kit.run(report)
    assert [each.value for each in report.seen] == [b"now"]
    for _ in range(3):
        at_tick(flux_kit, 7200)
        flux_kit.run(report)
    assert {each.value for each in report.seen} == {b"now"}
    assert len(flux_kit.waiting(report)) == 1


def test_a_worker_without_the_schedule_leaves_its_tick_to_one_that_has_it(flux_kit: Kit) -> None:
    report, older = task(), task()
    report.every(seconds=3600, value=b"v", headers={"why": "often"})
    at_tick(flux_kit, 3600)
    flux_kit.run(report)
    at_tick(flux_kit, 3600)
    for _ in range(3):
        assert flux_kit.run(older).done == 0
        flux_kit.clock.advance(60)
    assert older.seen == []
    assert flux_kit.run(report).done == 1
    assert (report.seen[0].value, report.seen[0].headers.get("why")) == (b"v", b"often")
    at_tick(flux_kit, 3600)
    assert flux_kit.run(report).done == 1


def test_without_the_next_tick_there_is_no_call(flux_kit: Kit) -> None:
    broker = flux_kit.broker()
    refused: list[int] = []

    def refuse(topic: str, partition: int, record: Any) -> BrokerError:
        refused.append(partition)
        return BrokerError("no", Fault.DENIED)

    def call(message: flux.Message) -> None:
        # the start has written the tick after this one, and that one has to write the next
        if len(report.seen) == 1:
            flux_kit.clock.advance(300)
            broker.fail_writes(refuse)

    report = task(call)
    report.every(seconds=300)
    flux_kit.run(report)
    at_tick(flux_kit, 300)
    assert flux_kit.run(report).done == 1
    assert refused
    broker.fail_writes(None)
    flux_kit.clock.advance(2)
    assert flux_kit.run(report).done == 1
    assert len(report.seen) == 2
    assert report.seen[1].attempt == 1
    [waiting] = flux_kit.waiting(report)
    assert 0 < (waiting.seconds or 0) <= 300


def test_a_run_to_the_end_of_what_has_none_is_refused(flux_kit: Kit) -> None:
    report = task()
    report.every(seconds=300)
    with pytest.raises(flux.ConfigurationError, match="has no end"):
        flux_kit.run_to_the_end(report)


def test_a_start_on_a_cluster_that_refuses_ticks_fails(flux_kit: Kit) -> None:
    report = task()
    flux_kit.run(report)
    report.every(seconds=300)
    flux_kit.broker().fail_writes(lambda topic, partition, record: BrokerError("no", Fault.DENIED))
    with pytest.raises(BrokerError, match="no"):
        flux_kit.run(report)


def test_a_value_that_cannot_be_written_ends_the_start(flux_kit: Kit) -> None:
    report = task()
    report.every(seconds=300, value={"not": "bytes"})
    with pytest.raises(flux.ConfigurationError, match=r"Report.every: its value cannot be written"):
        flux_kit.run(report)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "give a cron expression"),
        ({"cron": "* * * * *", "seconds": 5}, "give a cron expression"),
        ({"seconds": 0.5}, "give seconds, 1 to"),
        ({"seconds": "5"}, "give seconds, 1 to"),
        ({"seconds": 5, "max_late": 0}, "give seconds, 1 or more, or None"),
        ({"seconds": 5, "name": ""}, "name = ''"),
        ({"seconds": 5, "headers": {"flux-due": "1"}}, "flux's own"),
    ],
)
def test_what_is_no_schedule_is_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(flux.ConfigurationError, match=told):
        task().every(**given)


def test_a_schedule_needs_a_retry_topic() -> None:
    with pytest.raises(flux.ConfigurationError, match=r"Report.every needs a retry topic"):
        task(retries=0).every(seconds=5)


def test_without_its_package_a_cron_expression_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "cronsim":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(flux.ConfigurationError, match=r'pip install "super-flux\[cron\]"'):
        task().every("0 2 * * *")


@pytest.mark.parametrize(
    ("start", "days", "hours"),
    [
        ("2026-03-28T12:00+01:00", ["29 03:00 +0200", "30 02:30 +0200", "31 02:30 +0200"], [23.5, 24]),
        ("2026-10-24T12:00+02:00", ["25 02:30 +0200", "26 02:30 +0100", "27 02:30 +0100"], [25, 24]),
    ],
)
def test_a_nightly_task_is_called_once_a_night_over_both_changes_of_the_clock(
    start: str, days: list[str], hours: list[float]
) -> None:
    pytest.importorskip("cronsim")
    berlin = ZoneInfo("Europe/Berlin")
    with kit(start=datetime.fromisoformat(start)) as flux_kit:
        report = task()
        report.every("30 2 * * *", timezone="Europe/Berlin")
        called: list[datetime] = []
        for _ in range(3):
            flux_kit.run(report)
            [waiting] = flux_kit.waiting(report)
            flux_kit.clock.advance(waiting.seconds or 0)
            assert flux_kit.run(report).done == 1
            called.append(flux_kit.clock.datetime.astimezone(berlin))
    assert [f"{each:%d %H:%M %z}" for each in called] == days
    assert [(b - a) / 3600 for a, b in pairwise(map(datetime.timestamp, called))] == hours


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"key": 5}, "key must be str, bytes or None, not int"),
        ({"headers": 5}, "headers must be a mapping, or pairs of a name and a value"),
        ({"headers": ["ab", "c"]}, "headers must be a mapping, or pairs of a name and a value"),
        ({"name": "a\nb"}, "name = .*give a text of 1 to 250 characters that can be printed"),
    ],
)
def test_what_no_record_can_have_is_refused_where_the_task_is_defined(
    flux_kit: Kit, given: dict[str, Any], told: str
) -> None:
    with pytest.raises(flux.ConfigurationError, match=told):
        task().every(seconds=5, **given)
    if "name" not in given:
        with pytest.raises(flux.ConfigurationError, match=told):
            task().enqueue(b"v", delay=5, **given)


def test_a_text_of_another_alphabet_names_a_schedule(flux_kit: Kit) -> None:
    report = task()
    report.every(seconds=300, name="größer")
    flux_kit.run(report)
    at_tick(flux_kit, 300)
    assert flux_kit.run(report).done == 1
    assert report.seen[0].key == "größer".encode()


def test_in_a_rolling_deployment_a_worker_of_the_other_version_delays_a_tick_by_a_minute(flux_kit: Kit) -> None:
    former, report = task(), task()
    former.every(seconds=300, name="s", value=b"former")
    report.every(seconds=600, name="s", value=b"now")
    at_tick(flux_kit, 600)
    flux_kit.run(former)
    flux_kit.run(report)
    for _ in range(2):  # workers of both versions
        at_tick(flux_kit, 300)
        flux_kit.run(former)
        flux_kit.run(report)
    assert [each.value for each in former.seen] == [b"former", b"former"]
    assert report.seen == []
    flux_kit.clock.advance(60)
    flux_kit.run(report)
    assert [each.value for each in report.seen] == [b"now"]


def test_a_tick_that_is_not_acknowledged_in_time_delays_the_start(
    flux_kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = task()
    report.every(seconds=300)

    def slow(self: Any, timeout: float | None = None) -> None:
        raise TimeoutError

    monkeypatch.setattr(Delivery, "result", slow)
    with pytest.raises(BrokerError, match="a tick of Report is not acknowledged") as raised:
        flux_kit.run(report)
    assert raised.value.retriable


def test_a_retry_topic_with_more_partitions_repeats_one_tick_at_most(flux_kit: Kit) -> None:
    report = task()
    for name in "abcdef":  # some move to another partition
        report.every(seconds=300, name=name)
    flux_kit.run(report)
    flux_kit.broker().grow_topic("reports-office-try-1", 7)
    flux_kit.run(report)
    counts = []
    for _ in range(3):
        report.seen.clear()
        at_tick(flux_kit, 300)
        flux_kit.run(report)
        counts.append(sorted(each.key for each in report.seen))
    assert {key: counts[0].count(key) for key in counts[0]}.keys() == {b"a", b"b", b"c", b"d", b"e", b"f"}
    assert max(counts[0].count(key) for key in counts[0]) <= 2
    assert counts[1:] == [[b"a", b"b", b"c", b"d", b"e", b"f"]] * 2
