"""Which signals ask a process to end, and whose handlers they leave alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from flux.system import stop_signals

pytestmark = pytest.mark.skipif(os.name != "posix", reason="there is no SIGHUP here")

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def before() -> Iterator[None]:
    handlers = {number: signal.getsignal(number) for number in NUMBERS}
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_each_of_them_is_handled_until_the_end_of_the_block() -> None:
    seen: list[int] = []
    handlers = [signal.getsignal(number) for number in NUMBERS]
    with stop_signals.handled(lambda number, _: seen.append(number)):
        for number in NUMBERS:
            signal.raise_signal(number)
    assert seen == list(NUMBERS)
    assert [signal.getsignal(number) for number in NUMBERS] == handlers


def test_a_handler_of_the_program_for_a_closed_terminal_stays() -> None:
    def own(number: int, frame: object) -> None:
        """The program's."""

    signal.signal(signal.SIGHUP, own)
    with stop_signals.handled(lambda number, _: None):
        assert signal.getsignal(signal.SIGHUP) is own


def test_a_closed_terminal_is_ignored_under_nohup() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with stop_signals.handled(lambda number, _: None):
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_restoring_twice_does_nothing_more() -> None:
    restore = stop_signals.install(lambda number, _: None)
    restore()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    restore()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN


WORKER = """
import os, signal, flux
from flux.core.ports import ProducerRecord, ProducerSettings
from flux.adapters.memory import MemoryAdapter

adapter = MemoryAdapter("closed-terminal")
adapter.producer(ProducerSettings()).write("orders", [ProducerRecord(b"1")], lambda *_: None)

@flux.task(topic="orders", group_id="billing", adapter=adapter, retries=0)
def bill(message):
    os.kill(os.getpid(), signal.SIGHUP)

print("ended with", flux.Worker(bill, create_topics=True).run())
print(adapter.broker.committed_offsets("billing", "orders")[0].offset, "committed")
"""


def test_a_worker_stops_gracefully_when_its_terminal_closes() -> None:
    done = subprocess.run([sys.executable, "-c", WORKER], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "ended with 0\n1 committed\n", done.stderr
