"""`flux skip`."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path

import click

from flux.cli.options import adapter_option, load_option, parse_place, task_and


@click.command(
    epilog="""\b
Examples:
  flux skip --load billing.py Billing 3:18822 --reason "crashes the parser, see OPS-231"
  flux skip --load billing.py Billing 3:40 --stage 2 --reason "customer is gone"
  flux skip --load billing.py Billing 3:41 --reason "40 MB" --receipt 3-41.jsonl

The stage's workers have to be stopped: while the group has members it is refused, and nothing is written.
Try the record again later with flux dlq replay --reason skipped."""
)
@load_option
@adapter_option
@click.option("--stage", type=click.IntRange(0), default=0, show_default=True, metavar="N", help="0: the main topic.")
@click.option("--reason", required=True, metavar="TEXT", help="Why; the dead letter says it.")
@click.option("--by", metavar="NAME", help="Who; default: this login and machine.")
@click.option(
    "--receipt",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Keep the record there, in a new file, if the dead letters refuse it, as one that is too large.",
)
@click.option("--json", "as_json", is_flag=True, help="What was done as an object, for machines.")
@task_and(1, "PARTITION:OFFSET")
def command(
    sources: tuple[str, ...],
    stage: int,
    reason: str,
    by: str | None,
    receipt: Path | None,
    as_json: bool,
    arguments: tuple[str | None, str],
) -> None:
    """Move the one record that holds a partition to the dead letters, so that the group goes on behind it.

    Its copy is acknowledged before the group passes it. If this ends in between, the record is worked all the same,
    and is there twice. What no topic takes goes to the file of --receipt, for flux dlq import.
    """
    from flux.cli import log
    from flux.cli.clusters import admin_of
    from flux.cli.load_code import find_task
    from flux.config import resolve_adapter
    from flux.core.text import one_line
    from flux.operate.formatting import key_of, short
    from flux.operate.skip import plan_skip, skip, stage_of

    log.quiet()
    task, at = arguments
    partition, offset = parse_place(at)
    if receipt is not None and receipt.exists():
        raise click.UsageError(f"--receipt: {receipt} exists: name a new file")
    if not reason.strip():
        raise click.UsageError("--reason is empty: say why, for whoever finds the dead letter")
    cls = find_task(sources, task)
    policy, who = cls.policy(), by or _me()
    with admin_of(cls) as admin:
        adapter = resolve_adapter(cls.adapter)
        plan = plan_skip(adapter, admin, policy, stage_of(policy, stage, admin), partition, offset)
        keep = None if receipt is None else partial(_keep, receipt)
        done = skip(plan, adapter, admin, who, " ".join(reason.split()), receipt=keep)
    message, group, position = plan.message, plan.stage.group, done.position
    to = str(receipt) if done.refused else plan.dead.topic
    if as_json:
        line = {"topic": plan.stage.topic, "partition": partition, "offset": offset, "id": message.id}
        line |= {"to": None if done.refused else to, "receipt": to if done.refused else None}
        click.echo(json.dumps({**line, "group": group, "position": position.offset, "by": who}))
        return
    key = f" (key {short(key_of(message.key), 60)})" if message.key is not None else ""
    click.echo(one_line(f"moved {plan.at}@{offset}{key} to {to}; {group} goes on at {position.offset}"))
    if done.refused:
        click.echo(one_line(f"{plan.dead.topic} refused it ({done.refused}): flux dlq import {to}, when it does not"))
    if not message.headers_readable:
        click.echo("its own headers could not be read, and are not in the copy", err=True)


def _keep(file: Path, line: str) -> None:
    with file.open("x", encoding="utf-8") as opened:
        opened.write(line + "\n")
        opened.flush()
        os.fsync(opened.fileno())


def _me() -> str:
    import getpass
    import socket

    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container's user without a name
        user = "somebody"
    return f"{user}@{socket.gethostname()}"
