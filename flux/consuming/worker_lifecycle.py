"""The requests that a worker's supervision yields to its driver, one at a time."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import attrs


@attrs.frozen
class Blocking:
    """A step that may wait for the cluster, so it must not run in an event loop."""

    step: Callable[[], Any]


@attrs.frozen
class Here:
    """A step on the caller's thread; an awaitable result is awaited there."""

    step: Callable[[], Any]


@attrs.frozen
class Tick:
    """Waits briefly for a change."""


Step = Blocking | Here | Tick
Life = Generator[Step, Any, int]
"""Returns the exit code."""
