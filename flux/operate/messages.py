"""What was found and done, in sentences for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from flux.core.backoff import in_words
from flux.core.errors import BrokerError
from flux.core.ports import AdminPort, Cluster
from flux.operate.dlq.replay import Receipt
from flux.operate.dlq.replay_plan import ReplayPlan
from flux.operate.formatting import many, moment
from flux.operate.status.reports import Running, heard, running
from flux.operate.trace.record_history import Sighting, WorkHistory, WorkState
from flux.operate.trace.trace import Trace

Calls = Mapping[str, Running]
"""What processes say of records, by where these are."""


def calls_of(found: Trace, adapter: Cluster, admin: AdminPort, topic: str) -> Calls:
    """What processes say of the records that are to be worked now."""
    seen = [each for work in found.works for each in work.sightings if each.state is WorkState.OPEN]
    if not seen:
        return {}
    try:
        reports = heard(adapter, admin, topic) or ()
    except BrokerError:  # such as no permission: then it is not known
        return {}
    calls = {str(each): running(reports, each.stage, each.partition, each.offset) for each in seen}
    return {place: call for place, call in calls.items() if call is not None}


def where(work: WorkHistory, found: Trace, calls: Calls, now_ms: int) -> str:
    """Where it is, in a line."""
    here = work.now
    more = f"; it is to be worked in {work.copies} places, as after a crash" if work.copies > 1 else ""
    if here is None:
        last = work.sightings[-1]
        how = f"done in {last.stage}, as group {last.stage.group} has passed it ({_passed(last, found)})"
        return f"{how}, unless it went on to what was not read" if found.unread else how
    if here.state is WorkState.DEAD:
        return f"a dead letter at {here.place} since {moment(here.written_at)}"
    if here.state is WorkState.WAITING:
        return f"waits in {here.stage} until {moment(here.due)}; then attempt {here.message.attempt}{more}"
    call = calls.get(str(here))
    if call is not None:
        since = f"{call.what_for} on {call.process}, for {_words(int(call.seconds * 1000))}"
        return f"in {here.stage}, {since}; attempt {here.message.attempt}{more}"
    what = "is to be called, or is being called" if here.due is None else f"is due since {moment(here.due)}"
    stored = found.positions[here.stage.topic].get(here.partition)
    at = "has no position there" if stored is None else f"is at {stored.offset:,}"
    return f"in {here.stage}, {what}: group {here.stage.group} {at}; attempt {here.message.attempt}{more}"


def state_of(sighting: Sighting, now_ms: int) -> str:
    if sighting.state is WorkState.WAITING and sighting.due is not None:
        return f"due in {_words(sighting.due - now_ms)}"
    if sighting.state is WorkState.OPEN and sighting.due is not None:
        return f"due since {_words(now_ms - sighting.due)}"
    return {WorkState.OPEN: "not done", WorkState.PASSED: "passed", WorkState.DEAD: ""}.get(sighting.state, "")


def _passed(sighting: Sighting, found: Trace) -> str:
    stored = found.positions[sighting.stage.topic][sighting.partition]
    return f"position {stored.offset:,}" + (
        "" if sighting.offset < stored.offset else ", and this one is among those done above it"
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


def outcome(plan: ReplayPlan, receipt: Receipt) -> str:
    verb = "would replay" if plan.order.dry else "replayed"
    left = f"; {receipt.done_before:,} replayed before" if receipt.done_before else ""
    left += f"; {receipt.unmatched:,} did not match" if receipt.unmatched else ""
    return f"{verb} {many(receipt.replayed, 'dead letter')} to {plan.target.topic}{left}"


def _words(ms: int) -> str:
    return in_words(round(max(0, ms) / 1000, 1)).lstrip("~")
