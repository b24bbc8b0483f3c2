"""How a task's status is shown: as tables, as lines without a terminal, as a JSON object."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import attrs
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from flux.cli.held_keys_output import held_key_line, held_keys_object
from flux.cli.output import cell, table
from flux.cli.pause_output import pause_lines, pause_objects, pause_parts
from flux.cli.schedule_output import schedule_lines, schedule_object, schedules_table
from flux.consuming.open_transactions import HeldBack
from flux.core.monitoring.report import Limited
from flux.core.stage import Role
from flux.core.text import one_line
from flux.operate.formatting import at_most, coming, lasting, many, rate
from flux.operate.status.oldest_unfinished import OldestUnfinished
from flux.operate.status.progress import PartitionCrashes, uncommitted
from flux.operate.status.reports import ReceivedReport
from flux.operate.status.task_status import (
    Blocker,
    Rates,
    StageStatus,
    TaskStatus,
)

_MAX_BLOCKERS = _MAX_CRASHES = 20
_MAX_PROCESSES = 30
_COLUMNS = ("stage", "", "topic", "members", "lag", "waiting", "next due", "done/s", "failed/s")
_NUMBERS = ("stage", "members", "lag", "waiting", "next due", "done/s", "failed/s")


def parts(found: TaskStatus, blockers: Sequence[Blocker], before: TaskStatus | None) -> list[RenderableType]:
    """The task's stages, its pauses, its blockers, and the processes that report."""
    shown: list[RenderableType] = [_stages(found, before), Text(""), Text(one_line(summary(found)))]
    if found.schedules:
        shown += [Text(""), schedules_table(found)]
    shown += pause_parts(found)
    shown += [Text(""), _limited(limited)] if (limited := found.limited()) else []
    if found.held_keys is not None and found.held_keys.keys:
        held = (held_key_line(each, found.now_ms) for each in found.held_keys.first)
        shown += [Text(""), *(Text(one_line(f"held key {line}")) for line in held)]
    if found.held_back:
        shown += [Text(""), *(Text(one_line(held_line(found, each)), style="yellow") for each in found.held_back)]
    if found.crashes:
        shown += [Text(""), *(Text(one_line(f"{each.at}: {each.text}"), style="yellow") for each in _crashes(found))]
        if len(found.crashes) > _MAX_CRASHES:
            shown.append(Text(f"and {len(found.crashes) - _MAX_CRASHES:,} more: see --json"))
    if blockers:
        shown += [Text(""), _blockers(blockers)]
        if len(blockers) > _MAX_BLOCKERS:
            shown.append(Text(f"and {len(blockers) - _MAX_BLOCKERS:,} more: see --json"))
    if found.reports:
        shown += [Text(""), _processes(found.reports)]
    else:
        now = "" if found.reports is None else " now"
        shown.append(Text(f"no worker reports{now}: start workers with --report to see running calls", style="dim"))
    return shown


def summary(found: TaskStatus) -> str:
    retries = [each for each in found.stages if each.stage.number > 0]
    not_due = sum(found.waiting(each) for each in retries)
    lag = sum(each.lag for each in retries)
    in_place = sum(report.in_place for each in found.stages for report in found.reports_of(each.stage))
    most = "at most " if any(map(found.most_lag, retries)) else ""
    known = [f"{most}{many(lag, 'record')} in retry topics ({not_due:,} not due yet)"]
    dead = many(found.dead_letters, "dead letter") + _of_them(found)
    known.append(f"at most {dead}" if found.most_dead_letters else dead)
    known += [f"{many(in_place, 'record')} waiting for a retry in place"] if in_place else []
    held = found.held_keys
    if held is not None and held.keys:
        by_dead = f", {held.dead:,} by a dead letter" if held.dead else ""
        known.append(f"{many(held.keys, 'key')} held ({many(held.records, 'record')}{by_dead})")
    done = sum(_uncommitted(found, each) for each in found.stages)
    known += [f"{many(done, 'offset')} done and not committed yet"] if done else []
    return ", ".join(known)


def _uncommitted(found: TaskStatus, each: StageStatus) -> int:
    return uncommitted(each.committed, each.watermarks, found.reports_of(each.stage)) if each.exists else 0


def lines(found: TaskStatus, blockers: Sequence[Blocker], before: TaskStatus | None) -> Iterator[str]:
    """Lines for grep: each starts with the time in UTC."""
    at = datetime.fromtimestamp(found.at, UTC).strftime("%H:%M:%SZ")
    for each in found.stages:
        if not each.exists:
            yield one_line(f"{at} stage {each.stage.number} {each.stage.topic}: missing")
            continue
        known = [f"lag {_lag(found, each)}", f"members {len(each.members)}"]
        if each.stage.role is not Role.MAIN and each.lag:
            known += [f"waiting {found.waiting(each):,}", f"next due {_due(found, each)}"]
        speed = found.rates(each, before)
        known += [f"done {_rate(speed.done)}/s"] if speed.done is not None else []
        known += [f"failed {_rate(speed.failed)}/s"] if speed.failed is not None else []
        yield one_line(f"{at} stage {each.stage.number} {each.stage.topic}: {', '.join(known)}")
    yield f"{at} dead letters: {_dead(found)}"
    for line in schedule_lines(found):
        yield one_line(f"{at} {line}")
    for line in pause_lines(found):
        yield one_line(f"{at} {line}")
    for waits in found.limited():
        yield one_line(f"{at} held back: {waits.records:,} of {waits.name}, by {waits.setting}")
    for held in found.held_back:
        yield one_line(f"{at} held back: {held_line(found, held)}")
    for key in found.held_keys.first if found.held_keys is not None else ():
        yield one_line(f"{at} held key: {held_key_line(key, found.now_ms)}")
    for crashed in _crashes(found):
        yield one_line(f"{at} crashed: {crashed.at}: {crashed.text}")
    for blocker in blockers[:_MAX_BLOCKERS]:
        yield one_line(f"{at} blocked: {blocker_line(blocker)}")


def _crashes(found: TaskStatus) -> list[PartitionCrashes]:
    return found.crashes[:_MAX_CRASHES]


def held_line(found: TaskStatus, held: HeldBack) -> str:
    return f"{held.at}: {held.problem}, for {lasting(found.at - held.since)}: {held.remedy}"


def blocker_line(blocker: Blocker) -> str:
    key = "" if blocker.oldest.key is None else f", key {blocker.oldest.key}"
    since = "" if blocker.seconds is None else f", for {lasting(blocker.seconds)}"
    where = "" if blocker.process is None else f" on {blocker.process}"
    return (
        f"{blocker.stage.topic}[{blocker.partition}]@{blocker.oldest.offset}{key}, attempt {blocker.oldest.attempt}:"
        f" {blocker.why}{where}{since}; {many(blocker.behind, 'record')} behind it"
    )


def _stages(found: TaskStatus, before: TaskStatus | None) -> Table:
    shown = table(*_COLUMNS, numbers=_NUMBERS)
    for each in found.stages:
        stage = each.stage
        names = [cell(stage.number), cell(stage.role.value), cell(stage.topic)]
        if not each.exists:
            shown.add_row(*names, "", cell("missing", "red"), "", "", "", "")
            continue
        speed = found.rates(each, before)
        retry = stage.role is not Role.MAIN and each.lag
        shown.add_row(
            *names,
            cell(len(each.members), "" if each.members or not each.lag else "yellow"),
            cell(_lag(found, each), "bold"),
            cell(found.waiting(each)) if retry else "",
            cell(_due(found, each)) if retry else "",
            cell(_rate(speed.done)),
            cell(_rate(speed.failed), "red" if speed.failed else ""),
        )
    if found.dead is not None:
        arriving = found.dead_rate(before)
        shown.add_row("", "dead letters", "", "", cell(_dead(found), "bold"), "", "", "", cell(_rate(arriving)))
    return shown


def _limited(limited: Sequence[Limited]) -> Table:
    shown = table("held back", "by", "records", numbers=["records"])
    for each in limited:
        shown.add_row(cell(each.name, "bold"), cell(each.setting, "yellow"), cell(each.records))
    return shown


def _blockers(blockers: Sequence[Blocker]) -> Table:
    shown = table("blocked at", "key", "attempt", "why", "for", "behind it", numbers=["attempt", "for", "behind it"])
    for blocker in blockers[:_MAX_BLOCKERS]:
        shown.add_row(
            cell(f"{blocker.stage.topic}[{blocker.partition}]@{blocker.oldest.offset}", "bold"),
            cell(blocker.oldest.key or ""),
            cell(blocker.oldest.attempt),
            cell(blocker.why + ("" if blocker.process is None else f" on {blocker.process}")),
            cell("" if blocker.seconds is None else lasting(blocker.seconds)),
            cell(blocker.behind),
        )
    return shown


def _processes(reports: Sequence[ReceivedReport]) -> Table:
    columns = ("process", "version", "memory", "partitions", "in flight", "longest call", "last report")
    shown = table(*columns, numbers=["memory", "partitions", "in flight", "longest call", "last report"])
    for each in reports[:_MAX_PROCESSES]:
        report = each.report
        longest = max((call.seconds for stage in report.stages for call in stage.calls), default=None)
        shown.add_row(
            cell(report.name),
            cell(report.version),
            cell("" if report.memory is None else f"{report.memory / 1_000_000:.0f} MB"),
            cell(" ".join(f"{stage.stage}:{stage.partitions or '-'}" for stage in report.stages)),
            cell(sum(stage.in_flight for stage in report.stages)),
            cell("" if longest is None else lasting(longest + each.age)),
            cell(f"{lasting(each.age)} ago"),
        )
    return shown


def _lag(found: TaskStatus, each: StageStatus) -> str:
    return at_most(each.lag, found.most_lag(each))


def _dead(found: TaskStatus) -> str:
    return at_most(found.dead_letters, found.most_dead_letters) + _of_them(found)


def _of_them(found: TaskStatus) -> str:
    return f" ({found.rejected:,} rejected)" if found.rejected else ""


def _due(found: TaskStatus, each: StageStatus) -> str:
    due = found.next_due(each)
    return "" if due is None else coming((due - found.now_ms) / 1000)


def _rate(per_second: float | None) -> str:
    return "" if per_second is None else rate(per_second)


def as_object(name: str, found: TaskStatus, blockers: Sequence[Blocker], before: TaskStatus | None) -> dict[str, Any]:
    """`committed_offset` and `end` are offsets by partition, null where there is none; times in milliseconds since the
    epoch, rates per second."""
    return {
        "task": name,
        "at": found.now_ms,
        "stages": [_stage_object(found, each, before) for each in found.stages],
        "dead_letters": found.dead_letters,
        "dead_letters_exact": not found.most_dead_letters,
        "dead_letters_rejected": found.rejected,
        "dead_rate": found.dead_rate(before),
        "held_back": [_held_object(found, each) for each in found.held_back],
        "held_keys": None if found.held_keys is None else held_keys_object(found.held_keys),
        "schedules": [schedule_object(each) for each in found.schedules],
        "crashes": [{**each.at._asdict(), **each.mark._asdict()} for each in found.crashes],
        **pause_objects(found),
        "limited": [attrs.asdict(each) for each in found.limited()],
        "blockers": [_blocker_object(blocker) for blocker in blockers],
        "processes": None if found.reports is None else [_process_object(each) for each in found.reports],
    }


def _stage_object(found: TaskStatus, each: StageStatus, before: TaskStatus | None) -> dict[str, Any]:
    stage = each.stage
    known: dict[str, Any] = {"stage": stage.number, "role": stage.role.value, "topic": stage.topic}
    known |= {"group": stage.group, "exists": each.exists, "committed_offset": None, "end": None, "lag": None}
    known |= {"lag_exact": None, "uncommitted": None}
    speed = found.rates(each, before) if each.exists else Rates()
    known |= {"members": None, "waiting": None, "next_due": None, "done_rate": speed.done, "failed_rate": speed.failed}
    known |= {"done_above": None, "oldest_unfinished": {}}
    if each.exists:
        numbers = sorted(each.watermarks)
        known["committed_offset"] = {n: each.committed[n].offset if n in each.committed else None for n in numbers}
        known["end"] = {n: each.watermarks[n].high for n in numbers}
        known["lag"] = each.lag
        known["lag_exact"] = not found.most_lag(each)
        known["done_above"] = {n: each.done_above(n) for n in numbers}
        known["uncommitted"] = _uncommitted(found, each)
        known["waiting"] = found.waiting(each)
        known["next_due"] = found.next_due(each)
        known["oldest_unfinished"] = {n: _oldest_object(oldest) for n, oldest in each.oldest_unfinished.items()}
        known["members"] = [
            {"id": m.id, "client_id": m.client_id, "host": m.host, "partitions": [at.partition for at in m.partitions]}
            for m in each.members
        ]
    return known


def _oldest_object(oldest: OldestUnfinished) -> Mapping[str, Any]:
    return attrs.asdict(oldest)


def _blocker_object(blocker: Blocker) -> dict[str, Any]:
    return {
        "stage": blocker.stage.number,
        "topic": blocker.stage.topic,
        "partition": blocker.partition,
        **_oldest_object(blocker.oldest),
        "why": blocker.why,
        "seconds": None if blocker.seconds is None else round(blocker.seconds, 1),
        "process": blocker.process,
        "behind": blocker.behind,
    }


def _held_object(found: TaskStatus, held: HeldBack) -> dict[str, Any]:
    seconds = round(found.at - held.since, 1)
    return {**held.at._asdict(), "offset": held.offset, "seconds": seconds, "remedy": held.remedy}


def _process_object(each: ReceivedReport) -> dict[str, Any]:
    return {**attrs.asdict(each.report), "age": round(each.age, 1)}
