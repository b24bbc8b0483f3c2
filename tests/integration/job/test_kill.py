"""A process that dies loses nothing, and repeats only what ended since the last commit."""

from __future__ import annotations

import random
import time
from collections import Counter
from pathlib import Path

from integration.job.support import Lab, flux_headers, wait_for

TASK = """
import random
import time
import flux

class Work(flux.Task):
    topic, group_id = TOPIC, GROUP
    retries, wait, offset_commit_interval = 2, 0.3, 0.2

    def call(self, message):
        time.sleep(SLOW if message.value == b"slow" else random.random() * 0.03)
        with open(CALLS, "a") as calls:
            calls.write(f"{time.time()} {message.value.decode()} {message.stage}\\n")
        if message.value.startswith(b"bad"):
            raise ValueError
"""

STATIC = "?group.instance.id=worker&session.timeout.ms=6000"
"""So that one who was killed gets its partitions back at once."""

WINDOW = 1.2
"""Seconds before a kill in which calls may go uncommitted: the interval of 0.2, and a loaded machine."""


def lines(log: Path) -> list[tuple[float, str, int]]:
    parts = [line.split() for line in log.read_text().splitlines()]
    return [(float(at), value, int(stage)) for at, value, stage in parts]


def assert_only_late_calls_repeat(calls: list[tuple[float, str, int]], kills: list[float]) -> None:
    last: dict[tuple[str, int], float] = {}
    for at, value, stage in calls:
        before = last.get((value, stage))
        if before is not None:
            assert any(before < kill < at and before > kill - WINDOW for kill in kills), (
                f"{value} was repeated in stage {stage} though it had ended {min(k - before for k in kills):.2f} s"
                " before the process died"
            )
        last[value, stage] = at


def test_kills_in_the_middle_lose_nothing_and_repeat_only_the_last_calls(lab: Lab) -> None:
    task = lab.task(lambda message: None, partitions=3, retries=2)
    values = [f"{'bad' if n % 8 == 0 else 'good'}{n}" for n in range(1800)]
    lab.write(task.topic, *((value.encode(), f"k{n % 60}".encode(), None, n % 3) for n, value in enumerate(values)))
    log = lab.directory / "calls"
    log.touch()
    path = lab.load(TASK, TOPIC=task.topic, GROUP=task.group_id, CALLS=str(log), SLOW=0)
    kills: list[float] = []
    for _ in range(3):
        process = lab.process(path, "Work", query=STATIC)
        before = len(log.read_text().splitlines())
        wait_for(lambda n=before: len(log.read_text().splitlines()) > n, "it works")  # type: ignore[misc]
        time.sleep(0.4 + random.random() * 0.8)
        process.kill()
        kills.append(time.time())
        process.wait(60)
        assert process.returncode == -9
    process = lab.process(path, "Work", "--exit-when-idle", "1", query=STATIC)
    assert process.wait(50) == 0

    calls = lines(log)
    assert {(value, stage) for _, value, stage in calls} == {(value, 0) for value in values} | {
        (value, stage) for value in values if value.startswith("bad") for stage in (1, 2)
    }
    dead = Counter(message.value().decode() for message in lab.dead(task))
    assert set(dead) == {value for value in values if value.startswith("bad")}
    assert_only_late_calls_repeat([c for c in calls if c[2] == 0], kills)
    origins = {
        (flux_headers(m)["flux-origin-partition"], flux_headers(m)["flux-origin-offset"]): m.value()
        for m in lab.dead(task)
    }
    assert len(origins) == len(dead)
    assert lab.settled(task)


def test_what_is_done_above_a_slow_record_survives_the_death_of_the_process(lab: Lab) -> None:
    task = lab.task(lambda message: None, retries=2)
    values = [f"{n}" for n in range(800)]
    lab.write(task.topic, (b"slow", b"s"), *((value.encode(), value.encode()) for value in values))
    log = lab.directory / "calls"
    log.touch()
    path = lab.load(TASK, TOPIC=task.topic, GROUP=task.group_id, CALLS=str(log), SLOW=60)
    process = lab.process(path, "Work", query=STATIC)
    wait_for(lambda: len(log.read_text().splitlines()) == 800, "all but the slow one")
    wait_for(lambda: lab.committed_offsets(task.group_id, task.topic)[0].metadata, "they are committed")
    time.sleep(WINDOW)
    process.kill()
    process.wait(60)
    assert lab.committed_offsets(task.group_id, task.topic)[0].offset == 0

    path = lab.load(TASK, TOPIC=task.topic, GROUP=task.group_id, CALLS=str(log), SLOW=0)
    process = lab.process(path, "Work", "--exit-when-idle", "0.5", query=STATIC)
    assert process.wait(60) == 0
    assert Counter(value for _, value, _ in lines(log)) == Counter(["slow", *values])
    assert lab.committed_offsets(task.group_id, task.topic)[0].offset == 801


def test_another_member_takes_over_what_a_dead_one_had(lab: Lab) -> None:
    task = lab.task(lambda message: None, partitions=4, retries=2)
    values = [f"{n}" for n in range(1200)]
    lab.write(task.topic, *((value.encode(), value.encode()) for value in values))
    log = lab.directory / "calls"
    log.touch()
    path = lab.load(TASK, TOPIC=task.topic, GROUP=task.group_id, CALLS=str(log), SLOW=0)
    first, second = (lab.process(path, "Work", query="?session.timeout.ms=6000") for _ in range(2))
    wait_for(lambda: len(log.read_text().splitlines()) > 300, "some calls")
    first.kill()
    killed = time.time()
    lab.settle(task)
    second.terminate()
    assert second.wait(60) == 0
    calls = lines(log)
    assert {value for _, value, _ in calls} == set(values)
    assert_only_late_calls_repeat(calls, [killed])
    assert lab.dead(task) == []
