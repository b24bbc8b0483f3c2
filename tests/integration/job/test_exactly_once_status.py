"""What operators see of transactions: figures without their markers."""

from __future__ import annotations

from typing import Any

import pytest

import flux
from flux.core.ports import ProducerRecord, TransactionSettings
from flux.operate.status.status import read_status
from flux.operate.status.task_status import TaskStatus
from integration.job.support import Lab


def look(lab: Lab, task: type[flux.Task], client: str = "confluent") -> TaskStatus:
    adapter: Any = flux.adapter_from_url(f"{client}://{lab.bootstrap}")
    admin = adapter.admin()
    try:
        return read_status(adapter, admin, task.policy(), None)
    finally:
        admin.close()


@pytest.mark.parametrize("client", ["confluent", "aiokafka"])
def test_markers_are_neither_lag_nor_dead_letters(lab: Lab, client: str) -> None:
    def call(message: flux.Message) -> None:
        raise flux.Reject("never")

    task = lab.task(call, exactly_once=True)
    adapter: Any = flux.adapter_from_url(f"confluent://{lab.bootstrap}")
    writer = adapter.transactions(TransactionSettings(lab.unique()))
    writer.start(30)
    for value in (b"a", b"b", b"c"):
        writer.begin()
        writer.write(task.topic, [ProducerRecord(value)])
        writer.commit(30)
    writer.close()
    assert (lab.ends(task.topic), look(lab, task, client).stages[0].lag) == ({0: 6}, 3)
    lab.work(task)
    ends = lab.ends(lab.dead_topic(task))
    found = look(lab, task, client)
    assert (found.dead_letters, found.most_dead_letters, [each.lag for each in found.stages]) == (3, False, [0, 0])
    assert ends[0] > 3, "there are markers"
