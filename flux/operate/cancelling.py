"""Takes back delayed work that has an id, as `Task.cancel` does, without the task's code."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from flux.consuming.topic_setup import REQUEST_TIMEOUT
from flux.core import flux_headers
from flux.core.delayed_work import checked_name, delayed_headers
from flux.core.errors import ConfigurationError
from flux.core.policy import Policy
from flux.core.ports import AdminPort, Cluster, ProducerRecord, System
from flux.core.producing.partitioner import partition_for_key
from flux.operate.audit import AuditRecord
from flux.operate.waiting import MAX_READ, WaitingRow, summarize
from flux.operate.writing import write_all
from flux.system import SYSTEM


@attrs.frozen
class CancelPlan:
    """`row`: the work that waits; None: it is not among the records that were read."""

    policy: Policy
    id: str
    row: WaitingRow | None

    @property
    def topic(self) -> str:
        return self.policy.stages[1].topic

    def audit_record(self, task: str, by: str, now_ms: int, why: str = "") -> AuditRecord:
        places = () if self.row is None else (f"{self.row.partition}:{self.row.offset}",)
        topic = self.policy.stages[0].topic  # the history is kept by the main topic
        details = {"id": self.id, **({"why": why} if why else {})}
        return AuditRecord(at=now_ms, by=by, action="cancel", task=task, topic=topic, places=places, details=details)


def plan_cancel(adapter: Cluster, admin: AdminPort, policy: Policy, id: str, system: System = SYSTEM) -> CancelPlan:
    """Blocks. Raises BrokerError, and ConfigurationError for an id that no work waits with."""
    if policy.stages.retries < 1:
        raise ConfigurationError("this task has no retries, so it has no delayed work")
    checked_name(id, "id")
    summary = summarize(adapter, admin, policy, MAX_READ, system)
    row = next((each for each in summary.first if each.id == id), None)
    if row is None and not summary.unread:
        raise ConfigurationError(f"nothing was cancelled: no work waits with the id {id!r}; flux waiting lists the ids")
    return CancelPlan(policy, id, row)


def plan_of_place(
    adapter: Cluster, admin: AdminPort, policy: Policy, place: tuple[int | None, int | None], system: System = SYSTEM
) -> CancelPlan:
    """The work at (partition, offset) of the first retry topic. Blocks. Raises BrokerError, ConfigurationError."""
    rows: Iterable[WaitingRow] = summarize(adapter, admin, policy, MAX_READ, system).first
    for row in rows:
        if row.id and row.stage.number == 1 and (row.partition, row.offset) == place:
            return CancelPlan(policy, row.id, row)
    raise ConfigurationError("nothing was cancelled: that work does not wait any more")


def cancel(plan: CancelPlan, adapter: Cluster, admin: AdminPort, system: System = SYSTEM) -> None:
    """Writes the cancellation, and waits until it is stored. What starts meanwhile is not taken back. Raises
    BrokerError."""
    info = admin.topics([plan.topic], REQUEST_TIMEOUT)[plan.topic]
    if info is None:
        raise ConfigurationError(f"there is no topic {plan.topic}: flux topics --create creates it")
    due = int(system.now() * 1000)
    headers = [
        (name, text.encode()) for name, text in delayed_headers(plan.policy, [], due, (flux_headers.CANCELLED, plan.id))
    ]
    # where `Task.enqueue` places the id, unless the number of partitions has changed since
    own = None if plan.row is None else plan.row.partition
    partition = partition_for_key(plan.id.encode(), info.partitions) if own is None else own
    write_all(adapter, plan.topic, [ProducerRecord(None, None, headers, partition)], system)
