"""The checks of the stage `network` find what they are for; without Kafka."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import attrs
import pytest

from proof.network.checks import AGAIN, LINES, Measured, Produced, Reading
from proof.network.stage import offsets_partition
from proof.network.watch import reading

BEFORE = Reading(at=0.0, cpu=1.0, threads=10, descriptors=20, memory=50 * 2**20)
SOUND = Measured(
    outage=20.0,
    cpu=0.02,
    brokers=0.01,
    lines=["WARNING 127.0.0.1:9092 has not answered for 6 s"],
    back=3.0,
    before=BEFORE,
    after=attrs.evolve(BEFORE, cpu=2.0, threads=9, descriptors=23, memory=51 * 2**20),
    named=["127.0.0.1:9092"],
)
ALL = frozenset(range(10))
DELIVERED = Produced(ALL, frozenset(range(0, 10, 2)), frozenset(range(0, 10, 2)), frozenset(), ended=True)


def test_nothing_is_found_where_all_is_well() -> None:
    assert SOUND.problems() == []
    assert DELIVERED.problems(range(10)) == []
    assert attrs.evolve(SOUND, cpu=0.15, usual=0.1, is_total=False).problems() == []
    assert attrs.evolve(SOUND, cpu=0.15, slowness=2.0).problems() == []
    assert attrs.evolve(SOUND, cpu=0.65, brokers=0.6, waits_busily=True).problems() == []
    assert DELIVERED.problems([*range(10), 3]) == []  # a repeat loses nothing


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"back": None}, "does not work again"),
        ({"back": AGAIN + 1}, "does not work again"),
        ({"unharmed": True}, "the fault had no effect"),
        ({"restarted": True}, "the process has ended"),
        ({"cpu": 0.5}, "50% of a core"),
        ({"cpu": 0.15, "slowness": 0.5}, "15% of a core"),
        ({"cpu": 0.25, "slowness": 2.0}, "25% of a core"),
        ({"cpu": 0.25, "usual": 0.1, "is_total": False}, "25% of a core"),
        ({"cpu": 0.15, "usual": 0.1}, "15% of a core"),
        ({"cpu": 0.65, "brokers": 0.6}, "65% of a core"),
        ({"cpu": 0.75, "brokers": 0.6, "waits_busily": True}, "15% of a core"),
        ({"cpu": 1.25, "brokers": 1.2, "waits_busily": True}, "120% of a core in librdkafka's broker threads"),
        ({"brokers_after": 0.3}, "30% of a core in librdkafka's broker threads afterwards"),
        ({"lines": [*SOUND.lines, *["again"] * LINES]}, "21 log lines a minute"),
        ({"outage": 180.0, "lines": [*SOUND.lines, *["again"] * 3 * LINES]}, "20 log lines a minute"),
        ({"lines": ["WARNING something is unavailable"]}, "no log line names"),
        ({"lines": []}, "no log line names"),
        ({"after": attrs.evolve(BEFORE, threads=20)}, "20 threads, 10 before"),
        ({"after": attrs.evolve(BEFORE, descriptors=60)}, "60 descriptors, 20 before"),
        ({"after": attrs.evolve(BEFORE, memory=150 * 2**20)}, "150 MB, 50 MB before"),
    ],
)
def test_each_of_them_is_found(wrong: dict[str, Any], problem: str) -> None:
    [found] = attrs.evolve(SOUND, **wrong).problems()
    assert problem in found


@pytest.mark.parametrize(
    ("produced", "stored", "problem"),
    [
        (DELIVERED, [*range(4), *range(5, 10)], "acknowledged but not in the topic: [4]"),
        (DELIVERED, [*range(5), *range(6, 10)], "neither in the topic nor reported as failed: [5]"),
        (attrs.evolve(DELIVERED, acknowledged=frozenset([0, 2, 4, 6])), range(10), "without an outcome: [8]"),
        (attrs.evolve(DELIVERED, failed=frozenset([3])), range(10), "given up before their time: [3]"),
        (DELIVERED, range(11), "never produced: [10]"),
        (attrs.evolve(DELIVERED, ended=False), range(10), "did not end"),
    ],
)
def test_a_record_that_is_lost_is_found(produced: Produced, stored: Sequence[int], problem: str) -> None:
    assert any(problem in found for found in produced.problems(stored))


@contextmanager
def process(code: str) -> Iterator[int]:
    """Which says when it is ready."""
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert child.stdout is not None
    try:
        child.stdout.readline()
        yield child.pid
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def measured(pid: int, seconds: float) -> tuple[float, Reading]:
    before = reading(pid)
    time.sleep(seconds)
    after = reading(pid)
    return after.share(before), after


def test_a_thread_that_has_ended_spends_nothing() -> None:
    before = attrs.evolve(BEFORE, brokers={1: 5.0, 2: 3.0})
    assert attrs.evolve(BEFORE, at=10.0, brokers={2: 4.0, 3: 1.0}).brokers_share(before) == 0.2


def test_a_process_is_measured_from_outside() -> None:
    with process("import time; print(flush=True); time.sleep(60)") as idle:
        calm, quiet = measured(idle, 0.5)
    with process("print(flush=True)\nwhile True: pass") as busy:
        began, until = reading(busy), time.monotonic() + 30
        while reading(busy).cpu < began.cpu + 0.2:  # on a busy machine this takes a while
            assert time.monotonic() < until
            time.sleep(0.05)
    leak = """if True:
        import threading, time
        files = [open("/dev/null") for _ in range(40)]
        [threading.Thread(target=time.sleep, args=[60], daemon=True).start() for _ in range(10)]
        memory = b"x" * 2**26
        print(flush=True)
        time.sleep(60)"""
    with process(leak) as leaking:
        _, grown = measured(leaking, 0.0)
    assert attrs.evolve(SOUND, cpu=calm).problems() == []
    assert len(grown.grown(quiet)) == 3


@pytest.mark.parametrize(("group", "partition"), [("hello", 99162322 % 4), ("Hello World!", 969099747 % 4)])
def test_a_group_is_placed_as_kafka_does(group: str, partition: int) -> None:
    """ "hello".hashCode() is 99162322 in Java, "Hello World!".hashCode() -969099747."""
    assert offsets_partition(group) == partition
