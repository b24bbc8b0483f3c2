"""Dead letters that hold their keys, on a real cluster: followers wait for an operator, whoever works and dies."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

import flux
from flux.operate.dlq.filters import Filter
from flux.operate.dlq.reject import reject
from flux.operate.dlq.replay import Replay
from flux.operate.dlq.replay_plan import ReplayOptions, plan_replay
from flux.operate.held_keys import held_keys
from integration.job.support import Lab, wait_for
from integration.job.ways import OPPOSITES, Way

TASK = """
import os
import flux

class Work(flux.Task):
    topic, group_id = TOPIC, GROUP
    retries, wait, offset_commit_interval = 1, 0.2, 0.2
    retry_order, on_dead = "key", "hold"

    def call(self, message):
        number = int(message.value)
        fails = number < 2 and not os.path.exists(FIXED)
        with open(CALLS, "a") as calls:
            calls.write(f"{message.key.decode()} {number} {fails:d}\\n")
        if fails:
            raise ValueError
"""


class Operator:
    def __init__(self, lab: Lab, task: flux.Task, scheme: str) -> None:
        self._adapter = flux.adapter_from_url(f"{scheme}://{lab.bootstrap}")
        self._admin = self._adapter.admin()
        self._policy = task.policy()

    def replay(self, key: str) -> None:
        plan = plan_replay(self._admin, self._policy, ReplayOptions(Filter(key=key)))
        assert Replay(plan, self._adapter, self._admin).run().replayed >= 1  # a crash may have repeated a dead letter

    def reject(self, key: str) -> None:
        assert reject(self._adapter, self._admin, self._policy, Filter(key=key)).rejected

    def held(self) -> tuple[int, int]:
        """(keys, those that wait for dead letters)"""
        found = held_keys(self._adapter, self._admin, self._policy)
        return (0, 0) if found is None else (found.keys, found.dead)


@pytest.mark.parametrize("way", OPPOSITES, ids=str)
def test_followers_wait_until_the_dead_letter_is_replayed_or_rejected(lab: Lab, way: Way) -> None:
    calls: dict[bytes, list[int]] = defaultdict(list)
    down = {0}

    def call(message: flux.Message) -> None:
        calls[message.key or b""].append(int(message.value))
        if int(message.value) in down:
            raise ValueError("not yet")

    task = lab.task(way.handler(call), partitions=2, retry_order="key", on_dead="hold", retries=1, wait=0.2)
    lab.write(task.topic, *((b"%d" % n, key) for n in range(3) for key in (b"replayed", b"rejected")), (b"7", b"other"))
    operator = Operator(lab, task, way.scheme)
    with lab.running(task, adapter=way.adapter(lab.bootstrap), create_topics=True):
        wait_for(lambda: calls[b"other"] == [7] and operator.held() == (2, 2), "dead letters hold two keys")
        assert set(calls[b"replayed"] + calls[b"rejected"]) == {0}
        down.clear()
        before = len(calls[b"replayed"])
        operator.replay("replayed")
        wait_for(lambda: calls[b"replayed"][before:] == [0, 1, 2], "a replay comes before those that wait")
        assert set(calls[b"rejected"]) == {0}
        before = len(calls[b"rejected"])
        operator.reject("rejected")
        wait_for(lambda: calls[b"rejected"][before:] == [1, 2], "a rejection frees the key")
        wait_for(lambda: operator.held() == (0, 0), "nothing is outstanding")
        wait_for(lambda: lab.settled(task), "all is committed")


@pytest.mark.parametrize(
    ("scheme", "query"), [("confluent", "?session.timeout.ms=6000"), ("aiokafka", "?session_timeout_ms=6000")]
)
def test_a_key_is_held_through_kills_and_rebalances(lab: Lab, scheme: str, query: str) -> None:
    task = lab.task(lambda message: None, partitions=2, retry_order="key", on_dead="hold", retries=1, wait=0.2)
    calls, fixed = lab.directory / "calls", lab.directory / "fixed"
    calls.touch()
    lab.write(task.topic, *((b"%d" % n, b"key") for n in range(6)))
    path = lab.load(TASK, TOPIC=task.topic, GROUP=task.group_id, CALLS=str(calls), FIXED=str(fixed))
    operator = Operator(lab, task, scheme)
    first = lab.process(path, "Work", "--create-topics", query=query, scheme=scheme)
    wait_for(lambda: operator.held() == (1, 1) and lab.dead(task), "the dead letter holds its key")
    second = lab.process(path, "Work", query=query, scheme=scheme)
    first.kill()
    first.wait(10)
    third = lab.process(path, "Work", query=query, scheme=scheme)
    assert {number for number, _ in lines_of(calls)} == {0}
    operator.replay("key")  # it fails once more, whoever calls it
    wait_for(lambda: any(was_replayed(each) for each in lab.dead(task)), "it is dead again")
    assert {number for number, _ in lines_of(calls)} == {0}
    operator.reject("key")
    wait_for(lambda: any(each.value() == b"1" for each in lab.dead(task)), "the next one is a dead letter")
    second.kill()
    second.wait(10)
    fixed.touch()
    operator.replay("key")
    wait_for(lambda: [number for number, failed in lines_of(calls) if not failed][-5:] == [1, 2, 3, 4, 5], "in order")
    wait_for(lambda: operator.held() == (0, 0), "nothing is outstanding")
    third.terminate()
    assert third.wait(40) == 0


def was_replayed(record: Any) -> bool:
    return "flux-replays" in dict(record.headers())


def lines_of(calls: Path) -> list[tuple[int, bool]]:
    parts = [line.split() for line in calls.read_text().splitlines()]
    return [(int(number), failed == "1") for _, number, failed in parts]
