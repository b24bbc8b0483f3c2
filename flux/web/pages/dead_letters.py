"""Dead letters: their causes first, then each of them, and what can be done."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from flux.consuming.topic_setup import ASK
from flux.core.errors import ConfigurationError
from flux.operate.dlq import purge as purging
from flux.operate.dlq import replay_plan as planning
from flux.operate.dlq.causes import cause_of
from flux.operate.dlq.filters import Filter
from flux.operate.dlq.purge import Purge
from flux.operate.dlq.replay_plan import Order, ReplayPlan, check_members
from flux.operate.formatting import many
from flux.operate.messages import notes
from flux.web import actions as operations
from flux.web.causes import Picture
from flux.web.dead_letters import newest, one, size
from flux.web.page_context import Site, site_of
from flux.web.query_parameters import (
    AGES,
    REASONS,
    as_places,
    fields_of,
    filter_of,
    in_words,
    number_of,
    places_of,
    query_of,
)
from flux.web.watched_tasks import Subject

MOST_CAUSES = 20
MOST_RATE = 1_000_000


async def show(request: Request) -> Response:
    site = site_of(request)
    watch = site.watch(request)
    subject, query = watch.subject, dict(request.query_params)
    which = filter_of(query, subject.now_ms)
    with_replayed = query.get("replayed") == "1"
    before = places_of(query.get("before", ""))
    if not await _exists(site, subject):
        return site.page(request, "letters-none.html", watch=watch, subject=subject, tab="letters")
    picture = await site.ask(site.census[subject.slug].picture)
    page = await site.ask(newest, subject, which, before, with_replayed=with_replayed)
    return site.page(
        request,
        "letters.html",
        live="sample" if picture.left else "",
        watch=watch,
        subject=subject,
        tab="letters",
        picture=picture,
        causes=picture.tallies[:MOST_CAUSES] if not request.query_params.get("all") else picture.tallies,
        page=page,
        which=which,
        since=query.get("since", ""),
        with_replayed=with_replayed,
        query=query_of(which),
        for_cause=lambda cause: query_of(Filter(cause=cause)),
        older=None
        if page.older is None
        else query_of(which, before=as_places(page.older), replayed=str(int(with_replayed))),
        first=not before,
        ages=AGES,
        reasons=REASONS,
        told=_words(subject, which),
    )


async def show_one(request: Request) -> Response:
    site = site_of(request)
    watch = site.watch(request)
    subject, place = watch.subject, request.path_params
    letter, replayed = await site.ask(one, subject, place["partition"], place["offset"])
    cause = cause_of(letter)
    key = letter.message.key
    return site.page(
        request,
        "letter.html",
        watch=watch,
        subject=subject,
        tab="letters",
        letter=letter,
        replayed=replayed,
        cause=cause,
        known=_count(site.census[subject.slug].picture_now, cause.id),
        for_cause=query_of(Filter(cause=cause.id)),
        for_key=query_of(Filter(key=key.decode())) if key and _is_text(key) and site.options.mask is None else None,
        origin="{}:{}".format(*letter.message.origin[1:]) if letter.message.trail.origin else None,
    )


# -- replay


async def ask_replay(request: Request) -> Response:
    site = site_of(request)
    watch = site.watch(request)
    subject = watch.subject
    which = filter_of(dict(request.query_params), subject.now_ms)
    plan = await site.ask(planning.planned, subject.admin, subject.policy, _order(subject, which, {}))
    picture = site.census[subject.slug].picture_now
    return site.page(
        request,
        "replay.html",
        watch=watch,
        subject=subject,
        tab="letters",
        plan=plan,
        notes=list(notes(plan)),
        count=_expected(picture, which),
        fields=fields_of(which),
        told=_words(subject, which),
        busy=site.jobs.of(subject.slug),
        retries=subject.policy.stages.retries,
    )


async def replay(request: Request, fields: dict[str, str]) -> Response:
    site = site_of(request)
    subject = site.watch(request).subject
    which = filter_of(fields, subject.now_ms)
    order = _order(subject, which, fields)

    def planned() -> ReplayPlan:
        if not order.dry and fields.get("force") != "1":
            check_members(subject.admin, subject.policy)
        return planning.planned(subject.admin, subject.policy, order)

    plan = await site.ask(planned)
    title = f"{'Trial' if order.dry else 'Replay'} of {subject.name}: {_words(subject, which)}"
    job = site.jobs.start(subject.slug, "replay", title, plan.size, operations.replay(subject, plan))
    return _to(request, f"/jobs/{job.id}")


def _order(subject: Subject, which: Filter, fields: Mapping[str, str]) -> Order:
    """Raises ConfigurationError."""
    rate = number_of(fields, "rate", 1, MOST_RATE)
    return Order(
        which,
        fields.get("to") == "main" or subject.policy.stages.retries == 0,
        number_of(fields, "limit", 1, 10**9),
        number_of(fields, "max_replays", 1, 1_000_000) or planning.MAX_REPLAYS,
        None if rate is None else float(rate),
        fields.get("again") == "1",
        fields.get("dry") == "1",
    )


# -- purge


async def ask_purge(request: Request) -> Response:
    """Without a choice it asks for one; with one it says what would go."""
    site = site_of(request)
    watch = site.watch(request)
    subject, query = watch.subject, dict(request.query_params)
    plan = await site.ask(_purge, subject, query) if query.get("what") else None
    return site.page(
        request,
        "purge.html",
        watch=watch,
        subject=subject,
        tab="letters",
        plan=plan,
        what=query.get("what", "replayed"),
        days=query.get("days", "30"),
        before="" if plan is None else as_places(plan.before),
        busy=site.jobs.of(subject.slug),
    )


async def purge(request: Request, fields: dict[str, str]) -> Response:
    """What was confirmed goes, and nothing that came since."""
    site = site_of(request)
    subject = site.watch(request).subject
    if fields.get("name", "").strip() != subject.name:
        raise ConfigurationError(f"nothing was deleted: write {subject.name} into the field to confirm it")
    before = places_of(fields.get("before", ""))
    if not before:
        raise ConfigurationError("nothing was deleted: nothing was chosen")
    plan = await site.ask(purging.planned, subject.admin, subject.policy, before=before)
    title = f"Purge of {subject.name}: {many(plan.records, 'dead letter')}"
    job = site.jobs.start(subject.slug, "purge", title, plan.records, operations.purge(subject, plan))
    return _to(request, f"/jobs/{job.id}")


def _purge(subject: Subject, query: Mapping[str, str]) -> Purge:
    """Blocks. Raises ConfigurationError, BrokerError."""
    what = query.get("what")
    if what == "replayed":
        return purging.planned(subject.admin, subject.policy, replayed=True)
    if what == "older":
        days = number_of(query, "days", 1, 36_500)
        if days is None:
            raise ConfigurationError("say how many days old they have to be")
        return purging.planned(subject.admin, subject.policy, until_ms=subject.now_ms - days * 86_400_000)
    if what == "all":
        return purging.planned(subject.admin, subject.policy)
    raise ConfigurationError(f"{what!r} cannot be purged: choose replayed, older or all")


# -- export


async def ask_export(request: Request) -> Response:
    site = site_of(request)
    watch = site.watch(request)
    subject = watch.subject
    which = filter_of(dict(request.query_params), subject.now_ms)
    return site.page(
        request,
        "export.html",
        watch=watch,
        subject=subject,
        tab="letters",
        size=await site.ask(size, subject, which),
        most=operations.MOST_EXPORTED,
        fields=fields_of(which),
        told=_words(subject, which),
        busy=site.jobs.of(subject.slug),
    )


async def export(request: Request, fields: dict[str, str]) -> Response:
    site = site_of(request)
    subject = site.watch(request).subject
    if site.options.mask is not None:
        raise HTTPException(403, "what is masked here is not exported: use flux dlq export")
    which = filter_of(fields, subject.now_ms)
    total = await site.ask(size, subject, which)
    title = f"Export of {subject.name}: {_words(subject, which)}"
    body = operations.export(subject, which, site.jobs)
    return _to(request, f"/jobs/{site.jobs.start(subject.slug, 'export', title, total, body).id}")


# -- what they share


def _words(subject: Subject, which: Filter) -> str:
    return in_words(which, subject.masking.key(which.key))


def _count(picture: Picture, cause: str) -> int | None:
    return next((tally.count for tally in picture.tallies if tally.cause.id == cause), None)


def _expected(picture: Picture, which: Filter) -> int | None:
    """How many letters a replay takes, where the census knows."""
    if picture.left:
        return None
    if which.takes_all:
        return picture.open
    return _count(picture, which.cause) if which == Filter(cause=which.cause) and which.cause else None


async def _exists(site: Site, subject: Subject) -> bool:
    found = await site.ask(subject.admin.topics, [subject.dead.topic], ASK)
    return found[subject.dead.topic] is not None


def _is_text(key: bytes) -> bool:
    try:
        key.decode()
    except UnicodeDecodeError:
        return False
    return True


def _to(request: Request, path: str) -> Response:
    return RedirectResponse(request.scope.get("root_path", "") + path, 303)
