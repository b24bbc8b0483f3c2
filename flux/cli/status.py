"""`flux status`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from flux.cli.clusters import admin_of, interruptible
from flux.cli.options import adapter_option, load_option, report_topic_option, task_argument

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
@click.option("--watch", is_flag=True, help="Look again and again, until Ctrl-C.")
@click.option(
    "--every",
    type=click.FloatRange(0.2, 3600),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="With --watch, between two looks.",
)
@report_topic_option
@click.option("--json", "as_json", is_flag=True, help="An object for each look, for machines.")
@task_argument
def command(
    sources: tuple[str, ...], watch: bool, every: float, report_topic: str | None, as_json: bool, task: str | None
) -> None:
    """Show how far a task is, stage by stage, and what holds it back.

    The lag of a stage is how many offsets lie between the group's position and the end of its topic; in a retry
    stage these are the records that wait, or are due. Rates and the calls that run are known where workers report
    (flux process --report); else --watch tells rates by how positions move.
    """
    from flux.cli import log
    from flux.cli.load_code import find_task
    from flux.config import resolve_adapter
    from flux.core.monitoring.report import TOPIC
    from flux.operate.status.status import read_status

    log.quiet()
    cls = find_task(sources, task)
    policy, topic = cls.policy(), report_topic or TOPIC
    with admin_of(cls) as admin:
        adapter = resolve_adapter(cls.adapter)

        def ask() -> TaskStatus:
            return read_status(adapter, admin, policy, topic)

        if watch:
            with interruptible() as should_stop:
                _watch(cls.__name__, ask, every, as_json, should_stop)
            return
        found = ask()
    _show(cls.__name__, found, as_json)


def _show(name: str, found: TaskStatus, as_json: bool) -> None:
    from flux.cli.status_output import as_object, parts
    from flux.cli.tables import console
    from flux.operate.status.blockers import blockers_of, update_stuck

    blockers = blockers_of(found, update_stuck(found, {}))
    if as_json:
        click.echo(json.dumps(as_object(name, found, blockers, None)))
        return
    out = console()
    for part in parts(found, blockers, None):
        out.print(part)


def _watch(
    name: str, ask: Callable[[], TaskStatus], every: float, as_json: bool, should_stop: Callable[[], bool]
) -> None:
    """Until it is `should_stop`: a picture that stays on a terminal, else lines, or objects. A cluster that is away for
    a while does not end it."""
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
                found = ask()
            except BrokerError as error:
                if before is None or not error.retriable:
                    raise
                away = one_line(f"the cluster cannot be reached: {error}")
                if screen is None:
                    click.echo(away, err=True)
                else:
                    screen([*shown, "", away])
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
    """Where a picture can stay: on a terminal."""
    from rich.console import Group
    from rich.live import Live

    from flux.cli.tables import console

    out = console()
    if as_json or not out.is_terminal:
        yield None
        return
    with Live(console=out, auto_refresh=False) as live:
        yield lambda found: live.update(Group(*found), refresh=True)
