"""`flux status`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from flux.cli.clusters import admin_of
from flux.cli.options import adapter_option, load_option

if TYPE_CHECKING:
    from flux.core.policy import Policy
    from flux.core.ports import AdminPort, Position, Watermarks
    from flux.core.stage import Stage


@click.command(
    epilog="""\b
Examples:
  flux status --load billing.py Billing
  flux status --load billing.py Billing --json | jq '.stages[0].lag'"""
)
@load_option
@adapter_option
@click.option("--json", "as_json", is_flag=True, help="One object, for machines.")
@click.argument("task", required=False)
def command(sources: tuple[str, ...], as_json: bool, task: str | None) -> None:
    """Show how far a task is: lag, position, waiting records, dead letters.

    The lag of a stage is how many offsets lie between the group's position and the end of its topic; in a retry
    stage these are the records that wait. A stage without a topic has none.
    """
    from flux.cli import log
    from flux.cli.finding import find_task

    log.quiet()
    cls = find_task(sources, task)
    policy = cls.policy()
    with admin_of(cls) as admin:
        status = survey(cls.__name__, policy, admin)
    if as_json:
        click.echo(json.dumps(status))
    else:
        _show(status)


def survey(name: str, policy: Policy, admin: AdminPort) -> dict[str, Any]:
    """`{"task", "stages": [{"stage", "role", "topic", "group", "exists", "position", "end", "lag"}], "dead_letters"}`,
    `position` and `end` being offsets by partition; null where there is none. Raises BrokerError."""
    from flux.runtime.preparation import ASK

    names = admin.topic_names(ASK)
    stages = list(policy.stages)
    dead = stages.pop()
    stages += policy.stages.leftovers(names)
    return {
        "task": name,
        "stages": [_stage(stage, admin, stage.topic in names) for stage in stages],
        "dead_letters": _held(admin.watermarks(dead.topic, ASK)) if dead.topic in names else 0,
    }


def _stage(stage: Stage, admin: AdminPort, exists: bool) -> dict[str, Any]:
    from flux.runtime.preparation import ASK

    known: dict[str, Any] = {"stage": stage.number, "role": stage.role.value, "topic": stage.topic}
    known |= {"group": stage.group, "exists": exists, "position": None, "end": None, "lag": None}
    if exists:
        positions = admin.positions(stage.group, stage.topic, ASK)  # first: an end that is read later is not below it
        marks = admin.watermarks(stage.topic, ASK)
        known["position"] = {n: positions[n].offset if n in positions else None for n in sorted(marks)}
        known["end"] = {n: marks[n].high for n in sorted(marks)}
        known["lag"] = lag(positions, marks)
    return known


def lag(positions: Mapping[int, Position], marks: Mapping[int, Watermarks]) -> int:
    """Offsets that are still held and not worked."""
    total = 0
    for number, mark in marks.items():
        position = positions.get(number)
        start = mark.low if position is None else max(position.offset, mark.low)
        total += max(0, mark.high - start)
    return total


def _held(marks: Mapping[int, Watermarks]) -> int:
    return sum(mark.high - mark.low for mark in marks.values())


def _show(status: Mapping[str, Any]) -> None:
    from flux.cli.tables import cell, console, table

    shown = table("stage", "", "topic", "group", "position", "end", "lag", numbers=["stage", "position", "end", "lag"])
    for stage in status["stages"]:
        names = [cell(stage[key]) for key in ("stage", "role", "topic", "group")]
        if not stage["exists"]:
            shown.add_row(*names, "", "", cell("missing", "red"))
            continue
        known = [offset for offset in stage["position"].values() if offset is not None]
        position = cell(sum(known)) if known else cell("none", "dim")
        shown.add_row(*names, position, cell(sum(stage["end"].values())), cell(stage["lag"], "bold"))
    console().print(shown)
    waiting = sum(stage["lag"] or 0 for stage in status["stages"] if stage["stage"] > 0)
    click.echo(f"\n{waiting:,} waiting in retry topics, {status['dead_letters']:,} dead letters")
