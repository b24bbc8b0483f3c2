"""`flux dlq replay`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from flux.cli.clusters import INTERRUPTED, interruptible, progress
from flux.cli.dlq.selection import filter_from, filter_options, open_dead_letters
from flux.cli.options import adapter_option, json_option, load_option, task_argument

if TYPE_CHECKING:
    from flux.operate.dlq.replay import ReplayResult
    from flux.operate.dlq.replay_plan import ReplayPlan


@click.command(
    epilog="""\b
Examples:
  flux dlq replay --load billing.py Billing --dry-run
  flux dlq replay --load billing.py Billing --cause 5f0c2a91 --rate 50
  flux dlq replay --load billing.py Billing --to main --since 2h

Exit code 1 when it failed, 130 when it was interrupted. The next run continues where this one stopped;
some dead letters may be replayed twice."""
)
@load_option
@adapter_option
@filter_options
@click.option(
    "--to",
    type=click.Choice(["retry", "main"]),
    default="retry",
    show_default=True,
    help="The first retry topic, which only this task reads; or the main topic, as new records for all its groups.",
)
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Replay at most N.")
@click.option("--rate", type=click.FloatRange(0, min_open=True), metavar="N", help="Records per second.")
@click.option(
    "--max-replays",
    type=click.IntRange(1, 1_000_000),
    default=3,
    show_default=True,
    metavar="N",
    help="Stop at a record that was replayed N times and failed again.",
)
@click.option("--again", is_flag=True, help="Also replay what was replayed before, from the oldest on.")
@click.option("--force", is_flag=True, help="Replay even if a worker consumes the dead letters.")
@click.option("--dry-run", is_flag=True, help="Only count; write nothing.")
@json_option("Print the result as a JSON object.")
@task_argument
def command(
    sources: tuple[str, ...],
    to: str,
    limit: int | None,
    rate: float | None,
    max_replays: int,
    again: bool,
    force: bool,
    dry_run: bool,
    as_json: bool,
    task: str | None,
    **choice: Any,
) -> None:
    """Retry dead letters: all, or those that match, that were not replayed yet.

    Each is written to the first retry topic, due now, with its attempt counter reset. It also stays in the
    dead-letter topic. One that fails again becomes a new dead letter, which the next replay takes.
    """
    from flux.cli.output import print_error
    from flux.core.text import one_line
    from flux.operate.dlq.replay import Replay
    from flux.operate.dlq.replay_plan import ReplayOptions, check_members, plan_replay
    from flux.operate.messages import notes, outcome

    options = ReplayOptions(filter_from(choice), to == "main", limit, max_replays, rate, again, dry_run)
    with open_dead_letters(sources, task) as dead:
        if not (force or dry_run):
            check_members(dead.admin, dead.policy)
        plan = plan_replay(dead.admin, dead.policy, options)
        for line in notes(plan):
            click.echo(one_line(line), err=True)
        with interruptible() as should_stop, progress(plan.size) as advance:
            result = Replay(plan, dead.adapter, dead.admin, should_stop=should_stop, on_progress=advance).run()
    if as_json:
        click.echo(json.dumps(_as_json(plan, result)))
    else:
        click.echo(one_line(outcome(plan, result)))
    if result.failed:
        raise click.ClickException(result.stopped)
    if result.stopped:
        print_error(result.stopped if dry_run or again else f"{result.stopped}; the next replay continues there")
    if result.interrupted:
        click.get_current_context().exit(INTERRUPTED)


def _as_json(plan: ReplayPlan, result: ReplayResult) -> dict[str, Any]:
    return {
        "dry_run": plan.options.dry,
        "from": plan.source.topic,
        "to": plan.target.topic,
        "group": plan.group,
        "replayed": result.replayed,
        "unmatched": result.unmatched,
        "replayed_before": result.replayed_before,
        "stopped": result.stopped or None,
    }
