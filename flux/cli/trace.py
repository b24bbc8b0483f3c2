"""`flux trace`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from flux.cli.clusters import INTERRUPTED, interruptible, open_task, progress
from flux.cli.options import (
    adapter_option,
    json_option,
    load_option,
    parse_place,
    parse_time,
    report_topic_option,
    task_argument,
)

if TYPE_CHECKING:
    from flux.core.policy import Policy
    from flux.operate.record_history import RecordHistory
    from flux.operate.status.reports import ReportedRecord
    from flux.operate.trace import TraceLimits, TraceResult

    Reported = Mapping[str, ReportedRecord]

_MOST = 20


@click.command(
    epilog="""\b
Examples:
  flux trace --load billing.py Billing --key customer-17
  flux trace --load billing.py Billing --origin 3:18822
  flux trace --load billing.py Billing --key customer-17 --since 7d --limit 2000000 --json

Exit code 1 when nothing was found, 130 when it was interrupted."""
)
@load_option
@adapter_option
@click.option("--key", metavar="KEY", help="All records with that key.")
@click.option("--origin", metavar="PARTITION:OFFSET", help="The record at that offset of the main topic.")
@click.option("--since", type=parse_time, metavar="WHEN", help="With --key: records written since; default 1d.")
@click.option(
    "--limit", type=click.IntRange(1), default=200_000, show_default=True, metavar="N", help="Read at most N records."
)
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    default=60,
    show_default=True,
    metavar="SECONDS",
    help="Read for at most SECONDS.",
)
@report_topic_option
@json_option("Print a JSON object per record.")
@task_argument
def command(
    sources: tuple[str, ...],
    key: str | None,
    origin: str | None,
    since: int | None,
    limit: int,
    timeout: float,
    report_topic: str | None,
    as_json: bool,
    task: str | None,
) -> None:
    """Find where a record is now, and where it was before: main topic, retries, dead letters.

    Topics are read from the time when the record was written, at most --limit records in all. When that was not
    enough, a message says so.
    """
    import time

    from flux.core.monitoring.report import TOPIC
    from flux.operate.messages import reported_of
    from flux.operate.trace import TraceLimits, TraceQuery, trace

    if (key is None) == (origin is None):
        raise click.UsageError("choose records: either --key or --origin")
    if since is not None and key is None:
        raise click.UsageError("--since needs --key: with --origin the record's own time is used")
    if key is not None:
        query = TraceQuery(key=key.encode("utf-8", "surrogateescape"))
        since = parse_time("1d") if since is None else since
    else:
        assert origin is not None
        query = TraceQuery(origin=parse_place(origin))
    limits = TraceLimits(limit, timeout, since)
    with open_task(sources, task) as opened, interruptible() as should_stop, progress(limit) as advance:
        adapter, admin, policy = opened.adapter, opened.admin, opened.policy
        found = trace(adapter, admin, policy, query, limits, should_stop=should_stop, on_progress=advance)
        interrupted = should_stop()
        reported = reported_of(found, adapter, admin, report_topic or TOPIC)
    now_ms = int(time.time() * 1000)
    if as_json:
        for history in found.histories:
            click.echo(json.dumps(_as_json(history, found, reported)))
    else:
        _show(found, policy, query.origin, reported, now_ms)
    for line in _gaps(found, limits, interrupted):
        click.echo(line, err=True)
    if interrupted:
        click.get_current_context().exit(INTERRUPTED)
    if not found.histories:
        click.get_current_context().exit(1)


def _show(found: TraceResult, policy: Policy, origin: tuple[int, int] | None, reported: Reported, now_ms: int) -> None:
    from flux.cli.output import cell, console, table
    from flux.core.text import one_line
    from flux.operate.formatting import key_of, many, moment, short
    from flux.operate.messages import state_of, where

    out = console()
    if found.origin_missing and origin is not None:
        click.echo(
            f"{policy.stages.topic}[{origin[0]}]@{origin[1]} does not exist: it is deleted, or was never written"
        )
    if not found.histories:
        click.echo(f"nothing found in {many(found.read, 'record')}")
    for number, history in enumerate(found.histories[:_MOST]):
        key = f", key {short(key_of(history.key), 60)}" if history.key is not None else ""
        click.echo(("\n" if number else "") + one_line(f"{history.id}{key}"))
        shown = table("stage", "at", "written", "attempts", "error", "", numbers=["attempts"])
        for each in history.records:
            error = short(": ".join(part for part in (each.reason, each.error) if part))
            row = (str(each.stage), str(each), moment(each.written_at), each.attempts, error, state_of(each, now_ms))
            shown.add_row(*map(cell, row))
        out.print(shown)
        click.echo(one_line(f"now: {where(history, found, reported)}"))
    if len(found.histories) > _MOST:
        click.echo(f"\nand {len(found.histories) - _MOST:,} more records with that key: use --since, or --json for all")


def _gaps(found: TraceResult, limits: TraceLimits, interrupted: bool) -> Iterator[str]:
    from flux.operate.formatting import many
    from flux.operate.trace import MAX_FOUND

    if found.truncated:
        yield f"more than {MAX_FOUND:,} records match; only the first are shown: use --since or --origin"
    elif found.unread:
        what = ", ".join(f"{many(each.offsets, 'offset')} of {each.topic}" for each in found.unread)
        why = (
            "interrupted" if interrupted else f"--limit {limits.records:,} or --timeout {limits.seconds:g} was reached"
        )
        yield f"{why}: {what} not read: there may be more"


def _as_json(history: RecordHistory, found: TraceResult, reported: Reported) -> dict[str, Any]:
    from flux.operate.formatting import text_of
    from flux.operate.messages import where

    here = history.now
    return {
        "id": history.id,
        "key": None if history.key is None else text_of(history.key),
        "state": "done" if here is None else here.state.value,
        "now": where(history, found, reported),
        "complete": not found.unread and not found.truncated,
        "copies": [
            {
                "stage": each.stage.number,
                "role": each.stage.role.value,
                "topic": each.stage.topic,
                "partition": each.partition,
                "offset": each.offset,
                "state": each.state.value,
                "written_at": each.written_at,
                "due": each.due,
                "attempts": each.attempts,
                "replays": each.replays,
                "reason": each.reason or None,
                "error_type": each.error_type or None,
                "error_message": each.error_message or None,
                "failed_at": each.failed_at if each.reason else None,
            }
            for each in history.records
        ],
    }
