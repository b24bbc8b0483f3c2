"""What flux uses of aiokafka's private parts. No other module names a private attribute of aiokafka's objects.

Each use is one function or method here, and test_internals.py calls each with aiokafka's own objects: an upgrade that
moves a part fails there, by name. Written for aiokafka 0.14.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.client import AIOKafkaClient, ConnectionGroup
from aiokafka.conn import AIOKafkaConnection, OAuthAuthenticator
from aiokafka.record.default_records import _DefaultRecordBatchPy

RecordBatch: Any = _DefaultRecordBatchPy
"""The implementation whose buffer can be read."""

_READ_COMMITTED = 1

# -- consumers


def use_client(consumer: AIOKafkaConsumer, client: AIOKafkaClient) -> None:
    """aiokafka's consumer accepts no client, and makes its own."""
    consumer._client = client


def client_of(consumer: AIOKafkaConsumer) -> Any:
    return consumer._client


def coordinator_of(consumer: AIOKafkaConsumer) -> Any:
    """The member's side of its group; its public methods are used directly."""
    return consumer._coordinator


def subscription_of(consumer: AIOKafkaConsumer) -> Any:
    return consumer._subscription


def assignment_of(consumer: AIOKafkaConsumer) -> Any:
    """The assigned partitions with their fetch positions; None before the first rebalance."""
    return consumer._subscription.subscription.assignment


def is_started(consumer: AIOKafkaConsumer) -> bool:
    return consumer._fetcher is not None


@contextmanager
def counted_as_polling(consumer: AIOKafkaConsumer) -> Iterator[None]:
    """Inside, the time since the last poll does not count towards max_poll_interval_ms. aiokafka's own context never
    ends when it is left by an exception."""
    context = consumer._subscription.fetch_context()
    context.__enter__()
    try:
        yield
    finally:
        context.__exit__(None, None, None)


def closes_of(consumer: AIOKafkaConsumer) -> tuple[Callable[[], Any], ...]:
    """The `close` coroutine functions of the parts that `stop` ends last."""
    return consumer._fetcher.close, consumer._client.close


# -- commits and membership


def commit_lock(coordinator: Any) -> asyncio.Lock:
    """Held while a commit is in flight; aiokafka's own commits take it too."""
    lock: asyncio.Lock = coordinator._commit_lock
    return lock


async def commit_offsets(coordinator: Any, offsets: dict[Any, Any]) -> None:
    """Commits once; aiokafka's public way repeats a refused commit for ever. Raises KafkaError."""
    await coordinator._do_commit_offsets(None, offsets)


def cancel_coordination(coordinator: Any) -> None:
    """Cancels the task that joins, rebalances and leaves."""
    coordinator._coordination_task.cancel()


def is_static(coordinator: Any) -> bool:
    return coordinator._group_instance_id is not None


# -- fetched records


def fetched_of(consumer: AIOKafkaConsumer) -> OrderedDict[Any, Any]:
    """By partition, what was fetched and not yet taken: a FetchResult or a FetchError."""
    records: OrderedDict[Any, Any] = consumer._fetcher._records
    return records


def drop_fetched(consumer: AIOKafkaConsumer, partition: Any) -> None:
    """Makes room for the partition's next fetch."""
    fetcher = consumer._fetcher
    fetcher._records.pop(partition, None)
    fetcher._notify(fetcher._wait_consume_future)


def fetch_waiter(consumer: AIOKafkaConsumer) -> asyncio.Future[Any]:
    """Done when the next fetch is answered."""
    waiter: asyncio.Future[Any] = consumer._fetcher._create_fetch_waiter()
    return waiter


def error_of(fetch_error: Any) -> Exception:
    error: Exception = fetch_error._error
    return error


def assignment_of_result(fetch_result: Any) -> Any:
    return fetch_result._assignment


def records_of_result(fetch_result: Any) -> Any:
    """aiokafka's PartitionRecords, for the functions below."""
    return fetch_result._partition_records


def has_batch(partition_records: Any) -> bool:
    return bool(partition_records._records.has_next())


def next_batch(partition_records: Any) -> Any:
    return partition_records._records.next_batch()


def checks_crcs(partition_records: Any) -> bool:
    return bool(partition_records._check_crcs)


def is_skipped(partition_records: Any, batch: Any) -> bool:
    """Whether a batch holds a transaction's marker or, for a reader of committed records, aborted ones."""
    if partition_records._isolation_level == _READ_COMMITTED and batch.producer_id is not None:
        partition_records._consume_aborted_up_to(batch.base_offset)
        if batch.is_control_batch and partition_records._contains_abort_marker(batch):
            partition_records._aborted_producers.discard(batch.producer_id)
        if batch.is_transactional and batch.producer_id in partition_records._aborted_producers:
            return True
    return bool(batch.is_control_batch)


def uncompressed(batch: Any) -> tuple[bytes, int, int]:
    """The buffer of a batch, where its records begin in it, and how many there are."""
    batch._maybe_uncompress()
    return bytes(batch._buffer), batch._pos, batch._num_records


# -- requests


def fetch_wait(request: Any) -> float:
    """Seconds for which a broker may hold a FetchRequest back."""
    return float(request._max_wait_ms) / 1000


def member_of(request: Any) -> str:
    """The member id in a JoinGroupRequest; empty for a new member."""
    member: str = request._member_id
    return member


# -- connections


def send_without_timeout(connection: Any, request: Any, expect_response: bool) -> Any:
    """What `send` returns. aiokafka's own limit would end a large answer that is still arriving."""
    timeout, connection._request_timeout = connection._request_timeout, None
    try:
        return connection.send(request, expect_response=expect_response)
    finally:
        connection._request_timeout = timeout


def transport_of(connection: Any) -> Any:
    """None once the connection is closed."""
    return None if connection._writer is None else connection._writer.transport


def traffic_of(connection: Any) -> tuple[float, int, int] | None:
    """When it was last used, bytes received of an incomplete answer, and bytes not yet sent; None once closed."""
    if connection._reader is None:
        return None
    unsent = connection._writer.transport.get_write_buffer_size()
    return connection._last_action, len(connection._reader._buffer), unsent


def token_provider_of(connection: AIOKafkaConnection) -> Any:
    return connection._sasl_oauth_token_provider


def oauth_request(authenticator: OAuthAuthenticator, token: str) -> str:
    request: str = authenticator._build_oauth_client_request(token, authenticator._token_extensions())
    return request


# -- clients


class OpenClient(AIOKafkaClient):  # type: ignore[misc]
    """aiokafka's client with public names for what flux's client uses and replaces."""

    _sync_task: Any

    @property
    def connections(self) -> dict[Any, Any]:
        """By (node, group)."""
        connections: dict[Any, Any] = self._conns
        return connections

    @property
    def connect_timeout_ms(self) -> int:
        timeout: int = self._request_timeout_ms
        return timeout

    @property
    def connection_closed(self) -> Callable[..., Any]:
        """The callback that removes a closed connection."""
        callback: Callable[..., Any] = self._on_connection_closed
        return callback

    def start_metadata_updates(self) -> None:
        """Updates the metadata when it is requested or old; does nothing when started already."""
        if self._sync_task is None:
            self._sync_task = self._loop.create_task(self._md_synchronizer())

    async def connection_to(self, node: Any, group: int) -> Any:
        """A connection to a broker, or None when there is none. flux's client defines it."""
        raise NotImplementedError

    async def update_metadata(self, cluster: Any, topics: Any) -> bool:
        """Whether `cluster` was updated. flux's client defines it."""
        raise NotImplementedError

    async def _get_conn(self, node_id: Any, *, group: int = ConnectionGroup.DEFAULT, no_hint: bool = False) -> Any:
        return await self.connection_to(node_id, group)

    async def _metadata_update(self, cluster_metadata: Any, topics: Any) -> bool:
        return await self.update_metadata(cluster_metadata, topics)
