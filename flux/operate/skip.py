"""Moves one record that blocks a partition to the dead letters, and commits the group's offset past it.

The copy is acknowledged by all in-sync replicas before the offset is committed. Whatever happens in between, the record
is not lost: it may be there twice. A record that the dead-letter topic refuses is kept whole in a receipt instead, to
be imported later.

The stage's workers must be stopped first: each member commits what its own offset tracker says and would overwrite the
new committed offset. For that reason Kafka refuses to set it while the group has members. Workers that take commands
skip it themselves: see `flux.operate.commands`.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs

from flux.consuming.topic_setup import REQUEST_TIMEOUT, max_message_bytes
from flux.core.engine.forwarding import remedy
from flux.core.engine.forwards import ForwardedCopy
from flux.core.engine.start_offsets import begins_at_ends
from flux.core.errors import BrokerError, ConfigurationError, Fault, FluxError
from flux.core.message import Message
from flux.core.policy import Policy
from flux.core.ports import AdminPort, Cluster, CommittedOffset, ProducerRecord, System, TopicPartition
from flux.core.stage import Stage, Stages
from flux.operate.dlq.exchange import line_of
from flux.operate.formatting import many
from flux.operate.held_keys import free, read_key_order
from flux.operate.reading import message_of, read_one, spans_of
from flux.operate.status.progress import Progress, committed_after
from flux.operate.writing import TopicWriter
from flux.system import SYSTEM

SKIPPED = "skipped"
"""`flux-reason` and the error type of the dead letter; its error message is the operator's reason."""
SKIPPED_BY = "flux-skipped-by"
_FINAL = {Fault.TOO_LARGE, Fault.DENIED, Fault.OTHER}
"""Faults for which a retry is pointless."""


@attrs.frozen
class SkipPlan:
    """One record to skip: see `plan_skip`."""

    policy: Policy
    stage: Stage
    dead: Stage
    message: Message
    stored: CommittedOffset
    """The group's committed offset; where it has none, the offset at which it starts."""

    @property
    def at(self) -> TopicPartition:
        return TopicPartition(self.stage.topic, self.message.partition)


def stage_of(policy: Policy, number: int, admin: AdminPort) -> Stage:
    """The main or a retry stage, or one that is left from when there were more retries. Raises ConfigurationError for
    any other, BrokerError."""
    stages = policy.stages
    if 0 <= number <= stages.retries:
        return stages[number]
    for left in stages.leftovers(admin.topic_names(REQUEST_TIMEOUT)):
        if left.number == number:
            return left
    raise ConfigurationError(no_stage(stages, number))


def no_stage(stages: Stages, number: int) -> str:
    retries = {0: "and there are no retries", 1: "1 is the retry"}
    return f"there is no stage {number}: 0 is the main topic, " + retries.get(
        stages.retries, f"1 to {stages.retries} are the retries"
    )


def check_stopped(admin: AdminPort, stage: Stage) -> None:
    """Raises FluxError while the stage's group has members, BrokerError."""
    members = admin.members(stage.group, REQUEST_TIMEOUT)
    if members:
        who = ", ".join(sorted({f"{member.client_id} at {member.host}" for member in members})[:3])
        raise FluxError(
            f"group {stage.group} has {many(len(members), 'member')} ({who}), whose commits would undo this: stop the"
            f" workers of stage {stage.number}, skip, then start them again (a killed one counts until its session"
            " times out); those started with --control skip it while they run"
        )


def plan_skip(
    adapter: Cluster,
    admin: AdminPort,
    policy: Policy,
    stage: Stage,
    partition: int,
    offset: int,
    *,
    stopped: bool = True,
) -> SkipPlan:
    """Finds the record and checks that it is not done, and that the group has no members if it must be `stopped`.
    Raises FluxError with what is wrong, BrokerError."""
    if stopped:
        check_stopped(admin, stage)
    dead = policy.stages[policy.stages.dead]
    for topic, info in admin.topics([stage.topic, dead.topic], REQUEST_TIMEOUT).items():
        if info is None:
            raise ConfigurationError(f"there is no topic {topic}: see `flux topics`")
    span = spans_of(admin, stage.topic).get(partition)
    if span is None:
        raise ConfigurationError(f"{stage.topic} has no partition {partition}")
    at = TopicPartition(stage.topic, partition)
    committed = admin.committed_offsets(stage.group, stage.topic, REQUEST_TIMEOUT)
    stored = committed.get(partition)
    if Progress.of(stored).has(offset):
        raise FluxError(f"{at}@{offset} is done already: it blocks nothing in group {stage.group}")
    record = read_one(adapter, at, offset, span)
    if record is None:
        range_text = f"holds {span.start} to {span.end - 1}" if span.start < span.end else "is empty"
        raise FluxError(f"there is no record {at}@{offset}: the partition {range_text}")
    if begins_at_ends(policy, stage, committed):
        raise FluxError(
            f"group {stage.group} has no committed offset in {stage.topic} and starts at its end: nothing is blocked"
        )
    _committed_after(policy, stored, offset, span.start, at)
    message = message_of(record, stage, policy, int(SYSTEM.now() * 1000))
    return SkipPlan(policy, stage, dead, message, stored or CommittedOffset(span.start))


@attrs.frozen
class SkipResult:
    """`committed`: what the group has committed. `refused`: why the dead-letter topic refused the copy, which is in the
    receipt then; empty: it was written."""

    committed: CommittedOffset
    refused: str = ""


Receipt = Callable[[str], None]
"""Stores a line durably before it returns: see `flux.operate.dlq.exchange`. Raises OSError."""


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
    """`receipt` gets the dead letter where its topic refuses it for good, such as one that is too large. Raises
    FluxError, BrokerError, OSError: then the record is not skipped, and the message says whether its copy exists."""
    dead, at, offset = plan.dead, plan.at, plan.message.offset
    info = admin.topics([dead.topic], REQUEST_TIMEOUT)[dead.topic]
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
        view = read_key_order(adapter, admin, plan.policy, system)
        if view is not None and view.entry(plan.message.origin[1:]) is not None:
            free(adapter, plan.policy, [plan.message], system)
        return SkipResult(_pass(plan, admin), refused)
    except FluxError as error:
        where = "the receipt" if refused else dead.topic
        raise FluxError(
            f"the copy is in {where}, but {at}@{offset} is not skipped ({error}): if you skip it again, there are two"
            " copies"
        ) from None


def _rehearse(plan: SkipPlan, admin: AdminPort) -> None:
    """Commits the offset as it is: what would refuse the new one, such as a missing permission or a member that the
    client cannot see, refuses this before anything is written."""
    _set(plan, admin, plan.stored)


def _set(plan: SkipPlan, admin: AdminPort, committed: CommittedOffset) -> None:
    stage = plan.stage
    try:
        admin.set_committed_offsets(stage.group, stage.topic, {plan.at.partition: committed}, REQUEST_TIMEOUT)
    except BrokerError as error:
        if error.fault is not Fault.FENCED:
            raise
        raise FluxError(f"group {stage.group} has members: stop the workers of stage {stage.number}") from None


def _pass(plan: SkipPlan, admin: AdminPort) -> CommittedOffset:
    """Starts from what is committed now: a worker may have committed meanwhile."""
    stage, partition, offset = plan.stage, plan.at.partition, plan.message.offset
    stored = admin.committed_offsets(stage.group, stage.topic, REQUEST_TIMEOUT).get(partition)
    if stored is not None and Progress.of(stored).has(offset):
        return stored
    low = admin.watermarks(stage.topic, REQUEST_TIMEOUT)[partition].low
    committed = _committed_after(plan.policy, stored, offset, low, plan.at)
    _set(plan, admin, committed)
    return committed


def copy_of(plan: SkipPlan, partitions: int, limit: int | None, who: str, reason: str, now_ms: int) -> ProducerRecord:
    """The dead letter: a forwarded copy as a worker writes it, with who and why. `limit`: the topic's largest batch in
    bytes."""
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
    record = forwarded_copy.producer_record(now_ms, limit)
    return record._replace(headers=[*record.headers, (SKIPPED_BY, who.encode("utf-8", "replace"))])


def _committed_after(
    policy: Policy, stored: CommittedOffset | None, offset: int, low: int, at: TopicPartition
) -> CommittedOffset:
    committed = committed_after(stored, offset, low, policy.max_metadata)
    if committed is None:
        raise FluxError(
            f"the offsets done above the committed one of {at} would need more than {policy.max_metadata} characters of"
            " metadata: skip the record at the committed offset first"
        )
    return committed
