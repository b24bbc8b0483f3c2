"""SIGTERM of a program that only produces, in real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

import flux
from flux.core.errors import ConfigurationError

pytestmark = pytest.mark.skipif(os.name != "posix", reason="there is no SIGTERM here")

PRELUDE = """
import asyncio, logging, os, signal, sys, threading, time
import flux
from flux.adapters.memory import MemoryAdapter
from flux.adapters.memory.producer import MemoryProducer
JOURNAL = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
logging.basicConfig(level="WARNING")

def note(word):
    os.write(JOURNAL, f"{word}\\n".encode())

write = MemoryProducer.write
def noted(self, topic, records, acknowledged):
    def told(error, record):
        note(f"written {record.value().decode()}" if error is None else f"refused {record.value().decode()}")
        acknowledged(error, record)
    return write(self, topic, records, told)
MemoryProducer.write = noted

adapter = MemoryAdapter("terminated")

class P(flux.Producer):
    topic = "awesome"
    options = flux.ProducerOptions(flush_interval=3600, max_buffer_size=7, delivery_timeout=DELIVERY)

P.adapter = adapter

def produce(value):
    P.produce(value)
    note(f"taken {value}")

def wait():
    note("up")
    while True:
        time.sleep(0.05)
"""


class Child:
    def __init__(self, directory: Path, script: str, delivery: float = 30.0) -> None:
        self._task_log = directory / f"journal-{len(list(directory.iterdir()))}"
        prelude = PRELUDE.replace("DELIVERY", str(delivery))
        self.process = subprocess.Popen(
            [sys.executable, "-c", prelude + textwrap.dedent(script), str(self._task_log)],
            stderr=subprocess.PIPE,
            text=True,
        )

    def noted(self, word: str) -> list[str]:
        lines = self._task_log.read_text().splitlines() if self._task_log.exists() else []
        return [line.removeprefix(word).strip() for line in lines if line.startswith(word)]

    def until(self, word: str) -> None:
        until = time.monotonic() + 60
        while not self.noted(word):
            assert time.monotonic() < until
            assert self.process.poll() is None, self.process.communicate()[1]
            time.sleep(0.005)

    def told(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """Waits until it is up, sends the signal; exit code and stderr."""
        self.until("up")
        self.process.send_signal(number)
        try:
            _, errors = self.process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        return self.process.returncode, errors


def test_what_is_buffered_is_delivered_and_the_process_ends_by_the_signal(tmp_path: Path) -> None:
    child = Child(
        tmp_path,
        """
        for number in range(5):
            produce(str(number))
        wait()
        """,
    )
    assert child.told() == (-signal.SIGTERM, "")
    assert child.noted("written") == list("01234")


@pytest.mark.parametrize("threads", [0, 2])
def test_in_the_middle_of_producing_what_was_taken_is_delivered(tmp_path: Path, threads: int) -> None:
    """Whichever lock the main thread holds when the signal comes."""
    for _ in range(6):
        child = Child(
            tmp_path,
            f"""
            def work(name):
                number = 0
                while True:
                    produce(f"{{name}}{{number}}")
                    number += 1
            sys.setswitchinterval(1e-5)
            produce("first")
            for name in "ab"[:{threads}]:
                threading.Thread(target=work, args=(name,), daemon=True).start()
            note("up")
            work("main")
            """,
        )
        code, errors = child.told()
        assert (code, errors) == (-signal.SIGTERM, "")
        assert set(child.noted("taken")) <= set(child.noted("written"))
        assert len(child.noted("written")) == len(set(child.noted("written")))


def test_with_the_cluster_away_it_ends_in_time_and_names_what_is_lost(tmp_path: Path) -> None:
    child = Child(
        tmp_path,
        """
        produce("there")
        adapter.broker.available = False
        for number in range(20):
            produce(str(number))
        wait()
        """,
        delivery=1,
    )
    code, errors = child.told()
    assert code == -signal.SIGTERM
    assert "not delivered: <record for awesome" in errors
    assert {*child.noted("written"), *child.noted("refused")} == set(child.noted("taken"))


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    child = Child(
        tmp_path,
        """
        import flux.processes.sigterm as termination
        termination.LIMIT = 3600
        adapter.broker.available = False
        produce("lost")
        note("ready")
        while signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
            time.sleep(0.01)
        wait()
        """,
        delivery=3600,
    )
    child.until("ready")
    child.process.send_signal(signal.SIGTERM)
    assert child.told()[0] == -signal.SIGTERM


def test_the_limit_holds_whatever_the_delivery_timeout_is(tmp_path: Path) -> None:
    child = Child(
        tmp_path,
        """
        import flux.processes.sigterm as termination
        termination.LIMIT = 0.5
        adapter.broker.available = False
        produce("lost")
        wait()
        """,
        delivery=3600,
    )
    code, errors = child.told()
    assert code == -signal.SIGTERM
    assert "1 record(s) not delivered: <record for awesome" in errors


def test_a_client_that_hangs_does_not_keep_the_process(tmp_path: Path) -> None:
    child = Child(
        tmp_path,
        """
        import flux.processes.sigterm as termination
        termination.LIMIT, termination._GRACE = 0.2, 0.3
        produce("lost")
        MemoryProducer.write = lambda *_: threading.Event().wait()
        wait()
        """,
    )
    code, errors = child.told()
    assert code == -signal.SIGTERM
    assert "flux: SIGTERM: what was buffered was not delivered" in errors


OTHERS = {
    "a handler of the program's": 'signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\nproduce("x")\nwait()',
    "one that is set later": 'produce("x")\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\nwait()',
    "one of a loop": (
        "async def main():\n"
        '    produce("x")\n'
        "    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: task.cancel())\n"
        "    task = asyncio.current_task()\n"
        '    note("up")\n'
        "    await asyncio.sleep(60)\n"
        "try:\n    asyncio.run(main())\nexcept asyncio.CancelledError:\n    sys.exit(7)"
    ),
    "a worker's": (
        "class T(flux.Task):\n"
        '    topic, group_id = "awesome", "g"\n'
        "    def setup(self):\n"
        '        note("up")\n'
        "    def call(self, message):\n        pass\n"
        "T.adapter = adapter\n"
        'produce("x")\n'
        "sys.exit(7 + flux.Worker(T, create_topics=True).run())"
    ),
}


@pytest.mark.parametrize("whose", OTHERS)
def test_whoever_else_handles_the_signal_does(tmp_path: Path, whose: str) -> None:
    child = Child(tmp_path, OTHERS[whose])
    assert child.told()[0] == 7
    assert child.noted("written") == ["x"]


def test_after_a_worker_has_run_it_is_as_before(tmp_path: Path) -> None:
    child = Child(
        tmp_path,
        """
        class T(flux.Task):
            topic, group_id = "awesome", "g"
            def call(self, message):
                pass
        T.adapter = adapter
        produce("x")
        flux.Worker(T, create_topics=True, exit_when_idle=0).run()
        produce("y")
        wait()
        """,
    )
    assert child.told()[0] == -signal.SIGTERM
    assert child.noted("written") == ["x", "y"]


@pytest.mark.parametrize(
    ("before", "after"),
    [("flux.configure(flush_on_sigterm=False)", ""), ("", "flux.configure(flush_on_sigterm=False)")],
)
def test_it_can_be_turned_off(tmp_path: Path, before: str, after: str) -> None:
    child = Child(tmp_path, f'{before}\nproduce("x")\n{after}\nwait()')
    assert child.told()[0] == -signal.SIGTERM
    assert child.noted("written") == []


def test_a_producer_of_another_thread_sets_no_handler_and_one_of_the_main_thread_later_does(tmp_path: Path) -> None:
    child = Child(
        tmp_path,
        """
        thread = threading.Thread(target=produce, args=("x",))
        thread.start()
        thread.join()
        note(f"default {signal.getsignal(signal.SIGTERM) is signal.SIG_DFL}")
        class Q(P):
            pass
        Q.produce("y")
        wait()
        """,
    )
    assert child.told()[0] == -signal.SIGTERM
    assert child.noted("default") == ["True"]
    assert sorted(child.noted("written")) == ["x", "y"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_has_the_signal_as_it_was(tmp_path: Path) -> None:
    child = Child(
        tmp_path,
        """
        produce("x")
        pid = os.fork()
        if pid == 0:
            note(f"default {signal.getsignal(signal.SIGTERM) is signal.SIG_DFL}")
            os._exit(0)
        os.waitpid(pid, 0)
        wait()
        """,
    )
    assert child.told()[0] == -signal.SIGTERM
    assert child.noted("default") == ["True"]
    assert child.noted("written") == ["x"]


def test_the_kit_sets_no_handler(flux_kit: object) -> None:
    class P(flux.Producer):
        topic = "awesome"

    before = signal.getsignal(signal.SIGTERM)
    P.produce("x")
    assert signal.getsignal(signal.SIGTERM) is before


def test_only_yes_and_no_are_taken() -> None:
    with pytest.raises(ConfigurationError, match="flush_on_sigterm"):
        flux.configure(flush_on_sigterm=25)  # type: ignore[arg-type]
