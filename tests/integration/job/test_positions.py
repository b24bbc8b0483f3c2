"""Where a group starts, and what happens when its position is no more."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

import flux
from integration.job.support import SECONDS, Lab, wait_for


class Seen:
    def __init__(self) -> None:
        self.values: list[bytes] = []

    def __call__(self, message: flux.Message) -> None:
        self.values.append(message.value)


def test_a_new_group_starts_with_the_oldest_record(lab: Lab) -> None:
    seen = Seen()
    task = lab.task(seen)
    lab.write(task.topic, b"1", b"2")
    lab.work(task)
    assert seen.values == [b"1", b"2"]


def test_start_from_latest_is_chosen_once_and_what_is_written_while_the_worker_is_down_is_worked(lab: Lab) -> None:
    seen = Seen()
    task = lab.task(seen, start_from="latest", partitions=2, offset_commit_interval=60)
    lab.write(task.topic, (b"old", b"k", None, 0))
    with lab.running(task):
        wait_for(lambda: len(lab.committed_offsets(task.group_id, task.topic)) == 2, "its choice is committed", 40)
    assert {p: at.offset for p, at in lab.committed_offsets(task.group_id, task.topic).items()} == {0: 1, 1: 0}
    lab.write(task.topic, (b"while down", b"k", None, 0), (b"there too", b"k", None, 1))
    with lab.running(task):
        wait_for(lambda: len(seen.values) == 2, "what was written meanwhile")
        lab.write(task.topic, (b"while up", b"k", None, 0))
        wait_for(lambda: len(seen.values) == 3, "what is written now")
    assert sorted(seen.values[:2]) == [b"there too", b"while down"]
    assert seen.values[2:] == [b"while up"]


CLIENTS = {
    "confluent": "confluent://{}?topic.metadata.refresh.interval.ms=500",
    "confluent, KIP-848": "confluent://{}?topic.metadata.refresh.interval.ms=500&group.protocol=consumer",
    "aiokafka": "aiokafka://{}?metadata_max_age_ms=500",
}


@pytest.mark.parametrize("client", CLIENTS)
def test_a_partition_that_comes_where_groups_start_at_latest_is_worked_from_its_beginning(
    lab: Lab, grow: Callable[[str, int], None], client: str
) -> None:
    seen = Seen()
    task = lab.task(seen, start_from="latest")
    lab.write(task.topic, b"before the group")

    def come(number: int) -> None:
        grow(task.topic, number + 1)
        wait_for(lambda: len(lab.ends(task.topic)) == number + 1, "the partition is there")
        lab.write(task.topic, (b"%d" % number, None, None, number))

    with lab.running(task, adapter=CLIENTS[client].format(lab.bootstrap)):
        wait_for(lambda: lab.committed_offsets(task.group_id, task.topic), "the group's beginning is committed")
        come(1)  # before the group has had a record
        wait_for(lambda: seen.values == [b"1"], "it")
        come(2)
        wait_for(lambda: seen.values == [b"1", b"2"], "the next one")
    come(3)
    with lab.running(task, adapter=CLIENTS[client].format(lab.bootstrap)):
        wait_for(lambda: seen.values == [b"1", b"2", b"3"], "the one that came meanwhile")
        lab.settle(task)


@pytest.mark.parametrize("client", CLIENTS)
def test_what_transactions_leave_is_neither_called_nor_lag(
    lab: Lab, transact: Callable[[str, Sequence[bytes], bool], None], client: str
) -> None:
    seen = Seen()
    commits: list[dict[TopicPartition, int]] = []

    class Commits(flux.Hooks):
        def on_commit(self, where: flux.StageInfo, offsets: Any, error: Exception | None) -> None:
            commits.append(offsets)

    task = lab.task(seen, hooks=[Commits()], retries=0)
    for value, committed in ((b"1", True), (b"aborted", False), (b"2", True), (b"aborted too", False)):
        transact(task.topic, [value], committed)
    with lab.running(task, adapter=CLIENTS[client].format(lab.bootstrap)):
        lab.settle(task)
        assert lab.ends(task.topic) == {0: 8}
        before = len(commits)
        time.sleep(1)
        assert len(commits) == before, "an idle stage commits again and again"
        transact(task.topic, [b"3"], True)
        lab.settle(task)
    assert seen.values == [b"1", b"2", b"3"]


def test_start_from_latest_holds_for_the_main_stage_only(lab: Lab) -> None:
    seen = Seen()
    task = lab.task(seen, start_from="latest")
    lab.write(f"{task.topic}-{task.group_id}-try-1", b"in the retry topic")
    with lab.running(task, stages="1"):
        wait_for(lambda: seen.values == [b"in the retry topic"], "it")


def test_records_deleted_before_they_were_worked_are_counted_aloud_and_work_goes_on_with_the_oldest(
    lab: Lab, kafka_admin: AdminClient, caplog: pytest.LogCaptureFixture
) -> None:
    seen = Seen()
    task = lab.task(seen)
    lab.write(task.topic, *(b"%d" % n for n in range(10)))
    lab.commit(task.group_id, task.topic, {0: 2})
    asked = kafka_admin.delete_records([TopicPartition(task.topic, 0, 7)])
    next(iter(asked.values())).result(SECONDS)
    lab.work(task)
    assert seen.values == [b"7", b"8", b"9"]
    [told] = [r.getMessage() for r in caplog.records if r.levelname == "ERROR"]
    assert f"{task.topic}[0]" in told
    assert "5 offset(s) are gone" in told


def test_a_position_beyond_the_end_goes_back_to_the_oldest_and_says_so(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    seen = Seen()
    task = lab.task(seen, partitions=2)
    lab.write(task.topic, (b"a", None, None, 0), (b"b", None, None, 0), (b"other", None, None, 1))
    lab.commit(task.group_id, task.topic, {0: 100})
    with lab.running(task):
        wait_for(lambda: len(seen.values) == 3, "all are worked")
        wait_for(lambda: lab.committed_offsets(task.group_id, task.topic)[0].offset == 2, "its position is right again")
    assert sorted(seen.values) == [b"a", b"b", b"other"]
    [told] = [r.getMessage() for r in caplog.records if r.levelname == "ERROR"]
    assert f"{task.topic}[0]: offset 100 is out of range: the log ends at 2" in told


def test_a_stranger_s_metadata_beside_a_position_is_told_and_ignored(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    seen = Seen()
    task = lab.task(seen)
    lab.write(task.topic, *(b"%d" % n for n in range(4)))
    lab.commit(task.group_id, task.topic, {0: 1}, metadata="bitmap:AAAA")
    lab.work(task)
    assert seen.values == [b"1", b"2", b"3"]
    assert [r.levelname for r in caplog.records if "committed offset 1" in r.getMessage()] == ["WARNING"]
