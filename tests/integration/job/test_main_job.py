"""A record's whole way: main topic, retry topics, dead letters, seen by clients that know nothing of flux."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time

import pytest

import flux
from integration.job.support import Lab, flux_headers, own, wait_for

HEADERS = [("trace", b"1"), ("tag", b"a"), ("tag", b"b"), ("none", None), ("empty", b""), ("tag", b"a")]

FAILING = """
import flux

class Failing(flux.Task):
    topic, group_id = TOPIC, GROUP
    retries, wait, offset_commit_interval = 1, 0.2, 0.2

    def call(self, message):
        raise ValueError(f"no {message.value!r}")
"""


def test_a_record_that_always_fails_becomes_a_dead_letter_with_key_value_and_headers_as_they_came(lab: Lab) -> None:
    seen: list[tuple[int, int, str, bytes | None, bytes, list[tuple[str, bytes | None]], str]] = []

    def call(message: flux.Message) -> None:
        plain = [pair for pair in message.headers if not pair[0].startswith("flux-")]
        seen.append((message.stage, message.attempt, message.topic, message.key, message.value, plain, message.id))
        raise ValueError("it never works")

    task = lab.task(call, retries=2, partitions=2)
    started = int(time.time() * 1000)
    lab.write(task.topic, (b"first", b"k"), (b"v\x00\xff", b"key\x00\xff", HEADERS, 1))
    lab.work(task)
    ended = int(time.time() * 1000)

    place = f"{task.topic}/1/"
    ours = [call for call in seen if call[4] == b"v\x00\xff"]
    origin = ours[0][6]
    assert origin.startswith(place)
    assert ours == [
        (stage, stage + 1, topic, b"key\x00\xff", b"v\x00\xff", HEADERS, origin)
        for stage, topic in enumerate(
            [task.topic, f"{task.topic}-{task.group_id}-try-1", f"{task.topic}-{task.group_id}-try-2"]
        )
    ]

    [dead] = [message for message in lab.read(f"{task.topic}-{task.group_id}-dlq") if message.value() == b"v\x00\xff"]
    assert dead.key() == b"key\x00\xff"
    assert own(dead) == HEADERS
    assert dead.partition() == 1
    born = next(m for m in lab.read(task.topic) if m.value() == b"v\x00\xff").timestamp()[1]
    headers = flux_headers(dead)
    failed, first = int(headers.pop("flux-failed-at")), int(headers.pop("flux-first-failed-at"))
    assert started <= first <= first + 200 <= failed <= ended
    trace = headers.pop("flux-error-trace").decode()
    assert __file__ in trace
    assert 'raise ValueError("it never works")' in trace
    assert headers == {
        "flux-stage": b"3",
        "flux-attempts": b"3",
        "flux-group": task.group_id.encode(),
        "flux-origin-topic": task.topic.encode(),
        "flux-origin-partition": b"1",
        "flux-origin-offset": origin.removeprefix(place).encode(),
        "flux-origin-timestamp": str(born).encode(),
        "flux-reason": b"exhausted",
        "flux-error-type": b"ValueError",
        "flux-error-message": b"it never works",
    }


def test_a_retry_topic_s_record_says_its_stage_its_due_time_and_why(lab: Lab) -> None:
    task = lab.task(fail, retries=1, wait=1.5)
    lab.write(task.topic, (b"v", b"k"))
    with lab.running(task, stages="0"):
        lab.settle(task, 0)
    [moved] = lab.read(f"{task.topic}-{task.group_id}-try-1")
    headers = flux_headers(moved)
    assert headers["flux-stage"] == b"1"
    assert headers["flux-attempts"] == b"1"
    assert headers["flux-reason"] == b"error"
    assert headers["flux-failed-at"] == headers["flux-first-failed-at"]
    assert int(headers["flux-due"]) == moved.timestamp()[1] + 1500


def fail(message: flux.Message) -> None:
    raise ValueError("no")


def test_error_headers_say_no_more_than_the_task_allows(lab: Lab) -> None:
    for setting, message in (("type", None), (lambda error: "redacted", b"redacted")):
        task = lab.task(fail, retries=0, error_headers=setting)
        lab.write(task.topic, b"v")
        lab.work(task)
        [dead] = lab.dead(task)
        headers = flux_headers(dead)
        assert headers["flux-error-type"] == b"ValueError"
        assert headers.get("flux-error-message") == message
        assert "flux-error-trace" not in headers


def test_what_kcat_writes_is_worked_by_flux_process_and_its_dead_letter_is_read_by_kcat(lab: Lab) -> None:
    kcat = shutil.which("kcat")
    if kcat is None:
        missing = "NOT TESTED WITH A FOREIGN CLIENT: install kcat"
        (pytest.fail if os.environ.get("CI", "").lower() == "true" else pytest.skip)(missing)
    task = lab.task(fail)
    command = [kcat, "-b", lab.bootstrap, "-t"]
    subprocess.run(
        [*command, task.topic, "-P", "-K", ":", "-H", "a=1", "-H", "b=2", "-H", "a=3"],
        input=b"the key:the value\n",
        timeout=60,
        check=True,
    )
    process = lab.process(
        lab.load(FAILING, TOPIC=task.topic, GROUP=task.group_id), "Failing", "--exit-when-idle", "0.5"
    )
    assert process.wait(60) == 0
    read = subprocess.run(
        [*command, lab.dead_topic(task), "-C", "-e", "-q", "-J"], capture_output=True, timeout=60, check=True
    )
    [dead] = [json.loads(line) for line in read.stdout.splitlines()]
    assert (dead["key"], dead["payload"]) == ("the key", "the value")
    pairs = list(zip(dead["headers"][::2], dead["headers"][1::2], strict=True))
    assert [pair for pair in pairs if not pair[0].startswith("flux-")] == [("a", "1"), ("b", "2"), ("a", "3")]
    headers = dict(pairs)
    assert headers["flux-attempts"] == "2"
    assert headers["flux-error-message"] == "no b'the value'"


def test_what_succeeds_moves_nowhere_and_is_committed(lab: Lab) -> None:
    seen: list[bytes] = []
    task = lab.task(lambda message: seen.append(message.value), partitions=3)
    values = [b"%d" % n for n in range(3000)]
    lab.write(task.topic, *((value, value) for value in values))
    with lab.running(task) as running:
        lab.settle(task)
        wait_for(lambda: running.worker.stats()[type(task).__name__, 0].done == 3000, "all are counted")
    assert sorted(seen) == sorted(values)
    assert lab.ends(f"{task.topic}-{task.group_id}-try-1") == {0: 0, 1: 0, 2: 0}
    assert lab.dead(task) == []
