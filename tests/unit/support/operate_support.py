"""A task's topics on an in-memory broker, with dead letters as flux writes them, in time that nobody waits for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from flux.adapters.memory.log import MemoryRecord
from flux.core import flux_headers
from flux.core.policy import Policy
from flux.core.ports import Headers, ProducerRecord
from flux.core.stage import Stages
from flux.operate.dlq.dead_letters import DeadLetter, dead_letter_of
from flux.operate.dlq.filters import Filter
from flux.operate.dlq.reject import RejectResult, reject
from flux.operate.dlq.replay import Replay, ReplayResult
from flux.operate.dlq.replay_plan import ReplayOptions, ReplayPlan, plan_replay
from unit.support.memory_support import START, Kit

NOW_MS = int(START * 1000)
MAIN, RETRY, DEAD = "orders", "orders-billing-try-1", "orders-billing-dlq"


def headers_of(
    offset: int = 0,
    error: str = "ValueError",
    text: str = "no customer 17",
    reason: str = "exhausted",
    trace: str = '  File "/srv/app/billing.py", line 17, in call\n    raise ValueError\n',
    replays: int = 0,
    partition: int = 0,
) -> list[tuple[str, bytes | None]]:
    pairs: dict[str, object] = {
        flux_headers.STAGE: 3,
        flux_headers.ATTEMPTS: 3,
        flux_headers.GROUP: "billing",
        flux_headers.ORIGIN_TOPIC: MAIN,
        flux_headers.ORIGIN_PARTITION: partition,
        flux_headers.ORIGIN_OFFSET: 1000 + offset,
        flux_headers.ORIGIN_TIMESTAMP: NOW_MS - 60_000,
        flux_headers.FIRST_FAILED_AT: NOW_MS - 50_000,
        flux_headers.FAILED_AT: NOW_MS - 10_000 + offset,
        flux_headers.REASON: reason,
        flux_headers.ERROR_TYPE: error,
        flux_headers.ERROR_MESSAGE: text,
        flux_headers.ERROR_TRACE: trace,
    }
    if replays:
        pairs[flux_headers.REPLAYS] = replays
    return [("own", b"header"), *((name, str(value).encode()) for name, value in pairs.items())]


def dead_letter(headers: Headers = (), key: bytes | None = b"k", value: bytes = b"v", offset: int = 0) -> DeadLetter:
    record = MemoryRecord(DEAD, 0, offset, ProducerRecord(value, key, headers), (1, NOW_MS))
    return dead_letter_of(record, policy(), NOW_MS)


def policy(retries: int = 2, **settings: Any) -> Policy:
    return Policy(Stages(MAIN, "billing", retries), **settings)


class OperateKit:
    """`policy` has two retries; all topics have `partitions`."""

    def __init__(self, partitions: int = 1) -> None:
        self.kit = Kit(partitions)
        self.broker, self.admin, self.adapter, self.system = (
            self.kit.broker,
            self.kit.admin,
            self.kit.adapter,
            self.kit.system,
        )
        self.policy = policy()
        for stage in self.policy.stages:
            self.broker.create_topic(stage.topic, partitions)

    def bury(self, *specs: dict[str, Any], key: bytes | None = b"k", value: bytes = b"v") -> None:
        """A dead letter for each of `headers_of`'s arguments; `at`: its partition."""
        for number, spec in enumerate(specs):
            at = spec.pop("at", 0)
            headers = headers_of(number, partition=at, **spec)
            self.kit.write(ProducerRecord(value, key, headers, at, NOW_MS + number), topic=DEAD)

    def plan(self, **options: Any) -> ReplayPlan:
        return plan_replay(self.admin, self.policy, ReplayOptions(**options))

    def replay(self, should_stop: Callable[[], bool] = lambda: False, **options: Any) -> ReplayResult:
        return Replay(self.plan(**options), self.adapter, self.admin, should_stop=should_stop, system=self.system).run()

    def reject(self, criteria: Filter, **options: Any) -> RejectResult:
        return reject(self.adapter, self.admin, self.policy, criteria, system=self.system, **options)

    def copies(self, topic: str = RETRY) -> list[MemoryRecord]:
        return self.broker.records(topic)

    def replayed_offsets(self) -> list[int]:
        """Of the dead letters, by the origin that their copies name."""
        return [int(header(record, flux_headers.ORIGIN_OFFSET)) - 1000 for record in self.copies()]


def header(record: MemoryRecord, name: str) -> str:
    found: Sequence[bytes | None] = [value for key, value in record.headers() or () if key == name]
    assert len(found) == 1, f"{len(found)} of {name}"
    return (found[0] or b"").decode()


def only(**given: Any) -> Filter:
    return Filter(**given)


def places(*chosen: tuple[int, int]) -> Filter:
    return Filter(only=frozenset(chosen))
