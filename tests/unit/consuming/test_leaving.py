"""The end of a worker whose cluster is away or silent: it waits as long as it was told to, and says what is open."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from typing import Any

import pytest

from flux.adapters.confluent.closing import ended_within
from flux.consuming import effects as do
from flux.consuming.procedures import leave, revoke
from flux.consuming.side_threads import Aside
from flux.core.errors import BrokerError, Fault
from flux.core.ports import PollResult
from flux.producing import scope
from flux.producing.scope import CarryingExecutor
from flux.system import SYSTEM
from unit.support.engine_support import T0, Driver

AWAY = BrokerError("the cluster is away", Fault.UNAVAILABLE)


def perform(driver: Driver, procedure: Any, commits: bool = False) -> list[Any]:
    """The effects of a procedure whose commits take their time and fail, unless it `commits`."""
    effects: list[Any] = []
    send: Any = procedure.send
    value: Any = None
    while True:
        try:
            effect = send(value)
        except StopIteration:
            return effects
        effects.append(effect)
        send, value = procedure.send, None
        match effect:
            case do.Poll():
                value = PollResult()
            case do.Rest(timeout):
                driver.now += timeout
            case do.Commit(_, timeout) if not commits:
                driver.now += timeout
                send, value = procedure.throw, AWAY


def left(driver: Driver, seconds: float = 5.0, commits: bool = False) -> list[Any]:
    deadline = driver.now + seconds
    return perform(driver, leave(driver.engine, lambda: driver.now, lambda: deadline), commits)


def done(count: int, committed: int | None = 0) -> Driver:
    """A driver that has worked so many records since the group has `committed`."""
    driver = Driver()
    driver.assign(committed)
    if count:
        driver.poll(*range(count))
        run = driver.take()
        run.index = count
        driver.engine.finished(run, driver.now)
    return driver


def texts(driver: Driver) -> list[str]:
    return [log_event.text for log_event in driver.engine.log_events()]


def test_what_was_done_and_cannot_be_committed_is_tried_until_the_deadline_and_named() -> None:
    driver = done(3)
    left(driver)
    assert 5.0 <= driver.now - T0 <= 6.0
    assert {str(p): position.offset for p, position in driver.engine.uncommitted.items()} == {str(driver.p0): 3}
    [text] = [text for text in texts(driver) if "not committed" in text]
    assert f"{driver.p0} up to 3" in text
    assert "the cluster is away" in text


@pytest.mark.parametrize("committed", [0, None])
def test_where_nothing_was_done_nothing_is_waited_for(committed: int | None) -> None:
    driver = done(0, committed)
    left(driver)
    assert driver.now - T0 <= 1.0
    assert driver.engine.uncommitted == {}
    assert texts(driver) == []


@pytest.mark.parametrize("exactly_once", [False, True])
def test_a_mark_that_cannot_be_taken_away_is_not_waited_for(exactly_once: bool) -> None:
    driver = Driver(max_crashes=2, exactly_once=exactly_once)
    driver.assign(5)
    driver.poll(5)
    assert driver.commit(0)[0].metadata
    effects = left(driver)
    assert any(isinstance(effect, do.Transact if exactly_once else do.Commit) for effect in effects)
    assert driver.now - T0 <= 1.1
    assert driver.engine.uncommitted == {}
    assert texts(driver) == []


def test_copies_that_are_not_written_by_the_deadline_are_named() -> None:
    driver = Driver()
    driver.assign(0)
    driver.poll(0, 1)
    driver.work_all(0)
    assert driver.write(AWAY) == [0]
    left(driver, commits=True)
    assert 5.0 <= driver.now - T0 <= 6.0
    assert len(driver.engine.unforwarded) == 1
    [text] = [text for text in texts(driver) if "copies were not written" in text]
    assert text.startswith("not committed, because their forwarded copies were not written: t[0]@0 to t-g-try-1")


def test_what_is_committed_is_not_told() -> None:
    driver = done(3)
    left(driver, commits=True)
    assert driver.now == T0
    assert driver.engine.uncommitted == {}


def test_what_was_given_up_is_not_tried_again_when_the_partitions_are_revoked() -> None:
    driver = done(3)
    left(driver)
    effects = perform(driver, revoke(driver.engine, [driver.p0], lambda: driver.now, 60.0, lambda: driver.now))
    assert not [each for each in effects if isinstance(each, do.Commit)]


# ---- closes that hang


def test_a_close_that_hangs_is_left_to_itself() -> None:
    going_on = threading.Event()
    assert not ended_within(0.01, going_on.wait)
    going_on.set()
    assert ended_within(60.0, lambda: None)


def test_what_a_close_raises_is_raised() -> None:
    def close() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ended_within(5.0, close)


def test_a_step_aside_is_waited_for_as_long_as_one_wants_to() -> None:
    going_on = threading.Event()
    step = Aside(SYSTEM, "step", lambda: going_on.wait() and 7)
    with pytest.raises(TimeoutError):
        step.result(0.01)
    assert not step.ended
    going_on.set()
    assert step.result(5.0) == 7


def test_a_loop_s_threads_are_not_waited_for_without_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scope, "_WAITED", 0.01)
    going_on = threading.Event()
    executor = CarryingExecutor()
    executor.submit(going_on.wait)
    executor.shutdown()
    going_on.set()


# ---- a worker

SCRIPT = """
import asyncio, logging, signal, sys, threading, time
import flux
from flux.adapters.memory import MemoryAdapter
logging.basicConfig(level="WARNING")
adapter = MemoryAdapter("leaving")

class P(flux.Producer):
    topic = "awesome"
P.adapter = adapter

class T(flux.Task):
    topic, group_id, retries, shutdown_timeout, offset_commit_interval = "awesome", "g", 1, 0.5, 3600
    CALL
T.adapter = adapter
called = threading.Event()
for number in range(3):
    P.produce(str(number))
P.flush()
worker = flux.Worker(T, create_topics=True)

def stop():
    called.wait()
    time.sleep(0.2)
    adapter.broker.available = False
    stop.at = time.monotonic()
    worker.stop()

threading.Thread(target=stop).start()
code = worker.run()
assert time.monotonic() - stop.at < 20, time.monotonic() - stop.at
sys.exit(code)
"""


@pytest.mark.parametrize("call", ["def", "async def"])
def test_a_worker_that_cannot_commit_what_it_has_done_ends_in_time_with_3_and_names_it(call: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT).replace("CALL", f"{call} call(self, message): called.set()")],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=dict(os.environ),
    )
    assert ended.returncode == 3, ended.stderr
    assert "not committed: awesome[0] up to 3" in ended.stderr
