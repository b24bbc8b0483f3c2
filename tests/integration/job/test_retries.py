"""When a failed record is tried again, and what a call may say about it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

import flux
from integration.job.support import Lab, flux_headers, own, wait_for

MOST_LATE = 0.4
"""Seconds: the machine is shared, and a poll rests up to a quarter of a second when nothing is due."""

MILLISECOND = 0.001
"""Due times are whole ones."""


class Attempts:
    """When each call of a value began, and how early or late that was."""

    def __init__(self) -> None:
        self.calls: list[tuple[bytes, int, float, int | None]] = []

    def note(self, message: flux.Message) -> None:
        due = message.headers.get("flux-due")
        self.calls.append((message.value, message.stage, time.time(), None if due is None else int(due)))

    def stages(self, value: bytes) -> list[int]:
        return [stage for name, stage, _, _ in self.calls if name == value]

    def errors(self) -> list[float]:
        """Seconds after the due time, of all retries."""
        return [at - due / 1000 for _, _, at, due in self.calls if due is not None]

    def gaps(self, value: bytes) -> list[float]:
        times = [at for name, _, at, _ in self.calls if name == value]
        return [after - before for before, after in pairwise(times)]


@pytest.mark.timed
@pytest.mark.parametrize(
    ("wait", "expected"),
    [
        pytest.param(0.3, [0.3, 0.3, 0.3], id="seconds"),
        pytest.param([0.1, 0.5], [0.1, 0.5, 0.5], id="list whose last one repeats"),
        pytest.param(lambda stage: stage * 0.2, [0.2, 0.4, 0.6], id="callable of the stage"),
    ],
)
def test_retries_wait_as_long_as_the_task_says(lab: Lab, wait: Any, expected: list[float]) -> None:
    attempts = Attempts()

    def call(message: flux.Message) -> None:
        attempts.note(message)
        raise ValueError("again")

    task = lab.task(call, retries=3, wait=wait)
    lab.write(task.topic, b"v")
    lab.work(task)
    assert attempts.stages(b"v") == [0, 1, 2, 3]
    for gap, least in zip(attempts.gaps(b"v"), expected, strict=True):
        assert least - MILLISECOND <= gap < least + MOST_LATE
    assert all(0 <= error < MOST_LATE for error in attempts.errors())


@pytest.mark.timed
def test_many_records_of_different_times_are_each_tried_when_they_are_due(lab: Lab) -> None:
    attempts = Attempts()

    def call(message: flux.Message) -> None:
        attempts.note(message)
        if message.stage == 0:
            raise flux.Retry(after=0.2 + int(message.value) % 10 / 10)

    task = lab.task(call, partitions=2)
    lab.write(task.topic, *(b"%d" % n for n in range(200)))
    lab.work(task)
    errors = attempts.errors()
    assert len(errors) == 200
    assert min(errors) >= 0
    assert max(errors) < MOST_LATE


def test_a_rejected_record_is_a_dead_letter_at_once(lab: Lab) -> None:
    attempts = Attempts()

    def call(message: flux.Message) -> None:
        attempts.note(message)
        raise flux.Reject("nobody can work this")

    task = lab.task(call, retries=3)
    lab.write(task.topic, (b"v", b"k", [("a", b"1")]))
    lab.work(task)
    assert attempts.stages(b"v") == [0]
    [dead] = lab.dead(task)
    assert (dead.key(), dead.value(), own(dead)) == (b"k", b"v", [("a", b"1")])
    headers = flux_headers(dead)
    assert headers["flux-reason"] == b"rejected"
    assert headers["flux-error-message"] == b"nobody can work this"
    assert headers["flux-attempts"] == b"1"
    assert headers["flux-stage"] == b"4"


@pytest.mark.timed
def test_retry_after_waits_that_long_and_no_longer_than_max_delay(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    attempts = Attempts()

    def call(message: flux.Message) -> None:
        attempts.note(message)
        if message.stage == 0:
            raise flux.Retry(after=float(message.value))

    task = lab.task(call, wait=0.1, max_delay=1.0)
    lab.write(task.topic, b"0.5", b"3600", b"0")
    lab.work(task)
    assert [attempts.stages(value) for value in (b"0", b"0.5", b"3600")] == [[0, 1]] * 3
    for value, least in ((b"0", 0), (b"0.5", 0.5), (b"3600", 1.0)):
        [gap] = attempts.gaps(value)
        assert least - MILLISECOND <= gap < least + MOST_LATE
    clipped = [record.getMessage() for record in caplog.records if "max_delay" in record.getMessage()]
    assert len(clipped) == 1
    assert "3600" in clipped[0]
    assert lab.dead(task) == []


def test_the_nearest_class_of_an_exception_decides_whether_it_is_tried_again(lab: Lab) -> None:
    attempts = Attempts()

    class Passing(OSError): ...

    class Gone(Passing): ...

    raised: dict[bytes, Callable[[], Exception]] = {
        b"retried": Passing,
        b"rejected below it": Gone,
        b"named nowhere": ValueError,
    }

    def call(message: flux.Message) -> None:
        attempts.note(message)
        raise raised[message.value]()

    task = lab.task(call, retry_on=(OSError,), reject_on=(Gone,))
    lab.write(task.topic, *raised)
    lab.work(task)
    assert {value: attempts.stages(value) for value in raised} == {
        b"retried": [0, 1],
        b"rejected below it": [0],
        b"named nowhere": [0],
    }
    reasons = {message.value(): flux_headers(message)["flux-reason"] for message in lab.dead(task)}
    assert reasons == {b"retried": b"exhausted", b"rejected below it": b"rejected", b"named nowhere": b"rejected"}


def test_what_cannot_be_decoded_is_a_dead_letter_at_once_and_holds_nobody_up(lab: Lab) -> None:
    seen: list[object] = []
    task = lab.task(lambda message: seen.append(message.value), deserializer=json.loads)
    lab.write(task.topic, b'{"a": 1}', (b"\xff{", b"k", [("h", b"1")]), (None, b"tombstone"), b"[2]")
    lab.work(task)
    assert seen == [{"a": 1}, [2]]
    dead = {message.key(): message for message in lab.dead(task)}
    assert dead.keys() == {b"k", b"tombstone"}
    assert dead[b"k"].value() == b"\xff{"
    assert dead[b"tombstone"].value() is None
    assert own(dead[b"k"]) == [("h", b"1")]
    for message in dead.values():
        assert flux_headers(message)["flux-reason"] == b"undecodable"
        assert flux_headers(message)["flux-attempts"] == b"1"
    assert flux_headers(dead[b"k"])["flux-error-type"].endswith(b"UnicodeDecodeError")


def test_waiting_records_do_not_hold_up_new_ones(lab: Lab) -> None:
    attempts = Attempts()

    def call(message: flux.Message) -> None:
        attempts.note(message)
        if message.value == b"bad":
            raise ValueError

    task = lab.task(call, retries=1, wait=8)
    lab.write(task.topic, (b"bad", b"k"))
    with lab.running(task, concurrency=1):
        wait_for(lambda: attempts.stages(b"bad") == [0], "the first call")
        for number in range(5):
            lab.write(task.topic, (b"%d" % number, b"k"))
            wait_for(lambda n=number: attempts.stages(b"%d" % n) == [0], "a later record of that key")  # type: ignore[misc]
        assert attempts.stages(b"bad") == [0]
        lab.settle(task)
    assert attempts.stages(b"bad") == [0, 1]


def test_what_a_failed_process_was_at_is_worked_again_and_moves_nowhere(lab: Lab) -> None:
    seen: list[bytes] = []

    def call(message: flux.Message) -> None:
        seen.append(message.value)
        if message.value == b"3" and seen.count(b"3") == 1:
            raise MemoryError

    task = lab.task(call)
    lab.write(task.topic, *(b"%d" % n for n in range(6)))
    with lab.running(task, code=1):
        wait_for(lambda: seen.count(b"3") == 1, "the failure")
        wait_for(lambda: bool(lab.committed_offsets(task.group_id, task.topic)), "the worker has left")
    assert lab.committed_offsets(task.group_id, task.topic)[0].offset == 3
    lab.work(task)
    assert seen == [b"0", b"1", b"2", b"3", b"3", b"4", b"5"]
    assert lab.read(f"{task.topic}-{task.group_id}-try-1") == lab.dead(task) == []
