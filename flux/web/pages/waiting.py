"""What waits in the retry topics of a task, and the buttons that cancel delayed work which has an id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from starlette.requests import Request
from starlette.responses import Response

from flux.operate.audit import audited
from flux.operate.cancelling import cancel as cancel_work
from flux.operate.cancelling import plan_of_place
from flux.web.page_context import context_of, redirect, user_of
from flux.web.query_parameters import number_of
from flux.web.watched_tasks import WatchedTask


async def show(request: Request) -> Response:
    return await _page(request, ())


async def _page(request: Request, problems: Sequence[str]) -> Response:
    context = context_of(request)
    watch = context.watch(request)
    summary = await context.in_thread(context.waiting[watch.task.slug].get)
    return context.task_page(
        request,
        watch,
        "waiting",
        "waiting.html",
        live="sample",
        problems=problems,
        summary=summary,
        most=max((count for _, count in summary.steps), default=0),
    )


async def cancel(request: Request, fields: dict[str, str]) -> Response:
    """Takes back the work at a place: a redacted page does not show ids."""
    context = context_of(request)
    task = context.watch(request).task
    unwritten = await context.in_thread(_cancel, task, fields, user_of(request))
    context.waiting[task.slug].forget()
    context.broadcast.notify()
    return await _page(request, unwritten) if unwritten else redirect(request, f"/tasks/{task.slug}/waiting")


def _cancel(task: WatchedTask, fields: Mapping[str, str], by: str) -> list[str]:
    """Blocks. Returns what could not be written down. Raises FluxError."""
    place = number_of(fields, "partition", 0, 2**31), number_of(fields, "offset", 0, 2**62)
    plan = plan_of_place(task.adapter, task.admin, task.policy, place, task.system)
    unwritten: dict[str, None] = {}
    record = plan.audit_record(task.name, by, task.now_ms)
    with audited(task.audit, record, lambda text: unwritten.setdefault(text, None)) as end:
        cancel_work(plan, task.adapter, task.admin, task.system)
        end("cancelled", ())
    return list(unwritten)
