"""The options that choose dead letters, and the dead letters that they choose."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
import click

from flux.cli.clusters import progress
from flux.cli.options import parse_place, parse_time

if TYPE_CHECKING:
    from flux.core.policy import Policy
    from flux.core.ports import AdminPort, Cluster
    from flux.core.stage import Stage
    from flux.operate.dlq.dead_letters import DeadLetter
    from flux.operate.dlq.filters import Filter
    from flux.operate.dlq.replay_progress import ReplayProgress

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
        click.option("--until", type=parse_time, metavar="WHEN", help="Only those before that."),
        click.option(
            "--reason",
            metavar="REASON",
            help="Only: error, exhausted, rejected, undecodable, tombstone, expired, crashed or skipped.",
        ),
        click.option("--error", metavar="GLOB", help="Only this error type, or type: message; such as '*timeout*'."),
        click.option("--key", metavar="KEY", help="Only this key."),
        click.option("--cause", metavar="ID", callback=_cause, help="Only this cause, as listed by flux dlq causes."),
        click.option(
            "--header",
            "headers",
            multiple=True,
            metavar="NAME[=VALUE]",
            help="Only with this header, and value. Repeatable.",
        ),
        click.option(
            "--only",
            type=parse_place,
            multiple=True,
            metavar="PARTITION:OFFSET",
            help="Only this dead letter. Repeatable.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def limit_option(default: int) -> Callable[[F], F]:
    text = "List at most N; 0: all."
    return click.option("--limit", type=click.IntRange(0), default=default, show_default=True, metavar="N", help=text)


def to_option(command: F) -> F:
    return click.option(
        "--to",
        type=click.Choice(["retry", "main"]),
        default="retry",
        show_default=True,
        help="The first retry topic, which only this task reads; or the main topic, as new records for all its groups.",
    )(command)


def force_option(command: F) -> F:
    return click.option("--force", is_flag=True, help="Replay even if a worker consumes the dead letters.")(command)


def by_option(command: F) -> F:
    return click.option("--by", metavar="NAME", help="Who does it, for flux dlq history; default: this user and host.")(
        command
    )


def filter_from(choice: dict[str, Any]) -> Filter:
    from flux.operate.dlq.filters import Filter

    headers = ((name, value if equals else None) for name, equals, value in map(_partitioned, choice["headers"]))
    return Filter(
        choice["since"],
        choice["reason"],
        choice["error"],
        choice["key"],
        choice["cause"],
        choice["until"],
        tuple(headers),
        frozenset(choice["only"]) if choice["only"] else None,
    )


def _partitioned(text: str) -> tuple[str, str, str]:
    return text.partition("=")


class StateLookup:
    """`open`, `replayed` or `rejected`; empty where this login may not see which."""

    def __init__(self, progress: Mapping[int, ReplayProgress] | None) -> None:
        self._progress = progress

    @property
    def unknown(self) -> bool:
        return self._progress is None

    def __call__(self, dead_letter: DeadLetter) -> str:
        if self._progress is None:
            return ""
        progress = self._progress.get(dead_letter.partition)
        return "open" if progress is None else progress.state_of(dead_letter).value


@attrs.frozen
class DeadLetterTopic:
    """A task's dead letters: `stage` is theirs."""

    name: str
    policy: Policy
    stage: Stage
    adapter: Cluster
    admin: AdminPort

    def matching(self, criteria: Filter, shows_progress: bool) -> Iterator[DeadLetter]:
        """The dead letters that match, up to the ends as of now. Raises BrokerError."""
        from flux.operate.dlq.dead_letters import dead_letter_of
        from flux.operate.dlq.replay_plan import chosen_pieces
        from flux.operate.reading import count_offsets, read_pieces, spans_of

        topic = self.stage.topic
        spans = spans_of(self.admin, topic, criteria.since_ms)
        pieces = chosen_pieces(criteria, topic, spans)
        now_ms = int(time.time() * 1000)
        with progress(count_offsets(spans), shows_progress) as advance:
            for batch in read_pieces(self.adapter, topic, pieces):
                for record in batch.records:
                    dead_letter = dead_letter_of(record, self.policy, now_ms)
                    if criteria.matches(dead_letter):
                        yield dead_letter
                advance(len(batch.records))

    def one(self, partition: int, offset: int) -> DeadLetter:
        """Raises ClickException where there is none, BrokerError."""
        from flux.core.ports import TopicPartition
        from flux.operate.dlq.dead_letters import dead_letter_of
        from flux.operate.reading import read_one, spans_of

        topic, at = self.stage.topic, f"{partition}:{offset}"
        span = spans_of(self.admin, topic).get(partition)
        if span is None:
            raise click.ClickException(f"{topic} has no partition {partition}")
        record = read_one(self.adapter, TopicPartition(topic, partition), offset, span)
        if record is None:
            raise click.ClickException(
                f"there is no dead letter at {at}: partition {partition} has offsets {span.start} to {span.end - 1}"
                if span.start < span.end
                else f"there is no dead letter at {at}: partition {partition} is empty"
            )
        return dead_letter_of(record, self.policy, int(time.time() * 1000))

    def states(self) -> StateLookup:
        """Raises BrokerError."""
        from flux.operate.dlq.replay_progress import read_progress

        return StateLookup(read_progress(self.admin, self.policy))

    def behind(self) -> Callable[[DeadLetter], int | None]:
        """How many records of its key wait behind a dead letter; None: it holds no key. Raises BrokerError."""
        from flux.operate.held_keys import behind_dead_letters

        find = behind_dead_letters(self.adapter, self.admin, self.policy)
        return lambda dead_letter: find(dead_letter.message)

    @contextmanager
    def audited(
        self, action: str, by: str | None, details: dict[str, str], places: Sequence[str] = ()
    ) -> Iterator[Callable[[str, Sequence[str]], object]]:
        """Writes down an action; what cannot be written down is said on stderr."""
        from flux.operate.audit import AuditRecord, TopicAudit, audited, this_user

        topic = self.stage.topic
        at = int(time.time() * 1000)
        record = AuditRecord(
            at=at,
            by=by or this_user(),
            action=action,
            task=self.name,
            topic=topic,
            places=tuple(places),
            details=details,
        )
        with audited(TopicAudit(self.adapter, self.admin, topic), record, warn) as end:
            yield end


def warn(text: str) -> None:
    from flux.cli.output import print_error

    print_error(text)


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
        yield DeadLetterTopic(opened.name, opened.policy, stage, opened.adapter, admin)
