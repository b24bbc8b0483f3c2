"""What was found and done, in sentences for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from flux.core.errors import BrokerError
from flux.core.ports import AdminPort, Cluster
from flux.operate.dlq.deleted import FreeResult
from flux.operate.dlq.reject import RejectResult
from flux.operate.dlq.replay import ReplayResult
from flux.operate.dlq.replay_plan import ReplayPlan
from flux.operate.formatting import lasting, many, moment
from flux.operate.record_history import RecordHistory, RecordState, TracedRecord
from flux.operate.status.reports import ReportedRecord, find_reported, read_reports
from flux.operate.trace import TraceResult

_SHOWN = 5
Reported = Mapping[str, ReportedRecord]
"""What workers report of records, by `topic[partition]@offset`."""


def reported_of(found: TraceResult, adapter: Cluster, admin: AdminPort, topic: str) -> Reported:
    """What workers report of the records that are due or being called."""
    due = [each for history in found.histories for each in history.records if each.state is RecordState.DUE]
    if not due:
        return {}
    try:
        reports = read_reports(adapter, admin, topic) or ()
    except BrokerError:  # such as no permission: then it is not known
        return {}
    named = {str(each): find_reported(reports, each.stage, each.partition, each.offset) for each in due}
    return {place: reported for place, reported in named.items() if reported is not None}


def where(history: RecordHistory, found: TraceResult, reported: Reported) -> str:
    """Where the record is now, in a line."""
    here = history.now
    more = f"; {history.copies} copies of it are not done, as after a crash" if history.copies > 1 else ""
    if here is None:
        last = history.records[-1]
        how = f"done in {last.stage}: group {last.stage.group} has {_done_by(last, found)}"
        return f"{how}, unless it moved on to what was not read" if found.unread else how
    if here.state is RecordState.DEAD:
        return f"a dead letter at {here.place} since {moment(here.written_at)}"
    if here.state is RecordState.WAITING:
        return f"waits in {here.stage} until {moment(here.due)}; then attempt {here.message.attempt}{more}"
    known = reported.get(str(here))
    if known is not None:
        since = f"{known.reason} on {known.process}, for {lasting(known.seconds)}"
        return f"in {here.stage}, {since}; attempt {here.message.attempt}{more}"
    what = "not called yet, or being called" if here.due is None else f"due since {moment(here.due)}"
    stored = found.committed[here.stage.topic].get(here.partition)
    at = "no committed offset there" if stored is None else f"committed offset {stored.offset:,}"
    return f"in {here.stage}, {what}: group {here.stage.group} has {at}; attempt {here.message.attempt}{more}"


def state_of(traced: TracedRecord, now_ms: int) -> str:
    if traced.state is RecordState.WAITING and traced.due is not None:
        return f"due in {lasting((traced.due - now_ms) / 1000)}"
    if traced.state is RecordState.DUE and traced.due is not None:
        return f"due since {lasting((now_ms - traced.due) / 1000)}"
    return {RecordState.DUE: "not done", RecordState.PASSED: "passed"}.get(traced.state, "")


def _done_by(traced: TracedRecord, found: TraceResult) -> str:
    stored = found.committed[traced.stage.topic][traced.partition]
    return f"committed offset {stored.offset:,}" + (
        "" if traced.offset < stored.offset else ", and this one is among those done above it"
    )


def notes(plan: ReplayPlan) -> Iterator[str]:
    """What to know before a replay."""
    topic = plan.source.topic
    yield f"{topic} keeps every dead letter: records that were processed in another way since are replayed too"
    if not plan.stored:
        yield (
            f"no earlier replay found: group {plan.group} has no committed offset"
            " (Kafka deletes it after offsets.retention.minutes without a replay)"
        )
    if plan.retried:
        yield f"group {plan.source.group} has given up to {plan.retried:,} of these one more try already"


def outcome(plan: ReplayPlan, result: ReplayResult) -> str:
    verb = "would replay" if plan.options.dry else "replayed"
    rest = f"; {result.replayed_before:,} replayed before" if result.replayed_before else ""
    rest += f"; {result.rejected:,} rejected" if result.rejected else ""
    rest += f"; {result.unmatched:,} did not match" if result.unmatched else ""
    rest += f"; {result.missing:,} not found" if result.missing else ""
    return f"{verb} {many(result.replayed, 'dead letter')} to {plan.target.topic}{rest}"


def freeing(result: FreeResult, dry: bool = False) -> str:
    if not result.freed:
        return f"no key has waited for over an hour for a dead letter that {result.topic} does not have"
    places = ", ".join(each.place for each in result.freed[:_SHOWN])
    more = f" and {len(result.freed) - _SHOWN:,} more" if len(result.freed) > _SHOWN else ""
    behind = many(sum(each.behind for each in result.freed), "record")
    return (
        f"{'would free' if dry else 'freed'} {many(len(result.freed), 'key')}, with {behind} behind:"
        f" {result.topic} no longer has the dead letters of {places}{more} of the main topic"
    )


def rejection(result: RejectResult, dry: bool = False) -> str:
    text = f"{'would reject' if dry else 'rejected'} {many(len(result.rejected), 'dead letter')} of {result.topic}"
    text += f"; {result.decided:,} replayed or rejected before" if result.decided else ""
    return text + (f"; {result.missing:,} not found" if result.missing else "")
