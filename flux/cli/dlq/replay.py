"""`flux dlq replay`."""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click

from flux.cli.clusters import INTERRUPTED, interruptible, progress
from flux.cli.dlq.selection import (
    DeadLetterTopic,
    by_option,
    filter_from,
    filter_options,
    force_option,
    open_dead_letters,
    to_option,
)
from flux.cli.options import adapter_option, json_option, load_option, task_argument

if TYPE_CHECKING:
    from flux.operate.dlq.replay import ReplayResult
    from flux.operate.dlq.replay_plan import ReplayOptions, ReplayPlan


@click.command(
    epilog="""\b
Examples:
  flux dlq replay --load billing.py Billing --dry-run
  flux dlq replay --load billing.py Billing --cause 5f0c2a91 --rate 50
  flux dlq replay --load billing.py Billing --to main --since 2h
  flux dlq replay --load billing.py Billing --only 3:1207 --only 2:88

Exit code 1 when it failed, 130 when it was interrupted. The next run continues where this one stopped;
some dead letters may be replayed twice."""
)
@load_option
@adapter_option
@filter_options
@to_option
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
@click.option("--again", is_flag=True, help="Also what was replayed before, and with --only what was rejected.")
@click.option("--rejected", is_flag=True, help="Replay rejected ones, and no others.")
@force_option
@click.option("--dry-run", is_flag=True, help="Only count; write nothing.")
@by_option
@json_option("Print the result as a JSON object.")
@task_argument
def command(
    sources: tuple[str, ...],
    to: str,
    limit: int | None,
    rate: float | None,
    max_replays: int,
    again: bool,
    rejected: bool,
    force: bool,
    dry_run: bool,
    by: str | None,
    as_json: bool,
    task: str | None,
    **choice: Any,
) -> None:
    """Retry dead letters: all, or those that match, that were neither replayed yet nor rejected.

    Each is written to the first retry topic, due now, with its attempt counter reset. It also stays in the
    dead-letter topic. One that fails again becomes a new dead letter, which the next replay takes.
    """
    from flux.operate.dlq.replay_plan import ReplayOptions

    options = ReplayOptions(filter_from(choice), to == "main", limit, max_replays, rate, again, dry_run, rejected)
    with open_dead_letters(sources, task) as dead:
        run_replay(dead, options, force, as_json, "replay", by)


def run_replay(
    dead: DeadLetterTopic,
    options: ReplayOptions,
    force: bool,
    as_json: bool,
    action: str,
    by: str | None,
    details: dict[str, str] | None = None,
) -> None:
    """Raises ClickException where it failed; exits where it was interrupted."""
    from flux.cli.output import print_error
    from flux.core.text import one_line
    from flux.operate.dlq.replay import Replay
    from flux.operate.dlq.replay_plan import check_members, plan_replay
    from flux.operate.messages import notes, outcome

    if not (force or options.dry):
        check_members(dead.admin, dead.policy)
    plan = plan_replay(dead.admin, dead.policy, options)
    for line in notes(plan):
        click.echo(one_line(line), err=True)
    details = {"which": options.criteria.in_words(), **(details or {})}
    with ExitStack() as stack:
        end = None if options.dry else stack.enter_context(dead.audited(action, by, details, options.criteria.places))
        should_stop, advance = stack.enter_context(interruptible()), stack.enter_context(progress(plan.size))
        replay = Replay(plan, dead.adapter, dead.admin, should_stop=should_stop, on_progress=advance)
        result = replay.run()
        if end is not None:
            text = outcome(plan, result) + (f"; {result.stopped}" if result.stopped else "")
            end(text, [f"{number}:{offset}" for number, offset in sorted(replay.places)])
    if as_json:
        click.echo(json.dumps(_as_json(plan, result)))
    else:
        click.echo(one_line(outcome(plan, result)))
    if result.failed:
        raise click.ClickException(result.stopped)
    if result.stopped:
        again = options.dry or options.again
        print_error(result.stopped if again else f"{result.stopped}; the next replay continues there")
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
        "rejected": result.rejected,
        "missing": result.missing,
        "stopped": result.stopped or None,
    }
