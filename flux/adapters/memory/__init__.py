"""An in-memory cluster, `memory://NAME`, for tests and first steps. It behaves as Kafka where flux depends on it.

It has partitions and Kafka's partitioning of keys, offsets with gaps, headers, timestamps, cooperative rebalances,
fenced commits, transactions and size limits. It ends with its process, and keeps every record: nothing expires.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import parse_qsl

from flux.adapters.memory.admin import MemoryAdmin
from flux.adapters.memory.broker import Broker
from flux.adapters.memory.cluster import MemoryCluster
from flux.adapters.memory.consumer import MemoryConsumer
from flux.adapters.memory.producer import MemoryProducer
from flux.adapters.memory.reader import MemoryReader
from flux.adapters.memory.transactions import MemoryTransactions
from flux.core.errors import ConfigurationError
from flux.core.ports import (
    ConsumerSettings,
    ProducerSettings,
    RebalanceListener,
    System,
    TopicPartition,
    TransactionSettings,
)
from flux.core.validation import check_whole, plain, shown
from flux.system import SYSTEM, Lock

__all__ = ["Broker", "MemoryAdapter", "forget", "from_url"]

_URL = re.compile(r"memory://(?P<name>[^/?#@\x00-\x1f]+)(\?(?P<query>[^#]*))?\Z")
_COUNT = re.compile(r"[1-9][0-9]{0,4}\Z")
_clusters: dict[str, MemoryCluster] = {}
_clusters_lock = Lock()


class MemoryAdapter:
    """`flux.core.ports.Adapter` and `TransactionalCluster` for the cluster `name`, which all adapters of that name in
    this process share. It is made by the first of them, with its `system`, `default_partitions` (of a topic created by
    a write) and `auto_create`; `max_poll_interval` (seconds) is this adapter's own.

    Raises ConfigurationError when the cluster runs on another System already."""

    shares_processes = False

    def __init__(
        self,
        name: str,
        *,
        system: System = SYSTEM,
        default_partitions: int = 1,
        auto_create: bool = True,
        max_poll_interval: float = 300.0,
    ) -> None:
        name = plain(name)
        if not isinstance(name, str) or not name:
            raise ConfigurationError(f"an in-memory broker has a name, not {shown(name)}")
        check_whole(f"memory://{name}: partitions", default_partitions, 1, 99_999)
        with _clusters_lock:
            self._cluster = _clusters.get(name) or MemoryCluster(name, system, default_partitions, auto_create)
            _clusters[name] = self._cluster
        if self._cluster.system is not system:
            raise ConfigurationError(f"memory://{name} runs on another System: forget({name!r}) first")
        self._max_poll_interval = max_poll_interval
        self.broker = Broker(self._cluster)

    @property
    def cluster(self) -> str:
        return f"memory://{self._cluster.name}"

    def consumer(self, settings: ConsumerSettings, listener: RebalanceListener) -> MemoryConsumer:
        return MemoryConsumer(self._cluster, settings, listener, self._max_poll_interval)

    def producer(self, settings: ProducerSettings) -> MemoryProducer:
        return MemoryProducer(self._cluster, settings)

    def transactions(self, settings: TransactionSettings) -> MemoryTransactions:
        return MemoryTransactions(self._cluster, settings)

    def admin(self) -> MemoryAdmin:
        return MemoryAdmin(self._cluster)

    def reader(self, starts: Mapping[TopicPartition, int]) -> MemoryReader:
        return MemoryReader(self._cluster, starts)


def forget(name: str) -> None:
    """The next adapter of that name makes an empty cluster; existing adapters keep the old one."""
    with _clusters_lock:
        _clusters.pop(name, None)


def from_url(url: str) -> MemoryAdapter:
    """`memory://NAME`, with `?partitions=4` and `auto_create=false` for the topics that a write creates. Raises
    ConfigurationError, which does not repeat the URL: it may have been meant for another adapter, with its password."""
    match = _URL.match(url)
    if match is None:
        raise ConfigurationError("an in-memory broker is written memory://NAME?partitions=4&auto_create=false")
    options = dict(parse_qsl(match["query"] or "", keep_blank_values=True))
    partitions = options.pop("partitions", "1")
    auto_create = options.pop("auto_create", "true")
    if options:
        raise ConfigurationError("memory:// has the options partitions and auto_create, and no others")
    if not _COUNT.match(partitions):
        raise ConfigurationError("memory://: partitions must be a number from 1 to 99999")
    if auto_create not in ("true", "false"):
        raise ConfigurationError("memory://: auto_create must be true or false")
    return MemoryAdapter(match["name"], default_partitions=int(partitions), auto_create=auto_create == "true")
