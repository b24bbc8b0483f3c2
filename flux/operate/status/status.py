"""Takes a snapshot of a task from its cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import attrs

from flux.consuming.open_transactions import HeldBack, held_back, lasting, open_transactions
from flux.consuming.topic_setup import REQUEST_TIMEOUT, max_message_bytes
from flux.core.engine.start_offsets import begins_at_ends
from flux.core.errors import BrokerError, ConfigurationError, Fault
from flux.core.monitoring.report import StageReport
from flux.core.policy import Policy
from flux.core.ports import AdminPort, Cluster, System, TopicPartition
from flux.core.schedules import Schedule
from flux.core.stage import Role, Stage
from flux.operate.dlq.replay_progress import read_progress
from flux.operate.held_keys import HeldKeys, held_keys
from flux.operate.reading import Span
from flux.operate.status.oldest_unfinished import oldest_unfinished_of
from flux.operate.status.progress import Progress, lag, read_group
from flux.operate.status.records import MAX_COUNTED, Counted, Examined, examine
from flux.operate.status.reports import ReceivedReport, read_reports
from flux.operate.status.schedules import ScheduleStatus, schedules_of, waiting_ticks
from flux.operate.status.task_status import StageStatus, TaskStatus
from flux.system import SYSTEM

_SMALL = 16 * 1024  # bytes of a record that every topic accepts


def read_status(
    adapter: Cluster,
    admin: AdminPort,
    policy: Policy,
    report_topic: str | None,
    before: TaskStatus | None = None,
    *,
    schedules: Sequence[Schedule] = (),
    system: System = SYSTEM,
) -> TaskStatus:
    """Queries the cluster, and goes on counting dead letters where the snapshot `before` ended. `schedules`: those in
    the task's code. Raises BrokerError. Looks for up to 3 s whether an open transaction ends that it does not have."""
    names = admin.topic_names(REQUEST_TIMEOUT)
    stages = list(policy.stages)
    dead = stages.pop()
    stages += policy.stages.leftovers(names)
    found = [
        _read_stage(admin, policy, stage, system) if stage.topic in names else StageStatus(stage, False)
        for stage in stages
    ]
    open_ = {
        TopicPartition(each.stage.topic, number): stable
        for each in found
        for number, stable in each.stable.items()
        if number in each.watermarks and stable < each.watermarks[number].high
    }
    dead_letters = None
    if dead.topic in names:
        dead_letters, dead_open = _read_dead(admin, dead, before)
        open_ |= dead_open
    held = _held_back(adapter, admin, open_, before, system)
    reports = None
    if report_topic is not None and report_topic in names:
        try:
            reports = _of_task(read_reports(adapter, admin, report_topic, system), [*found, StageStatus(dead, True)])
        except BrokerError as error:
            if error.fault is not Fault.DENIED:
                raise
    examined = _examine(adapter, policy, found, dead, dead_letters or {}, system)
    now_ms = int(system.now() * 1000)
    return TaskStatus(
        system.now(),
        [_with_next(admin, policy, _with_examined(policy, each, examined, now_ms)) for each in found],
        None
        if dead_letters is None
        else {
            number: each
            if (gaps := examined.gaps.get(TopicPartition(dead.topic, number))) is None
            else each.further(gaps)
            for number, each in dead_letters.items()
        },
        reports,
        policy.exactly_once,
        held,
        _rejected(admin, policy, dead_letters or {}),
        _held_keys(adapter, admin, policy, system),
        _schedules(adapter, admin, policy, schedules, reports or (), system),
    )


def _schedules(
    adapter: Cluster,
    admin: AdminPort,
    policy: Policy,
    schedules: Sequence[Schedule],
    reports: Sequence[ReceivedReport],
    system: System,
) -> list[ScheduleStatus]:
    """None where this login may not read the ticks."""
    if not schedules:
        return []
    try:
        ticks = waiting_ticks(adapter, admin, policy, schedules, system)
    except BrokerError as error:
        if error.fault is not Fault.DENIED:
            raise
        return []
    told = [each for received in reports for stage in received.report.stages for each in stage.schedules]
    return schedules_of(schedules, ticks, told)


def _held_keys(adapter: Cluster, admin: AdminPort, policy: Policy, system: System) -> HeldKeys | None:
    try:
        return held_keys(adapter, admin, policy, system)
    except BrokerError as error:
        if error.fault is not Fault.DENIED:
            raise
        return None


def _rejected(admin: AdminPort, policy: Policy, dead_letters: Mapping[int, Counted]) -> int:
    """Of the dead letters that are in the topic; 0 where this login may not see which are rejected."""
    if not any(each.most for each in dead_letters.values()):
        return 0
    progress = read_progress(admin, policy) or {}
    return sum(len(each.rejected.since(dead_letters[n].low)) for n, each in progress.items() if n in dead_letters)


def _of_task(reports: Sequence[ReceivedReport] | None, stages: Sequence[StageStatus]) -> list[ReceivedReport] | None:
    """What the reports say of a task's own stages."""
    if reports is None:
        return None
    known = {(each.stage.topic, each.stage.group): each for each in stages}

    def is_done(report: StageReport, partition: int, offset: int) -> bool:
        stored = known[report.topic, report.group].committed.get(partition)
        return Progress.of(stored).has(offset)

    narrowed = (each.narrowed(known, is_done) for each in reports)
    return [each for each in narrowed if each is not None]


def _held_back(
    adapter: Cluster, admin: AdminPort, first: Mapping[TopicPartition, int], before: TaskStatus | None, system: System
) -> list[HeldBack]:
    """`first`: last stable offsets of the partitions that have an open transaction."""
    known = [each for each in (before.held_back if before is not None else ()) if first.get(each.at) == each.offset]
    new = {at: offset for at, offset in first.items() if all(each.at != at for each in known)}
    stay_open = lasting(new, partial(open_transactions, admin), system)
    return known + [held_back(admin, at, offset, adapter.cluster, system) for at, offset in stay_open.items()]


def _read_stage(admin: AdminPort, policy: Policy, stage: Stage, system: System) -> StageStatus:
    members, committed = read_group(admin, stage)  # before the ends, so that no end is below one
    watermarks = admin.watermarks(stage.topic, REQUEST_TIMEOUT)
    behind = lag(committed, watermarks)
    stable = admin.stable_offsets(stage.topic, REQUEST_TIMEOUT) if behind else {}
    first_young: Mapping[int, int] = {}
    if stage.role is not Role.MAIN and behind:
        first_young = admin.offsets_at(
            stage.topic, int((system.now() - _shortest(policy, stage)) * 1000), REQUEST_TIMEOUT
        )
    return StageStatus(stage, True, committed, watermarks, members, {}, first_young, stable=stable)


def _read_dead(
    admin: AdminPort, dead: Stage, before: TaskStatus | None
) -> tuple[dict[int, Counted], dict[TopicPartition, int]]:
    """Without those of open transactions, which may be aborted, and where these begin."""
    marks, stable = admin.watermarks(dead.topic, REQUEST_TIMEOUT), admin.stable_offsets(dead.topic, REQUEST_TIMEOUT)
    known = (before.dead if before is not None else None) or {}
    ends = {number: min(stable.get(number, mark.high), mark.high) for number, mark in marks.items()}
    counted = {
        number: known.get(number, Counted(low, low, low, 0)).up_to(low, max(low, ends[number]))
        for number, (low, _) in marks.items()
    }
    return counted, {TopicPartition(dead.topic, n): end for n, end in ends.items() if end < marks[n].high}


def _shortest(policy: Policy, stage: Stage) -> float:
    try:
        return policy.wait(stage, 0)
    except Exception:  # the task's own function
        return 0.0


def _examine(
    adapter: Cluster,
    policy: Policy,
    stages: Sequence[StageStatus],
    dead: Stage,
    dead_letters: Mapping[int, Counted],
    system: System,
) -> Examined:
    """Reads all partitions with one reader: starting a client takes longer than reading."""
    spans = {
        TopicPartition(each.stage.topic, number): Span(each.start(number), mark.high)
        for each in stages
        for number, mark in each.watermarks.items()
        if each.start(number) < mark.high and not begins_at_ends(policy, each.stage, each.committed)
    }
    uncounted: dict[TopicPartition, Span] = {}
    left = MAX_COUNTED // 2
    for number, dead_letter in dead_letters.items():
        end = min(dead_letter.high, dead_letter.reached + left)
        if dead_letter.reached < end:
            uncounted[TopicPartition(dead.topic, number)] = Span(dead_letter.reached, end)
            left -= end - dead_letter.reached
    try:
        try:
            return examine(adapter, spans | uncounted, system=system)
        except ConfigurationError:  # such as a compression that this client cannot read
            return examine(adapter, spans, counts=False, system=system)
    except BrokerError as error:
        if error.fault is not Fault.DENIED:
            raise
        return Examined({}, {})  # a login that may only describe gets the rest


def _with_examined(policy: Policy, each: StageStatus, examined: Examined, now_ms: int) -> StageStatus:
    topic = each.stage.topic
    first = {at.partition: record for at, record in examined.first.items() if at.topic == topic}
    oldest_unfinished = {
        number: oldest_unfinished_of(record, each.stage, policy, now_ms) for number, record in sorted(first.items())
    }
    gaps = {at.partition: gaps for at, gaps in examined.gaps.items() if at.topic == topic}
    return attrs.evolve(each, oldest_unfinished=oldest_unfinished, gaps=gaps)


def _with_next(admin: AdminPort, policy: Policy, each: StageStatus) -> StageStatus:
    after = policy.stages.after(each.stage)
    if after is None or all(oldest.size <= _SMALL for oldest in each.oldest_unfinished.values()):
        return each
    try:
        return attrs.evolve(each, after=after.topic, max_bytes=max_message_bytes(admin, after.topic))
    except BrokerError as error:
        if error.fault not in (Fault.DENIED, Fault.UNKNOWN_TOPIC):
            raise
        return each
