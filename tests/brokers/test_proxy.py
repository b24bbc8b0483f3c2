"""The broken network of the tests does what it says."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from brokers.echo import echoing
from brokers.proxy import Direction, Proxy

SOON, NEVER = 30.0, 0.1  # seconds: for what comes, and for what must not


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """Before a server that says everything again."""
    with echoing("127.0.0.1") as port:
        made = Proxy(port)
        yield made
        made.close()


def connected(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), SOON)


def answer(connection: socket.socket, timeout: float = SOON) -> bytes:
    connection.settimeout(timeout)
    return connection.recv(1000)


def test_what_is_said_comes_through(proxy: Proxy) -> None:
    with connected(proxy) as one:
        one.sendall(b"a")
        assert answer(one) == b"a"
    assert proxy.accepted == 1


def test_silenced_connections_stay_open_and_new_ones_work(proxy: Proxy) -> None:
    with connected(proxy) as old:
        old.sendall(b"a")
        assert answer(old) == b"a"
        proxy.silence()
        old.sendall(b"b")
        with pytest.raises(TimeoutError):
            answer(old, NEVER)
        with connected(proxy) as new:
            new.sendall(b"c")
            assert answer(new) == b"c"
        proxy.heal()
        with pytest.raises(TimeoutError):
            answer(old, NEVER)


def test_a_hung_broker_is_reached_and_answers_once_it_goes_on(proxy: Proxy) -> None:
    with connected(proxy) as old:
        old.sendall(b"a")
        assert answer(old) == b"a"
        proxy.hang()
        with connected(proxy) as new:
            for one in (old, new):
                one.sendall(b"b")
                with pytest.raises(TimeoutError):
                    answer(one, NEVER)
            proxy.heal()
            assert answer(old) == answer(new) == b"b"


def test_a_broker_that_is_gone_refuses_and_comes_back(proxy: Proxy) -> None:
    with connected(proxy) as old:
        old.sendall(b"a")
        assert answer(old) == b"a"
        proxy.refuse()
        with pytest.raises(ConnectionResetError):
            answer(old)
        with pytest.raises(ConnectionRefusedError):
            connected(proxy)
        proxy.heal()
        with connected(proxy) as new:
            new.sendall(b"c")
            assert answer(new) == b"c"


def test_reset_connections_end_and_new_ones_work(proxy: Proxy) -> None:
    with connected(proxy) as old:
        old.sendall(b"a")
        assert answer(old) == b"a"
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            answer(old)
    with connected(proxy) as new:
        new.sendall(b"c")
        assert answer(new) == b"c"


def test_what_is_delayed_comes_later(proxy: Proxy) -> None:
    with connected(proxy) as one:
        proxy.delay(2 * NEVER)
        began = time.monotonic()
        one.sendall(b"a")
        assert answer(one) == b"a"
        assert time.monotonic() - began >= 2 * 2 * NEVER


def test_delayed_pieces_keep_their_order_and_do_not_wait_for_each_other(proxy: Proxy) -> None:
    with connected(proxy) as one:
        proxy.delay(NEVER, jitter=NEVER)
        began, said, heard = time.monotonic(), b"", b""
        for number in range(200):
            piece = b"%d," % number
            one.sendall(piece)
            said += piece
            time.sleep(0.001)
        while len(heard) < len(said):
            heard += answer(one)
        assert heard == said
        assert time.monotonic() - began < 200 * NEVER


@pytest.mark.parametrize("direction", ["requests", "responses"])
def test_one_direction_may_hang_alone(proxy: Proxy, direction: Direction) -> None:
    with connected(proxy) as one:
        one.sendall(b"a")
        assert answer(one) == b"a"
        proxy.hang(direction)
        one.sendall(b"b")
        with pytest.raises(TimeoutError):
            answer(one, NEVER)
        proxy.heal()
        assert answer(one) == b"b"


def test_dropped_packets_let_nobody_connect_and_refuse_nobody(proxy: Proxy) -> None:
    with connected(proxy) as old:
        old.sendall(b"a")
        assert answer(old) == b"a"
        proxy.drop()
        old.sendall(b"b")
        with pytest.raises(TimeoutError):
            answer(old, NEVER)
        with pytest.raises(TimeoutError):
            socket.create_connection(("127.0.0.1", proxy.port), 3 * NEVER)
        proxy.heal()
        assert answer(old) == b"b"
        with connected(proxy) as new:
            new.sendall(b"c")
            assert answer(new) == b"c"


def test_some_requests_reset_their_connections(proxy: Proxy) -> None:
    proxy.reset(0.5)
    ends = {True: 0, False: 0}
    for _ in range(40):
        with connected(proxy) as one:
            one.sendall(b"a")
            try:
                ends[answer(one) == b"a"] += 1
            except ConnectionResetError:
                ends[False] += 1
    assert min(ends.values()) > 5
    proxy.heal()
    with connected(proxy) as one:
        for _ in range(10):
            one.sendall(b"a")
            assert answer(one) == b"a"
