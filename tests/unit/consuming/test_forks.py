"""A child that is forked in a worker's process does what it is for, and never goes on as the worker."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")

PRELUDE = """
import asyncio, logging, multiprocessing, os, signal, sys, threading, time
import flux
JOURNAL = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
PARENT = os.getpid()
logging.basicConfig(level="WARNING")
fork = multiprocessing.get_context("fork")

def note(word):
    os.write(JOURNAL, f"{word} {'parent' if os.getpid() == PARENT else 'child'}\\n".encode())

def forked():
    child = os.fork()
    if child:
        note(f"status {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}")
    else:
        signal.alarm(20)
    return child == 0

flux.configure(adapter="memory://forks")

class Numbers(flux.Producer):
    topic = "numbers"

class Numbered(flux.Task):
    topic, group_id, retries, wait = "numbers", "group", 1, 0

class Watched(flux.Hooks):
    def on_commit(self, where, offsets, error):
        note("commit")

flux.configure(hooks=[Watched()])

def work(task):
    for number in range(20):
        Numbers.produce(str(number), key=str(number))
    Numbers.flush()
    code = flux.Worker(task, create_topics=True, exit_when_idle=0.2).run()
    note(f"ended {code}")
"""


class Ended:
    def __init__(self, task_log: Path, code: int, errors: str) -> None:
        self.code = code
        self.errors = errors
        self.notes = task_log.read_text().splitlines()

    def of(self, who: str) -> list[str]:
        return [note.removesuffix(f" {who}") for note in self.notes if note.endswith(f" {who}")]


def run(directory: Path, script: str) -> Ended:
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(script), str(directory / "journal")],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return Ended(directory / "journal", done.returncode, done.stderr)


CALLS = {
    "a function": "def call(self, message):\n        work_one(message)",
    "a coroutine": "async def call(self, message):\n        work_one(message)",
    "a coroutine that waits": (
        "async def call(self, message):\n"
        "        await asyncio.sleep(0.001)\n        work_one(message)\n        await asyncio.sleep(0.05)"
    ),
}
ENDS = {"return": "return", "raise": 'raise ValueError("of the child")', "sys.exit": "sys.exit(5)"}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("call", CALLS)
def test_a_child_that_comes_back_from_a_call_ends_there(tmp_path: Path, call: str, end: str) -> None:
    ended = run(
        tmp_path,
        f"""
        def work_one(message):
            note(f"call {{message.value.decode()}}")
            if message.value == b"7" and forked():
                {ENDS[end]}

        class Forking(Numbered):
            {CALLS[call].replace(chr(10), chr(10) + " " * 8)}

        work(Forking)
        """,
    )
    assert ended.of("child") == [], "no call, no commit, no end of a worker"
    calls = [note for note in ended.of("parent") if note.startswith("call")]
    assert sorted(calls) == sorted(f"call {number}" for number in range(20))
    assert f"status {5 if end == 'sys.exit' else 1}" in ended.of("parent")
    assert ended.of("parent")[-1] == "ended 0"
    assert ended.code == 0
    assert ended.errors.count("came back") == 1
    assert "os._exit" in ended.errors


def test_a_child_that_comes_back_from_a_batch_call_ends_there(tmp_path: Path) -> None:
    ended = run(
        tmp_path,
        """
        class Forking(flux.BatchTask):
            topic, group_id, retries, wait, max_wait = "numbers", "group", 1, 0, 0.05
            def call(self, messages):
                note(f"called {len(messages)}")
                forked()

        work(Forking)
        """,
    )
    assert ended.of("child") == []
    assert "status 1" in ended.of("parent")
    assert ended.of("parent")[-1] == "ended 0"


@pytest.mark.parametrize("where", ["setup", "close"])
@pytest.mark.parametrize("call", ["def call(self, message): pass", "async def call(self, message): pass"])
def test_a_child_that_comes_back_from_setup_or_close_ends_there(tmp_path: Path, where: str, call: str) -> None:
    ended = run(
        tmp_path,
        f"""
        class Forking(Numbered):
            {call}
            def {where}(self):
                forked()

        work(Forking)
        """,
    )
    assert ended.of("child") == []
    assert "status 1" in ended.of("parent")
    assert ended.of("parent")[-1] == "ended 0"
    assert ended.errors.count("came back") == 1


def test_a_child_that_comes_back_from_a_hook_ends_there(tmp_path: Path) -> None:
    ended = run(
        tmp_path,
        """
        class Calling(Numbered):
            hooks = []
            def call(self, message):
                pass

        class Hook(flux.Hooks):
            def on_assigned(self, where, partitions):
                forked()

        Calling.hooks = [Hook()]
        work(Calling)
        """,
    )
    assert ended.of("child") == []
    assert "status 1" in ended.of("parent")
    assert ended.of("parent")[-1] == "ended 0"


@pytest.mark.parametrize("call", ["def call(self, message):", "async def call(self, message):"])
def test_a_process_of_multiprocessing_works_in_a_call_with_a_producer_of_its_own(tmp_path: Path, call: str) -> None:
    """With the calls of others in flight, whose locks the child inherits as they are."""
    ended = run(
        tmp_path,
        f"""
        class Own(flux.Producer):
            topic = "own"

        def target(number):
            Own.adapter = f"memory://of-{{os.getpid()}}"  # a cluster in memory is its process's
            Own.produce(f"of {{number}}")
            Own.flush(10)
            note(f"delivered {{number}}")
            if number == "3":
                sys.exit(3)
            if number == "4":
                time.sleep(60)

        class Forking(Numbered):
            concurrency = 4
            {call}
                Own.produce("parent's")
                number = message.value.decode()
                child = fork.Process(target=target, args=(number,))
                child.start()
                if number == "4":
                    time.sleep(0.2)
                    child.terminate()
                child.join(20)
                until = time.monotonic() + 5
                while child.exitcode is None and time.monotonic() < until:
                    time.sleep(0.01)  # another thread's `start` has waited for it, and is about to note its code
                note(f"code {{child.exitcode}}")

        work(Forking)
        """,
    )
    parent = ended.of("parent")
    assert sorted(note for note in ended.of("child") if note != "delivered 4") == sorted(
        f"delivered {number}" for number in range(20) if number != 4
    )
    assert parent.count("code 0") == 18
    assert parent.count("code 3") == 1
    assert parent.count("code -15") == 1, "SIGTERM ends it, whatever its parent does with one"
    assert parent[-1] == "ended 0"
    assert "came back" not in ended.errors


def test_a_worker_may_run_in_a_child(tmp_path: Path) -> None:
    ended = run(
        tmp_path,
        """
        class Inner(flux.Task):
            topic, group_id, retries = "inner", "group", 0
            adapter = "memory://of-the-child"
            def call(self, message):
                note("inner call")

        class Inners(flux.Producer):
            topic, adapter = "inner", "memory://of-the-child"

        def target():
            Inners.produce("x")
            Inners.flush()
            code = flux.Worker(Inner, create_topics=True, exit_when_idle=0.1).run()
            note(f"inner ended {code}")

        class Forking(Numbered):
            def call(self, message):
                if message.value == b"0":
                    child = fork.Process(target=target)
                    child.start()
                    child.join(20)

        work(Forking)
        """,
    )
    assert [note for note in ended.of("child") if note != "commit"] == ["inner call", "inner ended 0"]
    assert ended.of("parent")[-1] == "ended 0"


def test_what_a_child_has_produced_is_delivered_when_it_comes_back(tmp_path: Path) -> None:
    ended = run(
        tmp_path,
        """
        class Own(flux.Producer):
            topic = "own"

        class Forking(Numbered):
            def call(self, message):
                if message.value == b"7" and forked():
                    Own.on_error = staticmethod(lambda error: note("never"))
                    Own.adapter = "memory://of-the-child"
                    Own.options = flux.ProducerOptions(flush_interval=3600)
                    Own.produce("x")
                    from flux.adapters.memory.producer import MemoryProducer
                    write = MemoryProducer.write
                    def told(self, topic, records, acknowledged):
                        note(f"wrote {topic}")
                        return write(self, topic, records, acknowledged)
                    MemoryProducer.write = told

        work(Forking)
        """,
    )
    assert ended.of("child") == ["wrote own"]
    assert "status 1" in ended.of("parent")
