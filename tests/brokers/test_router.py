"""The kernel's broken network of the tests does what it says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from brokers.echo import echoing
from brokers.proxy import Direction
from brokers.router import NoRouter, RoutedLink, Router, routed

SOON, NEVER = 30.0, 0.3  # seconds: for what comes, and for what must not
CLIENT = """import socket, sys
open = {}
for line in sys.stdin:
    name, said, timeout = line.split()
    try:
        if name not in open:
            open[name] = socket.create_connection((sys.argv[1], int(sys.argv[2])), float(timeout))
        open[name].settimeout(float(timeout))
        open[name].sendall(said.encode())
        print(open[name].recv(1000).decode(), flush=True)
    except OSError as error:
        print(type(error).__name__, flush=True)
"""


@pytest.fixture(scope="module")
def router() -> Iterator[Router]:
    try:
        with routed() as made:
            yield made
    except NoRouter as reason:
        pytest.skip(f"no network namespaces: {reason}")


@pytest.fixture
def link(router: Router) -> Iterator[RoutedLink]:
    """To a server that says everything again."""
    with echoing(router.host) as port:
        made = router.link(port)
        yield made
        made.heal()


class Client:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def says(self, name: str, said: str, timeout: float = SOON) -> str:
        """Over the connection of this name, a new one the first time; what came back, or the error's name."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{name} {said} {timeout}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()


@pytest.fixture
def client(router: Router, link: RoutedLink) -> Iterator[Client]:
    command = [*router.inside, sys.executable, "-c", CLIENT, router.host, str(link.port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        made = Client(process)
        assert made.says("old", "hello") == "hello"
        yield made
        process.kill()


def test_silenced_connections_stay_open_and_new_ones_work(link: RoutedLink, client: Client) -> None:
    link.silence()
    assert client.says("old", "a", NEVER) == "TimeoutError"
    assert client.says("new", "b") == "b"
    link.heal()
    assert client.says("old", "c", NEVER) == "TimeoutError"
    link.silence()
    assert client.says("new", "d", NEVER) == "TimeoutError"
    assert client.says("newest", "e") == "e"


def test_a_broker_that_is_gone_refuses_and_comes_back(link: RoutedLink, client: Client) -> None:
    link.refuse()
    assert client.says("old", "a") == "ConnectionResetError"
    assert client.says("new", "b") == "ConnectionRefusedError"
    link.heal()
    assert client.says("new", "c") == "c"


def test_dropped_packets_let_nobody_connect_and_refuse_nobody(link: RoutedLink, client: Client) -> None:
    link.drop()
    assert client.says("old", "a", NEVER) == "TimeoutError"
    assert client.says("new", "b", NEVER) == "TimeoutError"
    link.heal()
    assert client.says("old", "c").startswith("a")  # sent again by the kernel
    assert client.says("new", "d") == "d"


@pytest.mark.parametrize("direction", ["requests", "responses"])
def test_one_direction_may_be_lost_alone(link: RoutedLink, client: Client, direction: Direction) -> None:
    link.hang(direction)
    assert client.says("old", "a", NEVER) == "TimeoutError"
    link.heal()
    assert client.says("old", "b").startswith("a")


def test_a_broker_without_a_route_is_unreachable(link: RoutedLink, client: Client) -> None:
    link.unreachable()
    assert client.says("new", "a") == "OSError"  # EHOSTUNREACH
    assert client.says("old", "b", NEVER) == "TimeoutError"  # the kernel goes on trying
    link.heal()
    assert client.says("old", "c").startswith("b")


def test_of_a_narrow_link_small_packets_come_out(link: RoutedLink, client: Client) -> None:
    link.narrow(600)
    assert client.says("old", "a") == "a"
    assert client.says("old", 700 * "b", NEVER) == "TimeoutError"
    assert client.says("new", "c") == "c"
    link.heal()
    assert client.says("old", "d").startswith("b")


def test_a_link_breaks_alone(router: Router, link: RoutedLink, client: Client) -> None:
    router.link(link.port + 1).drop()
    assert client.says("old", "a") == "a"


def test_what_is_delayed_comes_later(link: RoutedLink, client: Client) -> None:
    link.delay(NEVER, NEVER)
    time.sleep(2 * NEVER)  # on a link without traffic too
    began = time.monotonic()
    assert client.says("old", "a") == "a"
    assert time.monotonic() - began >= 2 * NEVER
    began = time.monotonic()
    assert client.says("new", "b") == "b"
    assert time.monotonic() - began >= 4 * NEVER  # the handshake takes as long
    link.heal()
    assert client.says("newest", "c") == "c"


def test_some_requests_reset_their_connections(link: RoutedLink, client: Client) -> None:
    link.reset(0.5)
    said = [client.says(f"one-{number}", "a") for number in range(40)]
    assert min(said.count("a"), said.count("ConnectionResetError")) > 5
    assert set(said) == {"a", "ConnectionResetError"}
    link.heal()
    assert [client.says("calm", "a") for _ in range(10)] == ["a"] * 10


def test_nothing_is_left_of_a_run_that_is_killed(router: Router) -> None:
    """Neither a link of this machine nor a process in the namespace."""
    script = """if True:
        import subprocess, sys, time
        from brokers.router import routed
        with routed() as router:
            child = subprocess.Popen([*router.inside, "sleep", "1000"])
            print(child.pid, router.host, flush=True)
            time.sleep(1000)"""
    tests = str(Path(__file__).parents[1])
    run = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": tests}
    )
    assert run.stdout is not None
    pid, host = run.stdout.readline().split()
    run.send_signal(signal.SIGKILL)
    run.wait()
    run.stdout.close()
    until = time.monotonic() + 2 * SOON
    while is_there(pid) or host in subprocess.run(["ip", "address"], capture_output=True, text=True).stdout:
        assert time.monotonic() < until
        time.sleep(0.05)


def is_there(pid: str) -> bool:
    """A process that has ended stays until somebody waits for it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
