"""Records at positions that are larger than what the next topic takes: whoever looks is told, with the remedy."""

from __future__ import annotations

import pytest

from flux.core.ports import CommittedOffset, ProducerRecord, TopicPartition
from flux.operate.doctor import examine
from flux.operate.doctor.collect import ask
from flux.operate.status.blockers import holds, large_in, standing
from flux.operate.status.status import look
from unit.support.operate_support import MAIN, NOW_MS, RETRY, Yard

REMEDY = f"raise max.message.bytes of {RETRY}, or take the record out of the way with flux skip"


@pytest.fixture
def yard() -> Yard:
    """A record of 20,000 bytes at the position, of two minutes ago, and less than that in the retry topic."""
    yard = Yard()
    yard.admin.set_topic_config(RETRY, {"max.message.bytes": "10000"}, 1)
    yard.kit.write(ProducerRecord(b"x" * 20_000, b"k", (), 0, NOW_MS - 120_000), topic=MAIN)
    yard.kit.write(ProducerRecord(b"small", b"k", (), 0, NOW_MS - 120_000), topic=MAIN)
    yard.kit.consumer(MAIN, "billing")[0].poll(1, 0.1)
    return yard


def test_status_names_it_at_the_first_look_though_nobody_reports(yard: Yard) -> None:
    found = look(yard.adapter, yard.admin, yard.policy, None, system=yard.system)
    [hold] = holds(found, standing(found, {}))
    assert (hold.place, hold.behind) == ("0:0", 1)
    assert hold.why == f"it has 20,001 bytes, and {RETRY} takes 10,000: its copy may not fit, compressed: {REMEDY}"


def test_the_doctor_names_it(yard: Yard) -> None:
    findings = examine(ask("Billing", yard.policy, yard.admin, adapter=yard.adapter, system=yard.system))
    [large] = [finding for finding in findings if finding.check == "large records"]
    assert large.about == f"{MAIN}[0]@0"
    assert "has 20,001 bytes" in large.problem
    assert large.remedy == REMEDY


def test_what_fits_is_new_or_is_done_is_not_named(yard: Yard) -> None:
    def named() -> int:
        return len(list(large_in(look(yard.adapter, yard.admin, yard.policy, None, system=yard.system))))

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
