"""What the doctor finds."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from flux.operate.doctor import CHECKS
from flux.web.page_context import site_of
from flux.web.watched_tasks import beside


async def show(request: Request) -> Response:
    site = site_of(request)
    watch = site.watch(request)
    subject = watch.subject
    facts, findings = await site.ask(subject.examined, beside(subject, site.subjects))
    named = {finding.check for finding in findings} | ({"clock"} if facts.clock is None else set())
    return site.page(
        request,
        "doctor.html",
        watch=watch,
        subject=subject,
        tab="doctor",
        facts=facts,
        findings=findings,
        sound=[name for name in CHECKS if name not in named],
    )
