"""Rejects dead letters: they stay in the topic, are no longer open, hold no key any more (`on_dead = "hold"`), and no
replay takes them unless it is told to."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from flux.consuming.topic_setup import REQUEST_TIMEOUT
from flux.core.message import Message
from flux.core.policy import Policy
from flux.core.ports import AdminPort, Cluster, System
from flux.operate.dlq.dead_letters import dead_letter_of
from flux.operate.dlq.filters import Filter
from flux.operate.dlq.replay_plan import chosen_pieces
from flux.operate.dlq.replay_progress import DeadLetterState, ReplayProgress, commit_progress, replay_group
from flux.operate.held_keys import free, held_by, read_key_order
from flux.operate.reading import read_pieces, spans_of
from flux.system import SYSTEM


@attrs.define
class RejectResult:
    """`rejected`: places, partition and offset; `decided`: those that match and were replayed or rejected before;
    `missing`: chosen places without a dead letter."""

    topic: str
    rejected: list[tuple[int, int]] = attrs.field(factory=list)
    decided: int = 0
    missing: int = 0


def reject(
    adapter: Cluster,
    admin: AdminPort,
    policy: Policy,
    criteria: Filter,
    *,
    dry: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
    on_progress: Callable[[int], object] = lambda count: None,
    system: System = SYSTEM,
) -> RejectResult:
    """All that match and are open, up to the ends as of now, or none: also when `should_stop()`. Raises
    ConfigurationError for a chosen place beyond the end, FluxError where there are too many to mark, BrokerError."""
    topic = policy.stages[policy.stages.dead].topic
    stored = admin.committed_offsets(replay_group(policy), topic, REQUEST_TIMEOUT)
    known = {number: ReplayProgress.of(committed) for number, committed in stored.items()}
    spans = spans_of(admin, topic, criteria.since_ms)
    result, met, now_ms = RejectResult(topic), 0, int(system.now() * 1000)
    chosen: dict[int, list[int]] = {}
    held: list[Message] = []
    view = read_key_order(adapter, admin, policy, system)
    for batch in read_pieces(
        adapter, topic, chosen_pieces(criteria, topic, spans), should_stop=should_stop, system=system
    ):
        progress = known.get(batch.partition, ReplayProgress(0))
        for record in batch.records:
            dead_letter = dead_letter_of(record, policy, now_ms)
            met += (dead_letter.partition, dead_letter.offset) in (criteria.only or ())
            if not criteria.matches(dead_letter):
                continue
            state = progress.state_of(dead_letter)
            if state is not DeadLetterState.REPLAYED and held_by(view, dead_letter.message) is not None:
                held.append(dead_letter.message)  # a former rejection may have ended before its key was free
            if state is DeadLetterState.OPEN:
                chosen.setdefault(batch.partition, []).append(dead_letter.offset)
            else:
                result.decided += 1
        on_progress(len(batch.records))
    if should_stop():
        return result
    result.missing = len(criteria.only or ()) - met
    result.rejected = [(number, offset) for number, offsets in chosen.items() for offset in offsets]
    lows = admin.watermarks(topic, REQUEST_TIMEOUT)
    new = {
        number: known.get(number, ReplayProgress(0))
        .since(lows[number].low)
        .rejecting(offsets)
        .checked(policy.max_metadata)
        .to_commit(policy.max_metadata)
        for number, offsets in chosen.items()
    }
    if not dry:
        if new:
            commit_progress(admin, policy, stored, new)
        free(adapter, policy, held, system)
    return result
