"""Examines what a task relies on: its topics, its groups, the brokers' settings, the login's permissions.

`collect_facts` queries the cluster; checks are pure functions from `Facts` to findings; `fix_findings` fixes those that
are safe to fix.
"""

from flux.operate.doctor.checks import CHECKS, examine, fix_findings
from flux.operate.doctor.facts import ClockDifference, Facts, Finding, TopicFacts, Unknown

__all__ = ["CHECKS", "ClockDifference", "Facts", "Finding", "TopicFacts", "Unknown", "examine", "fix_findings"]
