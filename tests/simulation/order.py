"""When a call may begin: at its time, in its order, and beside which others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from simulation.gates import by_share, has_names
from simulation.records import DEAD, Call, Copy, Epoch

if TYPE_CHECKING:
    from simulation.truth import Truth

_AT_ONCE = 0.3
"""Seconds that a caller may be late."""
_SHARED_OUT = 3.0
"""Seconds after which the members that start together have their partitions: one that pauses at once polls once a
second, and is woken up to twice as late, before it gives a partition up."""


def check_prompt(truth: Truth, call: Call) -> None:
    """With nothing in its way, a record is called when it is due: at once, or when a caller of few is free; after its
    key, after a pause, after the wait for a full batch."""
    epoch = call.epoch
    settings = epoch.task.settings
    if not truth.scenario.prompt or call.copy.stage == DEAD or settings.get("rate_limit"):
        return
    if (
        settings.get("in_place_retries")
        and truth.scenario.constants.get("flux.core.limits.backpressure.FULL", 1000) < 1000
    ):
        return  # what waits in place counts as what is here and not begun
    book, key_queue = truth.gates.of(call), key_queue_of(call.copy, settings["ordering"])
    if "concurrency_key" in settings or by_share(settings) or (has_names(settings) and key_queue is not None):
        return  # others of its name, or those of its key that wait for theirs, come first
    if book.paused_at is not None or call.tries or any(holds(each, key_queue, settings) for each in epoch.calls):
        return
    ready = max(call.copy.stored_at, truth.due_at(call.copy), book.resumed_at) + truth.patience(epoch.task)
    if truth.machine.time - ready > truth.slack(epoch.task) and truth.machine.time > _SHARED_OUT:
        raise truth.broken(f"{call} is called {truth.machine.time - ready:.3f} s late")
    if epoch.task.batched:
        # the wait for a full batch goes on during a pause
        came = max(epoch.came_at.get(call.copy.offset, 0.0), truth.due_at(call.copy)) + truth.patience(epoch.task)
        late = truth.machine.time - max(came, book.resumed_at)
        if late > _AT_ONCE and truth.machine.time > _SHARED_OUT:
            raise truth.broken(f"{call} waits for its batch {late:.3f} s too long")


def holds(other: Call, key_queue: Any, settings: dict[str, Any]) -> bool:
    """Whether the key of `other` may have been held back since its call."""
    return bool(settings.get("in_place_retries")) and (
        other.outcome != "done"
        and key_queue is not None
        and key_queue_of(other.copy, settings["ordering"]) == key_queue
    )


def key_queue_of(copy: Copy, ordering: str) -> Any:
    if ordering == "partition":
        return True
    return copy.record.key() if ordering == "key" else None


def check_order(truth: Truth, call: Call) -> None:
    copy, epoch = call.copy, call.epoch
    ordering = epoch.task.settings["ordering"]
    key_queue = key_queue_of(copy, ordering)
    if key_queue is None or copy.stage == DEAD:
        return  # dead letters have no due time of their own, but that of the clock of whoever wrote them
    due, poll = epoch.delivered[copy.offset]
    if copy.stage == 0:
        due = 0
    for offset, (its_due, its_poll) in epoch.delivered.items():
        other = truth.copies[copy.at, offset]
        if other is copy or key_queue_of(other, ordering) != key_queue:
            continue
        its = epoch.called.get(offset)
        if its is None or its.outcome == "pause":
            if other.replaced or (its is None and (epoch.was_done(offset) or _is_given_up(truth, other))):
                continue
            if copy.stage == 0:
                its_due = 0
            if (its_due, offset) < (due, copy.offset) and its_poll <= poll:
                raise truth.broken(f"{call} overtakes {other}")
        elif its.kept is not None and its.forward != "acked" and its.kept < epoch.known:
            raise truth.broken(f"{call} overtakes {its}, whose forward is refused")


def _is_given_up(truth: Truth, copy: Copy) -> bool:
    """Whether the record has ended so many processes, or seems to, that its dead letter is written without another
    call."""
    blamed = (copy.at, copy.offset) in truth.blamed
    return (blamed or copy.plan.kills) and any(call.forward for call in copy.calls)


def check_alone(truth: Truth, call: Call) -> None:
    copy, epoch = call.copy, call.epoch
    ordering = epoch.task.settings["ordering"]
    key_queue = key_queue_of(copy, ordering)
    for other in truth.calls:
        if not other.running or other is call or other.copy.at != copy.at:
            continue
        if (key_queue is None or key_queue_of(other.copy, ordering) != key_queue) and other.copy is not copy:
            continue
        its = other.epoch
        if call.batch is not None and other.batch is call.batch:
            continue  # one after the other, within one call
        if its is epoch:
            raise truth.broken(f"{call} runs beside {other}")
        if not (its.late or its.ended == "lost" or is_disowned(truth, its) or is_disowned(truth, epoch)):
            raise truth.broken(f"{call} runs beside {other}, of another owner")
        # given up during a call: `revoked` has seen to it that its time was over; else it was lost


def is_disowned(truth: Truth, epoch: Epoch) -> bool:
    """Whether the group has given the partition to another member, which this one may learn later: nothing but its next
    request to the group can notify it. Until then it may call; what it commits is refused."""
    return truth.cluster.group(epoch.group, epoch.at.topic).owner.get(epoch.at.partition) is not epoch.member
