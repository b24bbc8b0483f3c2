"""A member's session with its group, followed by the coordinator's answers.

aiokafka keeps its partitions until the coordinator says that they are lost, which it cannot while it is silent. And a
static member of aiokafka takes its place back from another one with its id, for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from aiokafka.errors import IncompatibleBrokerVersion, KafkaError
from aiokafka.protocol.api import Request, RequestStruct
from aiokafka.protocol.commit import OffsetCommitRequest, OffsetFetchRequest
from aiokafka.protocol.coordination import FindCoordinatorRequest
from aiokafka.protocol.group import (
    HeartbeatRequest,
    HeartbeatResponse_v1,
    JoinGroupRequest,
    LeaveGroupRequest,
    SyncGroupRequest,
)
from aiokafka.protocol.types import Int32, Schema, String

from flux.adapters.aiokafka import internals
from flux.adapters.aiokafka.client import Observer
from flux.adapters.aiokafka.errors import FENCED_INSTANCE_ID, Replaced
from flux.core.errors import BrokerError, Fault

_OK, _REBALANCING, _INCONSISTENT_PROTOCOL = 0, 27, 23
_ANSWERED_AT_ONCE = (
    FindCoordinatorRequest,
    HeartbeatRequest,
    LeaveGroupRequest,
    OffsetCommitRequest,
    OffsetFetchRequest,
    SyncGroupRequest,
)
_JOIN = 25.0  # seconds of silence: the coordinator answers when all members have given up their partitions


class _HeartbeatResponse(HeartbeatResponse_v1):  # type: ignore[misc]
    API_VERSION = 3


class _StaticHeartbeat(RequestStruct):  # type: ignore[misc]
    API_KEY = 12
    API_VERSION = 3
    RESPONSE_TYPE = _HeartbeatResponse
    SCHEMA = Schema(
        ("group", String("utf-8")),
        ("generation_id", Int32),
        ("member_id", String("utf-8")),
        ("group_instance_id", String("utf-8")),
    )


class StaticHeartbeat(Request[_StaticHeartbeat]):  # type: ignore[misc]
    """A heartbeat with the static id (KIP-345), which aiokafka does not send."""

    API_KEY = 12

    def __init__(self, group: str, generation: int, member: str, instance: str) -> None:
        self._fields = group, generation, member, instance

    def build(self, struct: Any) -> Any:
        return struct(*self._fields)


class Session(Observer):
    """Sees the requests and answers of one consumer, in its event loop. `timeout`: the session timeout in seconds;
    `silence`: the limit of silence for other requests; `instance`: the static id. `expired` is called when no answer
    has come for `timeout`; `failed` with an error after which the member cannot continue."""

    def __init__(
        self,
        group: str,
        timeout: float,
        silence: float,
        instance: str | None,
        expired: Callable[[], None],
        failed: Callable[[BrokerError], None],
    ) -> None:
        self.over = False
        """Whether the group may have assigned this member's partitions to others."""
        self._group = group
        self._timeout = timeout
        self._silence = silence
        self._instance = instance
        self._expired = expired
        self._failed = failed
        self._member: tuple[int, str] | None = None  # generation and id, while no other member can have them
        self._last_answered = 0.0  # when the request that was answered last was sent
        self._timer: asyncio.TimerHandle | None = None

    def silence_limit(self, request: Any) -> float | None:
        """Seconds of silence after which a request has failed; None: the client's default."""
        if isinstance(request, JoinGroupRequest):
            return max(_JOIN, self._silence)
        return min(self._timeout / 2, self._silence) if isinstance(request, _ANSWERED_AT_ONCE) else None

    async def before(self, request: Any, send: Callable[[Any], Awaitable[Any]]) -> None:
        """Raises KafkaError when a join would take the place of a member that has replaced this one."""
        if not isinstance(request, JoinGroupRequest) or self._instance is None or internals.member_of(request):
            return
        previous, self._member = self._member, None
        if previous is None:
            return
        try:
            answer = await send(StaticHeartbeat(self._group, *previous, self._instance))
        except (IncompatibleBrokerVersion, NotImplementedError):  # a broker before 2.3
            return
        except KafkaError:
            self._member = previous
            raise
        if answer.error_code == FENCED_INSTANCE_ID:
            self._member = previous
            self._failed(self._fenced())
            raise Replaced("another member has this one's group_instance_id")

    def answered(self, request: Any, answer: Any, sent: float) -> None:
        """`sent`: when the request was sent, by the loop's clock."""
        if isinstance(request, JoinGroupRequest):
            if answer.error_code == _INCONSISTENT_PROTOCOL:
                self._failed(self._inconsistent())
            elif answer.error_code == _OK:
                self._member = answer.generation_id, answer.member_id
        if isinstance(request, JoinGroupRequest | SyncGroupRequest) and answer.error_code == FENCED_INSTANCE_ID:
            self._failed(self._fenced())
        elif isinstance(request, SyncGroupRequest) and answer.error_code == _OK:
            self.over = False
            self._extend(asyncio.get_running_loop().time())  # the answer waited for the leader of the group
        elif isinstance(request, HeartbeatRequest) and answer.error_code in (_OK, _REBALANCING):
            self._extend(sent)

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _extend(self, sent: float) -> None:
        self._last_answered = max(self._last_answered, sent)
        if self._timer is None and not self.over:
            self._check()

    def _check(self) -> None:
        loop = asyncio.get_running_loop()
        until = self._last_answered + self._timeout
        if loop.time() < until:
            self._timer = loop.call_at(until, self._check)
        else:
            self._timer = None
            self.over = True
            self._expired()

    def _fenced(self) -> BrokerError:
        return BrokerError(
            f"group {self._group}: another member has joined as group_instance_id {self._instance}, so this one ends:"
            " give each process an id of its own",
            Fault.FENCED,
        )

    def _inconsistent(self) -> BrokerError:
        return BrokerError(
            f"cannot join group {self._group}: its members use another protocol (confluent's is cooperative, aiokafka's"
            " eager, and they do not mix): stop all members of the group, then start them with one client"
        )
