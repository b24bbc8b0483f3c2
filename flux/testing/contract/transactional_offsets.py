"""Offsets that a transactional producer commits: the group fences those of members that own the partition no more."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from functools import partial

from flux.core.errors import BrokerError, Fault
from flux.core.ports import CommittedOffset, TopicPartition
from flux.testing.contract.bench import Bench, Contract, at, fault_of
from flux.testing.contract.members import ContractMember, membership_of

CONTRACT = Contract()


def _commit_when_joined(bench: Bench, owned: Mapping[ContractMember, TopicPartition]) -> None:
    """Commits offset 1 for each member. The group refuses a member that another one has overtaken in a rebalance, until
    its next polls complete the rebalance."""

    def is_committed() -> bool:
        for member in owned:
            member.poll()
        with bench.transaction() as transactions:
            try:
                for member, partition in owned.items():
                    transactions.add_offsets(membership_of(member), {partition: CommittedOffset(1)}, bench.seconds)
                transactions.commit(bench.seconds)
            except BrokerError as error:
                if error.fault is not Fault.FENCED:
                    raise
                return False
        return True

    bench.until(is_committed)


@CONTRACT.transactional
def offsets_of_a_member_that_has_left_are_fenced(bench: Bench) -> None:
    topic, group = bench.topic(), bench.name()
    offsets = {TopicPartition(topic, 0): CommittedOffset(1)}
    waiting = bench.member(topic, group)
    assert waiting.membership() is None, "it has not joined"
    waiting.close()
    member = bench.joined(topic, group)
    membership = membership_of(member)
    assert membership == membership_of(member)
    member.close()
    assert member.membership() is None
    with bench.transaction() as transactions:
        add = partial(transactions.add_offsets, membership, offsets, bench.seconds)
        assert fault_of(add) is Fault.FENCED
        assert fault_of(partial(transactions.commit, bench.seconds)) is Fault.FENCED
    assert bench.admin.committed_offsets(group, topic, bench.seconds) == {}


@CONTRACT.transactional
def a_membership_waits_for_no_poll(bench: Bench) -> None:
    member = bench.joined(bench.topic(), bench.name())
    began, ended = threading.Event(), threading.Event()

    def poll() -> None:
        began.set()
        member.poll(1, 1.0)
        ended.set()

    poller = threading.Thread(target=poll)
    poller.start()
    began.wait(bench.seconds)
    time.sleep(0.05)
    membership = member.membership()
    early = not ended.is_set()
    poller.join(bench.seconds)
    assert membership is not None
    assert early, "it waited for the poll"


@CONTRACT.transactional
def offsets_of_a_partition_that_has_moved_are_fenced(bench: Bench) -> None:
    topic, group = bench.topic(2), bench.name()
    member = bench.joined(topic, group)
    former = membership_of(member)
    second = bench.member(topic, group)
    bench.polled([member, second], lambda _: len(member.events.owned) == len(second.events.owned) == 1)
    [kept], [moved] = member.events.owned, second.events.owned
    with bench.transaction() as transactions:
        add = partial(transactions.add_offsets, former, {moved: CommittedOffset(0)})
        assert fault_of(partial(add, bench.seconds)) is Fault.FENCED
    _commit_when_joined(bench, {member: kept, second: moved})
    committed = bench.admin.committed_offsets(group, topic, bench.seconds)
    assert committed == {0: CommittedOffset(1), 1: CommittedOffset(1)}


@CONTRACT.transactional
def metadata_that_is_too_long_fails_the_transaction(bench: Bench) -> None:
    topic, group = bench.topic(), bench.name()
    member = bench.joined(topic, group)
    [zero] = at(topic, 0)
    with bench.transaction() as transactions:
        transactions.add_offsets(membership_of(member), {zero: CommittedOffset(0, "x" * 4095)}, bench.seconds)
        transactions.commit(bench.seconds)
    with bench.transaction() as transactions:
        offsets = {zero: CommittedOffset(1, "x" * 5000)}
        assert (
            fault_of(partial(transactions.add_offsets, membership_of(member), offsets, bench.seconds)) is Fault.METADATA
        )
    found = bench.admin.committed_offsets(group, topic, bench.seconds)
    assert found == {0: CommittedOffset(0, "x" * 4095)}
