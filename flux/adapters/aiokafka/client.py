"""aiokafka's client, changed so that it drops silent connections and creates no topics.

aiokafka closes a silent connection only when a request on it outlives `request_timeout_ms` while its caller still
waits, and it connects to one broker after the other. A caller that gave up earlier, or requested metadata alone, would
use the dead connection for ever. Here a request goes on without its caller, and closes its connection if it is silent.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import socket
import struct
import sys
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.client import ConnectionGroup
from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.errors import KafkaError, NodeNotReadyError, RequestTimedOutError
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.group import JoinGroupRequest, SyncGroupRequest
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.produce import ProduceRequest

from flux.adapters.aiokafka import internals
from flux.adapters.aiokafka.connector import Attempts, Connector
from flux.adapters.aiokafka.errors import translated
from flux.adapters.aiokafka.log import LOG
from flux.core.errors import BrokerError, Fault

REQUEST_TIMEOUT_MS = 10_000
"""Default limit of silence during a request. A worker whose connections are all silent finds that for its consumers and
then for the producer of forwarded copies: both fit into half a minute."""

CONNECT_MS = 5_000
"""Limit for connecting, multiplied with each failed attempt: a broker that hangs must not delay requests to others."""

_CHECK_INTERVAL = 1.0  # seconds between two checks of a connection that owes an answer
_LOGGED_AFTER = 5.0  # seconds of silence after which the log names a broker
_WAITS_FOR_MEMBERS = (JoinGroupRequest, SyncGroupRequest)
_ABANDONED = 5.0  # seconds of silence that end a connection whose caller has given up
_CLOSE = 1.0  # seconds for sending what is still buffered

# SO_LINGER of no time: a close discards what is unsent
_DISCARD = struct.pack("HH" if sys.platform == "win32" else "ii", 1, 0)

_BOOTSTRAP = ("bootstrap", ConnectionGroup.DEFAULT)
_theirs = logging.getLogger("aiokafka")


class Observer:
    """Sees the requests of one client. This one does nothing."""

    def silence_limit(self, request: Any) -> float | None:
        """Seconds of silence after which the request has failed; None: `request_timeout_ms`."""

    async def before(self, request: Any, send: Callable[[Any], Awaitable[Any]]) -> None:
        """Before a request: `send` sends another one to the same broker first. Raises KafkaError to refuse it."""

    def answered(self, request: Any, answer: Any, sent: float) -> None:
        """`sent`: when, by the loop's clock."""


class Client(internals.OpenClient):
    def __init__(
        self,
        *,
        connector: Connector,
        request_timeout_ms: int = REQUEST_TIMEOUT_MS,
        observer: Observer | None = None,
        **options: Any,
    ) -> None:
        super().__init__(request_timeout_ms=min(request_timeout_ms, CONNECT_MS), **options)
        self._connector = connector
        self._silence_ms = request_timeout_ms
        self._observer = observer or Observer()
        self._attempts: dict[tuple[Any, int], Attempts[Any]] = {}

    async def bootstrap(self) -> None:
        """As aiokafka's, but says why it failed. Raises BrokerError: LOGIN where a broker refused the login, else
        UNAVAILABLE."""
        failure = BrokerError("the cluster is unavailable", Fault.UNAVAILABLE)
        for host, port, _ in self.hosts:
            try:
                first = await self._connector.connect(host, port, self.connect_timeout_ms)
            except BrokerError as error:
                if error.fault is Fault.LOGIN:
                    raise
                failure = error
                continue
            try:
                answer = await first.send(MetadataRequest([], False))
            except (KafkaError, TimeoutError) as error:
                first.close()
                failure = translated(error, f"cannot read the list of brokers from {host}:{port}")
                continue
            self.cluster.update_metadata(answer)
            if self.cluster.brokers():
                first.close()
            else:
                self.connections[_BOOTSTRAP] = first
            break
        else:
            raise failure
        self.start_metadata_updates()

    async def send(self, node_id: Any, request: Any, *, group: int = ConnectionGroup.DEFAULT) -> Any:
        """The answer. Raises KafkaError: RequestTimedOutError when the broker sent nothing at all for too long."""
        await self._observer.before(request, partial(self._send, node_id, group))
        return await self._send(node_id, group, request)

    async def _send(self, node_id: Any, group: int, request: Any) -> Any:
        connection = await self.connection_to(node_id, group)
        if connection is None:
            raise NodeNotReadyError(f"broker {node_id} is unavailable")
        expect_response = not (isinstance(request, ProduceRequest) and request.required_acks == 0)
        answer = internals.send_without_timeout(connection, request, expect_response)
        silence = self._observer.silence_limit(request) or self._silence_ms / 1000
        if isinstance(request, FetchRequest):
            silence += internals.fetch_wait(request)
        watch = _SilenceWatch(connection, silence)
        if isinstance(request, _WAITS_FOR_MEMBERS):
            watch.logged_after = math.inf
        task = asyncio.get_running_loop().create_task(self._answer(watch, answer, request))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            watch.limit = min(watch.limit, _ABANDONED)
            raise

    async def _answer(self, watch: _SilenceWatch, answer: Any, request: Any) -> Any:
        sent = asyncio.get_running_loop().time()
        received = await watch.wait(asyncio.ensure_future(answer))
        self._observer.answered(request, received, sent)
        return received

    async def update_metadata(self, cluster: Any, topics: Any) -> bool:
        """As aiokafka's, but by `send`, from failing brokers last, and without creating missing topics."""
        request = MetadataRequest(list(topics) if topics else None, False)
        nodes = [broker.nodeId for broker in self.cluster.brokers()]
        if _BOOTSTRAP in self.connections:
            nodes.append(_BOOTSTRAP[0])
        random.shuffle(nodes)
        for node in sorted(nodes, key=self._failed_attempts):
            try:
                answer = await self.send(node, request)
            except (KafkaError, TimeoutError) as error:
                _theirs.warning("Unable to request metadata from node with id %s: %r", node, error)
                continue
            if not answer.brokers:
                return False
            cluster.update_metadata(answer)
            if _BOOTSTRAP in self.connections and self.cluster.brokers():
                self.connections.pop(_BOOTSTRAP).close()
            return True
        _theirs.error("Unable to update metadata from %s", nodes)
        cluster.failed_update(None)
        return False

    def get_random_node(self) -> Any:
        """One of the brokers with the fewest failed attempts to connect."""
        node = super().get_random_node()
        if not self._failed_attempts(node):
            return node
        return min((broker.nodeId for broker in self.cluster.brokers()), key=self._failed_attempts)

    def _failed_attempts(self, node: Any) -> int:
        attempts = self._attempts.get((node, ConnectionGroup.DEFAULT))
        return 0 if attempts is None else attempts.failed

    async def connection_to(self, node: Any, group: int) -> Any:
        """As aiokafka's, but connecting to one broker does not wait for another. None: the broker is unavailable."""
        key = (node, group)
        found = self.connections.get(key)
        if found is not None and found.connected():
            return found
        attempts = self._attempts.get(key)
        if attempts is None:
            attempts = self._attempts[key] = Attempts()
        try:
            return await attempts.shared(lambda: self._connect(key, attempts.failed))
        except (BrokerError, KafkaError) as error:
            if not self._connector.authentication.troubled:  # that is logged already
                _theirs.error("Unable connect to node with id %s: %s", node, error)
            self.force_metadata_update()
            return None

    async def _connect(self, key: tuple[Any, int], failed: int) -> Any:
        node, _ = key
        found = self.connections.get(key)
        if found is not None and found.connected():
            return found
        broker = self.cluster.broker_metadata(node)
        if broker is None:
            raise NodeNotReadyError(f"broker {node} is not known (any more)")
        timeout = min(self._silence_ms, CONNECT_MS * (1 + failed))
        connection = await self._connector.connect(broker.host, broker.port, timeout, self.connection_closed)
        self.connections[key] = connection
        return connection

    async def close(self) -> None:
        for attempts in self._attempts.values():
            attempts.cancel()
        transports = [internals.transport_of(connection) for connection in self.connections.values()]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE):
                await super().close()
        for transport in transports:
            if transport is not None:
                transport.abort()


class _SilenceWatch:
    """Waits for one answer on a connection, and closes the connection when it falls silent."""

    def __init__(self, connection: AIOKafkaConnection, limit: float) -> None:
        self.limit = limit
        """Seconds without any traffic that end the connection."""
        self.logged_after = _LOGGED_AFTER
        self._connection = connection
        self._seen: tuple[float, int, int] = (0.0, 0, 0)

    async def wait(self, answer: asyncio.Future[Any]) -> Any:
        """The answer. Raises RequestTimedOutError after `limit`."""
        loop = asyncio.get_running_loop()
        since = loop.time()
        self._has_traffic()
        while (left := since + self.limit - loop.time()) > 0:
            await asyncio.wait([answer], timeout=min(left, _CHECK_INTERVAL))
            if answer.done():
                return answer.result()
            if self._has_traffic():
                since = loop.time()
            elif (silent := loop.time() - since) >= self.logged_after:
                LOG.silent(f"{self._connection.host}:{self._connection.port}", silent)
        answer.cancel()
        self._close()
        raise RequestTimedOutError()

    def _has_traffic(self) -> bool:
        """Whether anything was received or sent since the last check."""
        traffic = internals.traffic_of(self._connection)
        if traffic is None:
            return False
        (used, received, unsent), self._seen = self._seen, traffic
        return traffic[0] != used or traffic[1] != received or traffic[2] < unsent

    def _close(self) -> None:
        transport = internals.transport_of(self._connection)
        if transport is None:
            return
        used = transport.get_extra_info("socket")
        if used is not None:
            with contextlib.suppress(OSError):  # it has just ended
                # else the kernel goes on sending, and a commit could arrive after a later one
                used.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _DISCARD)
        self._connection.close(reason=CloseReason.CONNECTION_TIMEOUT)
        transport.abort()  # else it would wait until all is sent


def new_consumer(client: Mapping[str, Any], options: Mapping[str, Any], observer: Observer | None = None) -> Any:
    """aiokafka's consumer, not started, with flux's client. `client`: options of that client."""
    shared = {name: value for name, value in client.items() if name != "connector"}
    consumer = AIOKafkaConsumer(**shared, **options)
    internals.use_client(consumer, Client(**client, observer=observer))
    return consumer
