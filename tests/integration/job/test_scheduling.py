"""Work that a task is given by its own application."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import flux
from flux.config import resolve_adapter
from flux.operate.cancelling import cancel, plan_cancel
from flux.operate.status.status import read_status
from flux.schedules import schedules_in
from flux.system import SYSTEM, OperatingSystem
from integration.job.support import SECONDS, Lab, flux_headers, own, wait_for
from integration.job.ways import OPPOSITES, WAYS, Way, at_once

Seen = list[tuple[bytes, int, float]]


@at_once(*OPPOSITES)
def test_work_with_a_delay_is_seen_by_this_group_alone_and_not_before_its_time(lab: Lab, way: Way) -> None:
    seen: Seen = []
    others: Seen = []

    def call(message: flux.Message) -> None:
        seen.append((message.value, message.stage, time.time()))
        if message.value == b"in 1 s":
            assert (message.key, message.attempt) == (b"k", 1)

    adapter = way.adapter(lab.bootstrap)
    task = lab.task(way.handler(call), partitions=2, adapter=adapter)
    other = lab.task(
        way.handler(lambda message: others.append((message.value, message.stage, time.time()))),
        topic=task.topic,
        retries=0,
        topics=False,
        adapter=adapter,
    )
    lab.make_topic(1, lab.dead_topic(other))
    with lab.running(task, other, adapter=adapter):
        began = time.time()
        at = datetime.now(UTC) + timedelta(seconds=1.5)
        landed = task.enqueue(b"in 1 s", key=b"k", headers={"trace": "1"}, delay=1).result(SECONDS)
        task.enqueue(b"at", at=at).result(SECONDS)
        task.enqueue(b"now").result(SECONDS)
        task.enqueue(b"was due", at=at - timedelta(days=1)).result(SECONDS)
        wait_for(lambda: len(seen) == 4, "all of it")
        lab.settle(task)
    times = {value: (stage, when) for value, stage, when in seen}
    assert {value: stage for value, (stage, _) in times.items()} == {
        b"now": 0,
        b"was due": 1,
        b"in 1 s": 1,
        b"at": 1,
    }
    assert 1 <= times[b"in 1 s"][1] - began < 4
    assert 0 <= times[b"at"][1] - at.timestamp() < 4
    assert [value for value, _, _ in others] == [b"now"]
    assert landed.topic == lab.stage(task, 1).topic
    [held] = [message for message in lab.read(landed.topic) if message.value() == b"in 1 s"]
    assert (held.key(), own(held)) == (b"k", [("trace", b"1")])
    assert flux_headers(held)["flux-attempts"] == b"0"


@at_once(*WAYS)
def test_what_a_call_enqueues_belongs_to_it(lab: Lab, way: Way) -> None:
    """It is acknowledged before the record is done, so it fails when that fails."""
    seen: list[tuple[bytes, int]] = []

    def call(message: flux.Message) -> None:
        seen.append((message.value, message.stage))
        if message.value == b"first":
            task.enqueue(b"second", delay=0.3)
        if message.value == b"too much":
            task.enqueue(b"x" * 5000, delay=0.3)

    task = lab.task(way.handler(call), retries=1, topics=False, adapter=way.adapter(lab.bootstrap))
    lab.make_topic(1, task.topic)
    lab.make_topic(1, lab.stage(task, 1).topic, max_message_bytes=2000)
    lab.make_topic(1, lab.dead_topic(task))
    lab.write(task.topic, b"first")
    with lab.running(task):
        wait_for(lambda: len(seen) == 2, "what was enqueued")
        lab.write(task.topic, b"too much")  # apart: a batch fails as a whole
        wait_for(lambda: len(seen) == 4, "what failed")
        lab.settle(task)
    assert seen == [(b"first", 0), (b"second", 1), (b"too much", 0), (b"too much", 1)]
    [dead] = lab.dead(task)
    assert dead.value() == b"too much"
    assert flux_headers(dead)["flux-error-type"].endswith(b"DeliveryError")


@at_once(*WAYS)
def test_the_last_work_of_an_id_is_called_and_cancelled_work_is_not(lab: Lab, way: Way) -> None:
    seen: list[bytes] = []
    adapter = way.adapter(lab.bootstrap)
    task = lab.task(way.handler(lambda message: seen.append(message.value)), partitions=3, adapter=adapter)
    for value, delay, name in ((b"first", 0, "a"), (b"second", 0, "a"), (b"cancelled", 0, "b"), (b"other", 0, "c")):
        task.enqueue(value, key=value, delay=delay, id=name).result(SECONDS)
    task.cancel("b").result(SECONDS)
    with lab.running(task, adapter=adapter):
        # all of it is due: only what the worker reads before its first call keeps it from calling what is void
        wait_for(lambda: len(seen) == 2, "what was enqueued before the start")
        task.enqueue(b"later", delay=60, id="a").result(SECONDS)
        task.enqueue(b"never", delay=2, id="b").result(SECONDS)
        task.cancel("b").result(SECONDS)
        task.enqueue(b"sooner", delay=0.5, id="a").result(SECONDS)
        task.enqueue(b"last", delay=3, id="d").result(SECONDS)
        wait_for(lambda: b"last" in seen, "what was enqueued while it ran")
    assert sorted(seen[:2]) == [b"other", b"second"]
    assert seen[2:] == [b"sooner", b"last"]


@at_once(*WAYS)
def test_a_schedule_has_one_call_for_each_tick_and_goes_on_after_a_restart(lab: Lab, way: Way) -> None:
    seen: list[int] = []

    def call(message: flux.Message) -> None:
        tick = message.headers.get("flux-tick")
        assert tick is not None
        assert message.value == b"v"
        seen.append(int(tick))

    adapter = way.adapter(lab.bootstrap)
    task = lab.task(way.handler(call), partitions=3, adapter=adapter)
    task.every(seconds=1, value=b"v")
    for more in (3, 3):
        # two members: one of them owns the partition of the ticks, and both have written a first one
        with lab.running(task, adapter=adapter), lab.running(task, adapter=adapter):
            wanted = len(seen) + more
            wait_for(lambda: len(seen) >= wanted, "the ticks")  # noqa: B023
        stopped = seen[-1]
        time.sleep(max(0, stopped / 1000 + 2.5 - time.time()))
    assert len(set(seen)) == len(seen)
    assert sorted(seen) == seen
    assert all(tick % 1000 == 0 for tick in seen)


TICKING = """
import time
import flux

class Ticking(flux.Task):
    topic, group_id = TOPIC, GROUP
    retries, wait, offset_commit_interval = 1, 0.3, 0.1

    async def call(self, message):
        with open(CALLS, "a") as calls:
            calls.write(f"{message.headers.get('flux-tick').decode()} {time.time()}\\n")

Ticking.every(seconds=1, name="often")
"""


def ticks_in(log: Path) -> list[tuple[int, float]]:
    """(tick in seconds since the epoch, when it was called)"""
    return [(int(tick) // 1000, float(at)) for tick, at in (line.split() for line in log.read_text().splitlines())]


@at_once(*OPPOSITES)
def test_no_tick_is_lost_when_a_process_is_killed_at_one(lab: Lab, way: Way) -> None:
    task = lab.task(lambda message: None, partitions=2)
    log = lab.directory / f"calls-{way.scheme}"
    log.touch()
    path = lab.load(TICKING, TOPIC=task.topic, GROUP=task.group_id, CALLS=str(log))
    query = "?session_timeout_ms=6000" if way.scheme == "aiokafka" else "?session.timeout.ms=6000"
    first, second = (lab.process(path, "Ticking", query=query, scheme=way.scheme) for _ in range(2))
    wait_for(lambda: len(ticks_in(log)) >= 3, "the ticks of two processes")
    time.sleep(1.0 - time.time() % 1)
    first.kill()
    killed = time.time()
    wait_for(lambda: len({tick for tick, _ in ticks_in(log) if tick > killed + 7}) >= 3, "the ticks of the other one")
    second.terminate()
    assert second.wait(60) == 0
    calls = ticks_in(log)
    assert_once_a_tick(calls, repeated_from=killed - 1.5)


def assert_once_a_tick(calls: list[tuple[int, float]], repeated_from: float = float("inf"), slack: float = 0.5) -> None:
    """Each tick was called once, in order; those that were not passed while an earlier one was late."""
    last, began = calls[0]
    for tick, at in calls[1:]:
        assert at >= tick, "before its time"
        assert tick > last or (tick == last >= repeated_from), f"{last} and then {tick}"
        assert all(missed <= began + slack for missed in range(last + 1, tick)), f"lost between {last} and {tick}"
        last, began = tick, at


@at_once(*OPPOSITES)
def test_the_status_on_a_real_cluster_has_the_ticks_and_what_waits_is_cancelled_by_its_id(lab: Lab, way: Way) -> None:
    seen: list[bytes] = []
    adapter = way.adapter(lab.bootstrap)
    task = lab.task(way.handler(lambda message: seen.append(message.value)), partitions=3, adapter=adapter)
    task.every(seconds=1, value=b"tick", name="often")
    task.enqueue(b"cancelled", delay=3, id="größer").result(SECONDS)
    task.enqueue(b"other", delay=3, id="other").result(SECONDS)
    cluster = resolve_adapter(adapter)
    admin = cluster.admin()
    try:
        plan = plan_cancel(cluster, admin, task.policy(), "größer")
        assert plan.row is not None
        cancel(plan, cluster, admin)
        with pytest.raises(flux.ConfigurationError, match="no work waits with the id"):
            plan_cancel(cluster, admin, task.policy(), "größer")
        with lab.running(task, adapter=adapter):
            wait_for(lambda: b"other" in seen and seen.count(b"tick") >= 3, "the ticks and the work")
            [found] = read_status(cluster, admin, task.policy(), None, schedules=schedules_in(task)).schedules
    finally:
        admin.close()
    assert (found.name, found.when, found.called, found.missed) == ("often", "every 1 s", True, 0)
    assert found.next_tick is not None
    assert found.last_tick is not None
    assert found.next_tick > found.last_tick
    assert abs(found.next_tick / 1000 - time.time()) < 10
    assert b"cancelled" not in seen


class Ahead(OperatingSystem):
    """Of a machine whose clock is two seconds ahead."""

    def now(self) -> float:
        return super().now() + 2


@at_once(*OPPOSITES)
def test_processes_with_clocks_two_seconds_apart_call_each_tick_once(lab: Lab, way: Way) -> None:
    calls: list[tuple[int, float]] = []

    def call(message: flux.Message) -> None:
        calls.append((int(message.headers.get("flux-tick") or 0) // 1000, time.time() + 2))

    adapter = way.adapter(lab.bootstrap)
    task = lab.task(way.handler(call), partitions=2, adapter=adapter)
    task.every(seconds=1)
    for system in (Ahead(), SYSTEM, Ahead()):  # one after the other, with another one beside it for a while
        with lab.running(task, adapter=adapter, system=system):
            wanted = len(calls) + 3
            with lab.running(task, adapter=adapter):
                wait_for(lambda: len(calls) >= wanted, "the ticks")  # noqa: B023
    ticks = [tick for tick, _ in calls]
    assert sorted(set(ticks)) == ticks
    assert_once_a_tick(calls, slack=4.5)
