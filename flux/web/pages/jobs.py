"""Jobs: progress, result, and the file to download."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from flux.web.jobs import Job
from flux.web.page_context import context_of, redirect, require
from flux.web.users import UserRole


async def list_all(request: Request) -> Response:
    context = context_of(request)
    return context.page(request, "jobs.html", live="sample", all=context.jobs.all())


async def show(request: Request) -> Response:
    context = context_of(request)
    job = _job(request)
    watch = context.watches[job.task]
    return context.page(request, "job.html", live="sample" if job.running else "", job=job, task=watch.task)


async def fetch(request: Request) -> Response:
    job = _job(request)
    if job.path is None or job.running or not job.path.is_file():
        raise HTTPException(404, "there is no file")
    return FileResponse(
        job.path, media_type="application/x-ndjson", filename=job.path.name.partition("-")[2] or job.path.name
    )


async def cancel(request: Request, fields: dict[str, str]) -> Response:
    job = _job(request)
    if job.kind != "export":
        require(request, UserRole.OPERATOR)
    job.cancel()
    return redirect(request, f"/jobs/{job.id}")


def _job(request: Request) -> Job:
    job = context_of(request).jobs.get(request.path_params["id"])
    if job is None:
        raise HTTPException(404, "there is no such job")
    return job
