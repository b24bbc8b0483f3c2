"""aiokafka's client over connections that hang, fall silent or fail."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError, KafkaError, RequestTimedOutError
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.group import JoinGroupRequest
from aiokafka.protocol.metadata import MetadataRequest

from flux.adapters.aiokafka.client import Client
from flux.adapters.aiokafka.log import LOG
from flux.adapters.authentication import Authentication
from flux.core.errors import BrokerError, Fault
from flux.system import SYSTEM
from unit.support.aiokafka_support import run

ANSWER = SimpleNamespace(brokers=[])


class Connection:
    """`answers`: seconds after which each request has its answer; None: never."""

    host, port = "here", 9092

    def __init__(self, answers: float | None = None) -> None:
        loop = asyncio.get_running_loop()
        self.answers = answers
        self.asked: list[Any] = []
        self.closed = False
        self.unsent = 0
        self._request_timeout: float | None = 5.0
        self._last_action = loop.time()
        self._reader: Any = SimpleNamespace(_buffer=b"")
        self._writer: Any = SimpleNamespace(
            transport=SimpleNamespace(
                get_write_buffer_size=lambda: self.unsent, abort=lambda: None, get_extra_info=lambda name: None
            )
        )
        self._waiting: list[asyncio.Future[Any]] = []

    def connected(self) -> bool:
        return not self.closed

    def send(self, request: Any, expect_response: bool = True) -> Any:
        self.asked.append(request)
        loop = asyncio.get_running_loop()
        answer = loop.create_future()
        self._waiting.append(answer)
        if self.answers is not None:
            loop.call_later(self.answers, self._answer, answer)
        return asyncio.wait_for(answer, self._request_timeout)

    def _answer(self, answer: asyncio.Future[Any]) -> None:
        if not answer.done():
            answer.set_result(ANSWER)

    def close(self, reason: Any = None) -> asyncio.Future[Any]:
        self.closed = True
        for each in self._waiting:
            if not each.done():
                each.set_exception(KafkaConnectionError("closed"))
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done


class Network:
    """Brokers 1 to 3, at ports of their numbers. `connects`: what a connection to each is, or how it fails."""

    def __init__(self) -> None:
        self.authentication = Authentication(str, SYSTEM)
        self.connects: dict[int, Callable[[], Any]] = {}
        self.attempts: list[tuple[int, float]] = []
        self.made: list[Connection] = []

    async def connect(self, host: str, port: int, timeout_ms: int, on_close: Any = None) -> Any:
        self.attempts.append((port, asyncio.get_running_loop().time()))
        got = self.connects.get(port, Connection)()
        if asyncio.iscoroutine(got):
            try:
                got = await asyncio.wait_for(got, timeout_ms / 1000)
            except TimeoutError:
                raise BrokerError("hanging", Fault.UNAVAILABLE) from None
        self.made.append(got)
        return got

    def client(self, **options: Any) -> Client:
        client = Client(connector=self, bootstrap_servers="none:1", **options)  # type: ignore[arg-type]
        brokers = [SimpleNamespace(nodeId=number, host="here", port=number) for number in (1, 2, 3)]
        client.cluster = SimpleNamespace(
            brokers=lambda: brokers,
            broker_metadata=lambda number: brokers[number - 1],
            update_metadata=lambda answer: None,
            failed_update=lambda error: None,
        )
        return client


@pytest.fixture
def network() -> Network:
    return Network()


async def refused() -> Any:
    raise BrokerError("refused", Fault.UNAVAILABLE)


async def hanging() -> Any:
    await asyncio.Event().wait()


REQUEST = MetadataRequest([])


def test_a_silent_connection_ends_and_the_next_request_has_a_fresh_one(network: Network) -> None:
    async def main() -> None:
        client = network.client(request_timeout_ms=3000)
        with pytest.raises(RequestTimedOutError):
            await client.send(1, REQUEST)
        assert asyncio.get_running_loop().time() == 3
        network.connects[1] = lambda: Connection(0.1)
        assert await client.send(1, REQUEST) is ANSWER
        assert [one.closed for one in network.made] == [True, False]

    run(main())


def test_a_silent_broker_is_named_unless_it_waits_for_other_members(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[tuple[str, float]] = []
    monkeypatch.setattr(LOG, "silent", lambda broker, seconds: said.append((broker, seconds)))

    async def main() -> None:
        client = network.client()
        for request, named in ((JoinGroupRequest("g", 1, 1, "", "", "consumer", []), False), (REQUEST, True)):
            with pytest.raises(RequestTimedOutError):
                await client.send(1, request)
            assert (said[:1] == [("here:9092", 5)]) is named

    run(main())


def test_whoever_gives_up_earlier_leaves_no_silent_connection_behind(network: Network) -> None:
    async def main() -> None:
        client = network.client(request_timeout_ms=60_000)
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await client.send(1, REQUEST)
        await asyncio.sleep(5)
        assert network.made[0].closed
        network.connects[1] = lambda: Connection(0.1)
        assert await client.send(1, REQUEST) is ANSWER

    run(main())


def read_all(connection: socket.socket) -> None:
    while connection.recv(1_000_000):
        pass


def test_what_a_silent_connection_has_not_sent_is_never_sent(network: Network) -> None:
    """A kernel goes on sending for a closed socket, so a commit could arrive after a later one."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
    ours.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while ours.send(bytes(1_000_000)):
            pass

    async def main() -> None:
        def connection() -> Connection:
            made = Connection()
            made._writer.transport.get_extra_info = lambda name: ours
            made._writer.transport.abort = ours.close
            return made

        network.connects[1] = connection
        with pytest.raises(RequestTimedOutError):
            await network.client().send(1, REQUEST)

    run(main())
    with theirs, pytest.raises(ConnectionResetError):
        read_all(theirs)


def test_an_answer_that_comes_late_leaves_the_connection_open(network: Network) -> None:
    async def main() -> None:
        network.connects[1] = lambda: Connection(4)
        client = network.client()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await client.send(1, REQUEST)
        await asyncio.sleep(60)
        assert not network.made[0].closed

    run(main())


def test_a_large_answer_that_is_still_arriving_is_no_silence(network: Network) -> None:
    async def main() -> None:
        network.connects[1] = lambda: Connection(30)
        client = network.client(request_timeout_ms=3000)
        asked = asyncio.ensure_future(client.send(1, REQUEST))
        while not asked.done():
            await asyncio.sleep(1.5)
            network.made[0]._reader._buffer += b"some"
        assert await asked is ANSWER
        assert asyncio.get_running_loop().time() >= 30

    run(main())


def test_a_large_request_that_is_still_leaving_is_no_silence_and_one_that_grows_is(network: Network) -> None:
    async def main() -> None:
        network.connects[1] = lambda: Connection(30)
        client = network.client(request_timeout_ms=3000)
        asked = asyncio.ensure_future(client.send(1, REQUEST))
        await asyncio.sleep(1)
        network.made[0].unsent = 100
        while not asked.done():
            await asyncio.sleep(1.5)
            network.made[0].unsent -= 1
        assert await asked is ANSWER
        asked = asyncio.ensure_future(client.send(1, REQUEST))
        while not asked.done():
            await asyncio.sleep(1.5)
            network.made[0].unsent += 1
        with pytest.raises(RequestTimedOutError):
            await asked

    run(main())


def test_a_broker_that_hangs_holds_up_no_other(network: Network) -> None:
    async def main() -> None:
        network.connects = {1: hanging, 2: lambda: Connection(0.1)}
        client = network.client()
        first = asyncio.ensure_future(client.send(1, REQUEST))
        await asyncio.sleep(0)
        assert await client.send(2, REQUEST) is ANSWER
        assert asyncio.get_running_loop().time() < 1
        with pytest.raises(KafkaError):
            await first

    run(main())


def test_brokers_that_refuse_are_not_stormed(network: Network) -> None:
    async def main() -> None:
        network.connects = dict.fromkeys((1, 2, 3), refused)
        client = network.client()

        async def insist() -> None:
            while asyncio.get_running_loop().time() < 20:
                with pytest.raises(KafkaError):
                    await client.send(1, REQUEST)

        await asyncio.gather(*(insist() for _ in range(50)))
        assert 15 < len(network.attempts) < 30

    run(main())


def test_a_broker_that_came_back_is_reached_within_a_second(network: Network) -> None:
    async def main() -> None:
        network.connects[1] = refused
        client = network.client()
        while asyncio.get_running_loop().time() < 20:
            with pytest.raises(KafkaError):
                await client.send(1, REQUEST)
        network.connects[1] = lambda: Connection(0.1)
        began = asyncio.get_running_loop().time()
        assert await client.send(1, REQUEST) is ANSWER
        assert asyncio.get_running_loop().time() - began < 1.2

    run(main())


def test_metadata_is_asked_of_those_that_answer_first_and_makes_no_topic(network: Network) -> None:
    async def main() -> None:
        network.connects = {1: hanging, 2: lambda: Connection(0.1), 3: hanging}
        client = network.client()
        for number in (1, 3):
            with pytest.raises(KafkaError):
                await client.send(number, REQUEST)
        began = asyncio.get_running_loop().time()
        for _ in range(10):
            await client.update_metadata(client.cluster, {"one"})
            assert client.get_random_node() == 2
        assert asyncio.get_running_loop().time() - began < 2
        assert network.made[0].asked[-1]._allow_auto_topic_creation is False

    run(main())


def test_metadata_that_is_not_answered_ends_the_connection(network: Network) -> None:
    async def main() -> None:
        client = network.client(request_timeout_ms=3000)
        assert not await client.update_metadata(client.cluster, {"one"})
        assert [one.closed for one in network.made] == [True] * 3

    run(main())


def test_a_fetch_may_wait_for_records_as_long_as_it_asks_for(network: Network) -> None:
    async def main() -> None:
        network.connects[1] = lambda: Connection(20)
        client = network.client()
        assert await client.send(1, FetchRequest(30_000, 1, 1000, 0, [])) is ANSWER

    run(main())
