"""Counters of one stage since the process started."""

from __future__ import annotations

import attrs


@attrs.define
class Stats:
    """`done`: calls that succeeded; `failed`: that raised, or whose produced records were not delivered. `retried` and
    `dead`: records forwarded to a retry topic and to the dead-letter topic, and acknowledged there. `late`: records
    that were polled a second or more after their due time. `replaced`: delayed records that another one with their id
    replaced or cancelled before their call; when they are due, they count as done."""

    done: int = 0
    failed: int = 0
    retried: int = 0
    dead: int = 0
    late: int = 0
    replaced: int = 0
    commits: int = 0
    commit_failures: int = 0


@attrs.define
class Pauses:
    """Of a task, all stages together, since the process started. `seconds`: of those that have ended."""

    number: int = 0
    seconds: float = 0.0
