"""flux's uses of aiokafka's private parts, each with aiokafka's own objects: an upgrade that moves one fails here."""

from __future__ import annotations

import ast
import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.abc import AbstractTokenProvider
from aiokafka.client import AIOKafkaClient
from aiokafka.conn import AIOKafkaConnection, OAuthAuthenticator
from aiokafka.consumer.fetcher import FetchError, FetchResult, PartitionRecords
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.group import JoinGroupRequest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords

import flux.adapters.aiokafka
from flux.adapters import kafka
from flux.adapters.aiokafka import internals

PARTITION = TopicPartition("t", 0)


class Offline(internals.OpenClient):
    """Connects to nothing."""

    async def bootstrap(self) -> None:
        """There is no broker."""

    async def connection_to(self, node: Any, group: int) -> Any:
        return node, group

    async def update_metadata(self, cluster: Any, topics: Any) -> bool:
        return bool(topics == ["t"])


def with_consumer(use: Callable[[Any], Awaitable[None]], group: str | None = "g", **options: Any) -> None:
    """Calls `use` with aiokafka's consumer, started."""

    async def main() -> None:
        consumer = AIOKafkaConsumer(group_id=group, auto_offset_reset="none", enable_auto_commit=False, **options)
        internals.use_client(consumer, Offline())
        assert not internals.is_started(consumer)
        await consumer.start()
        assert internals.is_started(consumer)
        await asyncio.sleep(0)  # its tasks begin: one that is cancelled before makes `stop` raise
        try:
            await use(consumer)
        finally:
            await asyncio.wait_for(consumer.stop(), 5)

    asyncio.run(main())


def batch(*values: bytes, **kinds: Any) -> bytes:
    builder = DefaultRecordBatchBuilder(2, 0, kinds.get("transactional", 0), kinds.get("producer", -1), 0, 0, 10_000)
    for offset, value in enumerate(values):
        builder.append(offset, 1_000, None, value, [])
    return bytes(builder.build())


def partition_records(data: bytes, isolation_level: int = 0, aborted: Any = ()) -> PartitionRecords:
    return PartitionRecords(PARTITION, MemoryRecords(data), list(aborted), 0, None, None, True, isolation_level)


def test_a_consumer_uses_the_given_client() -> None:
    async def use(consumer: Any) -> None:
        client = internals.client_of(consumer)
        assert isinstance(client, Offline)
        coordinator = internals.coordinator_of(consumer)
        assert (coordinator.generation, coordinator.group_id, coordinator.member_id) == (-1, "g", "")
        assert coordinator.coordinator_id is None
        for name in ("request_rejoin", "fetch_committed_offsets", "ensure_coordinator_known", "check_errors"):
            assert callable(getattr(coordinator, name))

    with_consumer(use)


def test_the_assignment_and_its_fetch_positions_are_read() -> None:
    async def use(consumer: Any) -> None:
        consumer.assign([PARTITION])
        subscription = internals.subscription_of(consumer)
        assert subscription.is_assigned(PARTITION)
        assert not subscription.reassignment_in_progress
        subscription.pause(PARTITION)
        subscription.resume(PARTITION)
        consumer.seek(PARTITION, 7)
        assignment = internals.assignment_of(consumer)
        state = assignment.state_value(PARTITION)
        assert (list(assignment.tps), assignment.active, state.position) == ([PARTITION], True, 7)
        assert state.has_valid_position
        assert (state.lso, state.highwater) == (None, None)
        state.consumed_to(9)
        assert state.position == 9

    with_consumer(use, group=None)


def test_polling_ends_by_an_exception_too() -> None:
    async def use(consumer: Any) -> None:
        subscription = internals.subscription_of(consumer)
        idle = []

        def poll() -> None:
            with internals.counted_as_polling(consumer):
                idle.append(subscription.fetcher_idle_time)
                raise KeyError

        with pytest.raises(KeyError):
            poll()
        assert idle == [0]
        await asyncio.sleep(0.01)
        assert subscription.fetcher_idle_time > 0

    with_consumer(use)


def test_fetched_records_are_found_and_dropped() -> None:
    async def use(consumer: Any) -> None:
        consumer.assign([PARTITION])
        fetched = internals.fetched_of(consumer)
        assert list(fetched) == []
        records = partition_records(batch(b"a"))
        assignment = internals.assignment_of(consumer)
        result = FetchResult(PARTITION, assignment=assignment, partition_records=records, backoff=0)
        assert internals.records_of_result(result) is records
        assert internals.assignment_of_result(result) is assignment
        error = ValueError()
        assert internals.error_of(FetchError(error=error, backoff=0)) is error
        fetched[PARTITION] = result
        internals.drop_fetched(consumer, PARTITION)
        internals.drop_fetched(consumer, PARTITION)
        assert list(internals.fetched_of(consumer)) == []
        waiter = internals.fetch_waiter(consumer)
        assert not waiter.done()
        waiter.cancel()

    with_consumer(use, group=None)


def test_the_coordination_is_locked_and_cancelled() -> None:
    async def use(consumer: Any) -> None:
        coordinator = internals.coordinator_of(consumer)
        async with internals.commit_lock(coordinator):
            assert internals.commit_lock(coordinator).locked()
        assert not internals.is_static(coordinator)
        assert [close.__name__ for close in internals.closes_of(consumer)] == ["close", "close"]
        task = coordinator._coordination_task
        internals.cancel_coordination(coordinator)
        await asyncio.wait([task], timeout=1)
        assert task.cancelled()

    with_consumer(use)


def test_a_commit_goes_to_the_coordinator_once() -> None:
    async def use(consumer: Any) -> None:
        coordinator = internals.coordinator_of(consumer)
        parameters = inspect.signature(coordinator._do_commit_offsets).parameters
        assert list(parameters) == ["assignment", "offsets"]
        await internals.commit_offsets(coordinator, {})

    with_consumer(use)


def test_a_static_member_is_recognized() -> None:
    async def use(consumer: Any) -> None:
        assert internals.is_static(internals.coordinator_of(consumer))

    with_consumer(use, group_instance_id="one")


def test_batches_are_taken_from_partition_records() -> None:
    records = partition_records(batch(b"a", b"b"))
    assert internals.has_batch(records)
    assert internals.checks_crcs(records)
    taken = internals.next_batch(records)
    assert taken.validate_crc()
    assert not internals.is_skipped(records, taken)
    assert [record.value for record in taken] == [b"a", b"b"]
    assert taken.next_offset == 2
    assert not internals.has_batch(records)
    assert records.next_fetch_offset == 0


@pytest.mark.parametrize("isolation_level", [0, 1])
def test_aborted_batches_are_skipped_where_only_committed_records_are_read(isolation_level: int) -> None:
    data = batch(b"a", transactional=1, producer=5)
    records = partition_records(data, isolation_level, aborted=[(5, 0)])
    assert internals.is_skipped(records, internals.next_batch(records)) == bool(isolation_level)


def test_the_buffer_of_a_batch_is_read() -> None:
    data = batch(b"value")
    buffer, position, count = internals.uncompressed(internals.RecordBatch(data))
    assert (count, position < buffer.index(b"value")) == (1, True)


def test_fields_of_requests_are_read() -> None:
    assert internals.fetch_wait(FetchRequest(500, 1, 1, 0, [])) == 0.5
    assert internals.member_of(JoinGroupRequest("g", 1, 1, "member", None, "consumer", [])) == "member"


def test_a_closed_connection_has_no_transport_and_no_traffic() -> None:
    async def main() -> None:
        connection = AIOKafkaConnection("localhost", 1, request_timeout_ms=1_000)
        assert internals.transport_of(connection) is None
        assert internals.traffic_of(connection) is None
        assert internals.token_provider_of(connection) is None
        assert hasattr(connection, "_last_action")
        assert hasattr(connection, "_request_timeout")
        connection.close()

    asyncio.run(main())


def test_an_open_connection_shows_its_traffic_and_sends_without_a_limit() -> None:
    async def main() -> None:
        server = await asyncio.start_server(lambda reader, writer: None, "localhost", 0)
        port = server.sockets[0].getsockname()[1]
        connection = AIOKafkaConnection("localhost", port, request_timeout_ms=1_000)
        reader, writer = await asyncio.open_connection("localhost", port)
        connection._reader, connection._writer = reader, writer
        try:
            assert internals.transport_of(connection) is writer.transport
            used, received, unsent = internals.traffic_of(connection) or (0.0, -1, -1)
            assert (used > 0, received, unsent) == (True, 0, 0)
            limits = []

            def send(request: Any, expect_response: bool) -> str:
                limits.append(connection._request_timeout)
                return f"{request} {expect_response}"

            connection.send = send
            assert internals.send_without_timeout(connection, "request", True) == "request True"
            assert (limits, connection._request_timeout) == ([None], 1.0)
        finally:
            writer.close()
            server.close()

    asyncio.run(main())


class Provider(AbstractTokenProvider):  # type: ignore[misc]
    async def token(self) -> str:
        return "t"

    def extensions(self) -> dict[str, str]:
        return {"a": "b"}


def test_an_oauth_request_holds_the_token_and_the_extensions() -> None:
    request = internals.oauth_request(OAuthAuthenticator(sasl_oauth_token_provider=Provider()), "token")
    assert "Bearer token" in request
    assert "a=b" in request


def test_a_client_leads_to_the_replaced_methods_and_shows_its_parts() -> None:
    async def main() -> None:
        client = Offline(request_timeout_ms=1_234)
        assert (client.connections, client.connect_timeout_ms) == ({}, 1_234)
        client.connections[7, 0] = SimpleNamespace(host="h", port=1)
        client.connection_closed(client.connections[7, 0], None)
        assert await client._get_conn(7) == (7, 0)
        assert await client._metadata_update(client.cluster, ["t"])
        client.start_metadata_updates()
        task = client._sync_task
        client.start_metadata_updates()
        assert client._sync_task is task
        task.cancel()

    asyncio.run(main())


def test_what_a_client_replaces_has_aiokafkas_signatures() -> None:
    for name in ("_get_conn", "_metadata_update"):
        own, theirs = (inspect.signature(getattr(of, name)).parameters for of in (internals.OpenClient, AIOKafkaClient))
        assert list(own) == list(theirs)


def private_uses(path: Path) -> Iterator[str]:
    """Private attributes that a module uses, and neither it nor the adapters' base class defines."""
    tree = ast.parse(path.read_text())
    defined = set()
    for node in (*ast.walk(tree), *ast.walk(ast.parse(Path(kafka.__file__).read_text()))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            defined.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            defined.add(node.attr)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            defined.add(node.id)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            if node.attr not in defined:
                yield f"{path.name}:{node.lineno} {node.attr}"
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("aiokafka"):
            yield from (
                f"{path.name}:{node.lineno} {a.name}"
                for a in node.names
                if a.name.startswith("_") and a.name != "__version__"
            )


def test_no_other_module_uses_a_private_part() -> None:
    modules = sorted(Path(flux.adapters.aiokafka.__path__[0]).glob("*.py"))
    uses = [use for path in modules if path.name != "internals.py" for use in private_uses(path)]
    assert uses == []
    assert list(private_uses(Path(internals.__file__)))
