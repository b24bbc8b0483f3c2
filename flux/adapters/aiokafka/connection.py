"""Reaching the cluster with aiokafka's client."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from typing import Any

from aiokafka.protocol.metadata import MetadataRequest

from flux.adapters.aiokafka.attempts import Attempts
from flux.adapters.aiokafka.client import Client
from flux.adapters.aiokafka.errors import error_for, fault_of, translated
from flux.core.errors import BrokerError, Fault

Topics = dict[str, list[tuple[int, int, list[int]]] | BrokerError]
"""By name: (partition, leader, replicas) of each partition, or why there are none."""


async def described(client: Any, names: Iterable[str] | None) -> Topics:
    """Topics as a broker knows them now; None: all. Never creates one. Raises KafkaError."""
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
            else translated(error, f"cannot describe topic {name}", f"DESCRIBE on topic {name}")
        )
    return found


class Connection:
    """One client of aiokafka's for producer or admin. Used in one event loop."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = options
        self.made: Any = None
        """aiokafka's client, once it has connected."""
        self._attempts: Attempts[Any] = Attempts()

    async def client(self) -> Any:
        """Connected once already, though perhaps away by now. Raises BrokerError: UNAVAILABLE or LOGIN."""
        return self.made if self.made is not None else await self._attempts.shared(self._connect)

    async def _connect(self) -> Any:
        if self.made is None:
            made = Client(**self._options)
            try:
                await made.bootstrap()
            except BaseException:
                await made.close()
                raise
            self.made = made
        return self.made

    async def close(self) -> None:
        self._attempts.end()
        made, self.made = self.made, None
        if made is not None:
            with contextlib.suppress(Exception):
                await made.close()
