"""The tasks that the pages show, with access to their clusters."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import attrs

from flux.config import resolve_adapter
from flux.core.errors import FluxError
from flux.core.policy import Policy
from flux.core.ports import AdminPort, Cluster, System
from flux.core.schedules import Schedule
from flux.core.stage import Stage, Stages
from flux.operate.audit import AuditLog, FileAudit, TopicAudit
from flux.operate.doctor import Facts, Finding, examine
from flux.operate.doctor.collect import collect_facts
from flux.operate.status.status import read_status
from flux.operate.status.task_status import TaskStatus
from flux.schedules import schedules_in
from flux.task import Task
from flux.web.redaction import Redaction, RedactionFunction


@attrs.frozen(eq=False)
class WatchedTask:
    """One task with access to its cluster. `slug`: its name in URLs."""

    slug: str
    name: str
    policy: Policy
    adapter: Cluster
    admin: AdminPort
    redaction: Redaction
    system: System
    report_topic: str
    audit: AuditLog
    schedules: Sequence[Schedule] = ()

    @property
    def cluster(self) -> str:
        return self.adapter.cluster

    @property
    def main(self) -> Stage:
        return self.policy.stages[0]

    @property
    def dead(self) -> Stage:
        return self.policy.stages[self.policy.stages.dead]

    @property
    def now_ms(self) -> int:
        return int(self.system.now() * 1000)

    def read_status(self, before: TaskStatus | None) -> TaskStatus:
        """Blocks. Raises BrokerError."""
        return read_status(
            self.adapter,
            self.admin,
            self.policy,
            self.report_topic,
            before,
            schedules=self.schedules,
            system=self.system,
        )

    def examined(self, others: Sequence[tuple[str, Stages]]) -> tuple[Facts, list[Finding]]:
        """Blocks. Raises BrokerError."""
        facts = collect_facts(
            self.name,
            self.policy,
            self.admin,
            others=others,
            adapter=self.adapter,
            schedules=self.schedules,
            system=self.system,
        )
        return facts, examine(facts)


def watched_tasks_of(
    tasks: Sequence[type[Task]],
    redact: RedactionFunction | None,
    report_topic: str,
    system: System,
    audit_file: Path | None = None,
) -> list[WatchedTask]:
    """Tasks of one cluster share a client. Raises ConfigurationError."""
    admins: dict[int, AdminPort] = {}
    found: list[WatchedTask] = []
    slugs: set[str] = set()
    for task in tasks:
        policy = task.policy()
        policy.check()
        adapter = resolve_adapter(task.adapter)
        if id(adapter) not in admins:
            admins[id(adapter)] = adapter.admin()
        slug = _slug(task.__name__)
        if slug in slugs:
            slug = _slug(f"{task.__module__}.{task.__name__}-{len(slugs)}")
        slugs.add(slug)
        redaction = Redaction(task.__name__, redact)
        admin, dead = admins[id(adapter)], policy.stages[policy.stages.dead].topic
        audit = FileAudit(audit_file) if audit_file else TopicAudit(adapter, admin, dead, system=system)
        schedules, name = schedules_in(task), task.__name__
        found.append(WatchedTask(slug, name, policy, adapter, admin, redaction, system, report_topic, audit, schedules))
    return found


def others_of(task: WatchedTask, tasks: Sequence[WatchedTask]) -> list[tuple[str, Stages]]:
    """The other tasks of its cluster, for the doctor."""
    found = []
    for other in tasks:
        if other is not task and other.cluster == task.cluster:
            try:
                other.policy.stages.check()
            except FluxError:
                continue  # found when that task is examined
            found.append((other.name, other.policy.stages))
    return found


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "-", name)
