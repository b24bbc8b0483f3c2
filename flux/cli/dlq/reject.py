"""`flux dlq reject`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click

from flux.cli.clusters import INTERRUPTED, interruptible
from flux.cli.dlq.selection import DeadLetterTopic, by_option, filter_from, filter_options, open_dead_letters
from flux.cli.options import adapter_option, json_option, load_option, task_argument

if TYPE_CHECKING:
    from flux.operate.dlq.filters import Filter


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
@click.option(
    "--deleted",
    is_flag=True,
    help="Those that the topic does not have any more, and that still hold their keys (on_dead).",
)
@click.option("--why", metavar="TEXT", help="The reason, for flux dlq history.")
@by_option
@click.option("--dry-run", is_flag=True, help="Only count; mark nothing.")
@json_option("Print the result as a JSON object.")
@task_argument
def command(
    sources: tuple[str, ...],
    everything: bool,
    deleted: bool,
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

    criteria = filter_from(choice)
    if [not criteria.takes_all, everything, deleted].count(True) != 1:
        raise click.UsageError("choose what to reject: with --only or another filter, --all, or --deleted")
    details = {"which": "deleted" if deleted else criteria.in_words(), **({"why": why} if why else {})}
    work = _free if deleted else _reject
    with open_dead_letters(sources, task) as dead, interruptible() as should_stop, ExitStack() as stack:
        end = None if dry_run else stack.enter_context(dead.audited("reject", by, details, criteria.places))
        text, places, found = work(dead, criteria, dry_run, should_stop)
        if end is not None:
            end(text, places)
    click.echo(json.dumps({"dry_run": dry_run, **found}) if as_json else one_line(text))
    if should_stop():
        click.get_current_context().exit(INTERRUPTED)


Done = tuple[str, Sequence[str], dict[str, Any]]
"""What was done: a sentence, the places of the dead letters, and an object for --json."""


def _reject(dead: DeadLetterTopic, criteria: Filter, dry_run: bool, should_stop: Callable[[], bool]) -> Done:
    from flux.operate.dlq.reject import reject
    from flux.operate.messages import rejection

    result = reject(dead.adapter, dead.admin, dead.policy, criteria, dry=dry_run, should_stop=should_stop)
    rejected = [f"{number}:{offset}" for number, offset in result.rejected]
    text = "interrupted: nothing was rejected" if should_stop() else rejection(result, dry_run)
    counts = {"rejected": len(rejected), "decided_before": result.decided, "missing": result.missing}
    return text, rejected, {"topic": result.topic, **counts}


def _free(dead: DeadLetterTopic, _: Filter, dry_run: bool, should_stop: Callable[[], bool]) -> Done:
    from flux.operate.dlq.deleted import free_deleted
    from flux.operate.messages import freeing

    result = free_deleted(dead.adapter, dead.admin, dead.policy, dry=dry_run, should_stop=should_stop)
    text = "interrupted: no key was freed" if should_stop() else freeing(result, dry_run)
    return text, (), {"topic": result.topic, "freed": [each.place for each in result.freed]}
