"""`flux pause`, `resume`, `set-rate` and `restart`: commands to the running workers of a task."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from inspect import cleandoc
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
import click

from flux.cli.clusters import OpenTask, interruptible, open_task
from flux.cli.options import (
    adapter_option,
    answer_timeout_option,
    json_option,
    load_option,
    parse_duration,
    report_topic_option,
    task_and,
    task_argument,
)

if TYPE_CHECKING:
    from flux.core.control.commands import CommandAnswer, WorkerCommand
    from flux.operate.commands import Addressees, CommandOutcome

F = TypeVar("F", bound=Callable[..., Any])

_NOTE = """
Workers obey that run with flux process --control, and those that start so later as long as it holds. The command waits
for their answers and names those that do not answer. It is written down, with who gave it: see flux dlq history.

Exit codes: 0 all workers obeyed, 1 not all, or not known."""


def _common(command: F) -> F:
    command = json_option("Print the result as a JSON object.")(command)
    command = report_topic_option(command)
    command = click.option("--by", metavar="NAME", help="Who gives it; default: this user and machine.")(command)
    command = click.option("--why", metavar="TEXT", default="", help="Why, for those who find it.")(command)
    command = answer_timeout_option(command)
    return adapter_option(load_option(command))


def _for_option(command: F) -> F:
    return click.option(
        "--for", "seconds", type=parse_duration, metavar="TIME", help="For how long, such as 90s, 10m or 2h."
    )(command)


def _stage_option(command: F) -> F:
    return click.option("--stage", type=click.IntRange(0), metavar="N", help="This stage only; 0: the main topic.")(
        command
    )


@click.command(
    epilog="""\b
Examples:
  flux pause --load billing.py Billing --for 10m --why "database upgrade"
  flux pause --load billing.py Billing --stage 2"""
)
@_common
@_for_option
@_stage_option
@task_argument
def pause(sources: tuple[str, ...], task: str | None, stage: int | None, **more: Any) -> None:
    """Let the workers of a task start no calls, until flux resume.

    Calls that run go on. Workers keep their partitions and are not restarted.
    """
    _give("pause", sources, task, stage=stage, **more)


@click.command(
    epilog="""\b
Examples:
  flux resume --load billing.py Billing
  flux resume --load billing.py Billing --stage 2"""
)
@_common
@_stage_option
@task_argument
def resume(sources: tuple[str, ...], task: str | None, stage: int | None, **more: Any) -> None:
    """Let the workers of a paused task go on; without --stage, all of its stages."""
    _give("resume", sources, task, stage=stage, **more)


@click.command(
    epilog="""\b
Examples:
  flux set-rate --load billing.py Billing 50
  flux set-rate --load billing.py Billing 5 --for 2h
  flux set-rate --load billing.py Billing default"""
)
@_common
@_for_option
@task_and("RATE")
def set_rate(sources: tuple[str, ...], arguments: tuple[str | None, str], **more: Any) -> None:
    """Set the rate limit of a running task: RATE calls a second, "none" for no limit, or "default" as in its code.

    The limit is that of each process, or of the whole group with rate_limit_scope = "group".
    """
    from flux.core.errors import ConfigurationError
    from flux.operate.commands import rate_of

    task, text = arguments
    try:
        rate = rate_of(text)
    except ConfigurationError as error:
        raise click.BadParameter(str(error)) from None
    _give("set-rate", sources, task, rate=rate, **more)


@click.command(
    epilog="""\b
Example:
  flux restart --load billing.py Billing"""
)
@_common
@task_argument
def restart(sources: tuple[str, ...], task: str | None, **more: Any) -> None:
    """Restart the processes of a task, with all of their tasks.

    Each stops gracefully. With --processes, the first process starts it again at once; otherwise it exits with code 4,
    and a service manager must start it again.
    """
    _give("restart", sources, task, **more)


for _command in (pause, resume, set_rate, restart):
    _command.help = f"{cleandoc(_command.help or '')}\n{_NOTE}"


def _give(
    action: str,
    sources: tuple[str, ...],
    task: str | None,
    *,
    timeout: float,
    by: str | None,
    why: str,
    report_topic: str | None,
    as_json: bool,
    **fields: Any,
) -> None:
    from flux.core.control.commands import Action
    from flux.core.monitoring.report import TOPIC
    from flux.core.text import one_line
    from flux.operate.audit import this_user
    from flux.operate.commands import command_of, find_addressees

    with open_task(sources, task) as opened:
        command = command_of(opened.policy, Action(action), by or this_user(), why=one_line(why), **fields)
        addressees = find_addressees(
            opened.adapter, opened.admin, opened.policy, report_topic or TOPIC, fields.get("stage")
        )
        outcome = give_audited(opened, command, addressees, timeout, as_json)
    finish(outcome, as_json)


def give_audited(
    opened: OpenTask, command: WorkerCommand, addressees: Addressees, timeout: float, as_json: bool
) -> CommandOutcome:
    """Gives a command that is written down; prints each answer as it comes. Raises FluxError."""
    from flux.cli.dlq.selection import warn
    from flux.operate.audit import TopicAudit, audited
    from flux.operate.commands import audit_record, give

    def show(answer: CommandAnswer) -> None:
        from flux.core.text import one_line

        if not as_json:
            click.echo(one_line(f"{answer.name}: {answer.text}"))

    record = audit_record(command, opened.name, int(time.time() * 1000))
    audit = TopicAudit(opened.adapter, opened.admin, command.topic)
    with audited(audit, record, warn) as end, interruptible() as should_stop:
        outcome = give(
            opened.adapter,
            opened.admin,
            command,
            addressees,
            wait=timeout,
            on_answer=show,
            should_stop=should_stop,
        )
        end(outcome.summary, ())
    return outcome


def finish(outcome: CommandOutcome, as_json: bool) -> None:
    """Prints who did not answer, and exits with 1 unless all obeyed."""
    from flux.core.text import one_line

    if as_json:
        answers = [attrs.asdict(answer) for answer in outcome.answers.values()]
        click.echo(json.dumps({"id": outcome.command.id, "answers": answers, "problems": outcome.problems}))
    else:
        for problem in outcome.problems:
            click.echo(one_line(problem), err=True)
    if not outcome.ok:
        click.get_current_context().exit(1)
