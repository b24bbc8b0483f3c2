"""Where a record is, and where it was."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
from starlette.requests import Request
from starlette.responses import Response

from flux.core.errors import FluxError
from flux.core.text import one_line
from flux.operate.messages import calls_of, state_of, where
from flux.operate.trace.record_history import WorkHistory
from flux.operate.trace.trace import Bounds, Trace, Wanted, trace
from flux.web.page_context import site_of
from flux.web.query_parameters import AGES, place_of, since_of
from flux.web.watched_tasks import Subject

BOUNDS = Bounds(records=200_000, seconds=15.0)
MOST_WORKS = 20
DEFAULT_SINCE = "1d"


@attrs.frozen
class Told:
    work: WorkHistory
    now: str
    states: Sequence[str]


async def show(request: Request) -> Response:
    site = site_of(request)
    watch = site.watch(request)
    subject, query = watch.subject, request.query_params
    key, origin = query.get("key", ""), query.get("origin", "").strip()
    since = query.get("since", DEFAULT_SINCE)
    found: Trace | None = None
    works: list[Told] = []
    problem = ""
    try:
        if key or origin:
            wanted = Wanted(origin=place_of(origin)) if origin else Wanted(key=key.encode("utf-8", "surrogateescape"))
            bounds = attrs.evolve(BOUNDS, since_ms=None if origin else since_of({"since": since}, subject.now_ms))
            found, works = await site.ask(_traced, subject, wanted, bounds)
    except FluxError as error:
        problem = one_line(str(error))
    return site.page(
        request,
        "trace.html",
        watch=watch,
        subject=subject,
        tab="trace",
        key=key,
        origin=origin,
        since=since,
        ages=AGES,
        found=found,
        works=works[:MOST_WORKS],
        more=0 if found is None else len(found.works) - MOST_WORKS,
        problem=problem,
        bounds=BOUNDS,
    )


def _traced(subject: Subject, wanted: Wanted, bounds: Bounds) -> tuple[Trace, list[Told]]:
    """Blocks, within its bounds. Raises FluxError."""
    found = trace(subject.adapter, subject.admin, subject.policy, wanted, bounds, system=subject.system)
    calls = calls_of(found, subject.adapter, subject.admin, subject.report_topic)
    now_ms = subject.now_ms
    works = [
        Told(work, where(work, found, calls, now_ms), [state_of(each, now_ms) for each in work.sightings])
        for work in reversed(found.works[-MOST_WORKS - 1 :])  # the newest first
    ]
    return found, works
