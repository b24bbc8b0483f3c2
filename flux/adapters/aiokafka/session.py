"""A member's session with its group, as far as it can be known from what the group answers.

aiokafka goes on with its partitions until the group says that they are another's, which it cannot hear while the
coordinator is silent; and it takes a static member's place back from whoever took it, for ever.
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

from flux.adapters.aiokafka.client import Observer
from flux.adapters.aiokafka.errors import FENCED_INSTANCE_ID, Replaced
from flux.core.errors import BrokerError, Fault

_OK, _REBALANCING, _INCONSISTENT_PROTOCOL = 0, 27, 23
_ANSWERED_SOON = (
    FindCoordinatorRequest,
    HeartbeatRequest,
    LeaveGroupRequest,
    OffsetCommitRequest,
    OffsetFetchRequest,
    SyncGroupRequest,
)
_JOIN = 25.0  # seconds of silence: the group answers when its members have given up their partitions


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
    """Sees the requests and answers of one consumer, in its event loop. `timeout`: seconds that the group waits for a
    member; `silence`: that any request may take; `instance`: the static id. `expired` is called when no answer has
    come for `timeout`; `failed` with what can never be mended."""

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
        """Whether the group may have given this member's partitions to others."""
        self._group = group
        self._timeout = timeout
        self._silence = silence
        self._instance = instance
        self._expired = expired
        self._failed = failed
        self._member: tuple[int, str] | None = None  # generation and id, while nobody can have been given them anew
        self._answered = 0.0  # when what was answered last was asked
        self._timer: asyncio.TimerHandle | None = None

    def patience(self, request: Any) -> float | None:
        """Seconds of silence after which a request has failed; None: as for any other."""
        if isinstance(request, JoinGroupRequest):
            return max(_JOIN, self._silence)
        return min(self._timeout / 2, self._silence) if isinstance(request, _ANSWERED_SOON) else None

    async def before(self, request: Any, send: Callable[[Any], Awaitable[Any]]) -> None:
        """Raises KafkaError when a join would take the place of a member that has taken this one's."""
        if not isinstance(request, JoinGroupRequest) or self._instance is None or request._member_id:
            return
        was, self._member = self._member, None
        if was is None:
            return
        try:
            answer = await send(StaticHeartbeat(self._group, *was, self._instance))
        except (IncompatibleBrokerVersion, NotImplementedError):  # a broker before 2.3
            return
        except KafkaError:
            self._member = was
            raise
        if answer.error_code == FENCED_INSTANCE_ID:
            self._member = was
            self._failed(self._fenced())
            raise Replaced("another member has this one's group_instance_id")

    def heard(self, request: Any, answer: Any, asked: float) -> None:
        """An answer to what was asked then, by the loop's clock."""
        if isinstance(request, JoinGroupRequest):
            if answer.error_code == _INCONSISTENT_PROTOCOL:
                self._failed(self._inconsistent())
            elif answer.error_code == _OK:
                self._member = answer.generation_id, answer.member_id
        if isinstance(request, JoinGroupRequest | SyncGroupRequest) and answer.error_code == FENCED_INSTANCE_ID:
            self._failed(self._fenced())
        elif isinstance(request, SyncGroupRequest) and answer.error_code == _OK:
            self.over = False
            self._lasts_from(asyncio.get_running_loop().time())  # it waited for the leader of the group
        elif isinstance(request, HeartbeatRequest) and answer.error_code in (_OK, _REBALANCING):
            self._lasts_from(asked)

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _lasts_from(self, asked: float) -> None:
        self._answered = max(self._answered, asked)
        if self._timer is None and not self.over:
            self._look()

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        until = self._answered + self._timeout
        if loop.time() < until:
            self._timer = loop.call_at(until, self._look)
        else:
            self._timer = None
            self.over = True
            self._expired()

    def _fenced(self) -> BrokerError:
        return BrokerError(
            f"group {self._group}: another member has joined as group_instance_id {self._instance}, so this one is out:"
            " give each process an id of its own",
            Fault.FENCED,
        )

    def _inconsistent(self) -> BrokerError:
        return BrokerError(
            f"cannot join group {self._group}: its members use another protocol (confluent's is cooperative, aiokafka's"
            " eager, and they do not mix): stop all members of the group, then start them with one client"
        )
