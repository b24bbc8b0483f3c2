"""The outbox: its rows, and those that Kafka refused."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from flux.core.errors import FluxError
from flux.core.ports.outbox import COUNTED, OutboxStatus
from flux.core.text import one_line
from flux.web.page_context import context_of
from flux.web.redaction import Redaction


async def show(request: Request) -> Response:
    context = context_of(request)
    if context.outbox is None:
        raise HTTPException(404, "these pages show no outbox: see flux web --outbox")
    found: OutboxStatus | None = None
    problem = ""
    try:
        found = await context.in_thread(context.outbox.get)
    except FluxError as error:
        problem = one_line(str(error))
    return context.page(
        request,
        "outbox.html",
        live="sample",
        found=found,
        problem=problem,
        many_rows=found is not None and found.rows >= COUNTED,
        redaction=Redaction("outbox", context.options.redact),
    )
