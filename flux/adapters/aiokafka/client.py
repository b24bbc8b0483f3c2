"""aiokafka's client, on which no silent connection and no missing topic stays.

aiokafka ends a connection that has fallen silent only when a request on it outlives `request_timeout_ms` while
somebody still waits for the answer, and connects to one broker after the other. So whoever gave up earlier, or asked
for metadata alone, would use the dead connection for ever. Here a request outlives its caller, and takes its connection
with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.client import AIOKafkaClient, ConnectionGroup
from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.errors import KafkaError, NodeNotReadyError, RequestTimedOutError
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.group import JoinGroupRequest, SyncGroupRequest
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.produce import ProduceRequest

from flux.adapters.aiokafka.attempts import Attempts
from flux.adapters.aiokafka.connector import Connector
from flux.adapters.aiokafka.errors import translated
from flux.adapters.aiokafka.log import LOG
from flux.core.errors import BrokerError, Fault

REQUEST_TIMEOUT_MS = 15_000
"""Of silence, where the user's options say nothing: two attempts fit into a record's usual 30 s."""

CONNECT_MS = 5_000
"""Of silence while connecting, more with each attempt that failed: a broker that hangs must not hold up the others."""

_LOOK = 1.0  # seconds between two looks at a connection that is waited for
_NAMED = 5.0  # seconds of silence after which the log names a broker
_WAITS_FOR_MEMBERS = (JoinGroupRequest, SyncGroupRequest)
_GIVEN_UP = 5.0  # seconds of silence that end a connection when nobody waits any more
_CLOSE = 1.0  # seconds for what is yet unsent

_BOOTSTRAP = ("bootstrap", ConnectionGroup.DEFAULT)
_theirs = logging.getLogger("aiokafka")


class Observer:
    """Of the requests of one client. This one wants nothing."""

    def patience(self, request: Any) -> float | None:
        """Seconds of silence after which it has failed; None: as `request_timeout_ms` says."""

    async def before(self, request: Any, send: Callable[[Any], Awaitable[Any]]) -> None:
        """`send` asks the same broker something else first. Raises KafkaError to hold the request back."""

    def heard(self, request: Any, answer: Any, asked: float) -> None:
        """`asked`: when, by the loop's clock."""


class Client(AIOKafkaClient):  # type: ignore[misc]
    _sync_task: Any

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
        """As aiokafka's, but tells why not. Raises BrokerError: LOGIN where a broker refused the login, else
        UNAVAILABLE."""
        failure = BrokerError("the cluster is away", Fault.UNAVAILABLE)
        for host, port, _ in self.hosts:
            try:
                first = await self._connector.connected(host, port, self._request_timeout_ms)
            except BrokerError as error:
                if error.fault is Fault.LOGIN:
                    raise
                failure = error
                continue
            try:
                answer = await first.send(MetadataRequest([], False))
            except (KafkaError, TimeoutError) as error:
                first.close()
                failure = translated(error, f"cannot ask {host}:{port} for the brokers")
                continue
            self.cluster.update_metadata(answer)
            if self.cluster.brokers():
                first.close()
            else:
                self._conns[_BOOTSTRAP] = first
            break
        else:
            raise failure
        if self._sync_task is None:
            self._sync_task = self._loop.create_task(self._md_synchronizer())

    async def send(self, node_id: Any, request: Any, *, group: int = ConnectionGroup.DEFAULT) -> Any:
        """The answer. Raises KafkaError: RequestTimedOutError when the broker was silent for too long, though it was
        sending nothing else either."""
        await self._observer.before(request, partial(self._send, node_id, group))
        return await self._send(node_id, group, request)

    async def _send(self, node_id: Any, group: int, request: Any) -> Any:
        connection = await self._get_conn(node_id, group=group)
        if connection is None:
            raise NodeNotReadyError(f"broker {node_id} is away")
        # aiokafka's own limit would count a large answer that is still arriving as none
        own, connection._request_timeout = connection._request_timeout, None
        try:
            answered = not (isinstance(request, ProduceRequest) and request.required_acks == 0)
            answer = connection.send(request, expect_response=answered)
        finally:
            connection._request_timeout = own
        silence = self._observer.patience(request) or self._silence_ms / 1000
        if isinstance(request, FetchRequest):
            silence += request._max_wait_ms / 1000  # that long a broker has nothing to say
        watch = _Watch(connection, silence)
        if isinstance(request, _WAITS_FOR_MEMBERS):
            watch.named_after = math.inf
        task = self._loop.create_task(self._watched(watch, answer, request))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            watch.silence = min(watch.silence, _GIVEN_UP)
            raise

    async def _watched(self, watch: _Watch, answer: Any, request: Any) -> Any:
        asked = self._loop.time()
        got = await watch.over(asyncio.ensure_future(answer))
        self._observer.heard(request, got, asked)
        return got

    async def _metadata_update(self, cluster_metadata: Any, topics: Any) -> bool:
        """As aiokafka's, but by `send`, last from brokers that fail, and without having missing topics made."""
        request = MetadataRequest(list(topics) if topics else None, False)
        nodes = [broker.nodeId for broker in self.cluster.brokers()]
        if _BOOTSTRAP in self._conns:
            nodes.append(_BOOTSTRAP[0])
        random.shuffle(nodes)
        for node in sorted(nodes, key=self._failed):
            try:
                answer = await self.send(node, request)
            except (KafkaError, TimeoutError) as error:
                _theirs.warning("Unable to request metadata from node with id %s: %r", node, error)
                continue
            if not answer.brokers:
                return False
            cluster_metadata.update_metadata(answer)
            if _BOOTSTRAP in self._conns and self.cluster.brokers():
                self._conns.pop(_BOOTSTRAP).close()
            return True
        _theirs.error("Unable to update metadata from %s", nodes)
        cluster_metadata.failed_update(None)
        return False

    def get_random_node(self) -> Any:
        """One of those that fail least."""
        found = super().get_random_node()
        return found if not self._failed(found) else min((b.nodeId for b in self.cluster.brokers()), key=self._failed)

    def _failed(self, node: Any) -> int:
        attempts = self._attempts.get((node, ConnectionGroup.DEFAULT))
        return 0 if attempts is None else attempts.failed

    async def _get_conn(self, node_id: Any, *, group: int = ConnectionGroup.DEFAULT, no_hint: bool = False) -> Any:
        """As aiokafka's, but no broker's connection waits for another's. None: it is away."""
        key = (node_id, group)
        found = self._conns.get(key)
        if found is not None and found.connected():
            return found
        attempts = self._attempts.get(key)
        if attempts is None:
            attempts = self._attempts[key] = Attempts()
        try:
            return await attempts.shared(lambda: self._connected(key, attempts.failed))
        except (BrokerError, KafkaError) as error:
            if not self._connector.authentication.troubled:  # that is told already
                _theirs.error("Unable connect to node with id %s: %s", node_id, error)
            self.force_metadata_update()
            return None

    async def _connected(self, key: tuple[Any, int], failed: int) -> Any:
        node, _ = key
        found = self._conns.get(key)
        if found is not None and found.connected():
            return found
        broker = self.cluster.broker_metadata(node)
        if broker is None:
            raise NodeNotReadyError(f"broker {node} is not known (any more)")
        timeout = min(self._silence_ms, CONNECT_MS * (1 + failed))
        made = self._conns[key] = await self._connector.connected(
            broker.host, broker.port, timeout, self._on_connection_closed
        )
        return made

    async def close(self) -> None:
        for attempts in self._attempts.values():
            attempts.end()
        transports = [one._writer.transport for one in self._conns.values() if one._writer is not None]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE):
                await super().close()
        for transport in transports:
            transport.abort()


class _Watch:
    """Over one connection, as long as one answer is missing."""

    def __init__(self, connection: AIOKafkaConnection, silence: float) -> None:
        self.silence = silence
        """Seconds without any sign of life that end the connection."""
        self.named_after = _NAMED
        self._connection = connection
        self._seen: tuple[float, int, int] = (0.0, 0, 0)

    async def over(self, answer: asyncio.Future[Any]) -> Any:
        loop = asyncio.get_running_loop()
        since = loop.time()
        self._lives()
        while (left := since + self.silence - loop.time()) > 0:
            await asyncio.wait([answer], timeout=min(left, _LOOK))
            if answer.done():
                return answer.result()
            if self._lives():
                since = loop.time()
            elif (silent := loop.time() - since) >= self.named_after:
                LOG.silent(f"{self._connection.host}:{self._connection.port}", silent)
        answer.cancel()
        self._end()
        raise RequestTimedOutError()

    def _lives(self) -> bool:
        """Whether anything came, or left, since the last look."""
        connection, (action, came, unsent) = self._connection, self._seen
        if connection._reader is None:
            return False
        now = (
            connection._last_action,
            len(connection._reader._buffer),
            connection._writer.transport.get_write_buffer_size(),
        )
        self._seen = now
        return now[0] != action or now[1] != came or now[2] < unsent

    def _end(self) -> None:
        if self._connection._writer is None:
            return
        transport = self._connection._writer.transport
        self._connection.close(reason=CloseReason.CONNECTION_TIMEOUT)
        transport.abort()  # or it would wait until what is unsent has left


def new_consumer(client: Mapping[str, Any], options: Mapping[str, Any], observer: Observer | None = None) -> Any:
    """aiokafka's consumer, not started. `client`: the options of its client."""
    its_own = {name: value for name, value in client.items() if name != "connector"}
    made = AIOKafkaConsumer(**its_own, **options)
    made._client = Client(**client, observer=observer)  # it takes none, and makes its own
    return made
