"""`flux dlq purge`."""

from __future__ import annotations

import click

from flux.cli.dlq.selection import open_dead_letters
from flux.cli.options import adapter_option, load_option, parse_place, parse_time, task_argument


@click.command(
    epilog="""\b
Examples:
  flux dlq purge --load billing.py Billing --replayed
  flux dlq purge --load billing.py Billing --until 30d --yes
  flux dlq purge --load billing.py Billing --before 0:1200 --before 1:800"""
)
@load_option
@adapter_option
@click.option(
    "--before",
    type=parse_place,
    multiple=True,
    metavar="PARTITION:OFFSET",
    help="Dead letters below that offset. Repeatable.",
)
@click.option(
    "--until", type=parse_time, metavar="WHEN", help="Dead letters older than 30d, or than an ISO time (UTC)."
)
@click.option("--replayed", is_flag=True, help="Dead letters that are replayed.")
@click.option("--all", "everything", is_flag=True, help="All dead letters.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@task_argument
def command(
    sources: tuple[str, ...],
    before: tuple[tuple[int, int], ...],
    until: int | None,
    replayed: bool,
    everything: bool,
    yes: bool,
    task: str | None,
) -> None:
    """Delete a task's dead letters up to a point, for good."""
    from flux.operate.dlq.purge import plan_purge, purge
    from flux.operate.formatting import many

    if sum((bool(before), until is not None, replayed, everything)) != 1:
        raise click.UsageError("choose what to delete: one of --before, --until, --replayed and --all")
    with open_dead_letters(sources, task) as dead:
        plan = plan_purge(
            dead.adapter,
            dead.admin,
            dead.policy,
            before=dict(before) if before else None,
            until_ms=until,
            replayed=replayed,
        )
        if not plan.records:
            click.echo(f"nothing to delete in {plan.topic}")
            return
        what = f"{many(plan.records, 'dead letter')} of {plan.topic}"
        doubt = f" ({plan.not_replayed:,} of them not replayed)" if plan.not_replayed else ""
        if not yes and not _confirmed(f"Delete {what}{doubt} for good?"):
            raise click.ClickException("nothing was deleted")
        purge(dead.admin, plan)
    click.echo(f"deleted {what}")


def _confirmed(question: str) -> bool:
    try:
        return click.confirm(question, err=True)
    except click.Abort:
        click.echo(err=True)
        raise click.ClickException("nothing was deleted: there was no confirmation; add --yes") from None
