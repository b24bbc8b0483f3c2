"""Members that are stopped have left their groups: who comes next need not wait until their sessions end."""

from __future__ import annotations

import time

import pytest

from integration.job.support import Lab, wait_for


@pytest.mark.parametrize("client", ["confluent", "aiokafka"])
def test_members_that_stop_together_leave_an_empty_group(lab: Lab, client: str) -> None:
    """One of them has the only partition, the other none. The second stops while its join still waits for the first."""
    task = lab.task(lambda message: None, retries=0)
    adapter = f"{client}://{lab.bootstrap}"
    with lab.running(task, adapter=adapter), lab.running(task, adapter=adapter):
        wait_for(lambda: len(lab.members(task.group_id)) == 2, "both are members")
        wait_for(lambda: sum(len(member.assignment.topic_partitions) for member in lab.members(task.group_id)) == 1, "")
    assert lab.members(task.group_id) == []


@pytest.mark.parametrize("client", ["confluent", "aiokafka"])
def test_a_member_that_stops_while_the_group_makes_room_for_it_leaves_it(lab: Lab, client: str) -> None:
    """Else its share would lie idle until its session ends."""
    task = lab.task(lambda message: None, retries=2, partitions=4)
    options = "heartbeat.interval.ms=300&session.timeout.ms=60000"
    adapter = f"{client}://{lab.bootstrap}?{options if client == 'confluent' else options.replace('.', '_')}"

    def shares() -> list[list[int]]:
        members = [lab.members(lab.stage(task, number).group) for number in range(3)]
        return [[len(member.assignment.topic_partitions) for member in group] for group in members]

    with lab.running(task, adapter=adapter):
        wait_for(lambda: shares() == [[4]] * 3, "it has all")
        with lab.running(task, adapter=adapter):
            wait_for(lambda: len(lab.members(task.group_id)) == 2, "another one comes")
            time.sleep(1.05)  # three heartbeats: what the first gave up is not the other's yet
        wait_for(lambda: shares() == [[4]] * 3, "it has all again", 30)
