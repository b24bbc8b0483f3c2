"""What was found and done, in sentences for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from flux.core.backoff import in_words
from flux.core.errors import BrokerError
from flux.core.ports import AdminPort, Cluster
from flux.operate.dlq.replay import ReplayResult
from flux.operate.dlq.replay_plan import ReplayPlan
from flux.operate.formatting import many, moment
from flux.operate.status.reports import ReportedRecord, find_reported, read_reports
from flux.operate.trace.record_history import RecordHistory, RecordState, TracedRecord
from flux.operate.trace.trace import TraceResult

Calls = Mapping[str, ReportedRecord]
"""What processes say of records, by where these are."""


def calls_of(found: TraceResult, adapter: Cluster, admin: AdminPort, topic: str) -> Calls:
    """What processes say of the records that are to be worked now."""
    seen = [each for history in found.histories for each in history.records if each.state is RecordState.OPEN]
    if not seen:
        return {}
    try:
        reports = read_reports(adapter, admin, topic) or ()
    except BrokerError:  # such as no permission: then it is not known
        return {}
    calls = {str(each): find_reported(reports, each.stage, each.partition, each.offset) for each in seen}
    return {place: call for place, call in calls.items() if call is not None}


def where(history: RecordHistory, found: TraceResult, calls: Calls, now_ms: int) -> str:
    """Where it is, in a line."""
    here = history.now
    more = f"; it is to be worked in {history.copies} places, as after a crash" if history.copies > 1 else ""
    if here is None:
        last = history.records[-1]
        how = f"done in {last.stage}, as group {last.stage.group} has passed it ({_passed(last, found)})"
        return f"{how}, unless it went on to what was not read" if found.unread else how
    if here.state is RecordState.DEAD:
        return f"a dead letter at {here.place} since {moment(here.written_at)}"
    if here.state is RecordState.WAITING:
        return f"waits in {here.stage} until {moment(here.due)}; then attempt {here.message.attempt}{more}"
    call = calls.get(str(here))
    if call is not None:
        since = f"{call.what_for} on {call.process}, for {_words(int(call.seconds * 1000))}"
        return f"in {here.stage}, {since}; attempt {here.message.attempt}{more}"
    what = "is to be called, or is being called" if here.due is None else f"is due since {moment(here.due)}"
    stored = found.positions[here.stage.topic].get(here.partition)
    at = "has no position there" if stored is None else f"is at {stored.offset:,}"
    return f"in {here.stage}, {what}: group {here.stage.group} {at}; attempt {here.message.attempt}{more}"


def state_of(traced: TracedRecord, now_ms: int) -> str:
    if traced.state is RecordState.WAITING and traced.due is not None:
        return f"due in {_words(traced.due - now_ms)}"
    if traced.state is RecordState.OPEN and traced.due is not None:
        return f"due since {_words(now_ms - traced.due)}"
    return {RecordState.OPEN: "not done", RecordState.PASSED: "passed", RecordState.DEAD: ""}.get(traced.state, "")


def _passed(traced: TracedRecord, found: TraceResult) -> str:
    stored = found.positions[traced.stage.topic][traced.partition]
    return f"position {stored.offset:,}" + (
        "" if traced.offset < stored.offset else ", and this one is among those done above it"
    )


def notes(plan: ReplayPlan) -> Iterator[str]:
    topic = plan.source.topic
    yield f"{topic} keeps every dead letter: records that were processed in another way since are replayed too"
    if not plan.stored:
        yield (
            f"no earlier replay found: group {plan.group} has no position"
            " (Kafka forgets one after offsets.retention.minutes without a replay)"
        )
    if plan.worked:
        yield f"group {plan.source.group} has given up to {plan.worked:,} of these one more try already"


def outcome(plan: ReplayPlan, result: ReplayResult) -> str:
    verb = "would replay" if plan.options.dry else "replayed"
    left = f"; {result.done_before:,} replayed before" if result.done_before else ""
    left += f"; {result.unmatched:,} did not match" if result.unmatched else ""
    return f"{verb} {many(result.replayed, 'dead letter')} to {plan.target.topic}{left}"


def _words(ms: int) -> str:
    return in_words(round(max(0, ms) / 1000, 1)).lstrip("~")
