"""`flux status`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from flux.cli.clusters import interruptible, open_task
from flux.cli.options import adapter_option, every_option, json_option, load_option, report_topic_option, task_argument

if TYPE_CHECKING:
    from rich.console import RenderableType

    from flux.operate.status.blockers import StuckSince
    from flux.operate.status.status import TaskStatus

_NAP = 0.1


@click.command(
    epilog="""\b
Examples:
  flux status --load billing.py Billing
  flux status --load billing.py Billing --watch
  flux status --load billing.py Billing --json | jq '.stages[0].lag'"""
)
@load_option
@adapter_option
@click.option("--watch", is_flag=True, help="Refresh until Ctrl-C.")
@every_option(0.2, 2.0, "Refresh interval of --watch.")
@report_topic_option
@json_option("Print a JSON object per snapshot.")
@task_argument
def command(
    sources: tuple[str, ...], watch: bool, every: float, report_topic: str | None, as_json: bool, task: str | None
) -> None:
    """Show a task's lag, stage by stage, and what blocks it.

    The lag of a stage is the number of offsets from the group's committed offsets to the ends of the topic; in a retry
    stage it includes the records that are not due yet. Running calls are shown for workers that report (flux process
    --report). So are rates; without reports, --watch computes them from the committed offsets.
    """
    from flux.core.monitoring.report import TOPIC
    from flux.operate.status.status import read_status

    with open_task(sources, task) as opened:

        def read() -> TaskStatus:
            return read_status(opened.adapter, opened.admin, opened.policy, report_topic or TOPIC)

        if watch:
            with interruptible() as should_stop:
                _watch(opened.name, read, every, as_json, should_stop)
            return
        found = read()
    _show(opened.name, found, as_json)


def _show(name: str, found: TaskStatus, as_json: bool) -> None:
    from flux.cli.output import console
    from flux.cli.status_output import as_object, parts
    from flux.operate.status.blockers import blockers_of, update_stuck

    blockers = blockers_of(found, update_stuck(found, {}))
    if as_json:
        click.echo(json.dumps(as_object(name, found, blockers, None)))
        return
    out = console()
    for part in parts(found, blockers, None):
        out.print(part)


def _watch(
    name: str, read: Callable[[], TaskStatus], every: float, as_json: bool, should_stop: Callable[[], bool]
) -> None:
    """Until `should_stop()`: refreshing tables on a terminal, else lines, or JSON objects. Goes on while the cluster is
    unavailable."""
    from flux.cli.status_output import as_object, lines, parts
    from flux.core.errors import BrokerError
    from flux.core.text import one_line
    from flux.operate.status.blockers import blockers_of, update_stuck

    before: TaskStatus | None = None
    stuck_since: StuckSince = {}
    shown: list[RenderableType] = []
    with _screen(as_json) as screen:
        while not should_stop():
            began = time.monotonic()
            try:
                found = read()
            except BrokerError as error:
                if before is None or not error.retriable:
                    raise
                unavailable = one_line(f"the cluster cannot be reached: {error}")
                if screen is None:
                    click.echo(unavailable, err=True)
                else:
                    screen([*shown, "", unavailable])
            else:
                stuck_since = update_stuck(found, stuck_since)
                blockers = blockers_of(found, stuck_since)
                if as_json:
                    click.echo(json.dumps(as_object(name, found, blockers, before)))
                elif screen is None:
                    click.echo("\n".join(lines(found, blockers, before)))
                else:
                    shown = parts(found, blockers, before)
                    screen(shown)
                before = found
            while not should_stop() and time.monotonic() - began < every:
                time.sleep(min(_NAP, every))


@contextmanager
def _screen(as_json: bool) -> Iterator[Callable[[list[RenderableType]], None] | None]:
    """Refreshing tables on a terminal; None elsewhere."""
    from rich.console import Group
    from rich.live import Live

    from flux.cli.output import console

    out = console()
    if as_json or not out.is_terminal:
        yield None
        return
    with Live(console=out, auto_refresh=False) as live:
        yield lambda found: live.update(Group(*found), refresh=True)
