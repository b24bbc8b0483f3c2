"""Outages of what a task needs: nothing moves, nothing is lost, and the group hears nothing of it."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import ExitStack

import pytest
from confluent_kafka import Producer

import flux
from flux.core.ports import TopicPartition
from integration.job.support import Lab, wait_for
from integration.job.ways import OPPOSITES, WAYS, Way, at_once

OUTAGE = float(os.environ.get("FLUX_TEST_OUTAGE", "2.8"))
"""Seconds. Pauses are 1, 2, 4, 8 and 16 s: 2.8 s end within the second one, 30 s within the fifth."""
RATE = 1000


class Away(Exception):
    """What the task needs cannot be reached."""


class Heard(flux.Hooks):
    def __init__(self) -> None:
        self.rebalances: list[str] = []
        self.pauses: list[float] = []
        self.resumed: list[float] = []

    def on_assigned(self, where: flux.StageInfo, partitions: Sequence[TopicPartition]) -> None:
        self.rebalances.append(f"assigned {where.topic}")

    def on_revoked(self, where: flux.StageInfo, partitions: Sequence[TopicPartition]) -> None:
        self.rebalances.append(f"revoked {where.topic}")

    def on_lost(self, where: flux.StageInfo, partitions: Sequence[TopicPartition]) -> None:
        self.rebalances.append(f"lost {where.topic}")

    def on_pause(self, task: str, seconds: float, error: BaseException) -> None:
        self.pauses.append(seconds)

    def on_resume(self, task: str, seconds: float) -> None:
        self.resumed.append(time.monotonic())


@pytest.mark.timed
def test_a_pause_longer_than_the_session_and_the_polls_limit_costs_no_rebalance(lab: Lab) -> None:
    """All ways at once, as it takes its time."""
    calls: dict[Way, list[tuple[bytes, float]]] = {way: [] for way in WAYS}
    hooks = {way: Heard() for way in WAYS}
    tasks = {}
    for way in WAYS:

        def call(message: flux.Message, way: Way = way) -> None:
            calls[way].append((message.value, time.monotonic()))
            if len(calls[way]) == 1:
                raise flux.Pause(7)

        tasks[way] = lab.task(way.handler(call), retries=0, drain_timeout=3, hooks=[hooks[way]])
        lab.write(tasks[way].topic, *((b"%d" % n, b"k") for n in range(20)))
    with ExitStack() as stack:
        for way, task in tasks.items():
            adapter = way.adapter(lab.bootstrap, session_timeout_ms=6000, max_poll_interval_ms=6000)
            stack.enter_context(lab.running(task, adapter=adapter))
        for way, task in tasks.items():
            lab.settle(task)
            assert hooks[way].rebalances == [f"assigned {task.topic}"], way
            assert lab.dead(task) == []
    for way, found in calls.items():
        [first, *others] = [value for value, _ in found]
        assert others == [b"%d" % n for n in range(20)], way
        assert first == b"0"
        assert 7 <= found[1][1] - found[0][1] < 12, way


@pytest.mark.timed
@pytest.mark.parametrize("way", OPPOSITES, ids=str)
def test_an_outage_moves_nothing_keeps_the_order_of_keys_and_ends_at_full_speed(lab: Lab, way: Way) -> None:
    away = threading.Event()
    done: dict[bytes | None, list[int]] = defaultdict(list)
    ends: list[float] = []
    calls_away = 0

    def call(message: flux.Message) -> None:
        nonlocal calls_away
        if away.is_set():
            calls_away += 1
            raise Away
        done[message.key].append(int(message.value))
        ends.append(time.monotonic())

    heard = Heard()
    task = lab.task(way.handler(call, 0.001), partitions=2, pause_on=(Away,), concurrency=20, hooks=[heard])
    written = 0
    stop = threading.Event()

    def write() -> None:
        nonlocal written
        producer = Producer({"bootstrap.servers": lab.bootstrap, "linger.ms": 5})
        began = time.monotonic()
        while not stop.wait(0.02):
            while written < (time.monotonic() - began) * RATE:
                producer.produce(task.topic, b"%d" % written, b"key-%d" % (written % 50))
                written += 1
            producer.poll(0)
        assert producer.flush(30) == 0

    with lab.running(task, adapter=way.adapter(lab.bootstrap)):
        writer = threading.Thread(target=write)
        writer.start()
        wait_for(lambda: len(ends) > RATE / 4, "it works")
        away.set()
        before = len(ends)
        time.sleep(OUTAGE)
        during, behind = len(ends) - before, written - len(ends)
        away.clear()
        over = time.monotonic()
        wait_for(lambda: written - len(ends) < RATE / 5, "it has caught up", 60)
        caught_up = time.monotonic() - over
        stop.set()
        writer.join(60)
        lab.settle(task)
    late = heard.resumed[0] - over
    print(
        f"\n{way}: {OUTAGE:g} s away, {written} records, {behind} behind at its end, {calls_away} calls in vain,"
        f" {len(heard.pauses)} tries, went on {late:.1f} s after its end, caught up after {caught_up:.1f} s"
    )
    assert during <= task.concurrency
    assert behind > RATE / 4
    assert calls_away <= task.concurrency + len(heard.pauses)
    assert late < 10
    assert caught_up < late + 1 + behind / (2 * RATE)  # twice as fast as records come, at least
    assert {key: sorted(values) for key, values in done.items()} == done
    assert sorted(value for values in done.values() for value in values) == list(range(written))
    assert lab.dead(task) == []
    assert set(lab.ends(lab.stage(task, 1).topic).values()) == {0}


@pytest.mark.timed
@at_once(*WAYS)
def test_a_stop_while_paused_ends_at_once_and_repeats_nothing_that_had_ended(lab: Lab, way: Way) -> None:
    away = True
    calls: Counter[tuple[bytes, bool]] = Counter()

    def call(message: flux.Message) -> None:
        lacking = away and message.value == b"50"
        calls[message.value, lacking] += 1
        if lacking:
            raise Away

    task = lab.task(way.handler(call), pause_on=(Away,), offset_commit_interval=60)
    values = [b"%d" % n for n in range(100)]
    lab.write(task.topic, *((value, value) for value in values))
    with lab.running(task, adapter=way.adapter(lab.bootstrap)):
        wait_for(lambda: calls[b"50", True] == 2, "the first try has found the same")
        stopped = time.monotonic()
    assert time.monotonic() - stopped < 1
    away = False
    with lab.running(task, adapter=way.adapter(lab.bootstrap)):
        wait_for(lambda: calls.total() >= 102, "the rest is worked")
    assert lab.settled(task)
    assert calls == Counter({(value, False): 1 for value in values} | {(b"50", True): 2})
    assert lab.dead(task) == []


@pytest.mark.timed
@at_once(*OPPOSITES)
def test_a_pause_goes_on_through_a_rebalance(lab: Lab, way: Way) -> None:
    """The new member does not know of the outage, and finds it too."""
    away = True
    first: list[bytes] = []
    second: list[bytes] = []
    done: Counter[bytes] = Counter()

    def call(message: flux.Message, calls: list[bytes]) -> None:
        calls.append(message.value)
        if away:
            raise flux.Pause(8)
        done[message.value] += 1

    one = lab.task(way.handler(lambda message: call(message, first)), partitions=4, retries=0)
    other = lab.task(
        way.handler(lambda message: call(message, second)),
        topic=one.topic,
        group_id=one.group_id,
        retries=0,
        topics=False,
    )
    values = [b"%d" % n for n in range(400)]
    lab.write(one.topic, *((value, value, None, int(value) % 4) for value in values))
    adapter = way.adapter(lab.bootstrap, heartbeat_interval_ms=300)
    with lab.running(one, adapter=adapter):
        wait_for(lambda: first, "the outage is found")
        began = time.monotonic()
        with lab.running(other, adapter=adapter):
            wait_for(lambda: second, "the other member finds it too", 7)
            before = len(first)  # callers that were in a call when the first one ended
            time.sleep(max(0, began + 7.5 - time.monotonic()))
            assert len(first) == before <= 4
            away = False
            lab.settle(one)
    assert done == Counter(values)
    assert lab.dead(one) == []


@at_once(*OPPOSITES)
def test_an_outage_that_no_exception_names_moves_only_the_first_failures(lab: Lab, way: Way) -> None:
    away = True
    in_vain: list[bytes] = []
    done: Counter[bytes] = Counter()

    def call(message: flux.Message) -> None:
        if away:
            in_vain.append(message.value)
            raise ValueError("500")
        done[message.value] += 1

    heard = Heard()
    task = lab.task(way.handler(call), pause_when=flux.FailureRate(0.5, of=100), retries=1, wait=5, hooks=[heard])
    values = [b"%d" % n for n in range(5000)]
    lab.write(task.topic, *((value, value) for value in values))
    with lab.running(task, adapter=way.adapter(lab.bootstrap)):
        wait_for(lambda: heard.pauses, "it pauses")
        wait_for(lambda: len(heard.pauses) >= 2, "a probe finds the same")
        away = False
        wait_for(lambda: heard.resumed, "it goes on")
        lab.settle(task)
    assert done == Counter(values)
    assert len(in_vain) <= 50 + task.concurrency + len(heard.pauses)
    assert sum(lab.ends(lab.stage(task, 1).topic).values()) == 49
    assert lab.dead(task) == []
