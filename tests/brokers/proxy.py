"""A network between clients and one broker that can be broken in the ways of networks."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager

from brokers.jars import Node, node

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: a close discards what is unsent and tells the other side RST
_SECONDS = 10.0


class Proxy:
    """Passes what comes to `port` on to a broker's `target`, both on 127.0.0.1. The broker has to advertise `port`,
    or clients go around. Thread-safe; each method returns when it holds."""

    def __init__(self, target: int = 0, port: int = 0) -> None:
        """`target` may be set later; a `port` of 0 is chosen by the system."""
        self.target = target
        self.accepted = 0
        """How many connections clients have opened so far."""
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listener.getsockname()[1]
        self._delay = 0.0
        self._hung = asyncio.Event()  # set: passes
        self._hung.set()
        self._open: set[_Passage] = set()
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._do(self._serve)

    def silence(self) -> None:
        """Connections that are open now stay open and pass nothing, for ever and both ways; new ones work. As when
        a firewall or a load balancer forgets them."""
        self._do(self._silence)

    def hang(self) -> None:
        """All connections, new ones too, are accepted and pass nothing until `mend`: a broker that is stopped."""
        self._do(self._hang)

    def refuse(self) -> None:
        """Open connections are reset, new ones refused, until `mend`: a broker that is gone."""
        self._do(self._refuse)

    def delay(self, seconds: float) -> None:
        """Everything comes through this much later, each way, until `mend`."""
        self._delay = seconds

    def reset(self) -> None:
        """Open connections are reset; new ones work."""
        self._do(self._reset)

    def mend(self) -> None:
        """Ends `hang`, `refuse` and `delay`. Connections that were silenced stay so."""
        self._do(self._mend)

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

    async def _serve(self) -> None:
        if self._server is None:
            if self._listener.fileno() < 0:
                self._listener = socket.create_server(("127.0.0.1", self.port))
            self._server = await asyncio.start_server(self._accepted, sock=self._listener)

    async def _silence(self) -> None:
        for passage in self._open:
            passage.silent = True

    async def _hang(self) -> None:
        self._hung.clear()

    async def _refuse(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        await self._reset()

    async def _reset(self) -> None:
        for passage in list(self._open):
            passage.reset()
        await asyncio.sleep(0)

    async def _end(self) -> None:
        self._hung.set()
        await self._refuse()
        while self._open:
            await self._reset()
            await asyncio.sleep(0.01)

    async def _mend(self) -> None:
        self._delay = 0.0
        self._hung.set()
        await self._serve()

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        passage = _Passage(writer)
        self._open.add(passage)
        try:
            await self._hung.wait()
            if not passage.is_open:
                return
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
            passage.far = far_writer
            await asyncio.gather(
                self._pass(reader, far_writer, passage), self._pass(far_reader, writer, passage), return_exceptions=True
            )
        except OSError:
            pass
        finally:
            passage.reset()
            self._open.discard(passage)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, passage: _Passage) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if self._delay:
                    await asyncio.sleep(self._delay)
                await self._hung.wait()
                if passage.silent:
                    break
                writer.write(data)
                await writer.drain()
        if passage.silent and passage.is_open:
            await passage.ended.wait()  # nobody hears of an end either
        writer.close()


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
