"""Which clients the tasks of a worker share, and when they are closed."""

from __future__ import annotations

from typing import Any, cast

import pytest

from flux.consuming.cluster_clients import ClusterClients
from flux.core.errors import BrokerError
from flux.core.ports import Cluster, ProducerSettings
from flux.system import OperatingSystem

SETTINGS, SMALLER = ProducerSettings(), ProducerSettings(max_batch_bytes=1_000)


class Client:
    def __init__(self) -> None:
        self.closed = 0

    def partitions(self, topic: str, timeout: float) -> int:
        return 1

    def close(self, timeout: float = 0.0) -> None:
        self.closed += 1


class Counted:
    """A cluster that remembers its clients."""

    def __init__(self) -> None:
        self.admins: list[Client] = []
        self.producers: list[Client] = []

    def admin(self) -> Client:
        self.admins.append(Client())
        return self.admins[-1]

    def producer(self, settings: ProducerSettings) -> Client:
        self.producers.append(Client())
        return self.producers[-1]


def used(clients: ClusterClients, task: object, cluster: Counted, settings: ProducerSettings = SETTINGS) -> None:
    adapter = cast(Cluster, cluster)
    clients.admin(task, adapter)
    clients.writer(task, adapter, settings).warm_up(["topic"])


def test_tasks_on_one_cluster_share_an_admin_and_a_producer_until_the_last_has_ended() -> None:
    clients, cluster = ClusterClients(OperatingSystem()), Counted()
    for task in ("a", "b", "a"):
        used(clients, task, cluster)
    assert (len(cluster.admins), len(cluster.producers)) == (1, 1)
    clients.leave("a")
    assert (cluster.admins[0].closed, cluster.producers[0].closed) == (0, 0)
    clients.leave("b")
    assert (cluster.admins[0].closed, cluster.producers[0].closed) == (1, 1)
    clients.leave("b")
    assert (cluster.admins[0].closed, cluster.producers[0].closed) == (1, 1)


def test_other_limits_of_topics_need_another_producer_and_other_clusters_share_nothing() -> None:
    clients, cluster, other = ClusterClients(OperatingSystem()), Counted(), Counted()
    used(clients, "a", cluster)
    used(clients, "b", cluster, SMALLER)
    used(clients, "b", other)
    assert (len(cluster.admins), len(cluster.producers)) == (1, 2)
    assert (len(other.admins), len(other.producers)) == (1, 1)
    clients.leave("b")
    assert other.admins[0].closed == other.producers[0].closed == 1
    assert not any(client.closed for client in cluster.producers)
    clients.leave("a")
    assert [client.closed for client in cluster.producers] == [1, 1]


def test_a_task_that_has_ended_gets_no_client_that_nobody_would_close() -> None:
    clients, cluster = ClusterClients(OperatingSystem()), Counted()
    adapter = cast(Cluster, cluster)
    clients.leave("a")
    for late in (lambda: clients.admin("a", adapter), lambda: clients.writer("a", adapter, SETTINGS)):
        with pytest.raises(BrokerError, match="has ended"):
            late()
    used(clients, "b", cluster)
    with pytest.raises(BrokerError, match="has ended"):
        clients.admin("a", adapter)
    assert (len(cluster.admins), len(cluster.producers)) == (1, 1)


def test_a_client_that_fails_to_close_does_not_keep_the_others_open() -> None:
    clients, cluster, other = ClusterClients(OperatingSystem()), Counted(), Counted()
    used(clients, "a", cluster)
    used(clients, "a", other)

    def fail(timeout: float) -> None:
        raise OSError("it is stuck")

    cast(Any, cluster.producers[0]).close = fail
    with pytest.raises(OSError, match="stuck"):
        clients.leave("a")
    assert other.producers[0].closed == 1
    assert cluster.admins[0].closed == other.admins[0].closed == 1
