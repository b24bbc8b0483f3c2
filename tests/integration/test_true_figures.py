"""Each figure of `flux status` and of the pages, beside what the handlers and plain clients count, under load."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

import flux
from flux.operate.status.blockers import LONG
from integration.job.conftest import lab
from integration.job.support import Lab, wait_for
from integration.ledger import Ledger
from integration.scene import KINDS, RATE, RETRIES, Between, Pulse, Scene

__all__ = ["lab"]
pytestmark = pytest.mark.kafka

LOAD = 16.0
"""Seconds, and more on a slow machine."""
LOOKS_BACK = 12.0
"""Seconds: a report of 5 s ago has rates of the 5 s before it."""


@pytest.fixture
def hold() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def of_one(found: dict[str, Any], stage: int = 0) -> dict[str, Any]:
    """What the one process of a status reports of a stage."""
    [process] = found["processes"]
    return next(each for each in process["stages"] if each["stage"] == stage)


def check_load(scene: Scene) -> None:
    """Under load every figure is within what was counted when it was read."""
    pulse, enough = Pulse(), threading.Event()
    load = threading.Thread(target=scene.load, args=(LOAD, enough))
    load.start()
    checked: list[Between] = []
    looks: list[Callable[[], Iterator[Between]]] = [partial(scene.of_status, task) for task in scene.tasks]
    looks.append(scene.of_pages)
    while load.is_alive():
        for look in looks:
            began, found = time.time(), list(look())
            if not pulse.stood(began - LOOKS_BACK):
                checked += found
        if len(checked) > 300:
            enough.set()
        load.join(0.3)
    pulse.over.set()
    assert len(checked) > 300
    assert [each for each in checked if not each.true] == []


def check_idle(scene: Scene) -> None:
    """When all is done, every figure is exact."""
    for task, ledger in scene.tasks.items():
        scene.lab.settle(task)

        def reported(task: type[flux.Task] = task, ledger: Ledger = ledger) -> bool:
            stages = [of_one(scene.status(task), stage) for stage in range(RETRIES + 1)]
            counts = [[each[kind] for kind in KINDS] for each in stages]
            quiet = all(each["done_rate"] == each["failed_rate"] == each["in_flight"] == 0 for each in stages)
            return quiet and counts == [[ledger.count(kind, stage) for kind in KINDS] for stage in range(RETRIES + 1)]

        wait_for(reported, f"the reports of {task.__name__} are what its handler counts")
        found = scene.status(task)
        for stage in found["stages"]:
            assert (stage["lag"], stage["lag_exact"], stage["waiting"], stage["uncommitted"]) == (0, True, 0, 0)
            assert stage["oldest_unfinished"] == {}
            reports = of_one(found, stage["stage"])
            assert (reports["calls"], reports["open"], reports["waiting"], reports["due_in"]) == ([], [], 0, None)
            assert sum(reports["done_to"].values()) == 0
        dead = sum(ledger.count("dead", stage) for stage in range(RETRIES + 1))
        assert (found["dead_letters"], found["dead_letters_exact"]) == (dead, True)
        assert len(scene.lab.read(scene.lab.dead_topic(task))) == dead
        assert dead > LOAD * RATE / 20


def check_blocked(scene: Scene, task: type[flux.Task], hold: threading.Event) -> None:
    """One call that hangs: it is running, blocks after a while and not before, and is gone with its end."""
    ledger, before = scene.tasks[task], time.time()
    scene.lab.write(task.topic, (b"0", b"held", None, 0))
    wait_for(lambda: ledger.running == 1, "its call has begun")
    [record] = [record for record, spans in ledger.calls.items() if len(spans[-1]) == 1]
    scene.lab.write(task.topic, *[(b"1", b"%d" % key, None, 0) for key in range(20)])
    wait_for(lambda: ledger.count("done", 0, since=before) == 20, "the others are done")
    found = scene.status(task)
    if found["at"] / 1000 - before < LONG:
        assert found["blockers"] == []
    wait_for(lambda: of_one(scene.status(task))["calls"], "it is reported")
    found = scene.status(task)
    [call], stage = of_one(found)["calls"], found["stages"][0]
    assert (call["partition"], call["offset"], call["key"], of_one(found)["in_flight"]) == (*record[1:], "held", 1)
    at = found["at"] / 1000 - found["processes"][0]["age"]
    assert abs(at - ledger.calls[record][-1][0] - call["seconds"]) < 0.6
    wait_for(lambda: scene.status(task)["stages"][0]["done_above"]["0"] == 20, "what is done behind it is committed")
    stage = scene.status(task)["stages"][0]
    assert (stage["lag"], stage["uncommitted"]) == (21, 20)
    wait_for(lambda: scene.status(task)["blockers"], "it blocks")
    [blocker] = scene.status(task)["blockers"]
    assert (blocker["offset"], blocker["why"], blocker["behind"]) == (record[2], "its call is running", 0)
    assert blocker["seconds"] >= LONG
    scene.sample()
    overview = scene.page("/")
    assert next(row for row in overview[0] if row["Task"].startswith(task.__name__ + " "))["State"] == "blocked"
    hold.set()
    wait_for(lambda: ledger.running == 0, "its call has ended")
    scene.lab.settle(task, 0)
    found = scene.status(task)
    assert (of_one(found)["calls"], of_one(found)["in_flight"], found["blockers"]) == ([], 0, [])
    scene.sample()
    workers = scene.page("/workers")
    assert (len(workers), workers[0][0]["In flight"], workers[0][0]["Longest call"]) == (1, "0", "—")


def check_end(scene: Scene) -> None:
    """After the worker's end nothing looks as if it ran."""
    scene.sample()
    assert scene.page("/workers") == []
    for row in scene.page("/")[0]:
        assert (row["Members"], row["State"], row["Lag"]) == ("0", "up to date", "0")
    for task in scene.tasks:
        found = scene.status(task)
        assert (found["processes"], found["paused"], found["blockers"]) == ([], [], [])
        assert [stage["members"] for stage in found["stages"]] == [[]] * (RETRIES + 1)


def test_every_figure_is_what_handlers_and_plain_clients_count(
    lab: Lab, hold: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    reports = f"{lab.unique()[:9]}-reports"
    scene = Scene(lab, hold, reports)
    with caplog.at_level(logging.INFO, "flux.worker"):
        with lab.running(*scene.tasks, adapter=scene.adapter, report=reports) as running:
            wait_for(lambda: running.worker.health().ready, "it has joined")
            wait_for(scene.reported, "it has reported")
            check_load(scene)
            check_idle(scene)
            check_blocked(scene, next(iter(scene.tasks)), hold)
        check_end(scene)
    ends = [line for line in caplog.messages if ": in all: " in line]
    for task, ledger in scene.tasks.items():
        done, failed, retried, dead = (sum(ledger.count(kind, n) for n in range(RETRIES + 1)) for kind in KINDS)
        said = (
            f"{task.__name__}: in all: {done:,} done, {failed:,} failed, {retried:,} retried, {dead:,} dead letters in"
        )
        assert any(line.startswith(said) for line in ends), (said, ends)
        lines = [vars(each) for each in caplog.records if vars(each).get("task") == task.__name__]
        first = sum("exception" in each and "offset" in each for each in lines)
        assert first + sum(each["count"] for each in lines if "count" in each) == failed
