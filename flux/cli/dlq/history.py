"""`flux dlq history`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import attrs
import click

from flux.cli.dlq.selection import limit_option, open_dead_letters
from flux.cli.options import adapter_option, json_option, load_option, parse_place, parse_time, task_argument

if TYPE_CHECKING:
    from flux.operate.audit import AuditRecord


@click.command(
    epilog="""\b
Examples:
  flux dlq history --load billing.py Billing --since 7d
  flux dlq history --load billing.py Billing --only 3:1207"""
)
@load_option
@adapter_option
@click.option("--since", type=parse_time, metavar="WHEN", help="Only since: 2h, 3d, or an ISO time (UTC).")
@click.option("--only", type=parse_place, metavar="PARTITION:OFFSET", help="Only what was done to this dead letter.")
@limit_option(100)
@json_option("Print a JSON object per line.")
@task_argument
def command(
    sources: tuple[str, ...],
    since: int | None,
    only: tuple[int, int] | None,
    limit: int,
    as_json: bool,
    task: str | None,
) -> None:
    """Show who replayed, edited, rejected or purged dead letters of a task, or paused, resumed, restarted it, set its
    rate or skipped a record, and when: the latest last.

    It is kept in the topic flux-audit (FLUX_AUDIT_TOPIC) of the cluster. A replay by filter does not name each of its
    dead letters.
    """
    from flux.cli.output import cell, console, table
    from flux.operate.audit import TopicAudit, actions
    from flux.operate.formatting import many

    with open_dead_letters(sources, task) as dead:
        topic = dead.stage.topic
        audit = TopicAudit(dead.adapter, dead.admin, topic)
        # commands to workers are about the main topic
        topics = {topic, dead.policy.stages.topic}
        found = actions(record for record in audit.read(since) if record.topic in topics)
    if only is not None:
        found = [each for each in found if each.topic == topic and "{}:{}".format(*only) in each.places]
    shown = found[-limit:] if limit else found
    if as_json:
        for record in shown:
            click.echo(json.dumps({**attrs.asdict(record), "places": list(record.places)}))
        return
    if not shown:
        click.echo(f"nothing is written down of {topic} in {audit.name}")
        return
    rows = table("when", "who", "action", "what", "result")
    for record in shown:
        rows.add_row(*map(cell, _row(record)))
    console().print(rows)
    if len(shown) < len(found):
        click.echo(f"\n{many(len(found) - len(shown), 'earlier action')} not shown: use --limit or --since", err=True)


def _row(record: AuditRecord) -> tuple[Any, ...]:
    from flux.operate.formatting import moment

    return moment(record.at), record.by, record.action, record.what, record.result or "did not end"
