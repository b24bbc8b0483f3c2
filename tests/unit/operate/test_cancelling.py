"""Delayed work that an operator takes back, by its id or by where it waits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import flux
from flux.config import resolve_adapter
from flux.core.errors import ConfigurationError
from flux.operate import cancelling
from flux.operate.cancelling import cancel, plan_cancel, plan_of_place
from flux.producing.registry import PRODUCERS
from flux.testing import Kit, kit

RETRY = "reminders-reminding-try-1"


class Reminding(flux.Task):
    topic, group_id, retries = "reminders", "reminding", 1
    seen: list[bytes]

    def call(self, message: flux.Message) -> None:
        self.seen.append(message.value)


class Bench:
    """Five reminders that wait in a topic of eight partitions."""

    def __init__(self, flux_kit: Kit) -> None:
        self.kit = flux_kit
        self.adapter = resolve_adapter(None)
        self.admin = self.adapter.admin()
        self.policy = Reminding.policy()
        Reminding.seen = []
        for number in range(5):
            Reminding.enqueue(b"%d" % number, delay=60, id=f"meeting-{number}")

    def plan(self, id: Any) -> cancelling.CancelPlan:
        return plan_cancel(self.adapter, self.admin, self.policy, id, PRODUCERS.system)

    def cancel(self, plan: cancelling.CancelPlan) -> int:
        """Returns the partition of the cancellation."""
        cancel(plan, self.adapter, self.admin, PRODUCERS.system)
        [written] = [each for each in self.kit.topic(RETRY) if each.headers.get("flux-cancelled") is not None]
        assert (written.key, written.value) == (None, None)
        return written.partition

    def called(self) -> list[bytes]:
        self.kit.run_to_the_end(Reminding)
        return sorted(Reminding.seen)


@pytest.fixture
def bench() -> Iterator[Bench]:
    with kit(partitions=8) as flux_kit:
        yield Bench(flux_kit)


def test_work_is_taken_back_by_its_id(bench: Bench) -> None:
    plan = bench.plan("meeting-3")
    assert plan.row is not None
    assert bench.cancel(plan) == plan.row.partition
    assert bench.called() == [b"0", b"1", b"2", b"4"]
    record = plan.audit_record("Reminding", "ada", 1_000, "moved")
    place = f"{plan.row.partition}:{plan.row.offset}"
    assert (record.action, record.topic, record.places) == ("cancel", "reminders", (place,))
    assert record.details == {"id": "meeting-3", "why": "moved"}


def test_work_is_taken_back_from_where_it_waits(bench: Bench) -> None:
    row = bench.plan("meeting-1").row
    assert row is not None
    bench.cancel(plan_of_place(bench.adapter, bench.admin, bench.policy, (row.partition, row.offset), PRODUCERS.system))
    assert bench.called() == [b"0", b"2", b"3", b"4"]
    for place in ((row.partition, row.offset), (row.partition, 99), (None, None)):
        with pytest.raises(ConfigurationError, match="does not wait any more"):
            plan_of_place(bench.adapter, bench.admin, bench.policy, place, PRODUCERS.system)


def test_an_id_that_nothing_waits_with_is_refused_and_nothing_is_written(bench: Bench) -> None:
    for id, told in (("meeting-9", "no work waits with the id 'meeting-9'; flux waiting"), ("", "give a text")):
        with pytest.raises(ConfigurationError, match=told):
            bench.plan(id)
    assert len(bench.kit.topic(RETRY)) == 5


def test_an_id_beyond_what_is_read_is_cancelled_where_its_records_are(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = bench.plan("meeting-3").row
    monkeypatch.setattr("flux.operate.waiting.MAX_READ", 0)
    for number in range(5):  # the last records, which are not read
        Reminding.enqueue(b"%d again" % number, delay=60, id=f"meeting-{number}")
    plan = bench.plan("meeting-3")
    assert plan.row is None or plan.row.offset < 5
    assert row is not None
    assert bench.cancel(plan) == row.partition
    assert b"3 again" not in bench.called()


def test_work_in_another_partition_than_new_work_of_its_id_is_cancelled_there(bench: Bench) -> None:
    [stored] = [each for each in bench.kit.topic(RETRY) if each.value == b"3"]
    headers = [("flux-due", stored.headers.get("flux-due")), ("flux-attempts", b"0"), ("flux-id", b"moved")]
    for partition in range(8):
        bench.kit.produce(RETRY, b"moved", headers=headers, partition=partition)
        plan = bench.plan("moved")
        assert plan.row is not None
        assert plan.row.partition == partition
        cancel(plan, bench.adapter, bench.admin, PRODUCERS.system)
    assert b"moved" not in bench.called()


def test_a_task_without_retries_has_nothing_to_cancel(bench: Bench) -> None:
    class Once(Reminding):
        retries = 0

    with pytest.raises(ConfigurationError, match="has no retries"):
        plan_cancel(bench.adapter, bench.admin, Once.policy(), "42", PRODUCERS.system)
