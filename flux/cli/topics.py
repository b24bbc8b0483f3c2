"""`flux topics`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from flux.cli.clusters import OpenTask, opening
from flux.cli.options import adapter_option, load_option, tasks_argument

if TYPE_CHECKING:
    from flux.core.policy import Policy
    from flux.core.ports import AdminPort, TopicInfo


@click.command(
    epilog="""\b
Examples:
  flux topics --load billing.py Billing
  flux topics --load billing.py --create --partitions 12 --replication-factor 3

Exit code 1 when a topic is missing."""
)
@load_option
@adapter_option
@click.option("--create", is_flag=True, help="Create missing topics.")
@click.option(
    "--partitions", type=click.IntRange(1), metavar="N", help="Partitions of new topics; default: the main topic's."
)
@click.option("--replication-factor", type=click.IntRange(1), metavar="N", help="Replication factor of new topics.")
@tasks_argument
def command(
    sources: tuple[str, ...],
    create: bool,
    partitions: int | None,
    replication_factor: int | None,
    tasks: tuple[str, ...],
) -> None:
    """Show the topics and groups of tasks, or create the topics.

    Without TASK, those of all tasks of the loaded code.
    """
    from flux.cli.load_code import find_tasks

    if not create and (partitions or replication_factor):
        raise click.UsageError("--partitions and --replication-factor need --create")
    absent = 0
    found = find_tasks(sources, tasks)
    for cls in found:
        with opening(cls) as opened:
            absent += _topics_of(opened, len(found) > 1, create, partitions, replication_factor)
    if absent:
        from flux.operate.formatting import many

        raise click.ClickException(f"{many(absent, 'topic')} missing: add --create, or start with --create-topics")


def _topics_of(task: OpenTask, named: bool, create: bool, partitions: int | None, replicas: int | None) -> int:
    """Returns how many are missing. `named`: whether it is shown with its name, as one of several."""
    from flux.cli.output import console
    from flux.consuming.topic_setup import create_topics, plan_topics

    missing, _ = plan_topics(task.policy, task.admin, partitions, replicas)
    if create and missing:
        create_topics(task.policy, task.admin, missing)
    created = {topic.name for topic in missing} if create else set()
    if named:
        console().print(task.name, style="bold", highlight=False)
    absent = _show(task.policy, task.admin, created, partitions, replicas)
    if named:
        console().print()
    return absent


def _show(policy: Policy, admin: AdminPort, created: set[str], partitions: int | None, replicas: int | None) -> int:
    """Returns how many are missing. `partitions`, `replicas`: that were asked for."""
    from flux.cli.output import cell, console, table
    from flux.consuming.topic_setup import REQUEST_TIMEOUT

    stages = list(policy.stages)
    existing = admin.topics([stage.topic for stage in stages], REQUEST_TIMEOUT)
    numbers = ["partitions", "replicas"]
    shown = table("stage", "", "topic", "group", "partitions", "replicas", "state", numbers=["stage", *numbers])
    absent = 0
    for stage in stages:
        info = existing[stage.topic]
        # The cluster may not list yet what it has just created.
        if stage.topic in created:
            state = ("created", "green")
        elif info is None:
            state = ("missing", "red")
            absent += 1
        else:
            state = _existing(info, partitions, replicas)
        counts = (info.partitions, info.replication_factor) if info else ("", "")
        role = stage.role.value
        shown.add_row(*map(cell, (stage.number, role, stage.topic, stage.group, *counts)), cell(*state))
    console().print(shown)
    return absent


def _existing(info: TopicInfo, partitions: int | None, replicas: int | None) -> tuple[str, str]:
    """What is not as asked for, since an existing topic is left as it is."""
    from flux.operate.formatting import many

    asked = [(partitions, info.partitions, "partition"), (replicas, info.replication_factor, "replica")]
    other = [many(number, what) for number, has, what in asked if number is not None and number != has]
    return (f"existed: not changed to {' and '.join(other)}", "yellow") if other else ("exists", "")
