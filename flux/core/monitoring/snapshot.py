"""Snapshots of an engine for status reports: running calls and open records.

Needs the lock of the engine's coordinator. Changes nothing in the engine.
"""

from __future__ import annotations

import math
from heapq import nlargest, nsmallest

import attrs

from flux.core.engine import Engine
from flux.core.engine.forwarding import remedy_or_skip
from flux.core.engine.runs import Run
from flux.core.engine.slices import Entry
from flux.core.engine.verdicts import Pause
from flux.core.error_text import cause_of, error_name
from flux.core.limits.circuit_breaker import CircuitBreaker
from flux.core.limits.failure_rate import TooManyFailures
from flux.core.monitoring.report import (
    IN_PLACE,
    MOST_CALLS,
    MOST_LIMITED,
    MOST_NAMES,
    Call,
    Limited,
    Open,
    Paused,
    RateSet,
    StageReport,
    ranges_of,
    shown_key,
)


class Snapshot:
    """Of one engine, compared with the snapshot before. Times by the engine's clock."""

    def __init__(self, task: str, engine: Engine) -> None:
        self._task = task
        self._engine = engine
        self._waited: dict[Entry, float] = {}
        """When a snapshot found records without a forwarded copy open first."""
        self._checked: float | None = None
        self._done = self._failed = 0

    def look(self, now: float) -> StageReport:
        engine, stats, stage = self._engine, self._engine.stats, self._engine.stage
        since = 0.0 if self._checked is None else now - self._checked
        done, failed = stats.done - self._done, stats.failed - self._failed
        calls, open_ = self._calls(now), self._open(now)
        due, tried, limited = engine.next_due, in_place(engine), limited_by_name(engine)
        report = StageReport(
            task=self._task,
            stage=stage.number,
            topic=stage.topic,
            group=stage.group,
            partitions=ranges_of(at.partition for at in engine.partitions),
            done=stats.done,
            failed=stats.failed,
            retried=stats.retried,
            dead=stats.dead,
            done_rate=round(done / since, 2) if since > 0 else 0.0,
            failed_rate=round(failed / since, 2) if since > 0 else 0.0,
            waiting=engine.waiting,
            due_in=None if due is None else round((due - engine.wall_ms(now)) / 1000, 1),
            in_flight=len(calls),
            calls=tuple(nsmallest(MOST_CALLS, calls, key=lambda call: -call.seconds)),
            on_their_way=len(open_) - tried,
            open=tuple(nsmallest(MOST_CALLS, open_, key=lambda each: -each.seconds)),
            in_place=tried,
            paused=hold_of(engine, now) or pause_of(engine.call_limits.breaker, now),
            paused_names=tuple(nsmallest(MOST_NAMES, paused_names(engine, now), key=lambda each: -each.seconds)),
            limited=tuple(
                Limited(setting, shown_key(name.encode()) or "", records)
                for setting, name, records in nlargest(MOST_LIMITED, limited, key=lambda each: each[2])
            ),
            limited_records=sum(records for *_, records in limited),
            rate_set=rate_set_of(engine, now),
            done_to={str(at.partition): offset for at, offset in engine.uncommitted_progress().items()},
        )
        self._checked, self._done, self._failed = now, stats.done, stats.failed
        return report

    def _calls(self, now: float) -> list[Call]:
        calls = []
        for run, index in calls_of(self._engine):
            since = run.moved if index == run.seen else now  # it started after the watcher's last check
            partition, offset, key, attempt = place_of(run, index)
            records = run.calls if run.batched else 1
            calls.append(Call(partition, offset, shown_key(key), attempt, _ago(now, since), records))
        return calls

    def _open(self, now: float) -> list[Open]:
        found = []
        waited, self._waited = self._waited, {}
        for entry, forward in self._engine.open():
            message = entry.message
            known = (message.partition, message.offset, shown_key(message.key), message.attempt)
            if forward is not None:
                ago = _ago(self._engine.wall_ms(now) / 1000, forward.forwarded_copy.failed_at / 1000)
                target = forward.forwarded_copy.target.topic
                fault = forward.refused
                refused = "" if fault is None else f"{fault.value}: {remedy_or_skip(fault, target)}"
                found.append(Open(*known, target, forward.state.value, forward.failures, ago, refused))
                continue
            since = self._waited[entry] = waited.get(entry, now)
            if entry.waits:
                found.append(Open(*known, message.topic, IN_PLACE, entry.tries, _ago(now, since)))
            else:
                found.append(Open(*known, "", "produced", 0, _ago(now, since)))
        return found


def calls_of(engine: Engine) -> list[tuple[Run, int]]:
    """The calls that run now: each run's, with its index; not of runs whose calls have ended."""
    found = ((run, run.index) for run in engine.running)
    return [(run, index) for run, index in found if index < (1 if run.batched else run.limit)]


def in_place(engine: Engine) -> int:
    """Number of records that wait for a retry in place."""
    return sum(entry.waits for entry, _ in engine.open())


def hold_of(engine: Engine, now: float) -> Paused | None:
    """None: nobody has paused the stage."""
    hold = engine.call_limits.held.get(engine.stage.number)
    if hold is None:
        return None
    now_ms = engine.wall_ms(now)
    seconds = round(max(0.0, now_ms - hold.since) / 1000, 1)
    return Paused(hold.by, seconds, None, commanded=True, ends_in=_ends_in(hold.until, now_ms), why=hold.why)


def rate_set_of(engine: Engine, now: float) -> RateSet | None:
    """None: the rate limit is that of the task's code."""
    commanded = engine.call_limits.commanded_rate
    if commanded is None:
        return None
    return RateSet(commanded.rate, commanded.by, _ends_in(commanded.until, engine.wall_ms(now)))


def _ends_in(until: float, now_ms: float) -> float | None:
    return None if until == math.inf else round(max(0.0, until - now_ms) / 1000, 1)


def paused_names(engine: Engine, now: float) -> list[Paused]:
    """The names whose calls alone are paused."""
    breakers, found = engine.call_limits.breakers, list[Paused]()
    for name, breaker in (breakers.paused if breakers is not None else {}).items():
        paused = pause_of(breaker, now)
        if paused is not None:
            why = breaker.error.share if isinstance(breaker.error, TooManyFailures) else ""
            found.append(attrs.evolve(paused, name=shown_key(name.encode()) or "", why=why))
    return found


def limited_by_name(engine: Engine) -> list[tuple[str, str, int]]:
    """(setting, name, number of records that wait for it) of the limits by name."""
    return [] if engine.held_back is None else list(engine.held_back.waiting())


def pause_of(breaker: CircuitBreaker, now: float) -> Paused | None:
    """None: the task is not paused."""
    error = breaker.error
    if breaker.since is None or error is None:
        return None
    cause = cause_of(error) if issubclass(type(error), Pause) else None
    error = error if cause is None else cause  # the cause is more specific than flux.Pause
    opens = breaker.opens_at(now)
    tried_in = None if opens is None else round(max(0.0, opens - now), 1)
    return Paused(error_name(type(error)), _ago(now, breaker.since), tried_in)


def place_of(run: Run, index: int) -> tuple[int, int, bytes | None, int]:
    """(partition, offset, key, attempt) of record `index` of a run."""
    if run.messages is not None:
        message = run.messages[index]
    elif run.records is not None:
        record = run.records[index]
        return record.partition(), record.offset(), record.key(), 1  # of the main topic
    else:
        assert run.entries is not None
        message = run.entries[index].message
    return message.partition, message.offset, message.key, message.attempt


def _ago(now: float, then: float) -> float:
    return round(max(0.0, now - then), 1)
