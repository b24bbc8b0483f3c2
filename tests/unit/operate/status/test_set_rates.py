"""Rates that somebody has set, as the processes report them."""

from __future__ import annotations

import attrs

from flux.core.monitoring.report import RateSet, Report
from flux.operate.status.reports import ReceivedReport
from flux.operate.status.set_rates import TaskRate, rates_of
from flux.operate.status.task_status import StageStatus, TaskStatus
from unit.support.operate_support import NOW_MS, policy
from unit.support.report_support import REPORT, STAGE

STAGES = policy().stages
HERE = attrs.evolve(STAGE, topic=STAGES[0].topic, group=STAGES[0].group)


def found(*reports: Report) -> list[TaskRate]:
    received = [ReceivedReport(each, 2.0) for each in reports]
    return rates_of(TaskStatus(NOW_MS / 1000, [StageStatus(STAGES[0], True)], None, received))


def report(rate: RateSet | None, pid: int = 1) -> Report:
    return attrs.evolve(REPORT, pid=pid, stages=(attrs.evolve(HERE, rate_set=rate),))


def test_processes_with_the_same_rate_are_listed_together() -> None:
    rate = RateSet(50.0, "ada", 3602.0)
    both, other = found(report(rate), report(rate, 2), report(RateSet(None, "bea", None), 3), report(None, 4))
    assert both == TaskRate(50.0, "ada", ["host-1 pid 1", "host-1 pid 2"], 3600.0)
    assert both.text == "at most 50 calls a second, set by ada, in 2 processes, ends in 1.0 hour"
    assert other.text == "no rate limit, set by bea, in 1 process"


def test_the_end_is_not_in_the_past_and_other_tasks_are_left_out() -> None:
    [rate] = found(report(RateSet(5.0, "ada", 1.0)), attrs.evolve(REPORT, stages=(STAGE,)))
    assert rate.ends_in == 0.0
