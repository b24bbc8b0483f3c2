"""Limits by name on a real cluster: one tenant's records wait, others pass by."""

from __future__ import annotations

import threading
import time
from collections import Counter

import pytest

import flux
from integration.job.support import Lab, wait_for
from integration.job.ways import OPPOSITES, Way


def tenant(message: flux.Message) -> bytes | None:
    return message.headers.get("tenant")


class Calls:
    """What runs now, by tenant, and the most at once."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.lock = threading.Lock()
        self.running: Counter[bytes] = Counter()
        self.most: Counter[bytes] = Counter()
        self.ends: list[tuple[bytes, float, bytes]] = []

    def __call__(self, message: flux.Message) -> None:
        name = tenant(message) or b""
        with self.lock:
            self.running[name] += 1
            self.most[name] = max(self.most[name], self.running[name])
        time.sleep(self.seconds)
        with self.lock:
            self.running[name] -= 1
            self.ends.append((name, time.monotonic(), message.value))


def records(large: int, small: int) -> list[tuple[bytes, bytes, list[tuple[str, bytes]]]]:
    """Many of one tenant, and behind them a few of another; of ten keys each."""
    names = [b"large"] * large + [b"small"] * small
    return [(b"%d" % n, b"%s-%d" % (name, n % 10), [("tenant", name)]) for n, name in enumerate(names)]


@pytest.mark.parametrize("way", OPPOSITES, ids=str)
def test_a_tenant_has_so_many_calls_at_once_and_another_passes_by(lab: Lab, way: Way) -> None:
    calls = Calls(0.02)
    task = lab.task(way.handler(calls), partitions=2, concurrency=8, concurrency_key=tenant, concurrency_per_key=2)
    lab.write(task.topic, *records(100, 20))
    with lab.running(task, adapter=way.adapter(lab.bootstrap)):
        wait_for(lambda: len(calls.ends) == 120, "all are done")
    assert calls.most[b"large"] <= 2
    last_small = max(at for name, at, _ in calls.ends if name == b"small")
    assert sum(name == b"large" and at > last_small for name, at, _ in calls.ends) >= 30
    for key in {(name, int(value) % 10) for name, _, value in calls.ends}:
        values = [int(value) for name, _, value in calls.ends if (name, int(value) % 10) == key]
        assert values == sorted(values), "the order of a key"


@pytest.mark.timed
@pytest.mark.parametrize("way", OPPOSITES, ids=str)
def test_a_tenant_has_its_rate_and_another_passes_by(lab: Lab, way: Way) -> None:
    calls = Calls(0.0)
    task = lab.task(way.handler(calls), partitions=2, rate_limit=20, rate_limit_key=tenant)
    lab.write(task.topic, *records(60, 20))
    with lab.running(task, adapter=way.adapter(lab.bootstrap)):
        wait_for(lambda: len(calls.ends) == 80, "all are done")
    large = [at for name, at, _ in calls.ends if name == b"large"]
    small = [at for name, at, _ in calls.ends if name == b"small"]
    assert 18 <= (len(large) - 1) / (large[-1] - large[0]) <= 21
    assert small[-1] - small[0] <= 1.5


@pytest.mark.parametrize("way", OPPOSITES, ids=str)
def test_an_outage_of_one_tenant_moves_few_records_and_stops_no_other(lab: Lab, way: Way) -> None:
    attempts: dict[bytes, int] = {}
    away = [True]

    def call(message: flux.Message) -> None:
        name = tenant(message)
        if name == b"large" and away[0]:
            raise LookupError("no such host")
        attempts[message.value] = message.attempt

    rate = flux.FailureRate(0.5, of=10, by=tenant)
    task = lab.task(way.handler(call), partitions=2, pause_when=rate, retries=9, concurrency=4)
    lab.write(task.topic, *records(200, 200))
    with lab.running(task, adapter=way.adapter(lab.bootstrap)):
        wait_for(lambda: len(attempts) == 200, "the other tenant's are done")
        away[0] = False
        wait_for(lambda: len(attempts) == 400, "all are done")
        lab.settle(task)
    assert sum(attempt > 1 for attempt in attempts.values()) <= 12
    assert lab.dead(task) == []
