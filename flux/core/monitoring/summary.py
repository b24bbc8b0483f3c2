"""What the log says of each task of a worker: at the start, every minute in which it did something, at the end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import attrs

from flux.core.monitoring.report import ranges_of
from flux.core.monitoring.stats import Stats
from flux.core.stage import Stage

EVERY = 60.0
"""Seconds."""
_COUNTED = ("done", "failed", "retried", "dead")


@attrs.frozen
class Line:
    """`fields`: for logs of JSON."""

    text: str
    fields: Mapping[str, object]


def started(task: str, cluster: str, adapter: str, stages: Sequence[Stage], concurrency: int) -> Line:
    """What a task of this worker runs on. `adapter`: its kind."""
    numbers, main = [stage.number for stage in stages], stages[0]
    calls = f"concurrency {concurrency}"
    named = f"stages {ranges_of(numbers)}"
    text = f"{task}: topic {main.topic}, group {main.group}, {named}, {calls}, on {cluster} ({adapter})"
    where = {"cluster": cluster, "adapter": adapter, "topic": main.topic, "group": main.group}
    return Line(text, {"task": task, **where, "stages": numbers, "concurrency": concurrency})


class Summary:
    """Counts what each task does. Times in seconds by a monotonic clock."""

    def __init__(self, now: float) -> None:
        self._began = self._last = now
        self._known: dict[str, dict[str, int]] = {}

    def due(self, now: float) -> bool:
        return now - self._last >= EVERY

    def since_last(self, tasks: Mapping[str, Iterable[Stats]], now: float) -> list[Line]:
        """A line for each task that has done something since the last call."""
        seconds, self._last = now - self._last, now
        lines = []
        for task, stats in tasks.items():
            counts, known = _counts(stats), self._known.get(task, {})
            self._known[task] = counts
            more = {name: count - known.get(name, 0) for name, count in counts.items()}
            if any(more.values()):
                lines.append(_line(task, more, seconds))
        return lines

    def in_all(self, tasks: Mapping[str, Iterable[Stats]], now: float) -> list[Line]:
        """A line for each task about all of its time."""
        return [_line(task, _counts(stats), now - self._began, "in all: ") for task, stats in tasks.items()]


def _counts(stats: Iterable[Stats]) -> dict[str, int]:
    each = list(stats)
    return {name: sum(getattr(one, name) for one in each) for name in _COUNTED}


def _line(task: str, counts: Mapping[str, int], seconds: float, what: str = "") -> Line:
    done, failed, retried, dead = (f"{counts[name]:,}" for name in _COUNTED)
    letters = "dead letter" if counts["dead"] == 1 else "dead letters"
    text = f"{task}: {what}{done} done, {failed} failed, {retried} retried, {dead} {letters} in {seconds:.0f} s"
    return Line(text, {"task": task, **counts, "seconds": round(seconds, 1)})
