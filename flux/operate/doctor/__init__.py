"""Examines what a task relies on: its topics, its groups, the brokers' settings, what the login may do.

Facts are asked for first (`asking`), then checks look at them: functions from `Facts` to findings, which ask nothing.
What is safe to mend says so, and `fix_findings` does it.
"""

from flux.operate.doctor.checks import CHECKS, examine, fix_findings
from flux.operate.doctor.facts import ClockDifference, Facts, Finding, TopicFacts, Unknown

__all__ = ["CHECKS", "ClockDifference", "Facts", "Finding", "TopicFacts", "Unknown", "examine", "fix_findings"]
