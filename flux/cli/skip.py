"""`flux skip`."""

from __future__ import annotations

import json
import os
import time
from functools import partial
from pathlib import Path

import click

from flux.cli.options import (
    adapter_option,
    answer_timeout_option,
    json_option,
    load_option,
    parse_place,
    report_topic_option,
    task_and,
)


@click.command(
    epilog="""\b
Examples:
  flux skip --load billing.py Billing 3:18822 --reason "crashes the parser, see OPS-231"
  flux skip --load billing.py Billing 3:40 --stage 2 --reason "customer is gone"
  flux skip --load billing.py Billing 3:41 --reason "40 MB" --receipt 3-41.jsonl

Workers that run with flux process --control skip the record themselves; one whose call is running goes on. Stop other
workers first: while the group has members, skipping is refused and nothing is written.
Replay the record later with flux dlq replay --reason skipped."""
)
@load_option
@adapter_option
@click.option(
    "--stage",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    metavar="N",
    help="Stage of the record; 0: the main topic.",
)
@click.option("--reason", required=True, metavar="TEXT", help="Why; stored in the dead letter.")
@click.option("--by", metavar="NAME", help="Who skips it; default: this user and machine.")
@click.option(
    "--receipt",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Keep the record in this new file if the dead-letter topic refuses it, for instance as too large.",
)
@report_topic_option
@answer_timeout_option
@json_option("Print the result as a JSON object.")
@task_and("PARTITION:OFFSET")
def command(
    sources: tuple[str, ...],
    stage: int,
    reason: str,
    by: str | None,
    receipt: Path | None,
    report_topic: str | None,
    timeout: float,
    as_json: bool,
    arguments: tuple[str | None, str],
) -> None:
    """Move a record that blocks a partition to the dead letters, and commit the group's offset past it.

    The copy is acknowledged before the offset is committed. If the command is stopped in between, the record is
    processed too. With --receipt, a record that the dead-letter topic refuses goes to a file, for flux dlq import.
    """
    from flux.cli.clusters import open_task
    from flux.cli.control import finish, give_audited
    from flux.cli.dlq.selection import warn
    from flux.consuming.topic_setup import REQUEST_TIMEOUT
    from flux.core.control.commands import Action
    from flux.core.monitoring.report import TOPIC
    from flux.core.text import one_line
    from flux.operate.audit import TopicAudit, audited, this_user
    from flux.operate.commands import audit_record, command_of, find_addressees
    from flux.operate.formatting import key_of, short
    from flux.operate.skip import plan_skip, skip, stage_of

    task, at = arguments
    partition, offset = parse_place(at)
    if receipt is not None and receipt.exists():
        raise click.UsageError(f"--receipt: {receipt} exists: name a new file")
    if not reason.strip():
        raise click.UsageError("--reason is empty: say why, for those who find the dead letter")
    who = by or this_user()
    with open_task(sources, task) as opened:
        adapter, admin, policy = opened.adapter, opened.admin, opened.policy
        why, place = " ".join(reason.split()), stage_of(policy, stage, admin)
        addressees = None
        if receipt is None and admin.members(place.group, REQUEST_TIMEOUT):
            addressees = find_addressees(adapter, admin, policy, report_topic or TOPIC, stage)
        live = addressees is not None and bool(addressees.obeying)
        plan = plan_skip(adapter, admin, policy, place, partition, offset, stopped=not live)
        command = command_of(policy, Action.SKIP, who, stage=stage, partition=partition, offset=offset, why=why)
        if addressees is not None and live:
            finish(give_audited(opened, command, addressees, timeout, as_json), as_json)
            return
        keep = None if receipt is None else partial(_keep, receipt)
        audit = TopicAudit(adapter, admin, command.topic)
        with audited(audit, audit_record(command, opened.name, int(time.time() * 1000)), warn) as end:
            done = skip(plan, adapter, admin, who, why, receipt=keep)
            end(f"moved to {receipt if done.refused else plan.dead.topic}", ())
    message, group, committed = plan.message, plan.stage.group, done.committed
    to = str(receipt) if done.refused else plan.dead.topic
    if as_json:
        line = {"topic": plan.stage.topic, "partition": partition, "offset": offset, "id": message.id}
        line |= {"to": None if done.refused else to, "receipt": to if done.refused else None}
        click.echo(json.dumps({**line, "group": group, "committed_offset": committed.offset, "by": who}))
        return
    key = f" (key {short(key_of(message.key), 60)})" if message.key is not None else ""
    click.echo(one_line(f"moved {plan.at}@{offset}{key} to {to}; {group} continues at offset {committed.offset}"))
    if done.refused:
        click.echo(
            one_line(f"{plan.dead.topic} refused it ({done.refused}): run flux dlq import {to} when it can be written")
        )
    if not message.headers_readable:
        click.echo("its own headers could not be read and are not in the copy", err=True)


def _keep(file: Path, line: str) -> None:
    with file.open("x", encoding="utf-8") as opened:
        opened.write(line + "\n")
        opened.flush()
        os.fsync(opened.fileno())
