"""`flux dlq purge`."""

from __future__ import annotations

import click

from flux.cli.dlq.selection import by_option, open_dead_letters
from flux.cli.options import adapter_option, load_option, parse_place, parse_time, task_argument


@click.command(
    epilog="""\b
Examples:
  flux dlq purge --load billing.py Billing --replayed
  flux dlq purge --load billing.py Billing --until 30d --yes
  flux dlq purge --load billing.py Billing --all --count 1200
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
@click.option("--replayed", is_flag=True, help="Dead letters below the committed offset of replays.")
@click.option("--all", "everything", is_flag=True, help="All dead letters.")
@click.option("--count", type=click.IntRange(1), metavar="N", help="Do not ask; delete if there are exactly N.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@by_option
@task_argument
def command(
    sources: tuple[str, ...],
    before: tuple[tuple[int, int], ...],
    until: int | None,
    replayed: bool,
    everything: bool,
    count: int | None,
    yes: bool,
    by: str | None,
    task: str | None,
) -> None:
    """Delete a task's dead letters up to a point, for good.

    They are counted first, and their number is asked for as the confirmation.
    """
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
        doubt = f" ({plan.open:,} of them open)" if plan.open else ""
        if count is not None and count != plan.records:
            raise click.ClickException(f"nothing was deleted: there are {what}{doubt}, and not {count:,}")
        if count is None and not yes:
            _confirm(f"Delete {what}{doubt} for good? Type their number", plan.records)
        points = [f"{number}:{offset}" for number, offset in plan.before.items()]
        with dead.audited("purge", by, {"which": f"before {', '.join(points)}"}) as end:
            purge(dead.admin, plan)
            end(f"deleted {what}{doubt}", ())
    click.echo(f"deleted {what}")


def _confirm(question: str, count: int) -> None:
    try:
        answer = click.prompt(question, err=True, default="", show_default=False)
    except click.Abort:
        click.echo(err=True)
        raise click.ClickException("nothing was deleted: there was no confirmation; add --yes or --count") from None
    if answer.strip().replace(",", "") != str(count):
        raise click.ClickException("nothing was deleted")
