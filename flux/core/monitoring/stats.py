"""Counters of one stage since the process started."""

from __future__ import annotations

import attrs


@attrs.define
class Stats:
    done: int = 0
    """Calls that succeeded."""
    failed: int = 0
    """Calls that raised, or whose produced records were not delivered."""
    retried: int = 0
    """Records forwarded to a retry topic and acknowledged there."""
    dead: int = 0
    """Records forwarded to the dead-letter topic and acknowledged there."""
    late: int = 0
    """Records that were polled a second or more after their due time."""
    commits: int = 0
    commit_failures: int = 0


@attrs.define
class Pauses:
    """Of a task, all stages together, since the process started."""

    number: int = 0
    seconds: float = 0.0
    """Total duration of the pauses that have ended."""
