"""`flux demo`."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from flux.cli.demo_app import Account, Demonstration, DemoPlan

_INTRODUCTION = """\
[bold]{records:,} orders[/], keyed by customer, go to a topic of an in-memory broker, and a task
bills them. Sometimes the payment provider does not answer, some cards are
always declined, a few orders are malformed. A record that fails waits in a retry
topic, {waits} seconds here and minutes to days in production, and blocks no other.
"""

_NEXT = """\
[bold]Next[/]

[bold]1[/]  Write a task, in [bold]tasks.py[/]:

      [green]import flux

      class Billing(flux.Task):
          topic = "orders"
          group_id = "billing"

          def call(self, message: flux.Message) -> None:
              print(message.key, message.value)[/]

[bold]2[/]  Run it, on your Kafka:

      [cyan]{activate}export FLUX_ADAPTER=confluent://localhost:9092
      flux process --load tasks.py --create-topics[/]

[bold]3[/]  Produce a record, and look at the status:

      [cyan]echo hello | flux produce orders
      flux status --load tasks.py[/]"""


@click.command(epilog="It takes about ten seconds and needs no Kafka, no network and no files.")
@click.option("--web", is_flag=True, help="Show it in web pages, until Ctrl-C.")
@click.option("--port", type=click.IntRange(0, 65_535), metavar="N", help="Port of --web; default: that of flux web.")
@click.pass_context
def command(ctx: click.Context, web: bool, port: int | None) -> None:
    """Run a demonstration on an in-memory broker.

    It produces some thousand records and runs a task that sometimes fails. A table shows the stages, and a summary at
    the end accounts for every record. Exit code 1 when one is missing.
    """
    from flux.cli.demo_app import DemoPlan

    if port is not None and not web:
        raise click.UsageError("--port needs --web")
    if web:
        show_pages(port)
        return
    ctx.exit(show(DemoPlan()))


def show_pages(port: int | None) -> None:
    """The same without an end, for `flux web`. Declined cards succeed when they are replayed."""
    from flux.cli import log
    from flux.cli.demo_app import endless
    from flux.cli.web import PORT, needs_extra, serve
    from flux.web.options import WebOptions

    needs_extra()
    log.quiet()
    demonstration = endless()
    demonstration.start()
    try:
        serve(
            demonstration.tasks, WebOptions(every=2.0, cookie="flux-demo"), "127.0.0.1", PORT if port is None else port
        )
    finally:
        demonstration.stop()


def show(plan: DemoPlan) -> int:
    """Runs the demonstration and shows it. Returns the exit code."""
    from flux.cli import log
    from flux.cli.demo_app import run
    from flux.cli.output import console

    log.quiet()
    out = console()
    waits = f"{min(plan.wait):g} to {max(plan.wait):g}"
    out.print(_INTRODUCTION.format(records=plan.records, waits=waits))
    with _watching(out) as watch:
        demonstration, in_time = run(plan, watch)
    account = demonstration.account()
    _print_account(out, account, len(plan.wait))
    if demonstration.problem is not None or not in_time or not account.adds_up or demonstration.code != 0:
        why = demonstration.problem or ("it took too long" if not in_time else "see the summary above")
        raise click.ClickException(f"the demo did not end well: {why}")
    out.print(_NEXT.format(activate=_activation(Path(sys.executable).parent)), soft_wrap=True)
    return 0


def _activation(directory: Path) -> str:
    """The line that lets the shell find `flux` in a virtual environment's `directory`; empty: it finds it."""
    found, script = shutil.which("flux"), directory / "activate"
    if not script.is_file() or (found is not None and Path(found).parent == directory):
        return ""
    from rich.markup import escape

    return f"source {escape(os.path.relpath(script))}\n      "


@contextmanager
def _watching(out: Console) -> Iterator[Callable[[Demonstration], object]]:
    """A live table on a terminal, else a line per second."""
    began = time.monotonic()
    if out.is_terminal:
        from rich.live import Live

        with Live(console=out, refresh_per_second=10) as live:
            yield lambda demonstration: live.update(_picture(demonstration, time.monotonic() - began))
        out.print()
        return
    last = began - 1

    def print_line(demonstration: Demonstration) -> None:
        nonlocal last
        if time.monotonic() - last < 1 and not demonstration.over:
            return
        last = time.monotonic()
        rows = demonstration.rows()
        done = sum(row.done for row in rows)
        waiting = sum(row.waiting for row in rows[1:])
        click.echo(
            f"{last - began:5.1f} s   produced {demonstration.produced:,}   done {done:,}   waiting for a retry"
            f" {waiting:,}   dead letters {rows[-1].arrived:,}"
        )

    yield print_line
    click.echo()


def _picture(demonstration: Demonstration, seconds: float) -> RenderableType:
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    from flux.cli.output import cell, table
    from flux.core.stage import Role

    rows, plan = demonstration.rows(), demonstration.plan
    shown = table(
        "stage", "topic", "arrived", "waiting", "done", "failed", numbers=["arrived", "waiting", "done", "failed"]
    )
    for row in rows:
        dead = row.stage.role is Role.DEAD
        shown.add_row(
            cell(row.stage, "magenta" if dead else "bold"),
            cell(row.stage.topic, "cyan"),
            cell(row.arrived, "magenta" if dead else ""),
            Text() if dead else cell(row.waiting, "yellow" if row.waiting else "dim"),
            Text() if dead else cell(row.done, "green" if row.done else "dim"),
            Text() if dead else cell(row.failed, "red" if row.failed else "dim"),
        )
    ended = sum(row.done for row in rows) + rows[-1].arrived
    foot = Table.grid(padding=(0, 2))
    foot.add_row(
        ProgressBar(total=plan.records, completed=ended, width=40),
        Text(f"{ended:,} of {plan.records:,} finished"),
        Text(f"{seconds:.1f} s", style="dim"),
    )
    return Group(shown, Text(), foot)


_REASONS = {"exhausted": "failed at all {tries} attempts", "rejected": "rejected at once"}


def _print_account(out: Console, account: Account, retries: int) -> None:
    from rich.table import Table

    shown = Table.grid(padding=(0, 2))
    shown.add_column(justify="right", min_width=9)
    shown.add_column()
    shown.add_column(style="dim")
    later = account.done - account.at_once
    dead = ", ".join(
        f"{count:,} {_REASONS.get(reason, reason).format(tries=retries + 1)}" for reason, count in account.dead.items()
    )
    shown.add_row(
        f"[green]{account.done:,}[/]", "done", f"{account.at_once:,} at the first attempt, {later:,} by a retry"
    )
    shown.add_row(f"[magenta]{sum(account.dead.values()):,}[/]", "dead letters", dead)
    for count, what in ((account.lost, "lost"), (account.again + account.twice, "done more than once")):
        shown.add_row(f"[{'red' if count else 'green'}]{count:,}[/]", what, "")
    shown.add_row("─────", "", "")
    mark = "[bold green]✓ it adds up[/]" if account.adds_up else "[bold red]✗ it does not add up[/]"
    shown.add_row(f"[bold]{account.produced:,}[/]", "produced", mark)
    out.print(shown)
    out.print()
