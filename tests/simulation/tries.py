"""When a record may be called once more by the same owner, and when it may be called no more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from simulation.machine import EPOCH
from simulation.order import holds, key_queue_of
from simulation.records import Call, Epoch

if TYPE_CHECKING:
    from simulation.truth import Truth

_SLACK = 0.5
"""Seconds between a look at the clock and the call that follows it."""


def tries_before(truth: Truth, epoch: Epoch, offset: int) -> int:
    """Calls in place before the next one of a record; breaks if the last one was not to be repeated."""
    last = epoch.called.get(offset)
    if last is None:
        return 0
    if last.forward:
        raise truth.broken(f"{last.copy} is called again, and the forward of {last} is {last.forward}")
    if last.verdict == "pause":
        return last.tries
    if last.verdict == "next" and last.after is None and last.tries < epoch.task.settings.get("in_place_retries", 0):
        return last.tries + 1
    raise truth.broken(f"{last.copy} is called again after {last}, by the same owner")


def check_again(truth: Truth, call: Call, last: Call) -> None:
    """`call` repeats `last`: after its wait, and before others of its key."""
    last.again = True
    settings, book = call.epoch.task.settings, truth.gates.of(call)
    paused = book.paused_at is not None or book.resumed_at >= last.ended_at or last.outcome == "pause"
    if last.outcome != "pause":
        truth.counted["tries in place"] += 1
        waited = call.began_at - last.ended_at
        wait = settings["in_place_wait"] * 2**last.tries
        if not paused and call.process not in truth.jumped:
            if waited < wait - 0.001:
                raise truth.broken(f"{call} is tried again after {waited:.3f} s, not {wait:g} s")
            key_queue = key_queue_of(call.copy, settings["ordering"])
            others = (each for each in call.epoch.calls if each.copy is not call.copy)
            held = any(holds(each, key_queue, settings) for each in others)
            prompt = truth.scenario.prompt and not settings.get("rate_limit") and not held
            if prompt and waited > wait + truth.patience(call.epoch.task) + truth.slack(call.epoch.task):
                raise truth.broken(f"{call} is tried again {waited - wait:.3f} s late")
    ordering = settings["ordering"]
    key_queue = key_queue_of(call.copy, ordering)
    if key_queue is None or last.products:
        return  # the key of what waits for its products goes on
    assert last.ended is not None
    place = truth.place(call.epoch, call.copy.offset)
    for other in call.epoch.calls:
        behind = truth.place(call.epoch, other.copy.offset) > place
        between = other.began > last.ended and other is not call and not (call.batch and other.batch is call.batch)
        if between and behind and key_queue_of(other.copy, ordering) == key_queue and other.copy is not call.copy:
            raise truth.broken(f"{other} does not wait until {call.copy} is tried again")


def check_age(truth: Truth, call: Call) -> None:
    """No call of work that is too old, and none refused before it is."""
    limit = call.epoch.task.settings.get("give_up_after")
    now_ms = call.process.now() * 1000
    if call.refused:
        truth.counted["refused as too old"] += 1
        if limit is None or now_ms < call.copy.born + limit * 1000:
            raise truth.broken(f"{call} is refused as too old at {now_ms:.0f}, and began at {call.copy.born}")
    elif limit is not None and now_ms > call.copy.born + (limit + _SLACK) * 1000 and _is_on_time(truth, call):
        raise truth.broken(f"{call} is made {now_ms / 1000 - call.copy.born / 1000 - limit:.3f} s too late")


def _is_on_time(truth: Truth, call: Call) -> bool:
    return call.process not in truth.stalled and call.process not in truth.jumped


def check_batch(truth: Truth, calls: list[Call]) -> None:
    """Records of one partition, as many as may be, and not before they have waited for others."""
    first = calls[0]
    epoch, settings = first.epoch, first.epoch.task.settings
    if {call.copy.at for call in calls} != {first.copy.at}:
        raise truth.broken(f"{first} is in a batch of several partitions")
    if len(calls) > settings["max_batch"]:
        raise truth.broken(f"{first} is in a batch of {len(calls)}")
    for other in epoch.calls:
        if other.running and other.batch is not first.batch:
            raise truth.broken(f"the batch of {first} is called beside that of {other}")
    now = truth.machine.time
    left_out = [call for call in epoch.calls if call.refused and call.began_at == now]
    # what the metadata has no room for stays behind
    void = [copy for copy in truth.by_partition[first.copy.at] if copy.replaced and copy.offset in epoch.came_at]
    full = len(calls) + len(left_out) + len(void) >= settings["max_batch"] or settings["max_metadata"] < 1000
    is_suspect = len(calls) == 1 and truth.counted["kills"] > 0
    if full or is_suspect or first.process in truth.jumped:
        return
    mine = {call.copy.offset for call in (*calls, *left_out)}
    waited = max(
        now - max(came, due_at(truth, epoch, offset))
        for offset, came in epoch.came_at.items()
        if offset in mine or offset not in epoch.called or not epoch.called[offset].settled
    )
    if waited < settings["max_wait"] - 0.001:
        raise truth.broken(f"the batch of {first} has {len(calls)} records, and has waited {waited:.3f} s for more")


def due_at(truth: Truth, epoch: Epoch, offset: int) -> float:
    """The machine's time, as the process' clock has it; 0 in the main topic."""
    due = truth.place(epoch, offset)[0]
    return due / 1000 - EPOCH - epoch.process.offset if due else 0.0


def moved_early(truth: Truth, call: Call, failed_at: int) -> bool:
    """Whether a forwarded copy may be written of a call that could be tried again in place."""
    epoch, settings = call.epoch, call.epoch.task.settings
    if call.verdict != "next" or call.after is not None or call.tries >= settings.get("in_place_retries", 0):
        return True
    limit = settings.get("give_up_after")
    wait = settings["in_place_wait"] * 2**call.tries
    return (
        epoch.revoking is not None
        or bool(epoch.ended)
        or truth.is_stopping(call.process)
        or truth.counted["kills"] > 0  # it may have been called alone, and then it moves at once
        or (limit is not None and failed_at + wait * 1000 >= call.copy.born + limit * 1000)
    )


def expires_before(settings: dict[str, Any], call: Call, at_ms: float) -> bool:
    limit = settings.get("give_up_after")
    return limit is not None and at_ms > call.copy.born + limit * 1000
