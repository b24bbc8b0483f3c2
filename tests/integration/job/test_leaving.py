"""Members that are stopped have left their groups: who comes next need not wait until their sessions end."""

from __future__ import annotations

import pytest

from integration.job.support import Lab, wait_for


@pytest.mark.parametrize("client", ["confluent", "aiokafka"])
def test_members_that_stop_together_leave_an_empty_group(lab: Lab, client: str) -> None:
    """One of them has the only partition, the other none."""
    task = lab.task(lambda message: None, retries=0)
    adapter = f"{client}://{lab.bootstrap}"
    with lab.running(task, adapter=adapter), lab.running(task, adapter=adapter):
        wait_for(lambda: len(lab.members(task.group_id)) == 2, "both are members")
        wait_for(lambda: sum(len(member.assignment.topic_partitions) for member in lab.members(task.group_id)) == 1, "")
    assert lab.members(task.group_id) == []
