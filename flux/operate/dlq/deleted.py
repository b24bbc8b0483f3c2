"""Frees the keys that wait for dead letters which the topic does not have any more (`on_dead = "hold"`): retention has
deleted them, or somebody the topic."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs

from flux.core.engine.key_order import Origin
from flux.core.policy import Policy
from flux.core.ports import AdminPort, Cluster, System
from flux.operate.dlq.dead_letters import dead_letter_of
from flux.operate.held_keys import HeldKey, free_origins, held_in, read_key_order
from flux.operate.reading import read, spans_of
from flux.system import SYSTEM

_WRITTEN_MS = 3_600_000
"""How long ago a record must have died, in milliseconds: its entry is written before its dead letter."""


@attrs.frozen
class FreeResult:
    """`freed`: the keys, each with the place of its record in the main topic."""

    topic: str
    freed: Sequence[HeldKey]


def free_deleted(
    adapter: Cluster,
    admin: AdminPort,
    policy: Policy,
    *,
    dry: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
    system: System = SYSTEM,
) -> FreeResult:
    """Those whose record died over an hour ago; all of them, or none: also when `should_stop()`. Raises BrokerError."""
    topic, now_ms = policy.stages[policy.stages.dead].topic, int(system.now() * 1000)
    view = read_key_order(adapter, admin, policy, system)
    dead = [each for each in held_in(view) if each.dead and each.due < now_ms - _WRITTEN_MS] if view else []
    there: set[Origin] = set()
    if dead:
        for batch in read(adapter, topic, spans_of(admin, topic), should_stop=should_stop, system=system):
            there |= {dead_letter_of(record, policy, now_ms).message.origin[1:] for record in batch.records}
    freed = [] if should_stop() else [each for each in dead if (each.partition, each.offset) not in there]
    if not dry:
        free_origins(adapter, policy, [(each.partition, each.offset) for each in freed], system)
    return FreeResult(topic, freed)
