"""What one stage has done since this process began."""

from __future__ import annotations

import attrs


@attrs.define
class Stats:
    done: int = 0
    """Calls that ended well."""
    failed: int = 0
    """Calls that raised, or whose records were not delivered."""
    retried: int = 0
    """Records moved to a retry topic, and acknowledged there."""
    dead: int = 0
    """Records moved to the dead-letter topic, and acknowledged there."""
    late: int = 0
    """Records that were a second or more past their due time when they arrived."""
    commits: int = 0
    commit_failures: int = 0


@attrs.define
class Pauses:
    """Of a task, all stages together, since this process began."""

    number: int = 0
    seconds: float = 0.0
    """Of those that have ended."""
