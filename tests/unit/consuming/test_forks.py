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
        signal.alarm(60)
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
        timeout=100,
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


HOOKS = {
    "on_start": "def on_start(self, where, message):\n        fork_once()",
    "on_success": "def on_success(self, where, message, seconds):\n        fork_once()",
    "on_failure": "def on_failure(self, where, message, error, seconds):\n        fork_once()",
    "on_calls": "def on_calls(self, where, *given):\n        fork_once()",
    "on_retry": "def on_retry(self, where, *given):\n        fork_once()",
    "on_commit": "def on_commit(self, where, *given):\n        fork_once()",
    "on_revoked": "def on_revoked(self, where, *given):\n        fork_once()",
    "around, before": (
        "@contextlib.contextmanager\n    def around(self, where, message):\n        fork_once()\n        yield"
    ),
    "around, after": (
        "@contextlib.contextmanager\n    def around(self, where, message):\n        yield\n        fork_once()"
    ),
}


@pytest.mark.parametrize("call", ["def call(self, message):", "async def call(self, message):"])
@pytest.mark.parametrize("hook", HOOKS)
def test_a_child_does_nothing_more_when_it_comes_back_from_a_hook(tmp_path: Path, hook: str, call: str) -> None:
    ended = run(
        tmp_path,
        f"""
        import contextlib
        forks = []

        def fork_once():
            if not forks:
                forks.append(1)
                forked()

        class Hook(flux.Hooks):
            {HOOKS[hook].replace(chr(10), chr(10) + " " * 8)}

        class Later(flux.Hooks):
            def on_start(self, where, message):
                note("later hook")
            def on_failure(self, where, message, error, seconds):
                note("later hook")
            def on_success(self, where, message, seconds):
                note("later hook")
            def on_revoked(self, where, partitions):
                note("later hook")

        class Calling(Numbered):
            hooks = [Hook(), Later()]
            {call}
                note("call")
                if message.value == b"3" and message.stage == 0:
                    raise ValueError("a retry")

        work(Calling)
        """,
    )
    assert ended.of("child") == []
    assert "status 1" in ended.of("parent")
    assert ended.of("parent").count("call") == 21
    assert ended.of("parent")[-1] == "ended 0"
    assert ended.errors.count("came back") == 1


@pytest.mark.parametrize("hook", ["on_success", "on_failure"])
def test_a_child_that_comes_back_from_a_call_reaches_no_hook(tmp_path: Path, hook: str) -> None:
    ended = run(
        tmp_path,
        f"""
        class Hook(flux.Hooks):
            def {hook}(self, where, message, *given):
                note("hook")

        class Calling(Numbered):
            hooks = [Hook()]
            def call(self, message):
                if message.value == b"3" and forked() and {hook == "on_failure"}:
                    raise ValueError

        work(Calling)
        """,
    )
    assert ended.of("child") == []
    assert "status 1" in ended.of("parent")


AROUND = {
    "middleware before the call": """
def own(message, call_next):
    fork_at_3(message)
    return call_next(message)
Calling.middleware = [own, other]
""",
    "middleware after the call": """
def own(message, call_next):
    result = call_next(message)
    fork_at_3(message)
    return result
Calling.middleware = [other, own]
""",
    "a coroutine, before the call": """
async def own(message, call_next):
    fork_at_3(message)
    return await call_next(message)
Calling.middleware = [own, aother]
Calling.call = Calling.acall
""",
    "a coroutine, after the call": """
async def own(message, call_next):
    result = await call_next(message)
    fork_at_3(message)
    return result
Calling.middleware = [aother, own]
Calling.call = Calling.acall
""",
    "the call within a middleware": """
Calling.middleware = [other]
Calling.call = lambda self, message: fork_at_3(message)
""",
    "the deserializer": """
def deserializer(value):
    if value == b"3":
        forked()
    return value
Calling.deserializer = staticmethod(deserializer)
""",
}


@pytest.mark.parametrize("where", AROUND)
def test_a_child_makes_no_call_when_it_comes_back_from_what_surrounds_one(tmp_path: Path, where: str) -> None:
    ended = run(
        tmp_path,
        """
        def fork_at_3(message):
            if message.value == b"3":
                forked()

        def other(message, call_next):
            if message.value == b"3":
                note("began")
            result = call_next(message)
            if message.value == b"3":
                note("ended other")
            return result

        async def aother(message, call_next):
            if message.value == b"3":
                note("began")
            result = await call_next(message)
            if message.value == b"3":
                note("ended other")
            return result

        class Calling(Numbered):
            def call(self, message):
                note("call")
            async def acall(self, message):
                note("call")
        """
        + textwrap.indent(AROUND[where] + "work(Calling)\n", " " * 8),
    )
    assert ended.of("child") == []
    assert "status 1" in ended.of("parent")
    assert ended.of("parent")[-1] == "ended 0"
    assert ended.errors.count("came back") == 1


def test_a_child_that_comes_back_from_a_redaction_function_serves_no_page(tmp_path: Path) -> None:
    ended = run(
        tmp_path,
        """
        from flux.web.redaction import Redaction
        Redaction("Task", lambda part: forked() or None).value(b"x")
        note("shown")
        """,
    )
    assert ended.of("child") == []
    assert ended.of("parent") == ["status 1", "shown"]


@pytest.mark.parametrize("where", ["on_error", "a callback of a delivery"])
def test_a_child_that_comes_back_from_a_producer_s_callback_serves_no_acknowledgements(
    tmp_path: Path, where: str
) -> None:
    ended = run(
        tmp_path,
        f"""
        adapter = flux.adapter_from_url("memory://producing")
        flux.configure(adapter=adapter)
        done = threading.Event()

        def fork_once(*given):
            forked()
            done.set()

        class Own(flux.Producer):
            topic = "own"
            options = flux.ProducerOptions(flush_interval=0.01)

        if {where == "on_error"}:
            Own.on_error = staticmethod(fork_once)
            adapter.broker.fail_writes(lambda *given: flux.BrokerError("refused"))
            Own.produce("x")
        else:
            from flux.adapters.memory.producer import MemoryProducer
            write, added = MemoryProducer.write, threading.Event()
            def write_later(self, topic, records, acknowledged):
                def client():
                    added.wait(60)
                    write(self, topic, records, acknowledged)
                threading.Thread(target=client).start()
                return len(records)
            MemoryProducer.write = write_later
            Own.send("x").add_done_callback(fork_once)
            added.set()
        assert done.wait(60)
        note("went on")
        """,
    )
    assert ended.of("child") == []
    assert ended.of("parent") == ["status 1", "went on"]
    assert ended.errors.count("came back") == 1


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
                child.join(60)
                until = time.monotonic() + 60
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
                    child.join(60)

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
