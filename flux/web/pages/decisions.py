"""What is decided of single dead letters: the forms that reject and edit them, and the history of what was done."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from flux.core.errors import ConfigurationError
from flux.operate.audit import AuditRecord, actions
from flux.operate.dlq.editing import changes, from_document, to_document, unedited
from flux.operate.dlq.filters import Filter
from flux.operate.dlq.replay_plan import ReplayOptions, ReplayPlan, check_members, plan_replay
from flux.web import jobs
from flux.web.dead_letters import one, size
from flux.web.page_context import context_of, redirect, user_of
from flux.web.pages.dead_letters import describe
from flux.web.query_parameters import MAX_BYTES, fields_of, filter_of, query_fields
from flux.web.watched_tasks import WatchedTask

MAX_ACTIONS = 200
_MAX_WHY = 500


async def reject_form(request: Request) -> Response:
    context = context_of(request)
    watch = context.watch(request)
    task = watch.task
    criteria = filter_of(query_fields(request), task.now_ms)
    return context.task_page(
        request,
        watch,
        "dead-letters",
        "reject.html",
        description=describe(task, criteria),
        fields=fields_of(criteria),
        busy=context.jobs.of(task.slug),
    )


async def reject(request: Request, fields: dict[str, str]) -> Response:
    context = context_of(request)
    task = context.watch(request).task
    criteria = filter_of(fields, task.now_ms)
    why = fields.get("why", "").strip()[:_MAX_WHY]
    details = {"which": criteria.in_words(), **({"why": why} if why else {})}
    total = await context.in_thread(size, task, criteria)
    body = jobs.audited(task, jobs.reject(task, criteria), user_of(request), "reject", details, criteria)
    title = f"Rejection of {task.name}: {describe(task, criteria)}"
    job = context.jobs.start(task.slug, "reject", title, total, body, user_of(request))
    return redirect(request, f"/jobs/{job.id}")


async def edit_form(request: Request) -> Response:
    context = context_of(request)
    _refuse_redacted(request)
    watch = context.watch(request)
    task, place = watch.task, request.path_params
    dead_letter, state = await context.in_thread(one, task, place["partition"], place["offset"])
    document = to_document(dead_letter.message)
    if len(document.encode("utf-8", "replace")) > MAX_BYTES // 2:
        raise ConfigurationError(f"{dead_letter.place} is too large to be edited here: see flux dlq edit")
    return context.task_page(
        request,
        watch,
        "dead-letters",
        "edit.html",
        dead_letter=dead_letter,
        state=state.value,
        document=document,
        retries=task.policy.stages.retries,
        busy=context.jobs.of(task.slug),
    )


async def edit(request: Request, fields: dict[str, str]) -> Response:
    context = context_of(request)
    _refuse_redacted(request)
    task, path = context.watch(request).task, request.path_params
    place = path["partition"], path["offset"]
    dead_letter, _ = await context.in_thread(one, task, *place)
    try:
        edited = from_document(fields.get("document", ""), dead_letter.message)
    except ValueError as error:
        raise ConfigurationError(f"nothing was replayed: {error}") from None
    changed = changes(unedited(dead_letter.message), edited)
    if not changed:
        raise ConfigurationError("nothing was changed: to replay it as it is, choose Replay")
    chosen = Filter(only=frozenset({place}))
    options = ReplayOptions(
        chosen,
        fields.get("to") == "main" or task.policy.stages.retries == 0,
        max_replays=10**6,
        again=fields.get("again") == "1",
        edits={place: edited},
    )

    def plan_it() -> ReplayPlan:
        if fields.get("force") != "1":
            check_members(task.admin, task.policy)
        return plan_replay(task.admin, task.policy, options)

    plan = await context.in_thread(plan_it)
    details = {"which": chosen.in_words(), "changed": changed}
    body = jobs.audited(task, jobs.replay(task, plan), user_of(request), "edit", details, chosen)
    title = f"Edited copy of {dead_letter.place} of {task.name}"
    job = context.jobs.start(task.slug, "edit", title, plan.size, body, user_of(request))
    return redirect(request, f"/jobs/{job.id}")


async def history(request: Request) -> Response:
    context = context_of(request)
    watch = context.watch(request)
    found = await context.in_thread(_actions, watch.task)
    return context.task_page(
        request, watch, "dead-letters", "history.html", actions=found[-MAX_ACTIONS:][::-1], count=len(found)
    )


def _actions(task: WatchedTask) -> list[AuditRecord]:
    """Blocks; raises BrokerError."""
    topics = {task.dead.topic, task.main.topic}  # commands to workers are about the main topic
    return actions(record for record in task.audit.read() if record.topic in topics)


def _refuse_redacted(request: Request) -> None:
    if context_of(request).options.redact is not None:
        raise HTTPException(403, "redacted pages show nothing to edit: use flux dlq edit")
