"""What all pages share: the tasks, the sampler, the jobs, and how a page is rendered."""

from __future__ import annotations

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
from starlette.responses import HTMLResponse, RedirectResponse

from flux._version import __version__
from flux.core.ports import System
from flux.core.text import escape
from flux.operate.waiting import WaitingSummary, summarize
from flux.system import SYSTEM
from flux.task import Task
from flux.web import figures
from flux.web.auth import Sessions, path_of
from flux.web.dead_letters import CauseCounter
from flux.web.figures import FILTERS
from flux.web.jobs import Jobs
from flux.web.live import Broadcast
from flux.web.options import WebOptions
from flux.web.outbox import outbox_status
from flux.web.prometheus import RANGE_NAMES, RANGES, PrometheusHistory, PrometheusUnavailable
from flux.web.sampler import History, Sampler, TaskWatch
from flux.web.shared_reading import SharedReading
from flux.web.users import User, UserRole
from flux.web.watched_tasks import WatchedTask, watched_tasks_of

T = TypeVar("T")
MAX_BLOCKING_CALLS = 8
"""Threads that query clusters for visitors; further requests wait."""
_WAITING_TIMEOUT = 5.0


class PageContext:
    """Raises ConfigurationError for tasks whose configuration is wrong."""

    def __init__(self, classes: Sequence[type[Task]], options: WebOptions, system: System = SYSTEM) -> None:
        self.options = options
        self.system = system
        self.broadcast = Broadcast()
        self.jobs = Jobs(self.broadcast, system)
        self.sessions = Sessions(options, system)
        tasks = watched_tasks_of(classes, options.redact, options.report_topic, system, options.audit_file)
        self.watches = {task.slug: TaskWatch(task, options.every) for task in tasks}
        self.cause_counters = {task.slug: CauseCounter(task) for task in tasks}
        self.waiting = {task.slug: _waiting(task) for task in tasks}
        self.sampler = Sampler(list(self.watches.values()), options.every, self.broadcast)
        self.prometheus = (
            None
            if options.prometheus is None
            else PrometheusHistory(options.prometheus, options.prometheus_selector, system)
        )
        self.outbox = None if options.outbox is None else outbox_status(options.outbox, system)
        self._environment = _environment()
        self._limiter: anyio.CapacityLimiter | None = None

    @property
    def tasks(self) -> list[WatchedTask]:
        return [watch.task for watch in self.watches.values()]

    def watch(self, request: Request) -> TaskWatch:
        """The task in the URL. Raises HTTPException."""
        found = self.watches.get(request.path_params["task"])
        if found is None:
            raise HTTPException(404, "there is no such task")
        return found

    async def in_thread(self, function: Callable[..., T], *args: Any, **more: Any) -> T:
        """Calls a function that blocks."""
        call = partial(function, *args, **more)
        return await anyio.to_thread.run_sync(call, abandon_on_cancel=True, limiter=self._limiter)

    async def history(self, request: Request, own: History, names: Sequence[str]) -> tuple[History, str, str]:
        """The history of the range in the URL, the name of the range, and why there is none. `own`: the pages' own,
        which is shown without a range."""
        span = request.query_params.get("range", "")
        if self.prometheus is None or span not in RANGES:
            return own, "", ""
        try:
            return await self.in_thread(self.prometheus.history, names, span), span, ""
        except PrometheusUnavailable as error:
            return own, "", str(error)

    def page(self, request: Request, template: str, status: int = 200, **values: Any) -> HTMLResponse:
        base = request.scope.get("root_path", "")
        user: User | None = request.state.user
        theme = request.cookies.get("flux-theme", "")
        shared = {
            "base": base,
            "proof": self.sessions.proof(request.state.visitor),
            "options": self.options,
            "user": user,
            "operator": user is not None and user.role >= UserRole.OPERATOR,
            "admin": user is not None and user.role >= UserRole.ADMIN,
            "logged_in": self.sessions.has(request.state.visitor),
            "watches": list(self.watches.values()),
            "jobs": self.jobs,
            "path": path_of(request),
            "version": __version__,
            "live": "",
            "range": "",
            "ranges": {} if self.prometheus is None else {"": "since the start", **RANGE_NAMES},
            "no_history": "",
            "theme": theme if theme in ("light", "dark") else "",
            "now": self.system.now(),
            "at": lambda task, *parts: "/".join([f"{base}/tasks/{quote(task.slug)}", *map(str, parts)]),
            "several_clusters": len({watch.task.cluster for watch in self.watches.values()}) > 1,
        }
        return HTMLResponse(self._environment.get_template(template).render(**{**shared, **values}), status)

    def task_page(self, request: Request, watch: TaskWatch, tab: str, template: str, **values: Any) -> HTMLResponse:
        """A page of one task, below its `tab`."""
        return self.page(request, template, watch=watch, task=watch.task, tab=tab, **values)

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        self.broadcast.attach()
        self._limiter = anyio.CapacityLimiter(MAX_BLOCKING_CALLS)
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self.sampler.run)
                yield
                self.broadcast.close()
                group.cancel_scope.cancel()
        finally:
            self._limiter = None
            self.jobs.close()

    def close(self) -> None:
        """After the server has stopped."""
        for admin in {id(each.admin): each.admin for each in self.tasks}.values():
            admin.close()


def redirect(request: Request, path: str) -> RedirectResponse:
    """After a form. `path`: without the proxy's prefix."""
    return RedirectResponse(request.scope.get("root_path", "") + path, 303)


def require(request: Request, role: UserRole) -> None:
    """Raises HTTPException where the visitor has a lesser role."""
    if request.state.user is None or request.state.user.role < role:
        if context_of(request).options.read_only:
            raise HTTPException(403, "these pages are read-only")
        raise HTTPException(403, f"this takes the role {role.name.lower()}: log in as somebody who has it")


def user_of(request: Request) -> str:
    """The visitor's name."""
    user: User = request.state.user
    return user.name


def context_of(request: Request) -> PageContext:
    found: PageContext = request.app.state.context
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
    made.globals |= {"spark": figures.spark, "bar": figures.bar}
    return made


def _harmless(value: Any) -> Any:
    """Escapes control characters, such as those that change the direction of text."""
    return escape(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _waiting(task: WatchedTask) -> SharedReading[WaitingSummary]:
    def read() -> WaitingSummary:
        return summarize(task.adapter, task.admin, task.policy, system=task.system)

    return SharedReading(read, _WAITING_TIMEOUT, "another request is still reading this", task.system)
