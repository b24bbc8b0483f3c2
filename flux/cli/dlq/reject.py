"""`flux dlq reject`."""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import Any

import click

from flux.cli.clusters import INTERRUPTED, interruptible
from flux.cli.dlq.selection import by_option, filter_from, filter_options, open_dead_letters
from flux.cli.options import adapter_option, json_option, load_option, task_argument


@click.command(
    epilog="""\b
Examples:
  flux dlq reject --load billing.py Billing --only 3:1207 --why "customer is gone"
  flux dlq reject --load billing.py Billing --cause 5f0c2a91 --dry-run
  flux dlq replay --load billing.py Billing --rejected --only 3:1207"""
)
@load_option
@adapter_option
@filter_options
@click.option("--all", "everything", is_flag=True, help="All open dead letters.")
@click.option("--why", metavar="TEXT", help="The reason, for flux dlq history.")
@by_option
@click.option("--dry-run", is_flag=True, help="Only count; mark nothing.")
@json_option("Print the result as a JSON object.")
@task_argument
def command(
    sources: tuple[str, ...],
    everything: bool,
    why: str | None,
    by: str | None,
    dry_run: bool,
    as_json: bool,
    task: str | None,
    **choice: Any,
) -> None:
    """Mark dead letters as not to be replayed.

    They stay in the topic and are no longer open: no replay takes them, but with --rejected.
    """
    from flux.core.text import one_line
    from flux.operate.dlq.reject import reject
    from flux.operate.messages import rejection

    criteria = filter_from(choice)
    if criteria.takes_all is not everything:
        raise click.UsageError("choose what to reject: with --only or another filter, or --all")
    details = {"which": criteria.in_words(), **({"why": why} if why else {})}
    with open_dead_letters(sources, task) as dead, interruptible() as should_stop, ExitStack() as stack:
        end = None if dry_run else stack.enter_context(dead.audited("reject", by, details, criteria.places))
        result = reject(dead.adapter, dead.admin, dead.policy, criteria, dry=dry_run, should_stop=should_stop)
        rejected = [f"{number}:{offset}" for number, offset in result.rejected]
        text = rejection(result, dry_run)
        if should_stop():
            text = "interrupted: nothing was rejected"
        if end is not None:
            end(text, rejected)
    if as_json:
        line = {"dry_run": dry_run, "topic": result.topic, "rejected": len(rejected)}
        click.echo(json.dumps({**line, "decided_before": result.decided, "missing": result.missing}))
    else:
        click.echo(one_line(text))
    if should_stop():
        click.get_current_context().exit(INTERRUPTED)
