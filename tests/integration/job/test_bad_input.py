"""Whatever stands in a record: nothing crashes, nothing is held up for ever, nothing is lost."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections import Counter

import pytest

import flux
from integration.job.support import Lab, flux_headers, own

FAR = int(time.time() * 1000) + 8000 * 365 * 86_400_000
"""Milliseconds since the epoch, about the year 9999."""

GARBAGE: list[tuple[str, bytes | None]] = [
    ("flux-stage", b"-1"),
    ("flux-attempts", b"99999999999999999999"),
    ("flux-due", str(FAR).encode()),
    ("flux-group", b"\xff\xfe"),
    ("flux-origin-topic", b"../../etc"),
    ("flux-origin-partition", b"-7"),
    ("flux-origin-offset", b"1e9"),
    ("flux-origin-timestamp", b"yesterday"),
    ("flux-first-failed-at", b""),
    ("flux-failed-at", None),
    ("flux-reason", b"rejected"),
    ("flux-error-type", b"x" * 1000),
    ("flux-error-message", b"\x00"),
    ("flux-error-trace", b"\xff"),
    ("flux-replays", b"-1"),
    ("flux-unheard-of", b"1"),
]
PLAUSIBLE: list[tuple[str, bytes | None]] = [
    ("flux-stage", b"3"),
    ("flux-attempts", b"4"),
    ("flux-due", b"1"),
    ("flux-origin-topic", b"another"),
    ("flux-origin-partition", b"0"),
    ("flux-origin-offset", b"77"),
    ("flux-origin-timestamp", b"5"),
    ("flux-first-failed-at", b"6"),
    ("flux-replays", b"2"),
]


def failing(message: flux.Message) -> None:
    raise ValueError("no")


def test_any_key_and_any_value_come_through_all_stages_as_they_are(lab: Lab) -> None:
    seen: list[tuple[bytes | None, bytes | None]] = []

    def call(message: flux.Message) -> None:
        seen.append((message.key, message.value))
        raise ValueError

    task = lab.task(call, topics=False)
    lab.make_topic(1, task.topic)
    for stage in list(task.policy().stages)[1:]:
        lab.make_topic(1, stage.topic, max_message_bytes=1_048_588 + 64 * 1024)
    values = [None, b"", b"\x00\xff", b"x" * 1_000_000]
    expected = Counter((key, value) for key in (None, b"", b"k") for value in values)
    lab.write(task.topic, *((value, key) for key, value in expected))
    lab.work(task)
    assert Counter(seen) == expected + expected
    assert Counter((m.key(), m.value()) for m in lab.dead(task)) == expected


def test_header_values_that_are_no_text_and_repeated_names_come_through(lab: Lab) -> None:
    headers = [("a", b"\xff\xfe"), ("a", b"\xff\xfe"), ("é", b""), ("", b"no name"), ("n", None), ("a", b"1")]
    seen: list[list[tuple[str, bytes | None]]] = []

    def call(message: flux.Message) -> None:
        seen.append([pair for pair in message.headers if not pair[0].startswith("flux-")])
        raise ValueError

    task = lab.task(call)
    lab.write(task.topic, (b"v", b"k", headers))
    lab.work(task)
    assert seen == [headers, headers]
    [dead] = lab.dead(task)
    assert own(dead) == headers


def test_a_header_name_that_is_no_text_harms_neither_its_record_nor_others(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    kcat = shutil.which("kcat")
    if kcat is None:
        missing = "NOT TESTED WITH HEADER NAMES THAT ARE NO TEXT: install kcat"
        (pytest.fail if os.environ.get("CI", "").lower() == "true" else pytest.skip)(missing)
    seen: list[tuple[bytes, int]] = []

    def call(message: flux.Message) -> None:
        seen.append((message.value, message.stage))
        if message.value == b"bad name":
            assert list(message.headers) == [] or message.stage
        raise ValueError

    task = lab.task(call)
    # so many, because the interpreter calls what it has often called in another way
    lab.write(task.topic, *((b"before", None, [("a", b"1")]) for _ in range(100)))
    for topic, value in ((task.topic, b"bad name"), (f"{task.topic}-{task.group_id}-try-1", b"bad name in retry")):
        command = [kcat.encode(), b"-b", lab.bootstrap.encode(), b"-t", topic.encode(), b"-P", b"-H", b"\xff\xfe=1"]
        subprocess.run(command, input=value, timeout=60, check=True)
    lab.write(task.topic, b"after")
    lab.work(task)
    main = [b"before"] * 100 + [b"bad name", b"after"]
    assert Counter(seen) == Counter(
        [*((value, stage) for value in main for stage in (0, 1)), (b"bad name in retry", 1)]
    )
    assert Counter(m.value() for m in lab.dead(task)) == Counter([*main, b"bad name in retry"])
    told = [r.getMessage() for r in caplog.records if "headers cannot be read" in r.getMessage()]
    assert len(told) >= 1


@pytest.mark.parametrize("forged", [GARBAGE, PLAUSIBLE], ids=["garbage", "plausible"])
def test_flux_headers_on_the_main_topic_mean_nothing_and_are_dropped_at_the_first_forward(
    lab: Lab, forged: list[tuple[str, bytes | None]]
) -> None:
    seen: list[tuple[int, int, str]] = []

    def call(message: flux.Message) -> None:
        seen.append((message.stage, message.attempt, message.id))
        raise ValueError("no")

    task = lab.task(call, wait=0.3)
    started = int(time.time() * 1000)
    lab.write(task.topic, (b"v", b"k", [("a", b"1"), *forged, *forged, ("b", b"2")]))
    lab.work(task)
    origin = f"{task.topic}/0/0"
    assert seen == [(0, 1, origin), (1, 2, origin)]
    [dead] = lab.dead(task)
    assert own(dead) == [("a", b"1"), ("b", b"2")]
    headers = flux_headers(dead)
    assert headers["flux-attempts"] == b"2"
    assert headers["flux-origin-topic"] == task.topic.encode()
    assert int(headers["flux-first-failed-at"]) >= started
    assert int(headers["flux-origin-timestamp"]) >= started - 1000
    assert "flux-replays" not in headers
    assert "flux-unheard-of" not in headers


def test_garbage_in_a_retry_topic_is_told_once_and_holds_nobody_up(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[tuple[bytes, int, int]] = []

    def call(message: flux.Message) -> None:
        seen.append((message.value, message.stage, message.attempt))
        if message.value.startswith(b"bad"):
            raise ValueError

    task = lab.task(call, retries=2, wait=0.3)
    retry = f"{task.topic}-{task.group_id}-try-1"
    lab.write(
        retry,
        (b"bad 1", b"k", GARBAGE),
        (b"bad 2", b"k", GARBAGE),
        (b"text", b"k", [("flux-due", b"soon")]),
        (b"negative", b"k", [("flux-due", b"-5")]),
        (b"none", b"k", [("flux-due", None)]),
        (b"far", b"k", [("flux-due", str(FAR).encode())]),
        (b"ruby", b"k"),
    )
    lab.work(task)
    firsts = [value for value, stage, _ in seen if stage == 1]
    assert firsts == [b"bad 1", b"bad 2", b"text", b"negative", b"none", b"far", b"ruby"]
    assert Counter(m.value() for m in lab.dead(task)) == Counter([b"bad 1", b"bad 2"])
    for message in lab.dead(task):
        headers = flux_headers(message)
        assert headers["flux-attempts"] == b"3"
        assert headers["flux-origin-topic"] == f"{task.topic}-{task.group_id}-try-1".encode()
        assert headers["flux-reason"] == b"exhausted"
    for name in ("flux-due", "flux-attempts", "flux-origin-offset"):
        told = [r.getMessage() for r in caplog.records if f"header {name} is invalid" in r.getMessage()]
        assert len(told) == 1, told


@pytest.mark.timed
def test_a_due_time_within_max_delay_is_honoured_even_from_a_stranger(lab: Lab) -> None:
    seen: list[float] = []
    task = lab.task(lambda message: seen.append(time.time()), wait=0.1)
    due = time.time() + 4.0  # later than a busy machine needs to start the worker
    retry = f"{task.topic}-{task.group_id}-try-1"
    lab.write(retry, (b"v", None, [("flux-due", str(int(due * 1000)).encode())]))
    lab.work(task)
    [at] = seen
    assert due - 0.001 <= at < due + 0.4


@pytest.mark.timed
def test_records_of_the_ruby_library_wait_from_their_timestamp(lab: Lab) -> None:
    seen: list[tuple[bytes, int, int, float]] = []
    task = lab.task(
        lambda message: seen.append((message.value, message.stage, message.attempt, time.time())), retries=2, wait=1.0
    )
    written = time.time()
    lab.write(f"{task.topic}-{task.group_id}-try-2", b"v")
    lab.work(task)
    [(value, stage, attempt, at)] = seen
    assert (value, stage, attempt) == (b"v", 2, 3)
    assert written + 0.99 <= at < written + 1.5


@pytest.mark.parametrize("kind", ["CreateTime", "LogAppendTime"])
def test_times_that_cannot_be_right_make_a_record_wait_from_when_it_was_seen(lab: Lab, kind: str) -> None:
    """A producer may write any time: in the future as far as the broker lets it, or long ago."""
    seen: list[tuple[bytes, float]] = []
    task = lab.task(lambda message: seen.append((message.value, time.time())), wait=0.8, topics=False)
    for stage in task.policy().stages:
        lab.make_topic(1, stage.topic, message_timestamp_type=kind)
    retry = f"{task.topic}-{task.group_id}-try-1"
    now = int(time.time() * 1000)
    lab.write_at(retry, now + 3_000_000, b"ahead")
    lab.write_at(retry, 1, b"long ago")
    started = time.time()
    with lab.running(task):
        lab.settle(task)
    times = dict(seen)
    assert times.keys() == {b"ahead", b"long ago"}
    assert started + 0.4 < times[b"ahead"] < started + 4
    if kind == "CreateTime":
        assert times[b"long ago"] < started + 0.7 or times[b"long ago"] < times[b"ahead"]
    else:
        assert times[b"long ago"] >= started + 0.4
    assert lab.dead(task) == []


@pytest.mark.timed
def test_append_times_keep_waits_and_origins(lab: Lab) -> None:
    seen: list[float] = []

    def call(message: flux.Message) -> None:
        seen.append(time.time())
        raise ValueError

    task = lab.task(call, wait=2, topics=False)
    for stage in task.policy().stages:
        lab.make_topic(1, stage.topic, message_timestamp_type="LogAppendTime")
    lab.write(task.topic, b"v")
    lab.work(task)
    first, second = seen
    assert 1.999 <= second - first < 4  # it does not wait twice
    [dead], [origin] = lab.dead(task), lab.read(task.topic)
    assert origin.timestamp()[0] == 2
    assert flux_headers(dead)["flux-origin-timestamp"] == str(origin.timestamp()[1]).encode()


def test_headers_do_not_pile_up_from_stage_to_stage(lab: Lab) -> None:
    task = lab.task(failing, retries=5, wait=0.05)
    lab.write(task.topic, (b"v", b"k", [("a", b"1")]))
    lab.work(task)
    counts = []
    for stage in list(task.policy().stages)[1:]:
        [moved] = lab.read(stage.topic)
        assert own(moved) == [("a", b"1")]
        counts.append(len(flux_headers(moved)))
    assert counts == [14] * 5 + [13]  # dead letters have no due time
