"""What repeats in a log is a line a minute, which counts the rest."""

from __future__ import annotations

import logging
from typing import Any, cast

import pytest

import flux
from flux.consuming.coordinator import Coordinator
from flux.consuming.hook_dispatch import HookDispatch
from flux.core.engine import Engine
from flux.core.engine.commands import Level, LogEvent
from flux.core.errors import BrokerError, Fault
from flux.core.ports import TopicPartition
from flux.system import OperatingSystem
from flux.testing import Kit
from unit.support.engine_support import STAGES, policy


class Clock(OperatingSystem):
    def __init__(self) -> None:
        self.passed = 1000.0

    def monotonic(self) -> float:
        return self.passed


@pytest.fixture
def coordinator() -> Coordinator:
    """Of a task with three stages."""
    settings = policy()
    engines = [Engine(settings, stage) for stage in list(STAGES)[:3]]
    return Coordinator(
        settings,
        engines,
        cast(Any, None),
        Clock(),
        hook_dispatch=HookDispatch("Billing", (), list(STAGES), settings.rules),
    )


def test_partitions_that_all_stages_lose_at_once_are_one_line(
    coordinator: Coordinator, caplog: pytest.LogCaptureFixture
) -> None:
    for runtime in coordinator.runtimes:
        partitions = [TopicPartition(str(runtime), number) for number in range(12)]
        runtime.engine.assigned(dict.fromkeys(partitions), dict.fromkeys(partitions, 0), 0.0)
        coordinator.rebalances.lost(runtime, partitions)
    coordinator.inspection.check()
    coordinator.inspection.check()
    assert [line.getMessage() for line in caplog.records] == [
        "Billing has lost t[0-11], t-g-try-1[0-11], t-g-try-2[0-11]: records in flight are processed again"
    ]
    assert not any(runtime.engine.partitions for runtime in coordinator.runtimes)


def partitions(topic: object, count: int) -> list[TopicPartition]:
    return [TopicPartition(str(topic), number) for number in range(count)]


def test_an_assignment_of_all_stages_is_one_line(coordinator: Coordinator, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for count, runtime in enumerate(coordinator.runtimes):
        coordinator.rebalances.announce(runtime, "assigned", partitions(runtime, count))
    coordinator.inspection.check()
    cast(Clock, coordinator.system).passed += 1.0
    coordinator.inspection.check()
    assert caplog.messages == []  # others may follow
    for runtime in coordinator.runtimes:
        runtime.joined = True
    cast(Clock, coordinator.system).passed += 1.0
    coordinator.inspection.check()
    assert caplog.messages == ["Billing: assigned t[none], t-g-try-1[0], t-g-try-2[0-1]"]


def test_an_assignment_is_logged_although_another_stage_does_not_join(
    coordinator: Coordinator, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    coordinator.rebalances.announce(coordinator.runtimes[0], "assigned", partitions("t", 1))
    cast(Clock, coordinator.system).passed += 5.0
    coordinator.inspection.check()
    assert caplog.messages == ["Billing: assigned t[0]"]


def test_an_assignment_and_a_revocation_are_logged_in_their_order(
    coordinator: Coordinator, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    [runtime, *_] = coordinator.runtimes
    for event in ("assigned", "revoked", "assigned"):
        coordinator.rebalances.announce(runtime, event, partitions(runtime, 2))
    runtime.joined = True
    coordinator.rebalances.announce(runtime, "revoked", [])  # nothing has changed
    for each in coordinator.runtimes:
        coordinator.ending.has_left(each)
    assert caplog.messages == ["Billing: assigned t[0-1]", "Billing: revoked t[0-1]", "Billing: assigned t[0-1]"]


def test_revocations_of_the_end_are_one_line(coordinator: Coordinator, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for runtime in coordinator.runtimes:
        coordinator.rebalances.announce(runtime, "revoked", partitions(runtime, 1))
        coordinator.ending.has_left(runtime)
    assert caplog.messages == ["Billing: revoked t[0], t-g-try-1[0], t-g-try-2[0]"]


def test_what_was_lost_is_told_before_the_end(coordinator: Coordinator, caplog: pytest.LogCaptureFixture) -> None:
    [runtime, *_] = coordinator.runtimes
    coordinator.inspection.check()
    coordinator.rebalances.lost(runtime, [TopicPartition("t", 3)])
    coordinator.ending.has_left(runtime)
    assert "Billing has lost t[3]:" in caplog.text


def test_of_an_engine_s_notices_of_one_kind_there_is_one_a_minute(
    coordinator: Coordinator, caplog: pytest.LogCaptureFixture
) -> None:
    clock = cast(Clock, coordinator.system)
    for _ in range(61):
        for runtime in coordinator.runtimes:
            runtime.engine.log(LogEvent(Level.WARNING, f"positions of {runtime} cannot be had", kind="positions"))
            runtime.engine.log(LogEvent(Level.INFO, "something new"))
            coordinator.procedures.write(runtime)
        clock.passed += 1
    lines = [line.getMessage() for line in caplog.records if line.levelno >= logging.WARNING]
    assert lines == [
        "positions of t cannot be had",
        "positions of t cannot be had (179 more like it were left out)",
    ]


def test_a_producer_that_fails_says_so_once_a_minute_and_kind(flux_kit: Kit, caplog: pytest.LogCaptureFixture) -> None:
    told: list[flux.DeliveryError] = []

    class Orders(flux.Producer):
        topic = "orders"
        options = flux.ProducerOptions(max_buffer_size=1)

        @classmethod
        def on_error(cls, error: flux.DeliveryError) -> None:
            told.append(error)

    errors = [BrokerError("not allowed", Fault.DENIED), BrokerError("too large", Fault.TOO_LARGE)]
    flux_kit.broker().fail_writes(lambda *_: errors[len(told) % 2])
    for number in range(122):
        Orders.produce(b"%d" % number)
        flux_kit.clock.advance(0.5)
    lines = [line.getMessage() for line in caplog.records if line.name == "flux.producer"]
    assert len(told) == 122
    assert len(lines) == 4
    assert sum("(59 more like it were left out)" in line for line in lines) == 2
