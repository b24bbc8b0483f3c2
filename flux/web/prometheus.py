"""The history of tasks from a Prometheus that scrapes their workers: longer than the pages' own."""

from __future__ import annotations

import base64
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from http.client import HTTPException
from math import isfinite
from typing import Any
from urllib.parse import unquote, urlencode, urlsplit

from flux.core.errors import ConfigurationError, FluxError
from flux.core.ports import System
from flux.core.text import one_line
from flux.observe import names
from flux.web.sampler import History

RANGES = {"1h": 3600, "6h": 6 * 3600, "1d": 86_400, "7d": 7 * 86_400, "30d": 30 * 86_400}
"""Seconds, by their names in URLs."""
RANGE_NAMES = {"1h": "1 hour", "6h": "6 hours", "1d": "1 day", "7d": "7 days", "30d": "30 days"}
POINTS = 240
SECONDS = 5.0
"""For all queries of one page; the last wait may begin at their end."""
_PATIENCE = 2.0
"""Seconds to wait for the queries of another page."""
MAX_BYTES = 4_000_000
"""Of one answer."""
FRESH = 15.0
"""Seconds for which an answer is shown again, and a failure is not tried again."""
_MAX_KEPT = 100
_WINDOW = 300
"""Seconds, at least, over which a rate is taken: several scrapes."""
_CHUNK = 65_536


class PrometheusUnavailable(FluxError):
    """It does not answer, or not as Prometheus does."""


class PrometheusHistory:
    """`url`: where its API is, a user and password included. `selector`: further matchers of labels, such as
    `namespace="shop"`. One query at a time, so that an unavailable Prometheus holds one thread. Raises
    ConfigurationError."""

    def __init__(self, url: str, selector: str, system: System) -> None:
        parts = urlsplit(url)
        try:
            place = parts.hostname if parts.port is None else f"{parts.hostname}:{parts.port}"
        except ValueError:
            place = None
        if parts.scheme not in ("http", "https") or not parts.hostname or place is None or parts.query:
            raise ConfigurationError("the address of Prometheus looks like http://prometheus:9090")
        self.place = place
        self._url = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}/api/v1/query_range"
        self._headers = {"accept": "application/json"}
        if parts.username is not None:
            login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self._headers["authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
        self._selector = f",{selector}" if selector else ""
        self._system = system
        self._lock = threading.Lock()
        self._kept: dict[tuple[tuple[str, ...], str], tuple[float, History]] = {}
        self._failed = (0.0, "")
        self._opener = urllib.request.build_opener(_NoRedirect)

    def history(self, tasks: Sequence[str], span: str) -> History:
        """As the sampler's: `done`, `failed`, `lag`, `waiting`, and `dead`, which counts the dead letters of an hour.
        Blocks. Raises PrometheusUnavailable."""
        key = (tuple(tasks), span)
        if not self._lock.acquire(timeout=_PATIENCE):
            raise PrometheusUnavailable(f"Prometheus at {self.place} has not answered another page yet")
        try:
            now = self._system.now()
            at, problem = self._failed
            if problem and 0 <= now - at < FRESH:
                raise PrometheusUnavailable(problem)
            kept = self._kept.get(key)
            if kept is None or not 0 <= now - kept[0] < FRESH:
                kept = now, self._tried(tasks, span, now)
                self._kept.pop(key, None)
                while len(self._kept) >= _MAX_KEPT:
                    del self._kept[next(iter(self._kept))]
                self._kept[key] = kept
            return kept[1]
        finally:
            self._lock.release()

    def _tried(self, tasks: Sequence[str], span: str, now: float) -> History:
        try:
            return self._read(tasks, span, now)
        except PrometheusUnavailable as error:
            self._failed = now, str(error)
            raise

    def _read(self, tasks: Sequence[str], span: str, now: float) -> History:
        seconds = RANGES[span]
        step = max(15, seconds // POINTS)
        end = int(now) // step * step
        deadline = self._system.monotonic() + SECONDS
        values: dict[float, dict[str, float | None]] = {}
        for name, query in queries(tasks, max(step, _WINDOW), self._selector).items():
            form = {"query": query, "start": end - seconds, "end": end, "step": step, "timeout": f"{SECONDS:g}s"}
            for time, value in self._series(urlencode(form), deadline):
                values.setdefault(time, {})[name] = value
        found = History(2 * POINTS)
        for time in sorted(values):
            found.add(time, values[time])
        return found

    def _series(self, form: str, deadline: float) -> list[tuple[float, float | None]]:
        try:
            answer = json.loads(self._get(form, deadline))
            result = answer["data"]["result"]
            pairs = result[0]["values"] if result else []
            return [(float(time), number if isfinite(number := float(text)) else None) for time, text in pairs]
        except (ValueError, KeyError, IndexError, TypeError, RecursionError):
            raise PrometheusUnavailable(f"{self.place} does not answer as Prometheus does") from None

    def _get(self, form: str, deadline: float) -> bytes:
        """The answer to a query; each wait for a part of it is bounded, and all of them together."""
        request = urllib.request.Request(f"{self._url}?{form}", headers=self._headers)
        try:
            with self._opener.open(request, timeout=self._left(deadline)) as answer:
                body = b""
                while chunk := answer.read1(_CHUNK):
                    body += chunk
                    self._left(deadline)
                    if len(body) > MAX_BYTES:
                        raise PrometheusUnavailable(f"the answer of {self.place} is longer than {MAX_BYTES:,} bytes")
                return body
        except urllib.error.HTTPError as error:
            with error:
                why = _error_of(error.read(_CHUNK)) or f"HTTP {error.code}"
            raise PrometheusUnavailable(f"Prometheus at {self.place} refuses the query: {why}") from None
        except TimeoutError:
            raise self._late() from None
        except (OSError, ValueError, HTTPException) as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, TimeoutError):
                raise self._late() from None
            why = one_line(str(getattr(reason, "strerror", None) or reason))
            raise PrometheusUnavailable(f"Prometheus at {self.place} is unavailable: {why}") from None

    def _left(self, deadline: float) -> float:
        left = deadline - self._system.monotonic()
        if left <= 0:
            raise self._late()
        return left

    def _late(self) -> PrometheusUnavailable:
        return PrometheusUnavailable(f"Prometheus at {self.place} has not answered within {SECONDS:g} seconds")


def queries(tasks: Sequence[str], window: int, selector: str) -> dict[str, str]:
    """In PromQL, by the names of the history. `window`: seconds of a rate."""
    task = f'task=~"{"|".join(tasks)}"'  # names of classes hold no character that a pattern would read

    def of(metric: names.Metric, more: str = "") -> str:
        return f"{metric.name}{{{task}{more}{selector}}}"

    def rate(metric: names.Metric, more: str = "") -> str:
        return f"sum(rate({of(metric, more)}[{window}s]))"

    retries = ',stage!="0"'
    return {
        "done": rate(names.CALLS, ',result="done"'),
        "failed": rate(names.CALLS, ',result="failed"'),
        "lag": f"sum({of(names.LAG)})",
        "waiting": f"sum({of(names.LAG, retries)}) - sum({of(names.DUE, retries)})",
        "dead": f"3600 * {rate(names.DEAD)}",
    }


def _error_of(body: bytes) -> str:
    try:
        answer: Any = json.loads(body)
        return one_line(str(answer["error"]))[:200]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The login is for this address alone."""

    redirect_request: Callable[..., None] = staticmethod(lambda *_: None)
