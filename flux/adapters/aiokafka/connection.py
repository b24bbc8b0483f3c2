"""The connected client of a producer or admin, and descriptions of topics."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from typing import Any

from aiokafka.protocol.metadata import MetadataRequest

from flux.adapters.aiokafka.client import Client
from flux.adapters.aiokafka.connector import Attempts
from flux.adapters.aiokafka.errors import error_for, fault_of, translated
from flux.adapters.operations import DESCRIBE_TOPIC
from flux.core.errors import BrokerError, Fault

Topics = dict[str, list[tuple[int, int, list[int]]] | BrokerError]
"""By name: (partition, leader, replicas) of each partition, or why it has none."""


async def described(client: Any, names: Iterable[str] | None) -> Topics:
    """Topics as a broker knows them now; `names` None: all. Never creates one. Raises KafkaError."""
    wanted = None if names is None else list(names)
    answer = await client.send(client.get_random_node(), MetadataRequest(wanted, False))
    found: Topics = {}
    for code, name, _internal, partitions in answer.topics:
        error = error_for(code)
        if error is not None and fault_of(error) is Fault.UNAVAILABLE:
            raise error
        found[name] = (
            [(number, leader, replicas) for _, number, leader, replicas, *_ in partitions]
            if error is None
            else translated(error, *DESCRIBE_TOPIC.of(name))
        )
    return found


class Connection:
    """Connects a client once, for a producer or an admin. Used in one event loop."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = options
        self.connected: Any = None
        """The client, once it has connected; its brokers may be unavailable by now."""
        self._attempts: Attempts[Any] = Attempts()

    async def client(self) -> Any:
        """The connected client. Raises BrokerError: UNAVAILABLE or LOGIN."""
        return self.connected if self.connected is not None else await self._attempts.shared(self._connect)

    async def _connect(self) -> Any:
        if self.connected is None:
            client = Client(**self._options)
            try:
                await client.bootstrap()
            except BaseException:
                await client.close()
                raise
            self.connected = client
        return self.connected

    async def close(self) -> None:
        self._attempts.cancel()
        client, self.connected = self.connected, None
        if client is not None:
            with contextlib.suppress(Exception):
                await client.close()
