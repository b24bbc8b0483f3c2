"""A producer whose broker dies, whose process ends, forks or is told to stop: each record is on the cluster, or an
error names it. Nothing is repeated that no error has named, and nothing hangs."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import attrs
import pytest

import flux
from flux import config
from integration.own import Own, own_broker

# the first test of this module starts a broker, and may fetch it
pytestmark = [pytest.mark.fire, pytest.mark.timeout(240)]

ROOT = Path(__file__).parents[2]
CLIENTS = ["confluent", "aiokafka"]
QUIET = {"confluent": "?log_level=0", "aiokafka": ""}
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")


@pytest.fixture(scope="module")
def own() -> Iterator[Own]:
    with own_broker() as made:
        yield made


@pytest.fixture(autouse=True)
def _configured_anew() -> Iterator[None]:
    yield
    config.reset()


def url(client: str, own: Own) -> str:
    return f"{client}://{own.bootstrap}{QUIET[client]}"


def account(produced: Iterable[bytes], named: Iterable[bytes | None], held: Iterable[bytes]) -> None:
    """Each record that was taken is held or named, and one that is held twice was named."""
    taken, told, there = set(produced), set(named), Counter(held)
    lost = taken - told - set(there)
    assert not lost, f"{len(lost)} of {len(taken)} were neither delivered nor named, such as {sorted(lost)[:5]}"
    repeated = {value for value, count in there.items() if count > 1} - told
    assert not repeated, f"{len(repeated)} were repeated, and no error named them: {sorted(repeated)[:5]}"


@attrs.define
class Writing:
    """A producer on a thread that tells what it took, and what it was told to have failed."""

    producer: type[flux.Producer]
    taken: list[bytes] = attrs.field(factory=list)
    named: list[bytes | None] = attrs.field(factory=list)
    stopping: bool = False

    def hear(self, error: flux.DeliveryError) -> None:
        self.named += [record.value for record in error.failed]

    def run(self, pause: float) -> None:
        number = 0
        while not self.stopping:
            value = b"%d" % number
            try:
                self.producer.produce(value, key=b"k")
            except flux.DeliveryError as error:
                self.hear(error)
            else:
                self.taken.append(value)
            number += 1
            time.sleep(pause)

    def flush(self, timeout: float) -> None:
        try:
            self.producer.flush(timeout)
        except flux.DeliveryError as error:
            self.hear(error)


def writing(adapter: str, topic_name: str, **options: object) -> Writing:
    class P(flux.Producer):
        topic = topic_name

    made = Writing(P)
    P.adapter = adapter
    P.options = flux.ProducerOptions(**{"flush_interval": 0.05, **options})  # type: ignore[arg-type]
    P.on_error = staticmethod(made.hear)  # type: ignore[method-assign]
    return made


@pytest.mark.parametrize("client", CLIENTS)
def test_a_broker_that_is_killed_and_started_again_costs_no_record_and_repeats_none(own: Own, client: str) -> None:
    topic = own.topic()
    written = writing(url(client, own), topic, delivery_timeout=60)
    thread = threading.Thread(target=written.run, args=(0.0005,))
    thread.start()
    time.sleep(0.8)
    own.node.kill()
    time.sleep(0.3)
    own.node.start()
    time.sleep(0.5)
    written.stopping = True
    thread.join()
    written.flush(60)
    assert written.named == []
    assert own.values(topic) == written.taken
    assert len(written.taken) > 500
    written.producer.close()


@pytest.mark.parametrize("client", CLIENTS)
def test_what_a_broker_is_away_too_long_for_is_named(own: Own, client: str) -> None:
    topic = own.topic()
    written = writing(url(client, own), topic, delivery_timeout=2)
    thread = threading.Thread(target=written.run, args=(0.001,))
    thread.start()
    time.sleep(0.8)
    own.node.kill()
    time.sleep(3)
    own.node.start()
    back, until = len(written.taken), time.monotonic() + 60
    while not set(written.taken[back:]) & set(own.values(topic)):
        assert time.monotonic() < until, "it does not go on once the broker is back"
        time.sleep(0.1)
    written.stopping = True
    thread.join()
    written.flush(60)
    account(written.taken, written.named, own.values(topic))
    assert written.named
    written.producer.close()


@pytest.mark.parametrize("client", CLIENTS)
def test_a_full_queue_waits_then_names_what_it_did_not_take(own: Own, client: str) -> None:
    topic = own.topic()
    written = writing(
        url(client, own), topic, delivery_timeout=3, max_queue_bytes=20_000, max_buffer_size=20, max_buffer_bytes=10**6
    )
    written.producer.send(b"first").result(60)
    written.taken.append(b"first")
    own.node.kill()
    refused: list[bytes] = []
    began = time.monotonic()
    try:
        while not refused:
            value = b"%d" % len(written.taken) + b"." * 1000
            try:
                written.producer.produce(value)
            except flux.DeliveryError as error:
                written.hear(error)
                refused.append(value)
            else:
                written.taken.append(value)
            assert time.monotonic() - began < 60
        assert 10 < len(written.taken) < 200
        assert refused[0] in written.named
        assert time.monotonic() - began > 2

        async def in_a_loop() -> None:
            for number in range(200):
                value = b"loop%d" % number + b"." * 1000
                started = time.monotonic()
                try:
                    written.producer.produce(value)
                except flux.BufferFull as error:
                    written.hear(error)
                    assert time.monotonic() - started < 2, "an event loop is not made to wait"
                    return
                written.taken.append(value)
            pytest.fail("the buffer grows without a limit")

        asyncio.run(in_a_loop())
    finally:
        own.node.start()
    written.taken.append(b"last")
    until = time.monotonic() + 60
    while True:
        try:
            written.producer.send(b"last").result(60)
            break
        except flux.DeliveryError as error:  # the broker is not quite back
            written.hear(error)
            assert time.monotonic() < until
    written.flush(60)
    held = own.values(topic)
    account(written.taken, written.named, held)
    assert held[-1] == b"last"
    written.producer.close()


# -- processes

PRELUDE = """
import logging, os, signal, sys, threading, time
import flux
URL, TOPIC, JOURNAL = sys.argv[1:4]
logging.basicConfig(level="WARNING")
journal = os.open(JOURNAL, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def note(word, value):
    os.write(journal, f"{word} {value}\\n".encode())

class P(flux.Producer):
    adapter, topic = URL, TOPIC
    options = flux.ProducerOptions(delivery_timeout=DELIVERY, flush_interval=INTERVAL)
    @classmethod
    def on_error(cls, error):
        hear(error)

def hear(error):
    for record in error.failed:
        note("named", record.value.decode())

def produce(value):
    try:
        P.produce(value)
    except flux.DeliveryError as error:
        hear(error)
    else:
        note("taken", value)
"""


@attrs.frozen
class Child:
    process: subprocess.Popen[str]
    task_log: Path
    began: float

    def noted(self, word: str) -> list[bytes]:
        lines = self.task_log.read_text().splitlines() if self.task_log.exists() else []
        return [line.removeprefix(f"{word} ").encode() for line in lines if line.startswith(f"{word} ")]

    def wait_for(self, word: str) -> None:
        until = time.monotonic() + 60
        while word.encode() not in self.noted("is"):
            assert time.monotonic() < until, f"the child is not {word}"
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.01)

    def wait_for_taken(self, count: int) -> None:
        until = time.monotonic() + 60
        while len(self.noted("taken")) < count:
            assert time.monotonic() < until, f"the child has not produced {count} records"
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.01)

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def ended(self, within: float) -> str:
        """What it wrote to stderr."""
        try:
            _, error = self.process.communicate(timeout=within)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)
            _, error = self.process.communicate(timeout=10)
            pytest.fail(f"the child hangs: {error[-3000:]}")
        return error

    def account(self, held: list[bytes]) -> None:
        account(self.noted("taken"), self.noted("named"), held)


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Callable[..., Child]]:
    """`child(script, url, topic)`: PRELUDE and the script in a process."""
    made: list[subprocess.Popen[str]] = []

    def start(script: str, address: str, topic: str, delivery: float = 30, interval: float = 0.05) -> Child:
        task_log = tmp_path / f"journal-{len(made)}"
        lines = f"import faulthandler; faulthandler.enable()\nDELIVERY, INTERVAL = {delivery}, {interval}\n"
        process = subprocess.Popen(
            [sys.executable, "-c", lines + PRELUDE + textwrap.dedent(script), address, topic, str(task_log)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        made.append(process)
        return Child(process, task_log, time.monotonic())

    yield start
    for process in made:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.mark.parametrize("client", CLIENTS)
def test_a_process_that_ends_while_another_thread_delivers_has_written_everything(
    own: Own, client: str, child: Callable[..., Child]
) -> None:
    topic = own.topic()
    ended = child(
        """
        for number in range(30_000):
            P.produce(str(number))
        note("is", "delivering")
        threading.Thread(target=P.flush, daemon=True).start()
        time.sleep(0.01)
        sys.exit(7)
        """,
        url(client, own),
        topic,
        interval=3600,
    )
    assert ended.ended(60) == ""
    assert ended.process.returncode == 7
    assert sorted(own.values(topic), key=int) == [b"%d" % n for n in range(30_000)]


@pytest.mark.parametrize("client", CLIENTS)
def test_a_broker_that_comes_back_while_a_process_ends_gets_its_last_records(
    own: Own, client: str, child: Callable[..., Child]
) -> None:
    topic = own.topic()
    ending = child(
        """
        P.send("first").result(60)
        note("taken", "first")
        note("is", "up")
        sys.stdin.readline()
        for number in range(2000):
            produce(str(number))
        note("is", "ending")
        """,
        url(client, own),
        topic,
    )
    ending.wait_for("up")
    own.node.kill()
    ending.go_on()
    ending.wait_for("ending")
    time.sleep(1)
    own.node.start()
    ending.ended(60)
    ending.account(own.values(topic))
    assert ending.noted("named") == []
    assert len(ending.noted("taken")) == 2001


@pytest.mark.parametrize("client", CLIENTS)
def test_a_process_that_ends_with_its_broker_away_names_its_records_in_time(
    client: str, child: Callable[..., Child]
) -> None:
    ending = child(
        """
        for number in range(500):
            produce(str(number))
        """,
        f"{client}://127.0.0.1:9{QUIET[client]}",
        "nowhere",
        delivery=2,
    )
    error = ending.ended(60)
    assert "not delivered" in error
    assert set(ending.noted("named")) == {b"%d" % n for n in range(500)}


@needs_fork
@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("end", ["sys.exit(0)", "os._exit(0)"])
def test_forks_beside_threads_that_produce_lose_and_repeat_nothing(
    own: Own, client: str, end: str, child: Callable[..., Child]
) -> None:
    """Each child finds the buffer as full as it happens to be, and locks as they happen to be held."""
    topic = own.topic()
    forking = child(
        f"""
        stopping = False
        def work(name):
            number = 0
            while not stopping:
                produce(f"{{name}}-{{number}}")
                number += 1
                time.sleep(0.0005)
        threads = [threading.Thread(target=work, args=(name,)) for name in "ab"]
        for thread in threads:
            thread.start()
        failed = 0
        for fork in range(8):
            time.sleep(0.02)
            pid = os.fork()
            if pid == 0:
                signal.alarm(30)
                produce(f"child-{{fork}}")
                if "_exit" in {end!r}:
                    P.flush(20)
                {end}
            _, status = os.waitpid(pid, 0)
            failed += status != 0
        stopping = True
        for thread in threads:
            thread.join()
        sys.exit(failed)
        """,
        url(client, own),
        topic,
    )
    error = forking.ended(60)
    assert forking.process.returncode == 0, error
    held = own.values(topic)
    forking.account(held)
    assert forking.noted("named") == []
    assert {value for value in held if value.startswith(b"child-")} == {b"child-%d" % n for n in range(8)}
    assert len(held) > 100


@needs_fork
def test_a_child_of_a_parent_with_a_full_queue_ends_at_once(own: Own, child: Callable[..., Child]) -> None:
    forking = child(
        """
        for number in range(5000):
            P.produce(str(number))
        began = time.monotonic()
        pid = os.fork()
        if pid == 0:
            signal.alarm(20)
            sys.exit(5)
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 5, status
        assert time.monotonic() - began < 15
        os._exit(0)
        """,
        "confluent://127.0.0.1:9?log_level=0",
        "nowhere",
        interval=3600,
    )
    assert "Error" not in forking.ended(60)
    assert forking.process.returncode == 0


@pytest.mark.parametrize("client", CLIENTS)
def test_threads_that_still_produce_at_the_end_of_the_interpreter_are_accounted_for(
    own: Own, client: str, child: Callable[..., Child]
) -> None:
    """What `produce` has taken counts, even while the exit handlers run; a daemon thread ends in the middle."""
    for _ in range(3):
        topic = own.topic()
        ending = child(
            """
            taken = []
            def work(name):
                number = 0
                while True:
                    produce(f"{name}-{number}")
                    number += 1
                    taken.append(number)
            for name in "abc":
                threading.Thread(target=work, args=(name,), daemon=True).start()
            until = time.monotonic() + 30
            while len(taken) < 200 and time.monotonic() < until:
                time.sleep(0.01)
            """,
            url(client, own),
            topic,
            interval=0.02,
        )
        error = ending.ended(60)
        assert "Fatal" not in error
        ending.account(own.values(topic))
        assert len(ending.noted("taken")) > 100


@pytest.mark.parametrize("client", CLIENTS)
def test_a_record_that_comes_when_the_interpreter_ends_is_refused_and_the_process_ends(
    own: Own, client: str, child: Callable[..., Child]
) -> None:
    topic = own.topic()
    ending = child(
        """
        class Late:
            def __del__(self):
                produce("late")
        import builtins
        builtins.late = Late()  # what threads can still reach is not deleted
        produce("in time")
        """,
        url(client, own),
        topic,
    )
    error = ending.ended(60)
    assert ending.process.returncode == 0
    assert error.count("was produced while the interpreter was ending") == 1
    assert ending.noted("taken") == own.values(topic) == [b"in time"]


SIGNALLED = """
class Told(SystemExit):
    pass

def stop(*_):
    raise Told(9)

signal.signal(signal.SIGTERM, stop)
number = 0
try:
    note("is", "up")
    while True:
        for _ in range(50):
            produce(str(number))
            number += 1
        try:
            P.flush(20)
        except flux.DeliveryError as error:
            hear(error)
except (Told, KeyboardInterrupt) as told:
    note("is", "told")
    if isinstance(told, Told):
        raise
    sys.exit(130)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("client", CLIENTS)
def test_a_signal_during_deliver_ends_the_process_with_everything_written(
    own: Own, client: str, number: signal.Signals, child: Callable[..., Child]
) -> None:
    for pause in (0.0, 0.11, 0.233, 0.37):
        topic = own.topic()
        told = child(SIGNALLED, url(client, own), topic)
        told.wait_for("up")
        time.sleep(0.4 + pause)
        told.process.send_signal(number)
        error = told.ended(60)
        assert told.process.returncode == (130 if number == signal.SIGINT else 9), error
        told.account(own.values(topic))
        assert "Traceback" not in error


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("client", CLIENTS)
def test_a_signal_while_the_broker_is_away_names_what_is_open(
    client: str, number: signal.Signals, child: Callable[..., Child]
) -> None:
    told = child(SIGNALLED, f"{client}://127.0.0.1:9{QUIET[client]}", "nowhere", delivery=3)
    told.wait_for_taken(50)  # then it flushes
    time.sleep(0.2)
    told.process.send_signal(number)
    sent = time.monotonic()
    told.ended(60)
    assert time.monotonic() - sent < 30
    assert set(told.noted("named")) == set(told.noted("taken")) != set()


@pytest.mark.parametrize("client", CLIENTS)
def test_sigterm_where_nobody_handles_it_ends_the_process_with_everything_written(
    own: Own, client: str, child: Callable[..., Child]
) -> None:
    for pause in (0.0, 0.13):
        topic = own.topic()
        told = child(
            """
            produce("first")
            note("is", "up")
            number = 0
            while True:
                produce(str(number))
                number += 1
            """,
            url(client, own),
            topic,
            interval=3600,
        )
        told.wait_for_taken(101)
        time.sleep(pause)
        told.process.send_signal(signal.SIGTERM)
        error = told.ended(60)
        assert told.process.returncode == -signal.SIGTERM, error
        told.account(own.values(topic))
        assert len(told.noted("named")) <= 1, "the one that it was at"
        assert len(told.noted("taken")) > 100


INTERRUPTED = """
import random

class Now(Exception):
    pass

armed = False

def interrupt(*_):
    if armed:
        raise Now

def some():
    global armed, number
    armed = True
    signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0002, 0.004))
    for _ in range(random.randrange(1, 40)):
        value, number = str(number), number + 1
        P.produce(value)
        note("taken", value)
    if random.random() < 0.5:
        P.flush(20)
    armed = False

signal.signal(signal.SIGALRM, interrupt)
number = interrupts = 0
began = time.monotonic()
while time.monotonic() < began + 4 or (interrupts <= 100 and time.monotonic() < began + 60):
    try:
        some()
    except Now:
        armed = False
        interrupts += 1
    except flux.DeliveryError as error:
        armed = False
        hear(error)
armed = False
signal.setitimer(signal.ITIMER_REAL, 0)
note("is", f"interrupted {interrupts}")
try:
    P.flush(20)
except flux.DeliveryError as error:
    hear(error)
"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there is no such timer here")
@pytest.mark.parametrize("client", CLIENTS)
def test_handlers_that_raise_anywhere_in_produce_and_deliver_lose_and_repeat_nothing(
    own: Own, client: str, child: Callable[..., Child]
) -> None:
    topic = own.topic()
    interrupted = child(INTERRUPTED, url(client, own), topic, interval=0.01)
    error = interrupted.ended(120)
    assert interrupted.process.returncode == 0, error
    [count] = [int(line.split()[-1]) for line in interrupted.noted("is")]
    assert count > 100
    interrupted.account(own.values(topic))
