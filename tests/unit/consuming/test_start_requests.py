"""What a stage requests from the cluster before its first call, while the cluster does not answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from flux.consuming import effects as do
from flux.consuming.effects import Procedure
from flux.consuming.procedures import assign
from flux.consuming.start_requests import TRANSACTION_REST, find_start
from flux.core.engine.transactions import Sealed
from flux.core.errors import BrokerError, Fault
from flux.core.limits.call_limits import CallLimits
from flux.core.ports import TopicPartition, Watermarks
from unit.support.engine_support import Driver, policy


def starting(driver: Driver) -> Procedure[Any]:
    return find_start(driver.engine, lambda: not driver.engine.stopping)


def assigned(driver: Driver) -> Procedure[Any]:
    return assign(driver.engine, [driver.p0], lambda: driver.now)


def answered(procedure: Procedure[Any], refused: type[Any], failure: BrokerError) -> None:
    """Performs the procedure; the first effect of a type is `refused`."""
    answers: dict[type[Any], Any] = {do.GroupOffsets: {}, do.Marks: {0: Watermarks(0, 0)}, do.Committed: {}, do.Draw: 0}
    send: Callable[[Any], Any] = procedure.send
    value, refusals = None, 1
    while True:
        try:
            effect = send(value)
        except StopIteration:
            return
        send, value = procedure.send, answers.get(type(effect))
        if isinstance(effect, refused) and refusals:
            refusals -= 1
            send, value = procedure.throw, failure


@pytest.mark.parametrize(
    ("performed", "refused", "failed"),
    [
        (starting, do.GroupOffsets, "cannot read the committed offsets of group g"),
        (starting, do.Marks, "cannot read the offsets of topic t"),
        (assigned, do.Committed, "cannot read the group's committed offsets"),
        (assigned, do.Marks, "cannot read the offsets of topic t"),
    ],
)
def test_the_log_names_the_request_that_failed_and_no_other(
    performed: Callable[[Driver], Procedure[Any]], refused: type[Any], failed: str
) -> None:
    settings: dict[str, Any] = {"rate_limit": 10, "rate_limit_scope": "group"}
    driver = Driver(call_limits=CallLimits.of(policy(**settings)), **settings)
    answered(performed(driver), refused, BrokerError(f"{failed}: no answer", Fault.UNAVAILABLE))
    [event] = driver.engine.log_events()
    assert event.text == f"g: no calls before the cluster answers: {failed}: no answer"
    assert event.kind == ("start", failed)


def sealed(driver: Driver) -> Sealed:
    driver.assign(0)
    driver.turn()
    driver.poll(0, 1)
    driver.work_all()
    found = driver.engine.transactions.seal(driver.now + 10)
    assert found is not None
    return found


def test_committed_offsets_are_not_read_before_the_transaction_that_is_being_written_has_ended() -> None:
    driver = Driver(exactly_once=True)
    first = sealed(driver)
    driver.engine.lost([driver.p0])
    procedure = assigned(driver)
    assert [next(procedure) for _ in range(3)] == [do.Rest(TRANSACTION_REST)] * 3
    driver.engine.transactions.committed(first, driver.now)
    assert isinstance(next(procedure), do.Committed)


def test_an_assignment_does_not_wait_for_transactions_that_begin_later() -> None:
    driver = Driver(exactly_once=True)
    first = sealed(driver)
    procedure = assign(driver.engine, [TopicPartition("t", 1)], lambda: driver.now)
    assert next(procedure) == do.Rest(TRANSACTION_REST)
    driver.engine.transactions.committed(first, driver.now)
    driver.poll(2)
    driver.work_all()
    assert driver.engine.transactions.seal(driver.now + 20) is not None
    assert isinstance(next(procedure), do.Committed)


def test_an_assignment_of_a_stage_that_stops_waits_for_nothing() -> None:
    driver = Driver(exactly_once=True)
    sealed(driver)
    driver.engine.stop()
    assert not isinstance(next(assigned(driver)), do.Rest)
