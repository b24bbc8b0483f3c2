"""Calls that fork, on real clients: the child does what it is for, and its parent's membership and producers stay the
parent's."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import flux

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")

SCRIPT = """
import logging, multiprocessing, os, signal, sys
import flux
url, source, target = sys.argv[1:4]
journal = os.open(sys.argv[4], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
parent = os.getpid()
logging.basicConfig(level="WARNING")
flux.configure(adapter=url)

class Out(flux.Producer):
    topic = target

def note(word):
    os.write(journal, f"{word} {'parent' if os.getpid() == parent else 'child'}\\n".encode())

def produce(number):
    signal.alarm(30)
    Out.produce(f"child of {number}")

def handle(message):
    number = message.value.decode()
    note(f"call {number}")
    Out.produce(f"call {number}")
    if number == "7":
        child = os.fork()
        if child == 0:
            produce(number)
            return
        note(f"status {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}")
    elif number == "13":
        child = multiprocessing.get_context("fork").Process(target=produce, args=(number,))
        child.start()
        child.join(60)
        note(f"status {child.exitcode}")

class Forking(flux.Task):
    topic, group_id, retries = source, f"{source}-forking", 0
    CALL

sys.exit(flux.Worker(Forking, create_topics=True, exit_when_idle=1).run())
"""
CALLS = {
    "a function": "def call(self, message):\n        handle(message)",
    "a coroutine": "async def call(self, message):\n        handle(message)",
}


@pytest.mark.parametrize("client", ["confluent", "aiokafka"])
@pytest.mark.parametrize("call", CALLS)
def test_children_of_calls_do_their_work_and_leave_the_worker_s_to_it(
    bootstrap: str,
    make_topic: Callable[..., str],
    read_all: Callable[..., list[Any]],
    tmp_path: Path,
    client: str,
    call: str,
) -> None:
    source, target = make_topic(), make_topic()

    class In(flux.Producer):
        topic, adapter = source, f"confluent://{bootstrap}"

    for number in range(20):
        In.produce(str(number), key=str(number))
    In.close(30)
    task_log = tmp_path / "journal"
    script = textwrap.dedent(SCRIPT).replace("CALL", CALLS[call])
    ended = subprocess.run(
        [sys.executable, "-c", script, f"{client}://{bootstrap}", source, target, str(task_log)],
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )
    assert ended.returncode == 0, ended.stderr
    notes = task_log.read_text().splitlines()
    calls = Counter(note for note in notes if note.startswith("call"))
    assert calls == {f"call {number} parent": 1 for number in range(20)}
    assert sorted(notes)[-2:] == ["status 0 parent", "status 1 parent"]
    assert ended.stderr.count("came back") == 1
    held = Counter(record.value().decode() for record in read_all(target, 22))
    expected = [*(f"call {number}" for number in range(20)), "child of 7", "child of 13"]
    assert held == dict.fromkeys(expected, 1)
