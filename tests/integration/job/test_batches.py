"""Tasks whose calls take many records."""

from __future__ import annotations

import secrets
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import pytest

import flux
from integration.job.support import Lab, flux_headers, wait_for
from integration.job.ways import OPPOSITES, WAYS, Way, at_once

Batch = Sequence[flux.Message]


def batch_task(
    lab: Lab, way: Way, call: Callable[[Batch], Any], *, partitions: int = 1, seconds: float = 0, **settings: Any
) -> type[flux.BatchTask]:
    handler = way.handler(call, seconds)

    class Batched(flux.BatchTask):
        topic, group_id = lab.unique(), f"g{secrets.token_hex(4)}"
        retries, wait, offset_commit_interval = 1, 0.1, 0.1

    class Blocking(Batched):
        def call(self, messages: Batch) -> None:
            handler(messages)

    class Awaited(Batched):
        async def call(self, messages: Batch) -> None:
            await handler(messages)

    task: type[flux.BatchTask] = Awaited if way.awaited else Blocking
    for name, setting in settings.items():
        setattr(task, name, setting)
    for stage in task.policy().stages:
        lab.make_topic(partitions, stage.topic)
    return task


def shared(lab: Lab, task: type[flux.BatchTask]) -> bool:
    """Whether two members have two partitions each, of each of two stages."""
    groups = [lab.members(lab.stage(task, number).group) for number in (0, 1)]
    return all([len(member.assignment.topic_partitions) for member in members] == [2, 2] for members in groups)


@pytest.mark.timed
@at_once(*WAYS)
def test_batches_are_full_or_have_waited_and_are_of_one_partition_in_order(lab: Lab, way: Way) -> None:
    batches: list[tuple[float, list[flux.Message]]] = []

    def call(messages: Batch) -> None:
        batches.append((time.time(), list(messages)))

    task = batch_task(lab, way, call, partitions=2, max_batch=100, max_wait=0.5)
    lab.write(task.topic, *((b"%d" % n, b"k%d" % n, None, n % 2) for n in range(500)))
    with lab.running(task, adapter=way.adapter(lab.bootstrap)):
        lab.settle(task)
        written = time.time()
        lab.write(task.topic, (b"alone", None, None, 0))
        lab.settle(task)
    assert sorted(len(messages) for _, messages in batches) == [1, 50, 50, 100, 100, 100, 100]
    assert all(len({message.partition for message in messages}) == 1 for _, messages in batches)
    offsets: dict[int, list[int]] = {0: [], 1: []}
    for _, messages in batches:
        offsets[messages[0].partition] += [message.offset for message in messages]
    assert offsets == {0: list(range(251)), 1: list(range(250))}
    called, [alone] = batches[-1]
    assert alone.value == b"alone"
    assert 0.5 <= called - written < 1.5
    assert lab.dead(task) == []


@at_once(*WAYS)
def test_failed_moves_those_that_it_names_and_another_exception_moves_all(lab: Lab, way: Way) -> None:
    calls: Counter[tuple[bytes, int]] = Counter()

    def call(messages: Batch) -> None:
        calls.update((message.value, message.stage) for message in messages)
        if messages[0].partition == 1:
            raise ConnectionError("all of it was rolled back")
        wrong = {message: ValueError("wrong") for message in messages if message.value == b"a3"}
        worse = {message: flux.Reject("no such thing") for message in messages if message.value == b"a5"}
        if wrong or worse:
            raise flux.BatchFailure({**wrong, **worse})

    task = batch_task(lab, way, call, partitions=2, max_batch=10, max_wait=0.2)
    one, other = [b"a%d" % n for n in range(10)], [b"b%d" % n for n in range(10)]
    lab.write(task.topic, *((value, value, None, 0) for value in one), *((value, value, None, 1) for value in other))
    with lab.running(task, adapter=way.adapter(lab.bootstrap)):
        lab.settle(task)
    again = {(b"a3", 1), *((value, 1) for value in other)}
    assert calls == Counter({(value, 0) for value in (*one, *other)} | again)
    dead = {message.value(): flux_headers(message) for message in lab.dead(task)}
    assert dead.keys() == {b"a3", b"a5", *other}
    assert {dead[value]["flux-error-type"] for value in other} == {b"ConnectionError"}
    assert (dead[b"a3"]["flux-reason"], dead[b"a3"]["flux-error-message"]) == (b"exhausted", b"wrong")
    assert (dead[b"a5"]["flux-reason"], dead[b"a5"]["flux-attempts"]) == (b"rejected", b"1")


@at_once(*OPPOSITES)
def test_outages_and_members_that_come_and_go_lose_and_repeat_nothing_of_batches(lab: Lab, way: Way) -> None:
    done: dict[bytes | None, list[int]] = defaultdict(list)
    retried: Counter[bytes] = Counter()

    def call(messages: Batch) -> None:
        if time.monotonic() % 1 < 0.3:
            raise flux.Pause(0.2)
        if messages[0].stage:
            retried.update(message.value for message in messages)
            return
        for message in messages:
            done[message.key].append(int(message.value))
        failed = [message for message in messages if int(message.value) % 50 == 0]
        if failed:
            raise flux.BatchFailure({message: ValueError("once") for message in failed})

    task = batch_task(lab, way, call, partitions=4, max_batch=20, max_wait=0.1, seconds=0.02)
    count = 3000
    lab.write(task.topic, *((b"%d" % n, b"key-%d" % (n % 40)) for n in range(count)))
    adapter = way.adapter(lab.bootstrap, heartbeat_interval_ms=300)
    with lab.running(task, adapter=adapter):
        wait_for(lambda: sum(map(len, done.values())) > 300, "the first works")
        with lab.running(task, adapter=adapter):
            wait_for(lambda: shared(lab, task), "both share the topics")
            time.sleep(0.5)
        lab.settle(task)
    assert {key: sorted(values) for key, values in done.items()} == done
    assert sorted(value for values in done.values() for value in values) == list(range(count))
    assert retried == Counter(b"%d" % n for n in range(0, count, 50))
    assert lab.dead(task) == []


@at_once(*OPPOSITES)
def test_what_a_batch_produces_is_acknowledged_before_its_records_are_done(lab: Lab, way: Way) -> None:
    class Sums(flux.Producer):
        topic = lab.make_topic()
        adapter = f"confluent://{lab.bootstrap}"
        options = flux.ProducerOptions(flush_interval=3600)

    def call(messages: Batch) -> None:
        Sums.produce(b"%d" % sum(int(message.value) for message in messages))

    task = batch_task(lab, way, call, max_batch=50, max_wait=0.2)
    lab.write(task.topic, *((b"%d" % n, b"k") for n in range(200)))
    with lab.running(task, adapter=way.adapter(lab.bootstrap)):
        lab.settle(task)
        found = [int(message.value()) for message in lab.read(Sums.topic)]
    assert found == [sum(range(start, start + 50)) for start in range(0, 200, 50)]
    Sums.close()
