"""The four ways in which a task runs: either client, with a handler that blocks or one that is awaited."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import attrs

from integration.job.support import Lab


@attrs.frozen
class Way:
    scheme: str
    awaited: bool

    def __str__(self) -> str:
        return f"{self.scheme}, {'async' if self.awaited else 'sync'}"

    def handler(self, call: Callable[[Any], Any], seconds: float = 0) -> Callable[[Any], Any]:
        """`call`, which must not block, after so many seconds of waiting."""
        assert not inspect.iscoroutinefunction(call)

        async def awaited(message: Any) -> None:
            if seconds:
                await asyncio.sleep(seconds)
            call(message)

        def blocking(message: Any) -> None:
            if seconds:
                time.sleep(seconds)
            call(message)

        return awaited if self.awaited else blocking

    def adapter(self, bootstrap: str, **options: object) -> str:
        """A URL; options as session_timeout_ms=6000."""
        separator = "_" if self.scheme == "aiokafka" else "."
        query = "&".join(f"{name.replace('_', separator)}={value}" for name, value in options.items())
        return f"{self.scheme}://{bootstrap}{'?' if query else ''}{query}"


WAYS = [Way(scheme, awaited) for scheme in ("confluent", "aiokafka") for awaited in (False, True)]
OPPOSITES = [WAYS[0], WAYS[3]]
"""For what hardly depends on the way."""


def at_once(*ways: Way) -> Callable[[Callable[[Lab, Way], None]], Callable[[Lab], None]]:
    """Runs a test in all these ways side by side, as it mostly waits."""

    def decorate(test: Callable[[Lab, Way], None]) -> Callable[[Lab], None]:
        def each(lab: Lab, way: Way) -> None:
            try:
                test(lab, way)
            except BaseException as error:
                error.add_note(f"by {way}")
                raise

        def run(lab: Lab) -> None:
            with ThreadPoolExecutor(len(ways)) as pool:
                list(pool.map(lambda way: each(lab, way), ways))

        run.__name__, run.__doc__, run.__module__ = test.__name__, test.__doc__, test.__module__
        return run

    return decorate
