"""What a command needs that queries a cluster and ends: a task's cluster, Ctrl-C, a progress bar."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import attrs
import click

from flux.system.process_end import stop_signals_handled

if TYPE_CHECKING:
    from flux.core.policy import Policy
    from flux.core.ports import AdminPort, Cluster
    from flux.task import Task

INTERRUPTED = 130
"""The exit code."""


@attrs.frozen
class OpenTask:
    """A task with access to its cluster."""

    cls: type[Task]
    policy: Policy
    adapter: Cluster
    admin: AdminPort

    @property
    def name(self) -> str:
        return self.cls.__name__


@contextmanager
def open_task(sources: Sequence[str], name: str | None) -> Iterator[OpenTask]:
    """Raises as `opening` does, and UsageError where there is no such task."""
    from flux.cli.load_code import find_task

    with opening(find_task(sources, name)) as opened:
        yield opened


@contextmanager
def opening(cls: type[Task]) -> Iterator[OpenTask]:
    """Raises ConfigurationError without an adapter, and ClickException as `explaining` does."""
    from flux.cli import log
    from flux.config import resolve_adapter

    log.quiet()
    policy, adapter = cls.policy(), resolve_adapter(cls.adapter)
    with explaining(adapter.cluster), closing(adapter.admin()) as admin:
        yield OpenTask(cls, policy, adapter, admin)


@contextmanager
def explaining(cluster: str) -> Iterator[None]:
    """A context in which errors of a cluster become a ClickException that names it."""
    from flux.core.errors import BrokerError

    try:
        yield
    except BrokerError as error:
        if error.retriable:
            raise click.ClickException(f"{cluster} cannot be reached: {error}") from None
        raise click.ClickException(f"{cluster}: {error}") from None


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """The first Ctrl-C (or SIGTERM) stops the command at the next record; the second one stops it at once."""
    interrupted = False

    def interrupt(number: int, frame: object) -> None:
        nonlocal interrupted
        if interrupted:
            raise KeyboardInterrupt
        interrupted = True

    with stop_signals_handled(interrupt):
        yield lambda: interrupted


@contextmanager
def progress(total: int, shown: bool = True) -> Iterator[Callable[[int], object]]:
    """On a terminal, a bar on stderr that goes up to `total`."""
    if not (shown and sys.stderr.isatty()):
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda count: bar.advance(task, count)
