"""Order kept through retries, and each output once, whatever dies."""

from __future__ import annotations

import random
import time
from collections import defaultdict
from pathlib import Path

import pytest

from integration.job.support import Lab, wait_for

TASK = """
import os, signal, time
import flux
from flux.adapters.confluent.transactions import ConfluentTransactions

class Out(flux.Producer):
    topic = OUT

class Work(flux.Task):
    topic, group_id = TOPIC, GROUP
    exactly_once, retry_order = True, "key"
    retries, wait, offset_commit_interval = 2, 0.3, 0.05

    def call(self, message):
        number = int(message.value)
        time.sleep(0.002)
        Out.produce(message.value, key=message.key)
        if number % 10 == 0 and message.attempt < (number // 10) % 4 + 1:
            raise ValueError

def die(self, timeout):
    global left
    left -= 1
    if left:
        return commit(self, timeout)
    self.flush(10)
    os.kill(os.getpid(), signal.SIGKILL)

left, commit = AFTER, ConfluentTransactions.commit
if left:
    ConfluentTransactions.commit = die
"""
COUNT, KEYS = 200, 7
STATIC = "?group.instance.id=worker&session.timeout.ms=6000"
"""So that one who was killed gets its partitions back at once."""
DEAD = {number for number in range(COUNT) if number % 10 == 0 and (number // 10) % 4 == 3}


def outputs_of(lab: Lab, out: str) -> dict[bytes, list[int]]:
    """Of each key, in order; those of committed transactions."""
    found: dict[bytes, list[int]] = defaultdict(list)
    for message in lab.read(out):
        found[message.key()].append(int(message.value()))
    return found


@pytest.mark.parametrize("in_a_commit", [True, False])
def test_kills_leave_each_output_once_and_in_order(lab: Lab, in_a_commit: bool) -> None:
    task = lab.task(lambda message: None, partitions=2, retry_order="key", exactly_once=True, retries=2, wait=0.3)
    out = lab.make_topic(2)
    lab.write(task.topic, *((b"%d" % n, b"k%d" % (n % KEYS)) for n in range(COUNT)))

    def load(after: int) -> Path:
        return lab.load(TASK, TOPIC=task.topic, GROUP=task.group_id, OUT=out, AFTER=after)

    for _ in range(4):
        after = random.randint(2, 12)
        process = lab.process(load(after if in_a_commit else 0), "Work", "--create-topics", query=STATIC)
        if in_a_commit:
            process.wait(60)
            continue
        before = sum(map(len, outputs_of(lab, out).values()))
        wait_for(lambda n=before: sum(map(len, outputs_of(lab, out).values())) > n, "it works")  # type: ignore[misc]
        time.sleep(random.random() * 0.5)
        process.kill()
        process.wait(10)
    process = lab.process(load(0), "Work", "--exit-when-idle", "2", query=STATIC)
    assert process.wait(100) == 0
    for key, numbers in outputs_of(lab, out).items():
        assert numbers == [n for n in range(COUNT) if b"k%d" % (n % KEYS) == key and n not in DEAD]
    assert sorted(int(message.value()) for message in lab.dead(task)) == sorted(DEAD)
    assert lab.settled(task)
