"""A network between clients and one broker that can be broken in the ways of networks."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

from brokers.base import free_ports
from brokers.jars import Node, node

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: a close discards what is unsent and sends RST to the other side
_SECONDS = 60.0
_BACKLOG = 100
_CHUNKS = 256  # that are delayed at a time in each direction of a connection

Direction = Literal["requests", "responses"]


class Proxy:
    """Passes what comes to `port` on to a broker's `target`, both on 127.0.0.1. The broker has to advertise `port`,
    or clients go around. Thread-safe; each method returns when it holds."""

    def __init__(self, target: int = 0, port: int = 0) -> None:
        """`target` may be set later; a `port` of 0 is any."""
        self.target = target
        self.accepted = 0
        """How many connections clients have opened so far."""
        self.port = port or free_ports(1)[0]
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=_BACKLOG)
        self._delay = self._jitter = self._resets = 0.0
        self._passes: dict[Direction, asyncio.Event] = {"requests": asyncio.Event(), "responses": asyncio.Event()}
        self._open: set[_Passage] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._accepting: asyncio.Task[None] | None = None
        self._fillers: list[socket.socket] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._do(self._heal)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def silence(self) -> None:
        """Connections that are open now stay open and pass nothing, for ever and both ways; new ones work. As when
        a firewall or a load balancer forgets them."""
        self._do(self._silence)

    def hang(self, *directions: Direction) -> None:
        """All connections, new ones too, are accepted and pass nothing until `heal`: a broker that is stopped; with
        `directions`, only these do not pass."""
        self._do(lambda: self._hang(directions or ("requests", "responses")))

    def drop(self) -> None:
        """Packets vanish until `heal`: open connections pass nothing, new ones are neither made nor refused. What was
        under way arrives afterwards, as by TCP's retransmissions."""
        self._do(self._drop)

    def refuse(self) -> None:
        """Open connections are reset, new ones refused, until `heal`: a broker that is gone."""
        self._do(self._refuse)

    def delay(self, seconds: float, jitter: float = 0.0) -> None:
        """Everything comes through this much later, or up to `jitter` seconds more, each way, until `heal`."""
        self._delay, self._jitter = seconds, jitter

    def reset(self, probability: float = 1.0) -> None:
        """Open connections are reset, and new ones work; with a lower `probability`, each piece of a request resets
        its connection so often, until `heal`."""
        if probability < 1:
            self._resets = probability
        else:
            self._do(self._reset)

    def heal(self) -> None:
        """Ends all of these, except that connections that were silenced stay so."""
        self._do(self._heal)

    def close(self) -> None:
        self._do(self._end)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_SECONDS)
        self._loop.close()

    # -- in the loop

    def _do(self, what: Callable[[], Awaitable[None]]) -> None:
        async def done() -> None:
            await what()

        asyncio.run_coroutine_threadsafe(done(), self._loop).result(_SECONDS)

    async def _silence(self) -> None:
        for passage in self._open:
            passage.silent = True

    async def _hang(self, directions: Iterable[Direction]) -> None:
        for direction in directions:
            self._passes[direction].clear()

    async def _drop(self) -> None:
        """The kernel ignores who wants to connect to a full backlog."""
        await self._hang(self._passes)
        await self._stop_accepting()
        self._listener.listen(0)
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", self.port))
            self._fillers.append(filler)

    async def _refuse(self) -> None:
        await self._stop_accepting()
        self._listener.close()
        await self._reset()

    async def _stop_accepting(self) -> None:
        if self._accepting is not None:
            self._accepting.cancel()
            await asyncio.wait([self._accepting])
            self._accepting = None

    async def _reset(self) -> None:
        for passage in list(self._open):
            passage.reset()
        await asyncio.sleep(0)

    async def _end(self) -> None:
        await self._refuse()
        self._let_pass()
        while self._open:
            await self._reset()
            await asyncio.sleep(0.01)

    def _let_pass(self) -> None:
        self._delay = self._jitter = self._resets = 0.0
        for passes in self._passes.values():
            passes.set()
        for filler in self._fillers:
            filler.close()
        self._fillers.clear()

    async def _heal(self) -> None:
        self._let_pass()
        if self._accepting is None:
            if self._listener.fileno() < 0:
                self._listener = socket.create_server(("127.0.0.1", self.port), backlog=_BACKLOG)
            self._listener.setblocking(False)
            self._listener.listen(_BACKLOG)
            self._accepting = self._loop.create_task(self._accept())

    async def _accept(self) -> None:
        while True:
            connection, _ = await self._loop.sock_accept(self._listener)
            self.accepted += 1
            task = self._loop.create_task(self._serve(connection))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, connection: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=connection)
        passage = _Passage(writer)
        self._open.add(passage)
        try:
            await self._passes["requests"].wait()
            if not passage.is_open:
                return
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
            passage.far = far_writer
            await asyncio.gather(
                self._pass(reader, far_writer, passage, "requests"),
                self._pass(far_reader, writer, passage, "responses"),
                return_exceptions=True,
            )
        except OSError:
            pass
        finally:
            passage.reset()
            self._open.discard(passage)

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, passage: _Passage, direction: Direction
    ) -> None:
        pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_CHUNKS)
        reading = self._loop.create_task(self._read(reader, pieces))
        try:
            with contextlib.suppress(OSError):
                await self._write(pieces, writer, passage, direction)
            if passage.silent and passage.is_open:
                await passage.ended.wait()  # no end comes through either
        finally:
            reading.cancel()
            writer.close()

    async def _read(self, reader: asyncio.StreamReader, pieces: asyncio.Queue[tuple[float, bytes]]) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                due = self._loop.time() + self._delay + random.uniform(0, self._jitter) if self._delay else 0.0
                await pieces.put((due, data))
        await pieces.put((0.0, b""))

    async def _write(
        self,
        pieces: asyncio.Queue[tuple[float, bytes]],
        writer: asyncio.StreamWriter,
        passage: _Passage,
        direction: Direction,
    ) -> None:
        while True:
            due, data = await pieces.get()
            if due:
                await asyncio.sleep(max(0.0, due - self._loop.time()))
            await self._passes[direction].wait()
            if passage.silent or not data:
                return
            if direction == "requests" and self._resets and random.random() < self._resets:
                passage.reset()
                return
            writer.write(data)
            await writer.drain()


class _Passage:
    """One client's connection."""

    def __init__(self, near: asyncio.StreamWriter) -> None:
        self.silent = False
        self.is_open = True
        self.ended = asyncio.Event()
        self.far: asyncio.StreamWriter | None = None
        self._near = near

    def reset(self) -> None:
        self.is_open = False
        self.ended.set()
        for writer in (self._near, self.far):
            if writer is not None:
                with contextlib.suppress(OSError):
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                writer.transport.abort()


@contextmanager
def behind_proxy(extra: Mapping[str, str] | None = None) -> Iterator[tuple[Node, Proxy]]:
    """A broker of one's own that clients reach through a proxy, at `127.0.0.1:{proxy.port}`; the broker's own
    `bootstrap` goes around it for its first answer, and its secured listener serves nobody. Raises NoBroker."""
    proxy = Proxy()
    try:
        with node({"advertised.listeners": f"PLAINTEXT://127.0.0.1:{proxy.port}", **(extra or {})}) as made:
            proxy.target = int(made.bootstrap.rpartition(":")[2])
            yield made, proxy
    finally:
        proxy.close()
