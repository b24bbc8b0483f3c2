"""Retry stages whose topics are empty join their groups late: in time for their records, whoever wrote them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

import flux
from flux.adapters.memory import MemoryAdapter
from flux.consuming.coordinator.common import StageRuntime
from flux.consuming.coordinator.membership import Ending
from flux.core.errors import BrokerError
from flux.core.ports import AdminPort
from unit.support.peers_support import AWAY, DENIED, Peer, wait_for

WAIT = 20.0
STAGES = [("t", "g"), *((f"t-g-try-{number}", f"g-{number}") for number in (1, 2, 3))]


@pytest.fixture(autouse=True)
def _many_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients of the in-memory broker cost nothing, so its stages join at once."""
    monkeypatch.setattr(MemoryAdapter, "shares_processes", True)


class Handler:
    def __init__(self) -> None:
        self.failing = 0
        self.calls: list[tuple[int, bytes | None]] = []

    def call(self, message: flux.Message) -> None:
        self.calls.append((message.stage, message.value))
        if message.stage < self.failing:
            raise flux.Retry(after=0.01)

    async def awaited(self, message: flux.Message) -> None:
        self.call(message)


@pytest.fixture(params=["call", "awaited"])
def handler(request: pytest.FixtureRequest) -> tuple[Handler, Callable[..., Any]]:
    made = Handler()
    return made, getattr(made, request.param)


def members(peer: Peer) -> list[int]:
    """The stages whose groups have a member."""
    admin = peer.adapter.admin()
    return [number for number, (_, group) in enumerate(STAGES) if admin.members(group, 1)]


def test_stages_of_empty_topics_join_when_this_worker_forwards_to_them(
    handler: tuple[Handler, Callable[..., Any]],
) -> None:
    peer, (made, call) = Peer(), handler
    made.failing = 2
    with peer.working(peer.task(call, wait=WAIT, retries=3)) as running:
        wait_for(lambda: running.worker.health().ready, "it is ready")
        wait_for(lambda: members(peer) == [0, 1], "two have joined")
        peer.write(b"a")
        wait_for(lambda: made.calls == [(0, b"a"), (1, b"a"), (2, b"a")], "it is done in the next stages")
        assert members(peer) == [0, 1, 2]
        assert running.worker.health().ready
    assert members(peer) == []
    assert peer.position("t-g-try-2", "g-2") == 1


def test_they_join_for_what_another_process_wrote(handler: tuple[Handler, Callable[..., Any]]) -> None:
    peer, (made, call) = Peer(), handler
    with peer.working(peer.task(call, wait=WAIT, retries=3)):
        wait_for(lambda: members(peer) == [0, 1], "two have joined")
        peer.write(b"a", topic="t-g-try-3")
        wait_for(lambda: made.calls == [(3, b"a")], "it is done")
        assert members(peer) == [0, 1, 3]


def test_a_stage_with_records_joins_at_the_start(handler: tuple[Handler, Callable[..., Any]]) -> None:
    peer, (made, call) = Peer(), handler
    task = peer.task(call, wait=600.0, retries=3)
    peer.write(b"a", topic="t-g-try-2")
    with peer.working(task):
        wait_for(lambda: members(peer) == [0, 1, 2], "it has joined")
    assert made.calls == []


def test_a_stage_whose_records_are_done_joins_too_so_that_its_committed_offset_is_kept(
    handler: tuple[Handler, Callable[..., Any]],
) -> None:
    peer, (made, call) = Peer(), handler
    task = peer.task(call, wait=WAIT, retries=3)
    peer.write(b"a", topic="t-g-try-2")
    with peer.working(task):
        wait_for(lambda: peer.position("t-g-try-2", "g-2") == 1, "it is done")
    with peer.working(task):
        wait_for(lambda: members(peer) == [0, 1, 2], "it has joined")
    assert made.calls == [(2, b"a")]


def test_short_waits_and_the_memory_broker_join_all_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    peer = Peer()
    with peer.working(peer.task(Handler().call, wait=14.0, retries=3)):
        wait_for(lambda: members(peer) == [0, 1, 2, 3], "all have joined")
    monkeypatch.setattr(MemoryAdapter, "shares_processes", False)
    peer = Peer()
    with peer.working(peer.task(Handler().call, wait=WAIT, retries=3)):
        wait_for(lambda: members(peer) == [0, 1, 2, 3], "all have joined")


class Failing:
    """An admin whose watermarks of retry topics raise `error` while there is one."""

    def __init__(self, inner: AdminPort) -> None:
        self._inner = inner
        self.error: BrokerError | None = None
        self.asked = 0

    def watermarks(self, topic: str, timeout: float) -> Any:
        if "-try-" in topic:
            self.asked += 1
            if self.error is not None:
                raise self.error
        return self._inner.watermarks(topic, timeout)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def failing(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> Failing:
    admin = Failing(peer.adapter.admin())
    monkeypatch.setattr(peer.adapter, "admin", lambda: admin)
    return admin


@pytest.mark.parametrize("error", [AWAY, DENIED])
def test_what_cannot_be_known_at_the_start_is_left_to_a_member(
    error: BrokerError, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = Peer()
    admin = failing(peer, monkeypatch)
    admin.error = error
    with peer.working(peer.task(Handler().call, wait=WAIT, retries=3)):
        wait_for(lambda: members(peer) == [0, 1, 2, 3], "all have joined")


def test_a_cluster_that_is_unavailable_for_a_while_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    peer, made = Peer(), Handler()
    admin = failing(peer, monkeypatch)
    with peer.working(peer.task(made.call, wait=WAIT, retries=3)):
        wait_for(lambda: members(peer) == [0, 1], "two have joined")
        asked, admin.error = admin.asked, AWAY
        wait_for(lambda: admin.asked > asked + 4, "it asks")
        assert members(peer) == [0, 1]
        peer.write(b"a", topic="t-g-try-3")
        admin.error = None
        wait_for(lambda: made.calls == [(3, b"a")], "it is done")


def test_a_right_that_is_taken_away_makes_the_stage_join(monkeypatch: pytest.MonkeyPatch) -> None:
    peer = Peer()
    admin = failing(peer, monkeypatch)
    with peer.working(peer.task(Handler().call, wait=WAIT, retries=3)):
        wait_for(lambda: members(peer) == [0, 1], "two have joined")
        admin.error = DENIED
        wait_for(lambda: members(peer) == [0, 1, 2, 3], "all have joined")


def test_an_idle_worker_ends_without_having_joined_them(handler: tuple[Handler, Callable[..., Any]]) -> None:
    peer, (made, call) = Peer(), handler
    task = peer.task(call, wait=WAIT, retries=3)
    peer.write(b"a")
    with peer.working(task, exit_when_idle=2) as running:
        wait_for(lambda: running.ended, "it has ended")
    assert made.calls == [(0, b"a")]


def test_a_worker_that_is_idle_waits_for_what_it_forwarded(handler: tuple[Handler, Callable[..., Any]]) -> None:
    peer, (made, call) = Peer(), handler
    made.failing = 3
    task = peer.task(call, wait=WAIT, retries=3)
    peer.write(b"a")
    with peer.working(task, exit_when_idle=1) as running:
        wait_for(lambda: running.ended, "it has ended")
    assert [stage for stage, _ in made.calls] == [0, 1, 2, 3]


def test_no_thread_is_left_and_nothing_is_logged_about_them(
    handler: tuple[Handler, Callable[..., Any]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "flux")
    peer, (_, call) = Peer(), handler
    with peer.working(peer.task(call, wait=WAIT, retries=3, stalled_after=1.0)):
        wait_for(lambda: members(peer) == [0, 1], "two have joined")
        began = peer.machine.monotonic()
        wait_for(lambda: peer.machine.monotonic() > began + 10, "time passes")
    wait_for(lambda: not any(each.name.startswith("flux-late-t") for each in threading.enumerate()), "it has ended")
    assert not [line for line in caplog.messages if "t-g-try-2" in line or "t-g-try-3" in line]


def test_a_stage_that_never_joined_has_left_before_anybody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would be said to wait for an assignment, or to stand still, for as long as the worker ran."""
    peer, has_left, seen = Peer(), Ending.has_left, list[bool]()

    def noted(ending: Ending, runtime: StageRuntime) -> None:
        if not runtime.joined:
            seen.append(runtime.left and not runtime.dormant)
        has_left(ending, runtime)

    monkeypatch.setattr(Ending, "has_left", noted)
    with peer.working(peer.task(Handler().call, wait=WAIT, retries=3)):
        wait_for(lambda: members(peer) == [0, 1], "two have joined")
    assert seen == [True, True]
