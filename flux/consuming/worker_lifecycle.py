"""What the life of a worker asks its driver to do, one at a time."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import attrs


@attrs.frozen
class Blocking:
    """A step that may wait for the cluster: not in an event loop."""

    step: Callable[[], Any]


@attrs.frozen
class Here:
    """A step for the thread of the caller; what it gives is awaited there, if it can be."""

    step: Callable[[], Any]


@attrs.frozen
class Tick:
    """Waits until something changes, not long."""


Step = Blocking | Here | Tick
Life = Generator[Step, Any, int]
"""Gives the exit code."""
