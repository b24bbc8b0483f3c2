"""How the schedules of a task are shown in its status."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.table import Table

from flux.cli.output import cell, table
from flux.operate.status.schedules import ScheduleStatus
from flux.operate.status.task_status import TaskStatus


def schedules_table(found: TaskStatus) -> Table:
    shown = table("schedule", "when", "next tick", "last tick", "missed")
    for each in found.schedules:
        overdue = each.is_overdue(found.now_ms) and bool(each.when)
        shown.add_row(
            cell(each.name, "bold"),
            cell(each.when or "not in this code"),
            cell(each.next_in_words(found.now_ms), "yellow" if overdue else ""),
            cell(each.last_in_words),
            cell(each.missed_in_words, "yellow"),
        )
    return shown


def schedule_lines(found: TaskStatus) -> Iterator[str]:
    for each in found.schedules:
        known = [f"next tick {each.next_in_words(found.now_ms)}", f"last tick {each.last_in_words}"]
        yield ", ".join([f"schedule {each.name}: {each.when or 'not in this code'}", *known, *_missed(each)])


def _missed(each: ScheduleStatus) -> list[str]:
    return [each.missed_in_words] if each.missed_in_words else []


def schedule_object(each: ScheduleStatus) -> dict[str, Any]:
    """Times in milliseconds since the epoch; `late` in seconds."""
    return {
        "name": each.name,
        "when": each.when or None,
        "next_tick": each.next_tick,
        "last_tick": each.last_tick,
        "started": each.started,
        "late": each.late,
        "called": None if each.last_tick is None else each.called,
        "missed": each.missed,
        "not_called": each.not_called,
    }
