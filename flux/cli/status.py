"""`flux status`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import attrs
import click

from flux.cli.clusters import OpenTask, explaining, interruptible, opening
from flux.cli.options import adapter_option, every_option, json_option, load_option, report_topic_option, tasks_argument

if TYPE_CHECKING:
    from rich.console import RenderableType

    from flux.operate.status.blockers import StuckSince
    from flux.operate.status.task_status import Blocker, TaskStatus

_NAP = 0.1
_AGAIN = 0.5  # seconds


@click.command(
    epilog="""\b
Examples:
  flux status --load billing.py Billing
  flux status --load billing.py --watch
  flux status --load billing.py Billing --json | jq '.stages[0].lag'"""
)
@load_option
@adapter_option
@click.option("--watch", is_flag=True, help="Refresh until Ctrl-C.")
@every_option(0.2, 2.0, "Refresh interval of --watch.")
@report_topic_option
@json_option("Print a JSON object per task and snapshot.")
@tasks_argument
def command(
    sources: tuple[str, ...],
    watch: bool,
    every: float,
    report_topic: str | None,
    as_json: bool,
    tasks: tuple[str, ...],
) -> None:
    """Show the lag of tasks, stage by stage, and what blocks them.

    Without TASK, all tasks of the loaded code are shown. The lag of a stage is the number of records from the group's
    committed offsets to the ends of the topic, and above 10,000 the number of offsets; in a retry stage it includes the
    records that are not due yet. Running calls are shown for workers that report (flux process --report). So are rates;
    without reports, --watch computes them from the committed offsets.
    """
    from flux.cli.load_code import find_tasks
    from flux.core.monitoring.report import TOPIC
    from flux.operate.status.status import read_status
    from flux.schedules import schedules_in

    with ExitStack() as stack:
        opened = [stack.enter_context(opening(cls)) for cls in find_tasks(sources, tasks)]

        def reader(task: OpenTask) -> Callable[[TaskStatus | None], TaskStatus]:
            schedules, reports = schedules_in(task.cls), report_topic or TOPIC
            return lambda before: read_status(
                task.adapter, task.admin, task.policy, reports, before, schedules=schedules
            )

        watched = [Watched(task.name, task.adapter.cluster, reader(task), named=len(opened) > 1) for task in opened]
        if watch:
            with interruptible() as should_stop:
                _watch(watched, every, as_json, should_stop)
            return
        for task in watched:
            with explaining(task.cluster):
                task.read()
                _confirm(task)
    _show(watched, as_json)


@attrs.define
class Watched:
    """A task and what was last read of it. `named`: whether it is shown with its name, as one of several."""

    name: str
    cluster: str
    _read: Callable[[TaskStatus | None], TaskStatus]
    """Is given what was read before."""
    named: bool
    before: TaskStatus | None = None
    found: TaskStatus | None = None
    stuck_since: StuckSince = attrs.field(factory=dict)

    def read(self) -> None:
        """Raises BrokerError."""
        from flux.operate.status.blockers import update_stuck

        found = self._read(self.found)
        self.before, self.found = self.found, found
        self.stuck_since = update_stuck(found, self.stuck_since)

    @property
    def blockers(self) -> Sequence[Blocker]:
        from flux.operate.status.blockers import blockers_of

        assert self.found is not None
        return blockers_of(self.found, self.stuck_since)

    def json(self) -> str:
        from flux.cli.status_output import as_object

        assert self.found is not None
        return json.dumps(as_object(self.name, self.found, self.blockers, self.before))

    def parts(self) -> list[RenderableType]:
        from rich.text import Text

        from flux.cli.status_output import parts

        assert self.found is not None
        shown = parts(self.found, self.blockers, self.before)
        return [Text(self.name, style="bold"), Text(""), *shown, Text("")] if self.named else shown

    def lines(self) -> Iterator[str]:
        from flux.cli.status_output import lines

        assert self.found is not None
        for line in lines(self.found, self.blockers, self.before):
            at, _, rest = line.partition(" ")
            yield f"{at} {self.name}: {rest}" if self.named else line


def _confirm(task: Watched) -> None:
    """Reads again until what seems to be blocked moves, or has stood still for long enough to be called so."""
    from flux.operate.status.blockers import LONG, suspects_of

    assert task.found is not None
    suspects, until = suspects_of(task.found), task.found.at + LONG
    while suspects and task.found.at < until:
        time.sleep(_AGAIN)
        task.read()
        suspects &= suspects_of(task.found)


def _show(watched: Sequence[Watched], as_json: bool) -> None:
    from flux.cli.output import console

    out = console()
    for task in watched:
        if as_json:
            click.echo(task.json())
        else:
            for part in task.parts():
                out.print(part)


def _watch(watched: Sequence[Watched], every: float, as_json: bool, should_stop: Callable[[], bool]) -> None:
    """Until `should_stop()`: refreshing tables on a terminal, else lines, or JSON objects. Goes on while the cluster is
    unavailable."""
    from flux.core.errors import BrokerError
    from flux.core.text import one_line

    with _screen(as_json) as screen:
        while not should_stop():
            began = time.monotonic()
            shown: list[RenderableType] = []
            for task in watched:
                unavailable = ""
                with explaining(task.cluster):
                    try:
                        task.read()
                    except BrokerError as error:
                        if task.found is None or not error.retriable:
                            raise
                        unavailable = one_line(f"the cluster cannot be reached: {error}")
                if screen is not None:
                    shown += [*task.parts(), *(["", unavailable] if unavailable else [])]
                elif unavailable:
                    click.echo(unavailable, err=True)
                else:
                    click.echo(task.json() if as_json else "\n".join(task.lines()))
            if screen is not None:
                screen(shown)
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
