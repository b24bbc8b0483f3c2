"""The ways in which the network, or a broker, fails."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import attrs
from brokers.router import Link, RoutedLink
from chaos.cluster import Cluster, Node

from proof.network.subjects import Producer, Worker


@attrs.frozen
class Scene:
    """Both workers have the same coordinator."""

    cluster: Cluster
    workers: Sequence[Worker]
    producers: Sequence[Producer]

    def coordinator(self) -> int:
        """The index of the broker that coordinates the main stages."""
        group = self.workers[0].trial.group
        found = self.cluster.admin.describe_consumer_groups([group])[group].result(10)
        return int(found.coordinator.id) - 1

    def leader(self) -> int:
        """The index of a broker that leads partitions and coordinates no main stage."""
        return (self.coordinator() + 1) % len(self.cluster.nodes)


Fault = Callable[[Scene], AbstractContextManager[Sequence[str]]]
"""Breaks something for as long as its context lasts; gives the names by one of which logs must call it."""
_ALL = range(3)


def _drop(link: Link) -> None:
    link.drop()


@contextmanager
def _broken(scene: Scene, indices: Iterable[int], how: Callable[[Link], None]) -> Iterator[Sequence[str]]:
    links = [scene.cluster.links[index] for index in indices]
    try:
        for link in links:
            how(link)
        yield [link.address for link in links]
    finally:
        for link in links:
            link.heal()


def everywhere(how: Callable[[Link], None]) -> Fault:
    return lambda scene: _broken(scene, _ALL, how)


def _unreachable(link: Link) -> None:
    assert isinstance(link, RoutedLink)
    link.unreachable()


def _narrow(link: Link) -> None:
    assert isinstance(link, RoutedLink)
    link.narrow(600)


@contextmanager
def slow(scene: Scene) -> Iterator[Sequence[str]]:
    """Everything works, so nothing needs to be named."""
    with _broken(scene, _ALL, lambda link: link.delay(0.25, jitter=0.1)):
        yield ()


@contextmanager
def briefly(scene: Scene) -> Iterator[Sequence[str]]:
    """Too short to be named."""
    with _broken(scene, _ALL, _drop):
        yield ()


@contextmanager
def narrow(scene: Scene) -> Iterator[Sequence[str]]:
    """Small requests are answered, so nothing needs to be named."""
    with _broken(scene, _ALL, _narrow):
        yield ()


@contextmanager
def flaky(scene: Scene) -> Iterator[Sequence[str]]:
    """What is tried again at once works, so nothing needs to be named."""
    with _broken(scene, _ALL, lambda link: link.reset(0.2)):
        yield ()


@contextmanager
def half_open(scene: Scene) -> Iterator[Sequence[str]]:
    for link in scene.cluster.links:
        link.silence()
    yield ()


@contextmanager
def rolled(scene: Scene) -> Iterator[Sequence[str]]:
    for node in scene.cluster.nodes:
        node.stop()
        scene.cluster.start()
    yield ()


@contextmanager
def too_few_replicas(scene: Scene) -> Iterator[Sequence[str]]:
    """What workers forward and producers write is refused. Kafka 4 takes `min.insync.replicas` above the number of
    replicas for that number, so a broker has to stop too."""
    topics = [*(worker.trial.topics[1] for worker in scene.workers), *(p.topics[0] for p in scene.producers)]
    configure = scene.workers[0].trial.configure
    for topic in topics:
        configure(topic, "min.insync.replicas", "3")
    scene.cluster.nodes[scene.leader()].stop()
    try:
        yield topics
    finally:
        scene.cluster.start()
        for topic in topics:
            configure(topic, "min.insync.replicas", "2")


@contextmanager
def stopped(scene: Scene) -> Iterator[Sequence[str]]:
    """A broker hangs, and the others take its place."""
    node: Node = scene.cluster.nodes[scene.leader()]
    node.hang()
    try:
        yield ()
    finally:
        node.go_on()


@attrs.frozen
class Case:
    """`is_total`: no record comes through, so a process has nothing to do. `heals_itself`: nobody ends it, so the
    outage is the time until everything works. `blocks`: no process can do all of its work. `accompanied`: each worker's
    group has a second one, whose network is sound. `waits_busily`: librdkafka may: see `checks.BUSY_WAIT`.
    `is_quick`: CI plays it. `needs_router`: left out where there are proxies."""

    name: str
    fault: Fault
    seconds: float = 20.0
    is_total: bool = False
    heals_itself: bool = False
    blocks: bool = False
    accompanied: bool = False
    waits_busily: bool = False
    is_quick: bool = False
    needs_router: bool = False


CASES = [
    Case("all brokers, packets dropped", everywhere(_drop), 40.0, is_total=True),
    Case("half-open connections", half_open, 0.0, heals_itself=True, waits_busily=True),
    Case("one worker of two, packets dropped", everywhere(_drop), is_total=True, accompanied=True),
    Case("all brokers refuse", everywhere(lambda link: link.refuse()), is_total=True, is_quick=True),
    Case("the coordinator alone", lambda scene: _broken(scene, [scene.coordinator()], _drop)),
    Case("one leader alone", lambda scene: _broken(scene, [scene.leader()], _drop)),
    Case("requests arrive, responses do not", everywhere(lambda link: link.hang("responses")), is_total=True),
    Case("requests do not arrive", everywhere(lambda link: link.hang("requests")), is_total=True),
    Case("packets dropped, shorter than the session", briefly, 4.0),
    Case("250 to 350 ms each way", slow, waits_busily=True),
    Case("20 % of requests reset", flaky, is_quick=True),
    Case("no route to a broker", everywhere(_unreachable), is_total=True, needs_router=True),
    Case("packets above 600 bytes dropped", narrow, needs_router=True),
    Case("too few replicas in sync", too_few_replicas, 45.0, blocks=True),
    Case("a broker stopped by SIGSTOP", stopped, 45.0, waits_busily=True),
    Case("all three brokers rolled", rolled, 0.0),
]
"""In the order in which they are played."""
