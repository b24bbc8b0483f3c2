"""Stages apart from each other, changed numbers of retries, and topics that grow."""

from __future__ import annotations

import time
from collections import Counter

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions

import flux
from integration.job.support import SECONDS, Lab, flux_headers, own, wait_for

TASK = """
import flux

class Failing(flux.Task):
    topic, group_id = TOPIC, GROUP
    retries, wait, offset_commit_interval = 3, 0.2, 0.2

    def call(self, message):
        with open(CALLS, "a") as calls:
            calls.write(f"{message.value.decode()} {message.stage}\\n")
        raise ValueError
"""


def failing(message: flux.Message) -> None:
    raise ValueError(f"in stage {message.stage}")


def test_stages_are_worked_by_processes_apart(lab: Lab) -> None:
    task = lab.task(failing, retries=3)
    lab.write(task.topic, (b"a", b"k"), (b"b", b"k"))
    first, second = lab.directory / "first", lab.directory / "second"
    main = lab.process(
        lab.load(TASK, TOPIC=task.topic, GROUP=task.group_id, CALLS=str(first)), "Failing", "--stages", "0"
    )
    retries = lab.process(
        lab.load(TASK, TOPIC=task.topic, GROUP=task.group_id, CALLS=str(second)), "Failing", "--stages", "1-3"
    )
    lab.settle(task)
    for process in (main, retries):
        process.terminate()
    assert [main.wait(60), retries.wait(60)] == [0, 0]
    assert first.read_text().splitlines() == ["a 0", "b 0"]
    assert second.read_text().splitlines() == [f"{v} {stage}" for stage in (1, 2, 3) for v in "ab"]
    assert [(dead.value(), dead.key(), flux_headers(dead)["flux-attempts"]) for dead in lab.dead(task)] == [
        (b"a", b"k", b"4"),
        (b"b", b"k", b"4"),
    ]


def test_a_stage_that_nobody_works_keeps_its_records(lab: Lab) -> None:
    task = lab.task(failing, retries=2)
    lab.write(task.topic, (b"v", b"k"))
    with lab.running(task, stages="0,2"):
        lab.settle(task, 0)
        time.sleep(0.6)
    assert [message.value() for message in lab.read(f"{task.topic}-{task.group_id}-try-1")] == [b"v"]
    assert lab.committed_offsets(f"{task.group_id}-1", f"{task.topic}-{task.group_id}-try-1") == {}
    lab.work(task)
    assert [message.value() for message in lab.dead(task)] == [b"v"]


def test_the_dead_letter_stage_tries_each_once_more_and_leaves_what_fails_where_it_is(lab: Lab) -> None:
    mended = False
    seen: list[tuple[bytes, int, int]] = []

    def call(message: flux.Message) -> None:
        seen.append((message.value, message.stage, message.attempt))
        if not mended or message.value == b"bad":
            raise ValueError

    task = lab.task(call, retries=1)
    lab.write(task.topic, b"good", b"bad")
    lab.work(task)
    mended = True
    before = [(m.offset(), m.value(), m.headers()) for m in lab.dead(task)]
    assert [value for _, value, _ in before] == [b"good", b"bad"]
    del seen[:]
    with lab.running(task, stages="2"):
        lab.settle(task, 2)
        time.sleep(0.5)
    assert seen == [(b"good", 2, 3), (b"bad", 2, 3)]
    assert lab.committed_offsets(f"{task.group_id}-2", lab.dead_topic(task))[0].offset == 2
    assert [(m.offset(), m.value(), m.headers()) for m in lab.dead(task)] == before
    assert lab.ends(task.topic) == {0: 2}


def test_what_is_left_in_retry_topics_after_retries_were_lowered_is_worked_and_becomes_dead_letters(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[tuple[bytes, int]] = []

    def call(message: flux.Message) -> None:
        seen.append((message.value, message.stage))
        raise ValueError

    before = lab.task(failing, retries=3)
    lab.write(before.topic, (b"v", b"k", [("a", b"1")]))
    for number in range(3):
        with lab.running(before, stages=str(number)):
            lab.settle(before, number)
    assert lab.ends(f"{before.topic}-{before.group_id}-try-3") == {0: 1}

    after = lab.task(call, topic=before.topic, group_id=before.group_id, retries=1, topics=False)
    with lab.running(after):
        wait_for(lambda: lab.ends(lab.dead_topic(after)) == {0: 1}, "the dead letter")
        wait_for(lambda: lab.worked(before, 3), "the leftovers are committed")
    assert seen == [(b"v", 3)]
    [dead] = lab.dead(after)
    assert (dead.key(), dead.value(), own(dead)) == (b"k", b"v", [("a", b"1")])
    assert flux_headers(dead)["flux-attempts"] == b"4"
    assert flux_headers(dead)["flux-origin-offset"] == b"0"
    [told] = [r.getMessage() for r in caplog.records if "try-2" in r.getMessage() and "retries = 1" in r.getMessage()]
    assert f"{before.topic}-{before.group_id}-try-3" in told


def test_a_dead_letter_group_without_a_position_starts_at_the_furthest_of_the_others(lab: Lab) -> None:
    seen: list[bytes] = []
    task = lab.task(lambda message: seen.append(message.value), retries=1)
    dead = lab.dead_topic(task)
    lab.write(dead, *(b"%d" % n for n in range(6)))
    for retries, upto in ((2, 2), (4, 4), (3, 3)):
        lab.commit(f"{task.group_id}-{retries + 1}", dead, {0: upto})
    with lab.running(task, stages="2"):
        wait_for(lambda: lab.worked(task, 2), "the dead letters")
    assert seen == [b"4", b"5"]


@pytest.mark.parametrize("when", ["between runs", "while it runs"])
def test_records_of_a_grown_main_topic_go_to_their_partition_modulo_the_next_topic_s_count(
    lab: Lab, kafka_admin: AdminClient, when: str
) -> None:
    task = lab.task(failing, retries=1, partitions=2)

    def grow() -> None:
        kafka_admin.create_partitions([NewPartitions(task.topic, 5)])[task.topic].result(SECONDS)
        wait_for(lambda: len(lab.ends(task.topic)) == 5, "the topic has grown")

    def write() -> None:
        lab.write(task.topic, *((b"%d" % p, b"k%d" % p, None, p) for p in range(5)))

    fast = f"confluent://{lab.bootstrap}?topic.metadata.refresh.interval.ms=500"
    if when == "between runs":
        lab.write(task.topic, (b"before", b"k", None, 1))
        lab.work(task)
        grow()
        write()
        lab.work(task)
    else:
        with lab.running(task, adapter=fast):
            lab.write(task.topic, (b"before", b"k", None, 1))
            lab.settle(task)
            grow()
            write()
            lab.settle(task)
    expected = Counter({(b"before", 1): 1}) + Counter((b"%d" % p, p % 2) for p in range(5))
    for topic in (f"{task.topic}-{task.group_id}-try-1", lab.dead_topic(task)):
        assert Counter((m.value(), m.partition()) for m in lab.read(topic)) == expected
