from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis
from once_redis import Once
from redis_server import redis_or_skipped

import flux
from flux.core.ports import CommittedOffset, TopicPartition
from flux.testing import Kit


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with redis_or_skipped() as url:
        yield url


@pytest.fixture
def client(server: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(server) as made:
        made.flushdb()
        yield made


def billing(client: redis.Redis, calls: list[bytes], error: BaseException | None = None, **settings: Any) -> Any:
    def call(message: flux.Message) -> None:
        calls.append(message.value)
        if error is not None:
            raise error

    options = {"wait": 10, "middleware": [Once("billing", client, lease=60)], **settings}
    return flux.task(topic="orders", group_id="billing", **options)(call)


def again(kit: Kit) -> None:
    """Delivers all records again."""
    kit.broker().set_committed_offset("billing", TopicPartition("orders", 0), CommittedOffset(0))


def test_what_is_done_is_not_done_again(flux_kit: Kit, client: redis.Redis) -> None:
    calls: list[bytes] = []
    task = billing(client, calls)
    flux_kit.produce("orders", "one")
    assert flux_kit.run(task).done == 1
    again(flux_kit)
    assert flux_kit.run(task).done == 1
    assert calls == [b"one"]
    assert 6 * 86400 < int(str(client.ttl("worked:billing:orders/0/0"))) <= 7 * 86400


def test_what_failed_is_free_for_its_next_try(flux_kit: Kit, client: redis.Redis) -> None:
    calls: list[bytes] = []
    task = billing(client, calls, ValueError("wrong"), retries=1)
    flux_kit.produce("orders", "one")
    assert flux_kit.run_to_the_end(task).dead == 1
    assert calls == [b"one", b"one"]
    assert client.keys() == []


def test_what_another_call_is_at_waits_until_its_lease_has_ended(flux_kit: Kit, client: redis.Redis) -> None:
    calls: list[bytes] = []
    task = billing(client, calls)
    client.set("worked:billing:orders/0/0", b"of a process that died", px=60_000)
    flux_kit.produce("orders", "one")
    flux_kit.run(task)
    [waiting] = flux_kit.waiting(task)
    assert waiting.seconds is not None
    assert 55 < waiting.seconds <= 61
    client.delete("worked:billing:orders/0/0")
    assert flux_kit.run_to_the_end(task).done == 1
    assert calls == [b"one"]


def test_a_call_that_outlived_its_lease_does_not_free_what_is_another_ones(flux_kit: Kit, client: redis.Redis) -> None:
    key = "worked:billing:orders/0/0"

    def call(message: flux.Message) -> None:
        client.set(key, b"another's")  # it started when the lease had expired
        raise ValueError("late")

    task = flux.task(topic="orders", group_id="billing", middleware=[Once("billing", client)])(call)
    flux_kit.produce("orders", "one")
    flux_kit.run(task)
    assert client.get(key) == b"another's"


def test_while_redis_is_away_nothing_moves(flux_kit: Kit) -> None:
    nowhere = redis.Redis(port=1)
    task = billing(nowhere, [], pause_on=(redis.ConnectionError, redis.TimeoutError))
    flux_kit.produce("orders", "one")
    summary = flux_kit.run(task)
    assert (summary.done, summary.failed, summary.retried) == (0, 0, 0)


def test_work_that_is_done_stays_done_when_redis_cannot_be_told(
    flux_kit: Kit, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    def call(message: flux.Message) -> None:
        monkeypatch.setattr(client, "set", away)

    def away(*_: object, **__: object) -> None:
        raise redis.ConnectionError("away")

    task = flux.task(topic="orders", group_id="billing", middleware=[Once("billing", client)])(call)
    flux_kit.produce("orders", "one")
    assert flux_kit.run(task).done == 1
