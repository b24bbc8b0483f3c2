"""Signals that ask for the end reach their handler; what comes after the exit handlers is refused at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

import pytest

from flux.core.errors import DeliveryError
from flux.producing.registry import PRODUCERS
from flux.system.process_end import install_stop_handler, stop_signals_handled
from unit.support.producer_support import AwesomeProducer, World, world  # noqa: F401

PRELUDE = """
import atexit, builtins, os, sys, threading, types
import flux

class P(flux.Producer):
    topic, adapter = "awesome", "memory://ending"
    options = flux.ProducerOptions(flush_interval=3600)

class Late:
    def __init__(self, act):
        self.act = act

    def __del__(self, write=os.write, name=lambda error: type(error).__name__, BaseException=BaseException):
        try:
            self.act()
        except BaseException as error:
            write(1, f"refused: {name(error)}\\n".encode())
        else:
            write(1, b"returned\\n")
"""


def run(script: str) -> tuple[int, str, str]:
    """Exit code, output, errors."""
    ended = subprocess.run(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(script)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return ended.returncode, ended.stdout, ended.stderr


@pytest.mark.parametrize("method", ["produce", "send"])
@pytest.mark.parametrize(
    "place",
    ["late =", "builtins.late =", "flux.late =", 'sys.modules["app"] = app = types.ModuleType("app"); app.late ='],
)
@pytest.mark.parametrize("before", ["", "P.send('before')"])
def test_a_record_that_comes_after_the_exit_handlers_is_refused_and_said_once(
    method: str, place: str, before: str
) -> None:
    code, out, errors = run(
        f"""
        {before}
        def act(P=P):
            try:
                P.{method}("late")
            finally:
                P.{method}("late too")
        {place} Late(act)
        """
    )
    assert (code, out) == (0, "refused: DeliveryError\n")
    assert errors.count("flux: a record for topic awesome was produced while the interpreter was ending") == 1
    assert len(errors.splitlines()) == 1


@pytest.mark.parametrize("call", ["P.flush()", "P.close()", "worker.stop()", "before.result()"])
def test_what_waits_does_not_wait_after_the_exit_handlers(call: str) -> None:
    code, out, errors = run(
        f"""
        class T(flux.Task):
            topic, group_id, adapter = "awesome", "group", "memory://ending"
            def call(self, message):
                pass
        worker = flux.Worker(T)
        held = threading.Event()
        def hold():
            with worker._driver._cond:
                held.set()
                threading.Event().wait()  # a thread that will never run again
        threading.Thread(target=hold, daemon=True).start()
        held.wait()
        before = P.send("before")
        P.produce("in the buffer")
        builtins.late = Late(lambda P=P, worker=worker, before=before: {call})
        """
    )
    assert (code, out, errors) == (0, "returned\n", "")


def test_nobody_waits_for_an_end_that_nobody_will_tell() -> None:
    code, out, errors = run(
        """
        from flux.adapters.memory import MemoryAdapter
        from flux.producing.registry import PRODUCERS
        P.adapter = adapter = MemoryAdapter("away")
        P.send("before").result()
        adapter.broker.available = False
        open_one = P.send("open")
        atexit.unregister(PRODUCERS.exit)
        late = Late(lambda: open_one.result())
        """
    )
    assert (code, out, errors) == (0, "refused: DeliveryError\n", "")


def test_exit_handlers_and_threads_that_outlive_the_main_one_still_produce() -> None:
    code, out, errors = run(
        """
        def act():
            P.produce("buffered")
            sys.stdout.write(f"{P.send('late').result(60).offset}\\n")
        atexit.register(act)
        P.produce("before")
        threading.Thread(target=lambda: (threading.main_thread().join(), act())).start()
        """
    )
    assert (code, out, errors) == (0, "2\n4\n", "")


@pytest.fixture
def no_threads(world: World, monkeypatch: pytest.MonkeyPatch) -> World:  # noqa: F811
    """As Python 3.12 has it when its main thread has ended."""

    def spawn(*_: Any) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(world.system, "spawn", spawn)
    return world


def test_where_no_thread_can_be_started_each_record_is_handed_on_at_once(no_threads: World) -> None:
    AwesomeProducer.produce("one")
    AwesomeProducer.produce("two")
    assert no_threads.values() == [b"one", b"two"]


def test_a_client_that_needs_a_thread_where_none_can_be_started_refuses_the_record(
    no_threads: World, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(no_threads.adapter, "producer", lambda _: no_threads.system.spawn("acks", lambda: None))
    PRODUCERS.exit()
    with pytest.raises(DeliveryError, match="was produced while the interpreter was ending"):
        AwesomeProducer.produce("late")
    assert "was produced while the interpreter was ending" in capfd.readouterr().err


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
    with stop_signals_handled(lambda number, _: seen.append(number)):
        for number in NUMBERS:
            signal.raise_signal(number)
    assert seen == list(NUMBERS)
    assert [signal.getsignal(number) for number in NUMBERS] == handlers


def test_a_handler_of_the_program_for_a_closed_terminal_stays() -> None:
    def own(number: int, frame: object) -> None:
        """The program's."""

    signal.signal(signal.SIGHUP, own)
    with stop_signals_handled(lambda number, _: None):
        assert signal.getsignal(signal.SIGHUP) is own


def test_a_closed_terminal_is_ignored_under_nohup() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with stop_signals_handled(lambda number, _: None):
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_restoring_twice_does_nothing_more() -> None:
    restore = install_stop_handler(lambda number, _: None)
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
