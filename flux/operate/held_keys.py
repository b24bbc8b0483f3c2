"""Keys that are held by records in retry topics or dead letters (`retry_order`), as the topic of keys has them."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence

import attrs

from flux.consuming.topic_setup import REQUEST_TIMEOUT
from flux.core.engine.key_order import KeyOrder, OrderEntry, Origin, entry_name
from flux.core.errors import BrokerError, Fault
from flux.core.message import Message
from flux.core.policy import Policy
from flux.core.ports import AdminPort, Cluster, ProducerRecord, System
from flux.operate.reading import read, spans_of
from flux.operate.writing import write_all
from flux.system import SYSTEM

SHOWN = 20


@attrs.frozen
class HeldKey:
    """A key and the record that holds it: its place in the main topic, the stage and due time of its newest copy (in
    milliseconds since the epoch; of a dead letter: when it died). `behind`: later records of the key."""

    key: bytes
    partition: int
    offset: int
    stage: int
    due: int
    dead: bool
    behind: int

    @property
    def place(self) -> str:
        return f"{self.partition}:{self.offset}"


@attrs.frozen
class HeldKeys:
    """`keys`: how many keys wait for a record that failed; `dead`: those that wait for a dead letter; `records`: all
    outstanding records, those that failed included. `first`: some keys, those that wait for dead letters first, then
    those with the most records behind."""

    keys: int = 0
    dead: int = 0
    records: int = 0
    first: Sequence[HeldKey] = attrs.field(default=(), eq=False)


def held_keys(adapter: Cluster, admin: AdminPort, policy: Policy, system: System = SYSTEM) -> HeldKeys | None:
    """None: the task keeps no order, or its topic of keys does not exist. Raises BrokerError."""
    view = read_key_order(adapter, admin, policy, system)
    if view is None:
        return None
    found = held_in(view)
    first = heapq.nsmallest(SHOWN, found, key=lambda each: (not each.dead, -each.behind))
    return HeldKeys(len(found), sum(each.dead for each in found), len(view), first)


def held_in(view: KeyOrder) -> list[HeldKey]:
    return [
        HeldKey(key, partition, offset, entry.stage, entry.due, entry.dead, count - 1)
        for (partition, key), offset, entry, count in view.heads()
    ]


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


def behind_dead_letters(
    adapter: Cluster, admin: AdminPort, policy: Policy, system: System = SYSTEM
) -> Callable[[Message], int | None]:
    """How many records of its key wait behind a dead letter; None: it holds no key, or this login may not read which.
    Raises BrokerError."""
    try:
        view = read_key_order(adapter, admin, policy, system) if policy.on_dead == "hold" else None
    except BrokerError as error:
        if error.fault is not Fault.DENIED:
            raise
        view = None
    heads = view.heads() if view is not None else ()
    counts = {(partition, offset): count - 1 for (partition, _), offset, entry, count in heads if entry.dead}
    return lambda dead_letter: counts.get(dead_letter.origin[1:])


def free(adapter: Cluster, policy: Policy, records: Iterable[Message], system: System = SYSTEM) -> None:
    """These have entries, and a person has decided that they are done: they hold their keys no more. Raises
    BrokerError."""
    free_origins(adapter, policy, (each.origin[1:] for each in records), system)


def free_origins(adapter: Cluster, policy: Policy, origins: Iterable[Origin], system: System = SYSTEM) -> None:
    """As `free`, by the records' places in the main topic. Raises BrokerError."""
    names = dict.fromkeys(map(entry_name, origins))
    if names:
        removals = [ProducerRecord(None, name, (), 0) for name in names]
        write_all(adapter, policy.stages.keys_topic, removals, system, compression="none")
