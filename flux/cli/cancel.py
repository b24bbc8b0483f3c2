"""`flux cancel`."""

from __future__ import annotations

import json
import time

import click

from flux.cli.options import adapter_option, json_option, load_option, task_and


@click.command(
    epilog="""\b
Examples:
  flux waiting --load app.py Remind
  flux cancel --load app.py Remind meeting-42"""
)
@load_option
@adapter_option
@click.option("--why", default="", metavar="TEXT", help="Written down in the audit topic.")
@click.option("--by", metavar="NAME", help="Who cancels it; default: this user and machine.")
@json_option("Print the result as a JSON object.")
@task_and("ID")
def command(
    sources: tuple[str, ...], why: str, by: str | None, as_json: bool, arguments: tuple[str | None, str]
) -> None:
    """Take back delayed work before it starts, by the id that it was enqueued with.

    What has started is not taken back, and nor are its retries.
    """
    from flux.cli.clusters import open_task
    from flux.cli.dlq.selection import warn
    from flux.core.text import one_line
    from flux.operate.audit import TopicAudit, audited, this_user
    from flux.operate.cancelling import cancel, plan_cancel
    from flux.operate.formatting import coming, key_of, short

    task, id_ = arguments
    with open_task(sources, task) as opened:
        plan = plan_cancel(opened.adapter, opened.admin, opened.policy, id_)
        row, now = plan.row, time.time()
        audit = TopicAudit(opened.adapter, opened.admin, opened.policy.stages[0].topic)
        record = plan.audit_record(opened.name, by or this_user(), int(now * 1000), " ".join(why.split()))
        with audited(audit, record, warn) as end:
            cancel(plan, opened.adapter, opened.admin)
            end("cancelled", ())
    if as_json:
        place = None if row is None else {"partition": row.partition, "offset": row.offset, "due": row.due}
        click.echo(json.dumps({"id": id_, "topic": plan.topic, "cancelled": place, "by": record.by}))
        return
    if row is None:
        click.echo(one_line(f"cancelled {id_}, if it waits behind the 10,000 records that were read"))
        return
    key = f" (key {short(key_of(row.key), 60)})" if row.key is not None else ""
    click.echo(one_line(f"cancelled {id_}{key}, which was due {coming(row.due / 1000 - now)}"))
