"""Order kept through retries: on a real cluster, whoever works the stages, and whatever dies."""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import flux
from integration.job.support import Lab, wait_for
from integration.job.ways import WAYS, Way

TASK = """
import time
import flux

class Work(flux.Task):
    topic, group_id = TOPIC, GROUP
    retries, wait, offset_commit_interval, retry_order = 2, 0.3, 0.2, "key"

    def call(self, message):
        number = int(message.value)
        fails = number % 10 == 0 and message.attempt < (number // 10) % 3 + 1
        time.sleep(0.002)
        with open(CALLS, "a") as calls:
            calls.write(f"{message.key.decode()} {number} {message.stage} {fails:d}\\n")
        if fails:
            raise ValueError
"""


def ordered_task(lab: Lab, handler: Callable[[flux.Message], Any], partitions: int = 2) -> flux.Task:
    """Workers make its topic of keys."""
    return lab.task(handler, partitions=partitions, retry_order="key", retries=2, wait=0.3)


def is_last_pass_in_order(numbers: list[int]) -> bool:
    """Whether what is repeated is repeated with all that came after it."""
    seen = {number: at for at, number in enumerate(numbers)}
    places = [seen[number] for number in sorted(seen)]
    return places == sorted(places)


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_later_records_of_a_key_wait_until_earlier_ones_are_done(lab: Lab, way: Way) -> None:
    calls: dict[bytes, list[tuple[int, int]]] = defaultdict(list)

    def call(message: flux.Message) -> None:
        calls[message.key or b""].append((int(message.value), message.stage))
        if int(message.value) in (4, 5, 8) and message.attempt < 3:
            raise ValueError("not yet")

    task = ordered_task(lab, way.handler(call))
    lab.write(task.topic, *((b"%d" % n, b"key-%d" % (n % 4)) for n in range(40)))
    with lab.running(task, adapter=way.adapter(lab.bootstrap), create_topics=True):
        wait_for(lambda: sum(len({n for n, _ in each}) for each in calls.values()) == 40, "all are called")
        wait_for(lambda: lab.settled(task), "all is committed")
    for number in range(4):
        of_key = calls[b"key-%d" % number]
        assert [n for n, _ in of_key] == sorted(n for n, _ in of_key)
    assert {stage for _, stage in calls[b"key-2"]} == {0}
    assert [stage for n, stage in calls[b"key-1"] if n == 5] == [0, 1, 2]
    assert len(lab.dead(task)) == 0


def test_kills_repeat_no_record_alone_and_lose_none(lab: Lab) -> None:
    task = ordered_task(lab, lambda message: None)
    lab.write(task.topic, *((b"%d" % n, b"k%d" % (n % 7)) for n in range(400)))
    log = lab.directory / "calls"
    log.touch()
    path = lab.load(TASK, TOPIC=task.topic, GROUP=task.group_id, CALLS=str(log))
    query = "?group.instance.id=worker&session.timeout.ms=6000"
    for _ in range(3):
        process = lab.process(path, "Work", "--create-topics", query=query)
        before = len(log.read_text().splitlines())
        wait_for(lambda n=before: len(log.read_text().splitlines()) > n + 20, "it works")  # type: ignore[misc]
        time.sleep(random.random() * 0.8)
        process.kill()
        process.wait(10)
    process = lab.process(path, "Work", "--exit-when-idle", "2", query=query)
    assert process.wait(100) == 0
    assert_in_order(log, 400)
    assert lab.settled(task)


def test_the_stages_may_be_worked_by_different_processes(lab: Lab) -> None:
    task = ordered_task(lab, lambda message: None)
    log = lab.directory / "calls"
    log.touch()
    path = lab.load(TASK, TOPIC=task.topic, GROUP=task.group_id, CALLS=str(log))
    processes = [lab.process(path, "Work", "--create-topics", "--stages", stages) for stages in ("0", "1", "2")]
    lab.write(task.topic, *((b"%d" % n, b"k%d" % (n % 7)) for n in range(200)))
    wait_for(lambda: len(finals(log)) == 200, "all are done")
    wait_for(lambda: lab.settled(task), "all is committed")
    for process in processes:
        process.terminate()
        assert process.wait(40) == 0
    assert_in_order(log, 200)


def calls_of(log: Path) -> list[tuple[str, int, int, bool]]:
    parts = [line.split() for line in log.read_text().splitlines()]
    return [(key, int(number), int(stage), failed == "1") for key, number, stage, failed in parts]


def finals(log: Path) -> set[int]:
    return {number for _, number, _, failed in calls_of(log) if not failed}


def assert_in_order(log: Path, count: int) -> None:
    by_key: dict[str, list[tuple[int, bool]]] = defaultdict(list)
    for key, number, _, failed in calls_of(log):
        by_key[key].append((number, failed))
    assert finals(log) == set(range(count))
    for calls in by_key.values():
        done: set[int] = set()
        numbers = sorted({number for number, _ in calls})
        for number, failed in calls:
            assert all(earlier in done for earlier in numbers if earlier < number), f"{number} overtakes"
            done |= set() if failed else {number}
        assert is_last_pass_in_order([number for number, _ in calls])
