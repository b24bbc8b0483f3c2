"""Blocking records that are larger than the next topic takes are named with the remedy."""

from __future__ import annotations

import pytest

from flux.core.ports import CommittedOffset, ProducerRecord, TopicPartition
from flux.operate.doctor import examine
from flux.operate.doctor.collect import collect_facts
from flux.operate.status.blockers import blockers_of, large_records_in, update_stuck
from flux.operate.status.status import read_status
from unit.support.operate_support import MAIN, NOW_MS, RETRY, OperateKit

REMEDY = f"raise max.message.bytes of {RETRY}, or take the record out of the way with flux skip"


@pytest.fixture
def yard() -> OperateKit:
    """A record of 20,000 bytes at the position, of two minutes ago, and less than that in the retry topic."""
    yard = OperateKit()
    yard.admin.set_topic_config(RETRY, {"max.message.bytes": "10000"}, 1)
    yard.kit.write(ProducerRecord(b"x" * 20_000, b"k", (), 0, NOW_MS - 120_000), topic=MAIN)
    yard.kit.write(ProducerRecord(b"small", b"k", (), 0, NOW_MS - 120_000), topic=MAIN)
    yard.kit.consumer(MAIN, "billing")[0].poll(1, 0.1)
    return yard


def test_status_names_it_in_the_first_snapshot_without_reports(yard: OperateKit) -> None:
    found = read_status(yard.adapter, yard.admin, yard.policy, None, system=yard.system)
    [blocker] = blockers_of(found, update_stuck(found, {}))
    assert (blocker.place, blocker.behind) == ("0:0", 1)
    assert blocker.why == f"it has 20,001 bytes, and {RETRY} takes 10,000: its copy may not fit: {REMEDY}"


def test_the_doctor_names_it(yard: OperateKit) -> None:
    findings = examine(collect_facts("Billing", yard.policy, yard.admin, adapter=yard.adapter, system=yard.system))
    [large] = [finding for finding in findings if finding.check == "large records"]
    assert large.about == f"{MAIN}[0]@0"
    assert "20,001 bytes" in large.problem
    assert large.remedy == REMEDY


def test_what_fits_is_new_or_is_done_is_not_named(yard: OperateKit) -> None:
    def named() -> int:
        return len(list(large_records_in(read_status(yard.adapter, yard.admin, yard.policy, None, system=yard.system))))

    assert named() == 1
    yard.broker.set_committed_offset("billing", TopicPartition(MAIN, 0), CommittedOffset(1))
    assert named() == 0, "the next one is small"
    yard.kit.write(ProducerRecord(b"x" * 20_000, b"k", (), 0, int(yard.system.now() * 1000)), topic=MAIN)
    yard.broker.set_committed_offset("billing", TopicPartition(MAIN, 0), CommittedOffset(2))
    assert named() == 0, "it has just come"
    yard.system.sleep(61)
    assert named() == 1
    yard.admin.set_topic_config(RETRY, {"max.message.bytes": "1000000"}, 1)
    assert named() == 0
