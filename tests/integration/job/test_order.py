"""Order by key, and what a rebalance does to work in flight."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable

import pytest

import flux
from integration.job.support import Lab, wait_for


class Watched:
    """Sleeps for random times, and watches that nothing that shares `lane` runs at once."""

    def __init__(self, most: float = 0.008) -> None:
        self.most = most
        self.lock = threading.Lock()
        self.inside: Counter[object] = Counter()
        self.overlaps: list[object] = []
        self.most_at_once = 0
        self.done: dict[object, list[int]] = defaultdict(list)

    def lane(self, message: flux.Message) -> object:
        return message.key

    def __call__(self, message: flux.Message) -> None:
        lane = self.lane(message)
        with self.lock:
            self.inside[lane] += 1
            self.most_at_once = max(self.most_at_once, sum(self.inside.values()))
            if self.inside[lane] > 1:
                self.overlaps.append(lane)
        time.sleep(random.random() * self.most)
        with self.lock:
            self.inside[lane] -= 1
            self.done[lane].append(int(message.value))

    def beyond(self, more: int) -> Callable[[], bool]:
        least = self.count() + more
        return lambda: self.count() > least

    def count(self) -> int:
        return sum(len(values) for values in self.done.values())


class ByPartition(Watched):
    def lane(self, message: flux.Message) -> object:
        return message.partition


def test_records_of_one_key_run_one_at_a_time_and_in_order_beside_other_keys(lab: Lab) -> None:
    watched = Watched()
    task = lab.task(watched, partitions=2, concurrency=10)
    lab.write(task.topic, *((b"%d" % n, b"key-%d" % (n % 17)) for n in range(2000)))
    lab.work(task)
    assert watched.overlaps == []
    assert watched.most_at_once >= 5
    assert {key: sorted(values) for key, values in watched.done.items()} == watched.done
    assert watched.count() == 2000


def test_ordering_by_partition_runs_one_record_of_a_partition_at_a_time(lab: Lab) -> None:
    watched = ByPartition()
    task = lab.task(watched, partitions=3, ordering="partition")
    lab.write(task.topic, *((b"%d" % n, None, None, n % 3) for n in range(600)))
    lab.work(task)
    assert watched.overlaps == []
    assert watched.done == {p: list(range(p, 600, 3)) for p in range(3)}
    assert watched.most_at_once == 3


@pytest.mark.parametrize("key", [None, b"k"], ids=["no key", "ordering is none"])
def test_what_no_order_binds_runs_at_once(lab: Lab, key: bytes | None) -> None:
    barrier = threading.Barrier(10, timeout=60)
    calls: list[bytes] = []

    def call(message: flux.Message) -> None:
        barrier.wait()
        calls.append(message.value)

    task = lab.task(call, ordering="key" if key is None else "none", concurrency=10)
    values = [b"%d" % n for n in range(20)]
    lab.write(task.topic, *((value, key) for value in values))
    lab.work(task)
    assert sorted(calls) == sorted(values)
    assert lab.dead(task) == []


def test_a_failed_record_without_a_key_holds_up_no_other_without_one(lab: Lab) -> None:
    seen: list[tuple[bytes, int]] = []

    def call(message: flux.Message) -> None:
        seen.append((message.value, message.stage))
        if message.value == b"bad" and message.stage == 0:
            raise flux.Retry(after=1.5)

    task = lab.task(call)
    lab.write(task.topic, b"bad", *(b"%d" % n for n in range(50)))
    lab.work(task)
    assert Counter(seen) == Counter([(b"bad", 0), (b"bad", 1), *((b"%d" % n, 0) for n in range(50))])
    assert seen[-1] == (b"bad", 1)


def test_retries_of_one_key_keep_the_order_of_their_due_times(lab: Lab) -> None:
    seen: dict[bytes, list[int]] = defaultdict(list)
    lock = threading.Lock()

    def call(message: flux.Message) -> None:
        if message.stage == 0:
            raise ValueError
        time.sleep(random.random() * 0.01)
        with lock:
            seen[message.key or b""].append(int(message.value))

    task = lab.task(call, wait=0.5)
    lab.write(task.topic, *((b"%d" % n, b"k%d" % (n % 5)) for n in range(300)))
    lab.work(task)
    assert seen == {b"k%d" % k: list(range(k, 300, 5)) for k in range(5)}


def test_members_that_come_and_go_in_good_order_lose_and_repeat_nothing(lab: Lab) -> None:
    watched = Watched(most=0.02)
    failed: Counter[bytes] = Counter()
    lock = threading.Lock()

    def call(message: flux.Message) -> None:
        if message.stage:
            with lock:
                failed[message.value] += 1
            return
        watched(message)
        if int(message.value) % 10 == 0:
            raise ValueError

    task = lab.task(call, partitions=4)
    count = 4000
    lab.write(task.topic, *((b"%d" % n, b"key-%d" % (n % 80)) for n in range(count)))
    with lab.running(task):
        wait_for(lambda: watched.count() > 300, "the first works")
        with lab.running(task):
            wait_for(lambda: len(lab.members(task.group_id)) == 2, "both share the topic")
            wait_for(watched.beyond(500), "both work")
        wait_for(watched.beyond(300), "one works on")
        with lab.running(task):
            time.sleep(0.7)
        lab.settle(task)
    assert watched.overlaps == []
    assert {key: sorted(values) for key, values in watched.done.items()} == watched.done
    assert sorted(v for values in watched.done.values() for v in values) == list(range(count))
    assert failed == Counter(b"%d" % n for n in range(0, count, 10))
