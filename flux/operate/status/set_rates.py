"""Rate limits of a task that somebody has set by `flux set-rate`, as its processes report them."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from flux.operate.formatting import lasting, many
from flux.operate.status.task_status import TaskStatus


@attrs.frozen
class TaskRate:
    """`rate`: calls a second, None: no limit; `processes`: the names of those that have it; `ends_in`: seconds until it
    ends, None: it does not end by itself."""

    rate: float | None
    by: str
    processes: Sequence[str]
    ends_in: float | None

    @property
    def text(self) -> str:
        rate = "no rate limit" if self.rate is None else f"at most {self.rate:g} calls a second"
        end = "" if self.ends_in is None else f", ends in {lasting(self.ends_in)}"
        return f"{rate}, set by {self.by}, in {many(len(self.processes), 'process', 'processes')}{end}"


def rates_of(status: TaskStatus) -> list[TaskRate]:
    stages = [each.stage for each in status.stages]
    found: dict[tuple[float | None, str], TaskRate] = {}
    for received in status.reports or ():
        own = [report.rate_set for stage in stages for report in received.of(stage) if report.rate_set is not None]
        for rate in own[:1]:
            ends = None if rate.ends_in is None else round(max(0.0, rate.ends_in - received.age), 1)
            before = found.get((rate.rate, rate.by))
            names = [*(() if before is None else before.processes), received.report.name]
            found[rate.rate, rate.by] = TaskRate(rate.rate, rate.by, names, ends)
    return list(found.values())
