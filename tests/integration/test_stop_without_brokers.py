"""A worker that is told to stop while its broker is away, or silent: it ends in time and says what is open."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition

from integration.own import Own, own_broker

# the first test of this module starts a broker, and may fetch it
pytestmark = pytest.mark.timeout(240)

PATIENCE = 3
"""The task's shutdown_timeout, in seconds."""
SLOW = 15
"""For the interpreter, on a busy machine; what hangs takes a client's timeout, which is longer."""

TASK = f"""
import os
import flux

class Quick(flux.Task):
    topic, group_id, retries, shutdown_timeout, offset_commit_interval = TOPIC, TOPIC + "-g", 1, {PATIENCE}, OFTEN

    CALL call(self, message):
        os.write(1, b"called\\n")  # in one piece, from any thread
        BODY
"""


@pytest.fixture(scope="module")
def own() -> Iterator[Own]:
    with own_broker() as made:
        yield made


@pytest.fixture
def silent(own: Own) -> Iterator[Callable[[], None]]:
    """`silent()`: the broker answers nobody, and its connections stay; until the test ends."""
    process = own.node._process
    assert process is not None
    yield lambda: os.kill(process.pid, signal.SIGSTOP)
    os.kill(process.pid, signal.SIGCONT)


def working(
    own: Own, directory: Path, client: str, call: str, often: float, body: str = "", records: int = 5, topic: str = ""
) -> subprocess.Popen[str]:
    """A worker that has begun five of its records. `body`: what a call does."""
    topic = topic or own.name()
    file = directory / "quick.py"
    source = TASK.replace("TOPIC", repr(topic)).replace("CALL", call).replace("OFTEN", str(often)).replace("BODY", body)
    file.write_text(source)
    own.make(topic)
    own.write(topic, *((b"%d" % number, b"%d" % number) for number in range(records)))
    arguments = ["process", "--load", str(file), "--adapter", f"{client}://{own.bootstrap}", "--create-topics", "Quick"]
    process = subprocess.Popen(
        [sys.executable, "-m", "flux.cli.main", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    called = [process.stdout.readline() for _ in range(5)]
    if called != ["called\n"] * 5:
        process.kill()
        pytest.fail(f"it was called {called}: {process.communicate()[1]}")
    return process


def wait_for_commit(own: Own, topic: str) -> None:
    """Of five records."""
    until = time.monotonic() + 60
    consumer = Consumer({"bootstrap.servers": own.bootstrap, "group.id": f"{topic}-g"})
    while consumer.committed([TopicPartition(topic, 0)], 30)[0].offset != 5:
        assert time.monotonic() < until
        time.sleep(0.05)
    consumer.close()


def told_to_stop(process: subprocess.Popen[str]) -> tuple[float, int, str]:
    """Seconds that it took, exit code, log."""
    process.send_signal(signal.SIGTERM)
    sent = time.monotonic()
    try:
        _, log = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        pytest.fail(f"it does not end: {process.communicate()[1]}")
    return time.monotonic() - sent, process.returncode, log


@pytest.mark.parametrize("call", ["def", "async def"])
@pytest.mark.parametrize("client", ["confluent", "aiokafka"])
def test_what_was_done_and_cannot_be_committed_is_named_in_time(
    own: Own, silent: Callable[[], None], tmp_path: Path, client: str, call: str
) -> None:
    process = working(own, tmp_path, client, call, often=3600)
    silent()
    seconds, code, log = told_to_stop(process)
    assert code == 3, log
    assert "[0] up to 5" in log
    assert seconds < PATIENCE + 5 + SLOW, log


@pytest.mark.parametrize("client", ["confluent", "aiokafka"])
def test_with_nothing_open_it_ends_soon(own: Own, silent: Callable[[], None], tmp_path: Path, client: str) -> None:
    topic = own.name()
    process = working(own, tmp_path, client, "def", often=0.1, topic=topic)
    wait_for_commit(own, topic)
    time.sleep(0.5)  # its answer arrives
    silent()
    seconds, code, log = told_to_stop(process)
    assert code == 0, log
    assert seconds < 5 + SLOW, log


@pytest.mark.parametrize("client", ["confluent", "aiokafka"])
def test_a_commit_under_way_as_the_broker_falls_silent_is_named_in_time(
    own: Own, silent: Callable[[], None], tmp_path: Path, client: str
) -> None:
    process = working(own, tmp_path, client, "def", 0.001, "__import__('time').sleep(0.05)", records=3000)
    silent()
    time.sleep(0.2)  # a commit begins
    seconds, code, log = told_to_stop(process)
    assert code == 3, log
    assert "not committed" in log
    assert seconds < PATIENCE + 5 + SLOW, log


@pytest.mark.parametrize("client", ["confluent", "aiokafka"])
def test_copies_that_cannot_be_written_are_named_in_time(
    own: Own, silent: Callable[[], None], tmp_path: Path, client: str
) -> None:
    """Their calls fail when the broker is silent already."""
    flag = tmp_path / "silent"
    body = f"while not __import__('os').path.exists({str(flag)!r}): __import__('time').sleep(0.01)\n        1 / 0"
    process = working(own, tmp_path, client, "def", 0.1, body)
    silent()
    flag.touch()
    time.sleep(0.5)
    seconds, code, log = told_to_stop(process)
    assert code == 3, log
    assert "not committed, because their forwarded copies were not written" in log
    assert seconds < PATIENCE + 5 + SLOW, log
