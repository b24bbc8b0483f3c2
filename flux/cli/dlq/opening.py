"""A task's dead letters, for a command that reads them and ends."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import attrs
import click

if TYPE_CHECKING:
    from flux.core.policy import Policy
    from flux.core.ports import AdminPort, Cluster
    from flux.core.stage import Stage
    from flux.operate.dlq.dead_letters import Letter
    from flux.operate.dlq.filters import Filter

INTERRUPTED = 130
"""The exit code."""


@attrs.frozen
class Dead:
    """`stage`: that of the dead letters."""

    name: str
    policy: Policy
    stage: Stage
    adapter: Cluster
    admin: AdminPort

    def letters(self, which: Filter, shows_progress: bool) -> Iterator[Letter]:
        """Those that match, of what there is now. Raises BrokerError."""
        from flux.operate.dlq.dead_letters import letter_of
        from flux.operate.reading import read, size_of, spans_of

        topic = self.stage.topic
        spans = spans_of(self.admin, topic, which.since_ms)
        now_ms = int(time.time() * 1000)
        with progress(size_of(spans), shows_progress) as advance:
            for piece in read(self.adapter, topic, spans):
                for record in piece.records:
                    letter = letter_of(record, self.policy, now_ms)
                    if which.matches(letter):
                        yield letter
                advance(len(piece.records))


@contextmanager
def opened(sources: Sequence[str], task: str | None) -> Iterator[Dead]:
    """Raises what the command line shows in one line: also where there is no topic of dead letters."""
    from flux.cli import log
    from flux.cli.clusters import admin_of
    from flux.cli.load_code import find_task
    from flux.config import resolve_adapter
    from flux.consuming.topic_setup import ASK

    log.quiet()
    cls = find_task(sources, task)
    policy = cls.policy()
    stage = policy.stages[policy.stages.dead]
    with admin_of(cls) as admin:
        if admin.topics([stage.topic], ASK)[stage.topic] is None:
            raise click.ClickException(
                f"there is no topic {stage.topic}: {cls.__name__} has never had one, or its names have changed"
            )
        yield Dead(cls.__name__, policy, stage, resolve_adapter(cls.adapter), admin)


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """The first Ctrl-C (or SIGTERM) ends the work at the next record; the second one ends it here and now."""
    interrupted = False

    def interrupt(number: int, frame: object) -> None:
        nonlocal interrupted
        if interrupted:
            raise KeyboardInterrupt
        interrupted = True

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: interrupted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
