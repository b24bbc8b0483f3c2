"""What all pages share: the tasks, the sampler, the jobs, and how a page is made."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar
from urllib.parse import quote

import anyio
import anyio.to_thread
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse

from flux._version import __version__
from flux.core.ports import System
from flux.core.text import escape
from flux.system import SYSTEM
from flux.task import Task
from flux.web import charts
from flux.web.auth_middleware import path_of
from flux.web.broadcast import Bell
from flux.web.causes import Census
from flux.web.formatting import FILTERS
from flux.web.jobs import Jobs
from flux.web.options import WebOptions
from flux.web.sampler import Sampler, TaskWatch
from flux.web.sessions import Sessions
from flux.web.waiting import WaitingRecords
from flux.web.watched_tasks import Subject, subjects_of

T = TypeVar("T")
MOST_QUESTIONS = 8
"""Threads that ask clusters for visitors; whoever comes later waits."""


class Site:
    """Raises ConfigurationError for tasks that cannot be looked at."""

    def __init__(self, tasks: Sequence[type[Task]], options: WebOptions, system: System = SYSTEM) -> None:
        self.options = options
        self.system = system
        self.bell = Bell()
        self.jobs = Jobs(self.bell, system)
        self.sessions = Sessions(options.token, system)
        subjects = subjects_of(tasks, options.mask, options.report_topic, system)
        self.watches = {subject.slug: TaskWatch(subject, options.every) for subject in subjects}
        self.census = {subject.slug: Census(subject) for subject in subjects}
        self.dues = {subject.slug: WaitingRecords(subject) for subject in subjects}
        self.sampler = Sampler(list(self.watches.values()), options.every, self.bell)
        self.streams = 0
        """Browsers that listen now."""
        self._environment = _environment()
        self._limiter: anyio.CapacityLimiter | None = None

    @property
    def subjects(self) -> list[Subject]:
        return [watch.subject for watch in self.watches.values()]

    def watch(self, request: Request) -> TaskWatch:
        """The task that an address names. Raises HTTPException."""
        found = self.watches.get(request.path_params["task"])
        if found is None:
            raise HTTPException(404, "there is no such task here")
        return found

    async def ask(self, question: Callable[..., T], *args: Any, **more: Any) -> T:
        """What blocks, on a thread."""
        asked = partial(question, *args, **more)
        return await anyio.to_thread.run_sync(asked, abandon_on_cancel=True, limiter=self._limiter)

    def page(self, request: Request, template: str, status: int = 200, **values: Any) -> HTMLResponse:
        base = request.scope.get("root_path", "")
        shared = {
            "base": base,
            "proof": self.sessions.proof(request.state.visitor),
            "options": self.options,
            "watches": list(self.watches.values()),
            "jobs": self.jobs,
            "path": path_of(request),
            "version": __version__,
            "live": "",
            "now": self.system.now(),
            "at": lambda subject, *parts: "/".join([f"{base}/tasks/{quote(subject.slug)}", *map(str, parts)]),
            "several_clusters": len({watch.subject.cluster for watch in self.watches.values()}) > 1,
        }
        return HTMLResponse(self._environment.get_template(template).render(**{**shared, **values}), status)

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        self.bell.hang()
        self._limiter = anyio.CapacityLimiter(MOST_QUESTIONS)
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self.sampler.run)
                yield
                self.bell.close()
                group.cancel_scope.cancel()
        finally:
            self._limiter = None
            self.jobs.close()

    def close(self) -> None:
        """After the server's end."""
        for admin in {id(each.admin): each.admin for each in self.subjects}.values():
            admin.close()


def site_of(request: Request) -> Site:
    found: Site = request.app.state.site
    return found


def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("flux.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_harmless,
    )
    made.filters |= FILTERS
    made.globals |= {"spark": charts.spark, "bar": charts.bar, "inf": math.inf}
    return made


def _harmless(value: Any) -> Any:
    """What a record could do to a page besides markup: characters that turn the direction of what follows, say."""
    return escape(value) if isinstance(value, str) and not isinstance(value, Markup) else value
