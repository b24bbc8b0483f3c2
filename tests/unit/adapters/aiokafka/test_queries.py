"""What the admin's requests make of a broker's answers."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import IncompatibleBrokerVersion, KafkaError

from flux.adapters.aiokafka import queries


class Client:
    """Gets one answer about a group, or an error instead."""

    def __init__(self, code: int = 0, error: Exception | None = None) -> None:
        self._code = code
        self._error = error

    async def send(self, node: int, request: Any) -> Any:
        if self._error is not None:
            raise self._error
        return SimpleNamespace(groups=[(self._code, None, "g", "", 0, 0, "", [], 0)])


@pytest.mark.parametrize(
    "client",
    [Client(error=IncompatibleBrokerVersion()), Client(error=NotImplementedError()), Client(69), Client(35)],
    ids=["the broker is older", "the client is older", "there is no such group", "the cluster has no such protocol"],
)
def test_a_group_without_members_by_the_new_protocol_has_none(client: Client) -> None:
    assert asyncio.run(queries.broker_assigned_members(client, 1, "g")) == []


def test_another_error_is_raised() -> None:
    with pytest.raises(KafkaError):
        asyncio.run(queries.broker_assigned_members(Client(30), 1, "g"))
