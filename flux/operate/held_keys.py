"""Keys that are held by records in retry topics or dead letters (`retry_order`), as the topic of keys has them."""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from flux.consuming.topic_setup import REQUEST_TIMEOUT
from flux.core.engine.key_order import KeyOrder, OrderEntry, entry_name
from flux.core.message import Message
from flux.core.policy import Policy
from flux.core.ports import AdminPort, Cluster, ProducerRecord, System
from flux.operate.reading import read, spans_of
from flux.operate.writing import write_all
from flux.system import SYSTEM


@attrs.frozen
class HeldKeys:
    """`keys`: how many keys wait for a record that failed; `dead`: those that wait for a dead letter; `records`: all
    outstanding records, those that failed included."""

    keys: int = 0
    dead: int = 0
    records: int = 0


def held_keys(adapter: Cluster, admin: AdminPort, policy: Policy, system: System = SYSTEM) -> HeldKeys | None:
    """None: the task keeps no order, or its topic of keys does not exist. Raises BrokerError."""
    view = read_key_order(adapter, admin, policy, system)
    if view is None:
        return None
    heads = [entry for _, _, entry, _ in view.heads()]
    return HeldKeys(len(heads), sum(entry.dead for entry in heads), len(view))


def read_key_order(adapter: Cluster, admin: AdminPort, policy: Policy, system: System = SYSTEM) -> KeyOrder | None:
    """All outstanding records. None: the task keeps no order, or its topic of keys does not exist. Raises
    BrokerError."""
    topic = policy.stages.keys_topic if policy.retry_order is not None else ""
    if not topic or admin.topics([topic], REQUEST_TIMEOUT)[topic] is None:
        return None
    view = KeyOrder()
    for batch in read(adapter, topic, spans_of(admin, topic), system=system):
        view.take(batch.records)
    return view


def held_by(view: KeyOrder | None, dead_letter: Message) -> OrderEntry | None:
    """The entry of a dead letter that holds its key. None: it holds none, or its record has a newer copy in a retry
    topic."""
    entry = None if view is None else view.entry(dead_letter.origin[1:])
    return entry if entry is not None and entry.dead else None


def free(adapter: Cluster, policy: Policy, records: Iterable[Message], system: System = SYSTEM) -> None:
    """These have entries, and a person has decided that they are done: they hold their keys no more. Raises
    BrokerError."""
    names = dict.fromkeys(entry_name(each.origin[1:]) for each in records)
    if names:
        removals = [ProducerRecord(None, name, (), 0) for name in names]
        write_all(adapter, policy.stages.keys_topic, removals, system, compression="none")
