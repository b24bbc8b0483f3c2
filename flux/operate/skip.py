"""Takes the one record that holds a partition out of the way: into the dead letters, and the group past it.

The copy is acknowledged by all in-sync replicas before the group's position says that the record is done. Whatever
ends it in between, the record is still to be worked: it may be there twice, and is never lost. A record that the dead
letters do not take is kept in a receipt instead, whole, to be imported once they do.

A position can be set only while the group has no members. Each of them commits what its own offset tracker says, and
would take back what was set beside it; Kafka refuses it for that reason. So the stage's workers have to be stopped
first.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs

from flux.consuming.topic_setup import ASK, max_message_bytes
from flux.core import flux_headers as trails
from flux.core.engine.forwarding import remedy
from flux.core.engine.forwards import ForwardedCopy
from flux.core.engine.start_offsets import begins_at_ends
from flux.core.errors import BrokerError, ConfigurationError, Fault, FluxError
from flux.core.message import Message
from flux.core.policy import Policy
from flux.core.ports import AdminPort, Cluster, CommittedOffset, ProducerRecord, System, TopicPartition
from flux.core.stage import Role, Stage
from flux.operate.dlq.exchange import line_of
from flux.operate.reading import read_one, spans_of
from flux.operate.status.progress import Progress, committed_after
from flux.operate.writing import TopicWriter
from flux.system import SYSTEM

SKIPPED = "skipped"
"""`flux-reason`, and the type of the error that the dead letter shows; its message is the operator's reason."""
SKIPPED_BY = "flux-skipped-by"
_FINAL = {Fault.TOO_LARGE, Fault.DENIED, Fault.OTHER}
"""Faults that trying again does not mend."""


@attrs.frozen
class SkipPlan:
    """One record, as the cluster is now: see `plan_skip`."""

    policy: Policy
    stage: Stage
    dead: Stage
    message: Message
    stored: CommittedOffset
    """What the group has committed; without a position, where it begins."""

    @property
    def at(self) -> TopicPartition:
        return TopicPartition(self.stage.topic, self.message.partition)


def stage_of(policy: Policy, number: int, admin: AdminPort) -> Stage:
    """The main or a retry stage, one included that is left from when there were more retries. Raises
    ConfigurationError for any other, BrokerError."""
    stages = policy.stages
    if 0 <= number <= stages.retries:
        return stages[number]
    for left in stages.leftovers(admin.topic_names(ASK)):
        if left.number == number:
            return left
    raise ConfigurationError(
        f"there is no stage {number} to skip in: 0 is the main topic, 1 to {stages.retries} are the retries"
        if stages.retries
        else f"there is no stage {number} to skip in: 0 is the main topic, and there are no retries"
    )


def check_stopped(admin: AdminPort, stage: Stage) -> None:
    """Raises FluxError while the stage's group has members, BrokerError."""
    members = admin.members(stage.group, ASK)
    if members:
        who = ", ".join(sorted({f"{member.client_id} at {member.host}" for member in members})[:3])
        raise FluxError(
            f"group {stage.group} has {len(members)} member(s) ({who}), and their commits would undo it: stop the"
            f" workers of stage {stage.number}, then skip, then start them (one that was killed counts until its"
            " session ends)"
        )


def plan_skip(
    adapter: Cluster, admin: AdminPort, policy: Policy, stage: Stage, partition: int, offset: int
) -> SkipPlan:
    """Finds the record, and whether it is still to be worked. Raises FluxError with what is wrong, BrokerError."""
    check_stopped(admin, stage)
    dead = policy.stages[policy.stages.dead]
    for topic, info in admin.topics([stage.topic, dead.topic], ASK).items():
        if info is None:
            raise ConfigurationError(f"there is no topic {topic}: see `flux topics`")
    span = spans_of(admin, stage.topic).get(partition)
    if span is None:
        raise ConfigurationError(f"{stage.topic} has no partition {partition}")
    at = TopicPartition(stage.topic, partition)
    committed = admin.committed_offsets(stage.group, stage.topic, ASK)
    stored = committed.get(partition)
    if Progress.of(stored).has(offset):
        raise FluxError(f"{at}@{offset} is done: group {stage.group} holds nothing for it")
    record = read_one(adapter, at, offset) if span.start <= offset < span.end else None
    if record is None:
        range_text = f"holds {span.start} to {span.end - 1}" if span.start < span.end else "is empty"
        raise FluxError(f"there is no record {at}@{offset}: the partition {range_text}")
    if begins_at_ends(policy, stage, committed):
        raise FluxError(f"group {stage.group} has no position in {stage.topic} and starts at its end: nothing is held")
    _committed_after(policy, stored, offset, span.start, at)
    return SkipPlan(policy, stage, dead, _message(record, policy, stage), stored or CommittedOffset(span.start))


@attrs.frozen
class SkipResult:
    """`position`: what the group has committed. `refused`: why the dead letters did not take the copy, which is in the
    receipt then; empty: they have it."""

    position: CommittedOffset
    refused: str = ""


Receipt = Callable[[str], None]
"""Keeps a line for good before it returns: see `flux.operate.dlq.exchange`. Raises OSError."""


def skip(
    plan: SkipPlan,
    adapter: Cluster,
    admin: AdminPort,
    who: str,
    reason: str,
    system: System = SYSTEM,
    *,
    receipt: Receipt | None = None,
) -> SkipResult:
    """`receipt` gets the dead letter where its topic refuses it for good, as one that is too large. Raises FluxError,
    BrokerError, OSError: the record is then still to be worked, and the message says whether its copy is there."""
    dead, at, offset = plan.dead, plan.at, plan.message.offset
    info = admin.topics([dead.topic], ASK)[dead.topic]
    if info is None:
        raise BrokerError(f"there is no topic {dead.topic}", Fault.UNKNOWN_TOPIC)
    limit = max_message_bytes(admin, dead.topic)
    _rehearse(plan, admin)
    copy = copy_of(plan, info.partitions, limit, who, reason, int(system.now() * 1000))
    writing = TopicWriter(adapter, dead.topic, limit, system)
    try:
        _, failure = writing.write([copy])
    finally:
        writing.close()
    refused = ""
    if failure is not None:
        final = failure.fault in _FINAL
        if receipt is None or not final:
            why = f"{dead.topic} did not acknowledge the copy (it may be there): {failure}"
            if final:
                why = f"{dead.topic} refuses the copy ({failure}): {remedy(failure.fault, dead.topic)}, or keep it in a"
                why += " file with --receipt FILE"
            raise BrokerError(f"nothing was skipped, as {why}", failure.fault)
        receipt(line_of(dead.topic, copy))
        refused = str(failure)
    try:
        return SkipResult(_pass(plan, admin), refused)
    except FluxError as error:
        where = "the receipt" if refused else dead.topic
        raise FluxError(
            f"the copy is in {where}, but {at}@{offset} is still to be worked ({error}): skip it again, and it is there"
            " twice"
        ) from None


def _rehearse(plan: SkipPlan, admin: AdminPort) -> None:
    """Commits the position as it is: what would refuse the new one, such as a permission or a member that the client
    cannot see, does so before anything is written."""
    _set(plan, admin, plan.stored)


def _set(plan: SkipPlan, admin: AdminPort, position: CommittedOffset) -> None:
    stage = plan.stage
    try:
        admin.set_committed_offsets(stage.group, stage.topic, {plan.at.partition: position}, ASK)
    except BrokerError as error:
        if error.fault is not Fault.FENCED:
            raise
        raise FluxError(f"group {stage.group} has members: stop the workers of stage {stage.number}") from None


def _pass(plan: SkipPlan, admin: AdminPort) -> CommittedOffset:
    """By what is committed now: whoever worked meanwhile may have moved it."""
    stage, partition, offset = plan.stage, plan.at.partition, plan.message.offset
    stored = admin.committed_offsets(stage.group, stage.topic, ASK).get(partition)
    if stored is not None and Progress.of(stored).has(offset):
        return stored
    low = admin.watermarks(stage.topic, ASK)[partition].low
    position = _committed_after(plan.policy, stored, offset, low, plan.at)
    _set(plan, admin, position)
    return position


def copy_of(plan: SkipPlan, partitions: int, limit: int | None, who: str, reason: str, now_ms: int) -> ProducerRecord:
    """The dead letter: a forwarded copy as a worker writes it, with who and why. `limit`: bytes that the topic
    takes."""
    forwarded_copy = ForwardedCopy(
        message=plan.message,
        target=plan.dead,
        reason=SKIPPED,
        wait=0.0,
        group=plan.policy.stages.group,
        failed_at=now_ms,
        error_type=SKIPPED,
        error_text=reason,
        error_trace="",
        partitions=partitions,
    )
    outgoing = forwarded_copy.producer_record(now_ms, limit)
    return outgoing._replace(headers=[*outgoing.headers, (SKIPPED_BY, who.encode("utf-8", "replace"))])


def _message(record: object, policy: Policy, stage: Stage) -> Message:
    message = Message.of(record, None, trails.start())
    if stage.role is not Role.MAIN:
        now_ms = int(SYSTEM.now() * 1000)
        message.place(trails.read(message.headers, stage.number, now_ms, int(policy.max_delay * 1000)))
    return message


def _committed_after(
    policy: Policy, stored: CommittedOffset | None, offset: int, low: int, at: TopicPartition
) -> CommittedOffset:
    position = committed_after(stored, offset, low, policy.max_metadata)
    if position is None:
        raise FluxError(
            f"what is done of {at} fits into no string of {policy.max_metadata} characters beside its position once"
            f" {offset} is: skip the record at the position first"
        )
    return position
