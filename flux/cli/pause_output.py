"""Pauses of a task, and the rates that somebody has set, as `flux status` shows them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import attrs
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from flux.cli.output import cell, table
from flux.core.text import one_line
from flux.operate.formatting import lasting
from flux.operate.status.set_rates import rates_of
from flux.operate.status.task_status import TaskPause, TaskStatus

_MOST = 30


def pause_parts(found: TaskStatus) -> list[RenderableType]:
    paused, shown = found.pauses(), list[RenderableType]()
    if paused:
        shown += [Text(""), _table(paused)]
        if len(paused) > _MOST:
            shown.append(Text(f"and {len(paused) - _MOST:,} more: see --json"))
    return [*shown, *(Text(one_line(f"rate limit: {each.text}"), style="yellow") for each in rates_of(found))]


def pause_lines(found: TaskStatus) -> Iterator[str]:
    for pause in found.pauses()[:_MOST]:
        yield f"paused: {pause.what}, by {_by(pause)}, for {lasting(pause.seconds)}; {pause.end}"
    for rate in rates_of(found):
        yield f"rate limit: {rate.text}"


def pause_objects(found: TaskStatus) -> dict[str, list[dict[str, Any]]]:
    return {
        "paused": [_object(each) for each in found.pauses()],
        "rates_set": [attrs.asdict(each) for each in rates_of(found)],
    }


def _table(paused: Sequence[TaskPause]) -> Table:
    shown = table("paused", "by", "for", "end", numbers=["for"])
    for each in paused[:_MOST]:
        shown.add_row(cell(each.what, "bold"), cell(_by(each), "yellow"), cell(lasting(each.seconds)), cell(each.end))
    return shown


def _by(pause: TaskPause) -> str:
    return f"{pause.error} ({pause.why})" if pause.why else pause.error


def _object(each: TaskPause) -> dict[str, Any]:
    tried_in, ends_in = (None if left is None else round(left, 1) for left in (each.tried_in, each.ends_in))
    known = {"process": each.process, "error": each.error, "seconds": round(each.seconds, 1), "tried_in": tried_in}
    more = {"command": each.command, "ends_in": ends_in, "why": each.why, "stages": each.stages, "name": each.name}
    return {**known, **more}
