"""What `send` returns is a Future in every way that the standard library and users ask of one."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import threading
from collections.abc import Sequence

import pytest

from flux.core.errors import BrokerError, DeliveryError, FailedRecord
from flux.core.ports import ProducerRecord
from flux.producing.delivery import Delivery, RecordMetadata
from flux.producing.pending_acks import Pending

WHERE = RecordMetadata("t", 0, 7, None)
FAILED = FailedRecord("t", 0, b"k", b"v", BrokerError("away"))


class EndListener:
    def __init__(self) -> None:
        self.ended_: list[Pending] = []
        self.reported: list[FailedRecord] = []

    def ended(self, pending: Pending) -> None:
        self.ended_.append(pending)

    def report(self, records: Sequence[FailedRecord]) -> None:
        self.reported += records


def made(listener: EndListener | None = None) -> Delivery:
    return Delivery(listener or EndListener(), "t", ProducerRecord(b"v", b"k"), 0.0, None)


@pytest.fixture
def delivery() -> Delivery:
    return made()


def test_a_result_that_is_there_is_given_at_once(delivery: Delivery) -> None:
    assert (delivery.done(), delivery.running(), delivery.cancel()) == (False, True, False)
    delivery.set_result(WHERE)
    assert (delivery.done(), delivery.result(0), delivery.exception(0)) == (True, WHERE, None)


def test_a_result_that_does_not_come_in_time_is_a_timeout(delivery: Delivery) -> None:
    with pytest.raises(TimeoutError):
        delivery.result(0)
    with pytest.raises(TimeoutError):
        delivery.exception(0)


def test_a_failure_is_raised_each_time(delivery: Delivery) -> None:
    delivery.set_exception(DeliveryError([FAILED]))
    for _ in range(2):
        with pytest.raises(DeliveryError):
            delivery.result(0)
    assert isinstance(delivery.exception(0), DeliveryError)


def test_callbacks_are_called_once_whether_added_before_or_after_the_end(delivery: Delivery) -> None:
    called: list[object] = []
    delivery.add_done_callback(called.append)
    assert called == []
    delivery.set_result(WHERE)
    assert called == [delivery]
    delivery.add_done_callback(called.append)
    assert called == [delivery, delivery]


@pytest.mark.parametrize("fails", [False, True])
def test_many_are_waited_for_by_the_standard_library(fails: bool) -> None:
    deliveries = [made() for _ in range(3)]

    def end() -> None:
        for delivery in deliveries[1:]:
            if fails:
                delivery.set_exception(DeliveryError([FAILED]))
            else:
                delivery.set_result(WHERE)

    thread = threading.Thread(target=end)
    thread.start()
    ended = concurrent.futures.as_completed(deliveries, 10)
    assert {next(ended), next(ended)} == set(deliveries[1:])
    first = concurrent.futures.FIRST_EXCEPTION if fails else concurrent.futures.FIRST_COMPLETED
    assert concurrent.futures.wait(deliveries, 10, first).not_done == {deliveries[0]}
    deliveries[0].set_result(WHERE)
    assert concurrent.futures.wait(deliveries, 0).not_done == set()
    thread.join()


def test_one_that_ends_while_somebody_begins_to_wait_keeps_nobody() -> None:
    deliveries = [made() for _ in range(3000)]

    def end() -> None:
        for delivery in deliveries:
            delivery.set_result(WHERE)

    thread = threading.Thread(target=end)
    thread.start()
    assert {delivery.result(60) for delivery in deliveries} == {WHERE}
    thread.join()


def test_it_can_be_awaited_before_and_after_its_end() -> None:
    async def wait() -> None:
        delivery = made()
        asyncio.get_running_loop().call_soon(delivery.set_result, WHERE)
        assert await delivery == WHERE
        assert await delivery == WHERE

    asyncio.run(wait())


@pytest.mark.parametrize("asked", [False, True])
def test_a_failure_that_nobody_asked_for_is_told_when_it_is_forgotten(asked: bool) -> None:
    ends = EndListener()
    delivery = made(ends)
    delivery.set_exception(DeliveryError([FAILED]))
    if asked:
        delivery.exception(0)
    del delivery
    gc.collect()
    assert ends.reported == ([] if asked else [FAILED])
