"""Dead letters: their causes, the list, and the forms for replay, purge and export."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from flux.consuming.topic_setup import REQUEST_TIMEOUT
from flux.core.errors import ConfigurationError
from flux.operate.dlq.causes import cause_of
from flux.operate.dlq.filters import Filter
from flux.operate.dlq.purge import PurgePlan, plan_purge
from flux.operate.dlq.replay_plan import MAX_REPLAYS, ReplayOptions, ReplayPlan, check_members, plan_replay
from flux.operate.formatting import many
from flux.operate.messages import notes
from flux.web import jobs
from flux.web.dead_letters import TIMEOUT, CauseCounts, newest, one, size
from flux.web.page_context import PageContext, context_of, redirect, user_of
from flux.web.query_parameters import (
    AGES,
    REASONS,
    as_places,
    fields_of,
    filter_of,
    number_of,
    places_of,
    query_fields,
    query_of,
)
from flux.web.watched_tasks import WatchedTask

MAX_CAUSES = 20
MAX_RATE = 1_000_000


async def show(request: Request) -> Response:
    context = context_of(request)
    watch = context.watch(request)
    task, query = watch.task, query_fields(request)
    criteria = filter_of(query, task.now_ms)
    with_replayed = query.get("replayed") == "1"
    before = places_of(query.get("before", ""))
    if not await _exists(context, task):
        return context.task_page(request, watch, "dead-letters", "no-dead-letters.html")
    counts = await context.in_thread(context.cause_counters[task.slug].counts)
    page = await context.in_thread(newest, task, criteria, before, with_replayed=with_replayed)
    return context.task_page(
        request,
        watch,
        "dead-letters",
        "dead-letters.html",
        live="sample" if counts.left else "",
        counts=counts,
        causes=counts.causes[:MAX_CAUSES] if not request.query_params.get("all") else counts.causes,
        page=page,
        criteria=criteria,
        since=query.get("since", ""),
        header=fields_of(criteria).get("header", ""),
        with_replayed=with_replayed,
        query=query_of(criteria),
        for_cause=lambda cause: query_of(Filter(cause=cause)),
        older=None
        if page.older is None
        else query_of(criteria, before=as_places(page.older), replayed=str(int(with_replayed))),
        first=not before,
        ages=AGES,
        reasons=REASONS,
        description=describe(task, criteria),
    )


async def show_one(request: Request) -> Response:
    context = context_of(request)
    watch = context.watch(request)
    task, place = watch.task, request.path_params
    dead_letter, state = await context.in_thread(one, task, place["partition"], place["offset"])
    cause = cause_of(dead_letter)
    key = dead_letter.message.key
    return context.task_page(
        request,
        watch,
        "dead-letters",
        "dead-letter.html",
        dead_letter=dead_letter,
        state=state.value,
        cause=cause,
        known=_count(context.cause_counters[task.slug].latest, cause.id),
        for_cause=query_of(Filter(cause=cause.id)),
        for_key=query_of(Filter(key=key.decode()))
        if key and _is_text(key) and context.options.redact is None
        else None,
        origin="{}:{}".format(*dead_letter.message.origin[1:]) if dead_letter.message.flux_headers.origin else None,
    )


# -- replay


async def replay_form(request: Request) -> Response:
    context = context_of(request)
    watch = context.watch(request)
    task = watch.task
    criteria = filter_of(query_fields(request), task.now_ms)
    plan = await context.in_thread(plan_replay, task.admin, task.policy, _options(task, criteria, {}))
    counts = context.cause_counters[task.slug].latest
    return context.task_page(
        request,
        watch,
        "dead-letters",
        "replay.html",
        plan=plan,
        notes=list(notes(plan)),
        count=_expected(counts, criteria),
        fields=fields_of(criteria),
        description=describe(task, criteria),
        busy=context.jobs.of(task.slug),
        retries=task.policy.stages.retries,
    )


async def replay(request: Request, fields: dict[str, str]) -> Response:
    context = context_of(request)
    task = context.watch(request).task
    criteria = filter_of(fields, task.now_ms)
    options = _options(task, criteria, fields)

    def plan_it() -> ReplayPlan:
        if not options.dry and fields.get("force") != "1":
            check_members(task.admin, task.policy)
        return plan_replay(task.admin, task.policy, options)

    plan = await context.in_thread(plan_it)
    title = f"{'Dry run' if options.dry else 'Replay'} of {task.name}: {describe(task, criteria)}"
    body = jobs.replay(task, plan)
    if not options.dry:
        body = jobs.audited(task, body, user_of(request), "replay", {"which": criteria.in_words()}, criteria)
    job = context.jobs.start(task.slug, "replay", title, plan.size, body, user_of(request))
    return redirect(request, f"/jobs/{job.id}")


def _options(task: WatchedTask, criteria: Filter, fields: Mapping[str, str]) -> ReplayOptions:
    """Raises ConfigurationError."""
    rate = number_of(fields, "rate", 1, MAX_RATE)
    return ReplayOptions(
        criteria,
        fields.get("to") == "main" or task.policy.stages.retries == 0,
        number_of(fields, "limit", 1, 10**9),
        number_of(fields, "max_replays", 1, 1_000_000) or MAX_REPLAYS,
        None if rate is None else float(rate),
        fields.get("again") == "1",
        fields.get("dry") == "1",
        fields.get("rejected") == "1",
    )


# -- purge


async def purge_form(request: Request) -> Response:
    """Without a choice it asks for one; with one it counts the dead letters."""
    context = context_of(request)
    watch = context.watch(request)
    task, query = watch.task, dict(request.query_params)
    plan = await context.in_thread(_purge, task, query) if query.get("what") else None
    return context.task_page(
        request,
        watch,
        "dead-letters",
        "purge.html",
        plan=plan,
        what=query.get("what", "replayed"),
        days=query.get("days", "30"),
        before="" if plan is None else as_places(plan.before),
        busy=context.jobs.of(task.slug),
    )


async def purge(request: Request, fields: dict[str, str]) -> Response:
    """Deletes what was confirmed, and nothing that arrived since."""
    context = context_of(request)
    task = context.watch(request).task
    before = places_of(fields.get("before", ""))
    if not before:
        raise ConfigurationError("nothing was deleted: nothing was chosen")
    plan = await context.in_thread(_plan, task, before=before)
    shown = plan.records if plan.exact else number_of(fields, "records", 1, 10**15)
    if shown is None or number_of(fields, "count", 0, 10**15) != shown:
        raise ConfigurationError(f"nothing was deleted: enter {shown} to confirm")
    title = f"Purge of {task.name}: {many(plan.records, 'dead letter')}"
    which = {"which": f"before {as_places(plan.before)}"}
    body = jobs.audited(task, jobs.purge(task, plan), user_of(request), "purge", which)
    job = context.jobs.start(task.slug, "purge", title, plan.records, body, user_of(request))
    return redirect(request, f"/jobs/{job.id}")


def _purge(task: WatchedTask, query: Mapping[str, str]) -> PurgePlan:
    """Blocks. Raises ConfigurationError, BrokerError."""
    what = query.get("what")
    if what == "replayed":
        return _plan(task, replayed=True)
    if what == "older":
        days = number_of(query, "days", 1, 36_500)
        if days is None:
            raise ConfigurationError("enter a number of days")
        return _plan(task, until_ms=task.now_ms - days * 86_400_000)
    if what == "all":
        return _plan(task)
    raise ConfigurationError(f"{what!r} cannot be purged: choose replayed, older or all")


def _plan(task: WatchedTask, **what: Any) -> PurgePlan:
    """Counts for up to `TIMEOUT`."""
    until = task.system.monotonic() + TIMEOUT
    return plan_purge(
        task.adapter,
        task.admin,
        task.policy,
        should_stop=lambda: task.system.monotonic() >= until,
        system=task.system,
        **what,
    )


# -- export


async def export_form(request: Request) -> Response:
    context = context_of(request)
    watch = context.watch(request)
    task = watch.task
    criteria = filter_of(query_fields(request), task.now_ms)
    return context.task_page(
        request,
        watch,
        "dead-letters",
        "export.html",
        size=await context.in_thread(size, task, criteria),
        most=jobs.MAX_EXPORTED,
        fields=fields_of(criteria),
        description=describe(task, criteria),
        busy=context.jobs.of(task.slug),
    )


async def export(request: Request, fields: dict[str, str]) -> Response:
    context = context_of(request)
    task = context.watch(request).task
    if context.options.redact is not None:
        raise HTTPException(403, "redacted pages export nothing: use flux dlq export")
    criteria = filter_of(fields, task.now_ms)
    total = await context.in_thread(size, task, criteria)
    title = f"Export of {task.name}: {describe(task, criteria)}"
    by, body = user_of(request), jobs.export(task, criteria, context.jobs)
    if not context.options.read_only or context.options.audit_file is not None:  # else the cluster may be read-only
        body = jobs.audited(task, body, by, "export", {"which": criteria.in_words()}, criteria)
    return redirect(request, f"/jobs/{context.jobs.start(task.slug, 'export', title, total, body, by).id}")


# -- shared


def describe(task: WatchedTask, criteria: Filter) -> str:
    return criteria.in_words(task.redaction.key(criteria.key))


def _count(counts: CauseCounts, cause: str) -> int | None:
    return next((cause_count.count for cause_count in counts.causes if cause_count.cause.id == cause), None)


def _expected(counts: CauseCounts, criteria: Filter) -> int | None:
    """How many dead letters a replay takes, where the causes are counted."""
    if counts.left:
        return None
    if criteria.takes_all:
        return counts.open
    return _count(counts, criteria.cause) if criteria == Filter(cause=criteria.cause) and criteria.cause else None


async def _exists(context: PageContext, task: WatchedTask) -> bool:
    found = await context.in_thread(task.admin.topics, [task.dead.topic], REQUEST_TIMEOUT)
    return found[task.dead.topic] is not None


def _is_text(key: bytes) -> bool:
    try:
        key.decode()
    except UnicodeDecodeError:
        return False
    return True
