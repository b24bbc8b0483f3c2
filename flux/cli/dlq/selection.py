"""The options that choose dead letters, and the dead letters that they choose."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
import click

from flux.cli.clusters import progress
from flux.cli.options import parse_time

if TYPE_CHECKING:
    from flux.core.policy import Policy
    from flux.core.ports import AdminPort, Cluster
    from flux.core.stage import Stage
    from flux.operate.dlq.dead_letters import DeadLetter
    from flux.operate.dlq.filters import Filter

F = TypeVar("F", bound=Callable[..., Any])

_FEWEST_DIGITS = 4
_HEX = set("0123456789abcdef")


def _cause(ctx: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None and not (_FEWEST_DIGITS <= len(value) <= 8 and set(value.lower()) <= _HEX):
        raise click.BadParameter(f"{value!r} is not a cause: see `flux dlq causes`", ctx, parameter)
    return value.lower() if value is not None else None


def filter_options(command: F) -> F:
    """Adds the options that `filter_from` reads."""
    options = [
        click.option(
            "--since",
            type=parse_time,
            metavar="WHEN",
            help="Only those since: 90s, 30m, 2h, 3d, or an ISO time (UTC).",
        ),
        click.option(
            "--reason",
            metavar="REASON",
            help="Only: error, exhausted, rejected, undecodable, tombstone, expired or skipped.",
        ),
        click.option("--error", metavar="GLOB", help="Only this error type, or type: message; such as '*timeout*'."),
        click.option("--key", metavar="KEY", help="Only this key."),
        click.option("--cause", metavar="ID", callback=_cause, help="Only this cause, as listed by flux dlq causes."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def limit_option(default: int) -> Callable[[F], F]:
    text = "List at most N; 0: all."
    return click.option("--limit", type=click.IntRange(0), default=default, show_default=True, metavar="N", help=text)


def filter_from(choice: dict[str, Any]) -> Filter:
    from flux.operate.dlq.filters import Filter

    return Filter(choice["since"], choice["reason"], choice["error"], choice["key"], choice["cause"])


@attrs.frozen
class DeadLetterTopic:
    """A task's dead letters: `stage` is theirs."""

    policy: Policy
    stage: Stage
    adapter: Cluster
    admin: AdminPort

    def matching(self, criteria: Filter, shows_progress: bool) -> Iterator[DeadLetter]:
        """The dead letters that match, up to the ends as of now. Raises BrokerError."""
        from flux.operate.dlq.dead_letters import dead_letter_of
        from flux.operate.reading import count_offsets, read, spans_of

        topic = self.stage.topic
        spans = spans_of(self.admin, topic, criteria.since_ms)
        now_ms = int(time.time() * 1000)
        with progress(count_offsets(spans), shows_progress) as advance:
            for batch in read(self.adapter, topic, spans):
                for record in batch.records:
                    dead_letter = dead_letter_of(record, self.policy, now_ms)
                    if criteria.matches(dead_letter):
                        yield dead_letter
                advance(len(batch.records))


@contextmanager
def open_dead_letters(sources: Sequence[str], task: str | None) -> Iterator[DeadLetterTopic]:
    """Raises ClickException where the dead-letter topic does not exist, BrokerError, FluxError."""
    from flux.cli.clusters import open_task
    from flux.consuming.topic_setup import REQUEST_TIMEOUT

    with open_task(sources, task) as opened:
        admin, stages = opened.admin, opened.policy.stages
        stage = stages[stages.dead]
        if admin.topics([stage.topic], REQUEST_TIMEOUT)[stage.topic] is None:
            raise click.ClickException(
                f"there is no topic {stage.topic}: {opened.name} has never run, or its names have changed"
            )
        yield DeadLetterTopic(opened.policy, stage, opened.adapter, admin)
