"""Commands to the running workers of a task: the buttons on its page, and what the workers answered."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response

from flux.consuming.topic_setup import REQUEST_TIMEOUT
from flux.core.control.commands import Action, WorkerCommand
from flux.core.errors import ConfigurationError
from flux.core.text import one_line
from flux.operate.audit import audited
from flux.operate.commands import CommandOutcome, audit_record, command_of, find_addressees, give, rate_of
from flux.operate.skip import plan_skip, stage_of
from flux.web.page_context import context_of, user_of
from flux.web.query_parameters import number_of
from flux.web.watched_tasks import WatchedTask

_MAX_WHY = 500
_TIMES = {"10m": 600.0, "1h": 3600.0, "8h": 28_800.0, "1d": 86_400.0}
"""For how long a pause or a rate may hold; otherwise until another command."""


async def send(request: Request, fields: dict[str, str]) -> Response:
    """Gives a command and shows the answers, after some seconds at most."""
    context = context_of(request)
    watch = context.watch(request)
    command = _command(watch.task, fields, user_of(request))
    outcome, unwritten = await context.in_thread(_give, watch.task, command)
    context.broadcast.notify()
    return context.task_page(request, watch, "task", "commands.html", outcome=outcome, unwritten=unwritten)


def _command(task: WatchedTask, fields: Mapping[str, str], by: str) -> WorkerCommand:
    """Raises ConfigurationError."""
    try:
        action = Action(fields.get("action", ""))
    except ValueError:
        raise ConfigurationError(f"{fields.get('action', '')!r} is no command") from None
    more: dict[str, object] = {"why": one_line(fields.get("why", "").strip()[:_MAX_WHY])}
    if action in (Action.PAUSE, Action.RESUME, Action.SKIP):
        more["stage"] = number_of(fields, "stage", 0, 10_000)
    if action in (Action.PAUSE, Action.SET_RATE):
        more["seconds"] = _TIMES.get(fields.get("for", ""))
    if action is Action.SET_RATE:
        more["rate"] = rate_of(fields.get("rate", "").strip() or "default")
    if action is Action.SKIP:
        more |= {name: number_of(fields, name, 0, 2**62) for name in ("partition", "offset")}
        if None in more.values() or not more["why"]:
            raise ConfigurationError("nothing was skipped: name the record, and say why")
    return command_of(task.policy, action, by, **more)


def _give(task: WatchedTask, command: WorkerCommand) -> tuple[CommandOutcome, list[str]]:
    """Blocks. Returns the outcome, and what could not be written down. Raises FluxError."""
    addressees = find_addressees(
        task.adapter, task.admin, task.policy, task.report_topic, command.stage, system=task.system
    )
    if command.action is Action.SKIP and command.stage is not None:
        if not addressees.obeying:
            raise ConfigurationError("nothing was skipped: no worker of that stage takes commands; see flux skip")
        stage, place = stage_of(task.policy, command.stage, task.admin), (command.partition or 0, command.offset or 0)
        plan_skip(task.adapter, task.admin, task.policy, stage, *place, stopped=False)
    unwritten: dict[str, None] = {}
    record = audit_record(command, task.name, task.now_ms)
    with audited(task.audit, record, lambda text: unwritten.setdefault(text, None)) as end:
        outcome = give(task.adapter, task.admin, command, addressees, wait=REQUEST_TIMEOUT, system=task.system)
        end(outcome.summary, ())
    return outcome, list(unwritten)
