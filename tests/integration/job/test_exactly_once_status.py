"""What operators see of transactions: figures without their markers, and those that hold readers back."""

from __future__ import annotations

import time
from typing import Any

import flux
from flux.core.ports import ProducerRecord, TransactionSettings
from flux.operate.status.status import read_status
from flux.operate.status.task_status import TaskStatus
from integration.job.support import Lab, wait_for


def look(lab: Lab, task: flux.Task[Any], client: str = "confluent") -> TaskStatus:
    adapter: Any = flux.adapter_from_url(f"{client}://{lab.bootstrap}")
    admin = adapter.admin()
    try:
        return read_status(adapter, admin, task.policy(), None)
    finally:
        admin.close()


def test_markers_are_neither_lag_nor_dead_letters(lab: Lab) -> None:
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
    wait_for(lambda: lab.ends(task.topic) == {0: 6}, "the markers, which come after the answer, are there")
    assert [look(lab, task, client).stages[0].lag for client in ("confluent", "aiokafka")] == [3, 3]
    lab.work(task)
    wait_for(lambda: lab.ends(lab.dead_topic(task))[0] > 3, "the dead letters have markers")
    found = look(lab, task)
    assert (found.dead_letters, found.most_dead_letters, [each.lag for each in found.stages]) == (3, False, [0, 0])


def test_an_open_transaction_that_holds_records_back_is_named_with_its_age(lab: Lab) -> None:
    task = lab.task(lambda message: None)
    adapter: Any = flux.adapter_from_url(f"confluent://{lab.bootstrap}")
    writer = adapter.transactions(TransactionSettings(lab.unique(), timeout=60.0))
    writer.start(30)
    writer.begin()
    writer.write(task.topic, [ProducerRecord(b"v")])
    writer.flush(30)
    began = time.time()
    [held] = look(lab, task).held_back
    assert (str(held.at), held.offset) == (f"{task.topic}[0]", 0)
    assert began - 30 < held.since < began + 1
    assert f"--bootstrap-server {lab.bootstrap} describe-producers --topic {task.topic} --partition 0" in held.remedy
    writer.commit(30)
    writer.close()
    wait_for(lambda: look(lab, task).held_back == [], "it has ended")
