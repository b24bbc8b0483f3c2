"""What a member of aiokafka's knows of its session, from the answers of its group."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError, KafkaError
from aiokafka.protocol.group import HeartbeatRequest, JoinGroupRequest, SyncGroupRequest

from flux.adapters.aiokafka.session import Session, StaticHeartbeat
from flux.core.errors import BrokerError, Fault
from unit.support.aiokafka_support import run

OK, UNKNOWN_MEMBER, INCONSISTENT, REBALANCING, FENCED = 0, 25, 23, 27, 82


class Group:
    """Around one session: what was told to it, and what it told."""

    def __init__(self, instance: str | None = None, timeout: float = 10.0) -> None:
        self.expired: list[float] = []
        self.failures: list[BrokerError] = []
        self.probes: list[Any] = []
        self.says: Any = OK
        self.session = Session("g", timeout, 15.0, instance, self._expire, self.failures.append)

    def _expire(self) -> None:
        self.expired.append(asyncio.get_running_loop().time())

    def hears(self, request: Any, code: int, asked: float | None = None, **answer: Any) -> None:
        now = asyncio.get_running_loop().time()
        self.session.answered(request, SimpleNamespace(error_code=code, **answer), now if asked is None else asked)

    async def joins(self, member: str, given: str = "", code: int = OK) -> None:
        request = JoinGroupRequest("g", 10_000, 60_000, member, self.session._instance, "consumer", [])
        await self.session.before(request, self._send)
        self.hears(request, code, generation_id=7, member_id=given)

    async def _send(self, request: Any) -> Any:
        self.probes.append(request)
        if isinstance(self.says, Exception):
            raise self.says
        return SimpleNamespace(error_code=self.says)


SYNC = SyncGroupRequest("g", 7, "m1", None, [])
BEAT = HeartbeatRequest("g", 7, "m1")


def test_a_session_ends_when_its_time_has_passed_since_the_last_answered_heartbeat_was_asked() -> None:
    async def main() -> None:
        group = Group()
        group.hears(SYNC, OK)
        for _ in range(10):
            await asyncio.sleep(3)
            group.hears(BEAT, OK)
        assert group.expired == []
        await asyncio.sleep(3)
        group.hears(BEAT, REBALANCING, asked=31)  # the group knows it still
        await asyncio.sleep(20)
        assert group.expired == [41]
        assert group.session.over
        group.hears(SYNC, OK)
        assert not group.session.over
        await asyncio.sleep(20)
        assert group.expired == [41, 63]

    run(main())


def test_a_sync_that_waited_for_others_begins_a_whole_session() -> None:
    async def main() -> None:
        group = Group()
        await asyncio.sleep(100)
        group.hears(SYNC, OK, asked=0)
        await asyncio.sleep(9)
        assert not group.session.over

    run(main())


def test_an_answer_that_a_member_is_not_known_keeps_no_session_alive() -> None:
    async def main() -> None:
        group = Group()
        group.hears(SYNC, OK)
        for _ in range(4):
            await asyncio.sleep(3)
            group.hears(BEAT, UNKNOWN_MEMBER)
        assert group.expired == [10]

    run(main())


def test_a_static_member_does_not_take_back_its_place_from_another() -> None:
    async def main() -> None:
        group = Group("id")
        await group.joins("", "m1")
        assert group.probes == []
        group.says = FENCED
        for _ in range(2):
            with pytest.raises(KafkaError):
                await group.joins("")
        assert [type(probe) for probe in group.probes] == [StaticHeartbeat, StaticHeartbeat]
        assert group.probes[0]._fields == ("g", 7, "m1", "id")
        assert group.failures[0].fault is Fault.FENCED
        assert "give each process an id of its own" in str(group.failures[0])

    run(main())


def test_a_static_member_that_the_group_has_forgotten_joins_again() -> None:
    async def main() -> None:
        group = Group("id")
        await group.joins("", "m1")
        group.says = UNKNOWN_MEMBER
        await group.joins("", "m2")
        assert group.failures == []

    run(main())


def test_a_static_member_whose_joining_was_not_answered_does_not_take_itself_for_another() -> None:
    async def main() -> None:
        group = Group("id")
        await group.joins("", "m1")
        group.says = UNKNOWN_MEMBER
        await group.joins("", code=UNKNOWN_MEMBER)  # may have been given m2
        group.says = FENCED
        await group.joins("", "m3")
        assert group.failures == []

    run(main())


def test_a_question_that_is_not_answered_is_asked_again_before_joining() -> None:
    async def main() -> None:
        group = Group("id")
        await group.joins("", "m1")
        group.says = KafkaConnectionError("away")
        with pytest.raises(KafkaConnectionError):
            await group.joins("")
        group.says = FENCED
        with pytest.raises(KafkaError):
            await group.joins("")
        assert len(group.failures) == 1

    run(main())


def test_members_without_a_static_id_ask_nothing() -> None:
    async def main() -> None:
        group = Group()
        await group.joins("", "m1")
        await group.joins("", "m2")
        assert group.probes == []

    run(main())


@pytest.mark.parametrize(("code", "said"), [(INCONSISTENT, "with one client"), (FENCED, "an id of its own")])
def test_a_join_that_is_refused_for_good_is_a_failure_with_its_remedy(code: int, said: str) -> None:
    async def main() -> None:
        group = Group("id")
        await group.joins("m1", code=code)
        [failure] = group.failures
        assert said in str(failure)
        assert "\n" not in str(failure)

    run(main())


def test_what_keeps_a_session_alive_is_given_up_before_the_session_ends() -> None:
    group = Group()
    assert group.session.silence_limit(BEAT) == 5
    assert Group(timeout=60.0).session.silence_limit(BEAT) == 15
    join = JoinGroupRequest("g", 10_000, 60_000, "", None, "consumer", [])
    assert group.session.silence_limit(join) == 25
    assert group.session.silence_limit(object()) is None
